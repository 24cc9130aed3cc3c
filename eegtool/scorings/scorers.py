"""Several scorers of one night: one of them, the majority of all, and how far they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from eegtool.core.errors import EegToolError
from eegtool.core.stages import STAGES, UNSCORED
from eegtool.scorings.scoring import CONSENSUS, ReadAs


def chosen(paths: Sequence[Path], read_as: ReadAs) -> Sequence[Path]:
    """Return the files of the scorer that the user named; all of them if that is not in their names."""
    scorer = read_as.scorer.casefold()
    if not scorer or scorer == CONSENSUS or len(paths) == 1:
        return paths
    named = [path for path in paths if scorer in _own_part(path, paths)]
    if len(named) != 1:
        raise EegToolError(
            f"--scorer {read_as.scorer} is in the names of {len(named)} of these hypnograms: "
            f"{', '.join(path.name for path in paths)}.",
            f"Name what is in one of them only, or take the majority with --scorer {CONSENSUS}.",
        )
    return named


def _own_part(path: Path, paths: Sequence[Path]) -> str:
    """Return what tells the name of a file from those of the others."""
    names = [p.name.casefold() for p in paths]
    shared = 0
    while len({name[: shared + 1] for name in names}) == 1 and shared < len(path.name):
        shared += 1
    return path.name.casefold()[shared:]


def agreement(stages: Mapping[str, Sequence[str]]) -> str:
    """Say how far scorers agree: epochs that all stage alike, and Cohen's kappa, the mean of all pairs."""
    columns = list(stages.values())
    rows = [row for row in zip(*columns, strict=True) if all(stage in STAGES for stage in row)]
    alike = sum(len(set(row)) == 1 for row in rows)
    kappas = [
        _kappa([(row[i], row[j]) for row in rows]) for i, j in combinations(range(len(columns)), 2)
    ]
    kappa = sum(kappas) / max(len(kappas), 1)
    return f"they agree on {alike / max(len(rows), 1):.1%} of {len(rows)} epochs, Cohen's kappa {kappa:.2f}"


def majority(stages: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what most scorers say of each epoch; unscored where there is a tie.

    Scorers who leave an epoch unscored have no vote.
    """
    voted = []
    for row in zip(*stages.values(), strict=True):
        votes = Counter(stage for stage in row if stage != UNSCORED).most_common(2)
        tie = len(votes) > 1 and votes[0][1] == votes[1][1]
        voted.append(UNSCORED if tie or not votes else votes[0][0])
    return voted


def _kappa(pairs: Sequence[tuple[str, str]]) -> float:
    n = max(len(pairs), 1)
    ours, theirs = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(ours[stage] * theirs[stage] for stage in STAGES) / n**2
    seen = sum(a == b for a, b in pairs) / n
    return (seen - chance) / (1 - chance) if chance < 1 else 1.0
