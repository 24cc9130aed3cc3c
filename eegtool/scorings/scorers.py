"""Several scorers of one night: one of them, the majority of all, and how far they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

from eegtool.core.errors import EegToolError
from eegtool.core.stages import STAGES, UNSCORED
from eegtool.scorings.scoring import CONSENSUS


def chosen(names: Sequence[str], scorer: str) -> Sequence[int]:
    """Return which of several files or columns is of the scorer; all if none is asked for, or the majority.

    Raises
    ------
    EegToolError
        If the scorer is not in exactly one name, in what tells it from the others.
    """
    if not scorer or scorer == CONSENSUS or len(names) == 1:
        return range(len(names))
    named = [i for i, part in enumerate(own_parts(names)) if scorer.casefold() in part.casefold()]
    if len(named) != 1:
        raise EegToolError(
            f"--scorer {scorer} is in the names of {len(named)} of these scorings: {', '.join(names)}.",
            f"Name what is in one of them only, or take the majority with --scorer {CONSENSUS}.",
        )
    return named


def own_parts(names: Sequence[str]) -> list[str]:
    """Return what tells each name from the others: all behind the letters that they share."""
    alike = [len(set(letters)) == 1 for letters in zip(*map(str.casefold, names), strict=False)]
    shared = next((i for i, same in enumerate(alike) if not same), len(alike))
    return [name[shared:] for name in names]


def agreement(stages: Mapping[str, Sequence[str]]) -> str:
    """Say how far scorers agree: epochs that all stage alike, and Cohen's kappa, the mean of all pairs."""
    columns = list(stages.values())
    rows = [row for row in zip(*columns, strict=True) if all(stage in STAGES for stage in row)]
    alike = sum(len(set(row)) == 1 for row in rows)
    found = [kappa(*pair)[1] for pair in combinations(zip(*rows, strict=True), 2)]
    mean = sum(1.0 if k is None else k for k in found) / max(len(found), 1)
    return f"they agree on {alike / max(len(rows), 1):.1%} of {len(rows)} epochs, Cohen's kappa {mean:.2f}"


def majority(stages: Mapping[str, Sequence[str]]) -> tuple[list[str], int]:
    """Return what most scorers say of each epoch, and the number of ties, which are unscored.

    Scorers who leave an epoch unscored have no vote.
    """
    voted, n_ties = [], 0
    for row in zip(*stages.values(), strict=True):
        votes = Counter(stage for stage in row if stage != UNSCORED).most_common(2)
        tie = len(votes) > 1 and votes[0][1] == votes[1][1]
        voted.append(UNSCORED if tie or not votes else votes[0][0])
        n_ties += tie
    return voted, n_ties


def kappa(one: Sequence[str], other: Sequence[str]) -> tuple[int, float | None]:
    """Return how many epochs both staged, and Cohen's κ of these (Cohen 1960); None where it is not defined."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if a in STAGES and b in STAGES]
    n = len(both)
    ours, theirs = Counter(a for a, _ in both), Counter(b for _, b in both)
    chance = sum(ours[stage] * theirs[stage] for stage in STAGES)
    seen = sum(a == b for a, b in both)
    return n, (seen * n - chance) / (n * n - chance) if chance < n * n else None
