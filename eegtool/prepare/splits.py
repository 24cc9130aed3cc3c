"""Splits: whole subjects go to one side, never nights or epochs of one subject to both."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch
from eegtool.core.registry import check_name, closest
from eegtool.core.stages import STAGES
from eegtool.core.workspace import read_json, write_json
from eegtool.prepare.protocols import PROTOCOLS

BALANCES: Final = ("none", "undersample")
"""Ways to balance the stages of the fine-tune side."""

_DRAWS: Final = 50
"""Among how many random splits the one with the best stage mix is taken: enough to lose the odd
ones, few enough that another seed still gives another split."""


@dataclass(frozen=True, slots=True)
class Split:
    """Who is on which side.

    Attributes
    ----------
    method : str
        How it was made: ``"named"``, ``"drawn"``, ``"fold 0 of 5"``, or ``"file"``.
    eval_subjects, ft_subjects : tuple of str
        The two sides, each sorted.
    seed : int or None
        Seed of the draw; None where nothing was drawn.
    digest : str
        SHA-256 over the two sides: equal splits have equal digests, however they were made.
    protocol : str
        Name of the published split that this is, see `eegtool.prepare.protocols`; else empty.
    validation_subjects : tuple of str
        Whom a published split validates on, of the fine-tune side.
    absent : tuple of str
        Subjects of a published split that are not here.
    note : str
        What the user should know; empty if nothing. Not stored.
    """

    method: str
    eval_subjects: tuple[str, ...]
    ft_subjects: tuple[str, ...]
    seed: int | None
    digest: str
    protocol: str = ""
    validation_subjects: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    note: str = ""

    def side(self, subject: str) -> str:
        """Return the side of a subject, ``"eval"`` or ``"ft"``."""
        return "eval" if subject in self.eval_subjects else "ft"


def make_split(
    stages_of: Mapping[str, Counter[str]],
    *,
    named: Sequence[str] = (),
    fraction: float = 0.25,
    folds: int = 0,
    fold: int = 0,
    seed: int = 0,
    split_from: Path | None = None,
    protocol: str = "",
    partial: bool = False,
) -> Split:
    """Choose who is evaluated.

    Drawn sides and folds resemble the whole in their stage mix: of many random ones, the one is
    taken whose shares of the stages are nearest to those of all subjects.

    Parameters
    ----------
    stages_of : mapping of str to Counter
        Epochs per stage, of every subject.
    named : sequence of str
        Evaluation subjects that the user named.
    fraction : float
        Share of subjects drawn where nothing else is said (rounded, at least one, never all).
    folds : int
        Number of folds; 0 for none. Over all folds, each subject is evaluated exactly once.
    fold : int
        Which fold is evaluated, from 0.
    seed : int
        Seed of the draw.
    split_from : Path or None
        A split that `write_split` stored, to be used again. Subjects that only the file knows are
        left out with a note.
    protocol : str
        Name of a published split; `fold` is one of its folds.
    partial : bool
        Continue with a published split although some of its subjects are not here.

    Raises
    ------
    EegToolError
        If flags contradict each other, a named subject or one of the published split is not there,
        a subject is not in the file, or a side would be empty.
    """
    known = sorted(stages_of)
    chosen = {"--eval-subjects": named, "--folds": folds, "--split-from": split_from}
    chosen["--protocol"] = protocol
    flags = [flag for flag, value in chosen.items() if value]
    if len(flags) > 1:
        raise EegToolError(
            f"{' and '.join(flags)} each say who is evaluated.", "Give only one of them."
        )
    if protocol:
        return _published(protocol, fold, known, partial=partial)
    if len(known) < 2:
        raise EegToolError(
            f"There is only one subject, {', '.join(known)}: it cannot be on both sides."
            if known
            else "There is no subject to split.",
            "Add recordings of another subject.",
        )
    if split_from:
        return _reused(split_from, known)
    if named:
        return _split("named", known, _checked(named, known))
    if folds:
        _check_folds(folds, fold, len(known))
        sizes = [len(part) for part in np.array_split(np.arange(len(known)), folds)]
        evaluated = _draw(stages_of, sizes, seed)[fold]
        return _split(f"fold {fold} of {folds}", known, evaluated, seed)
    count = min(max(math.floor(fraction * len(known) + 0.5), 1), len(known) - 1)
    return _split("drawn", known, _draw(stages_of, [count], seed)[0], seed)


def write_split(path: Path, split: Split) -> None:
    """Store a split as JSON, for ``--split-from``."""
    row = asdict(split)
    of_protocol = ("protocol", "validation_subjects", "absent")
    skipped = {"note", *(name for name in of_protocol if not row[name])}
    write_json(path, {name: value for name, value in row.items() if name not in skipped})


def read_split(path: Path) -> Split:
    """Read a split that `write_split` stored; one written by hand needs only the two sides.

    Raises
    ------
    EegToolError
        If the file is missing or no split, was changed since (its digest differs), or has a subject
        twice.
    """
    row = read_json(path)
    sides = [_side(path, row, name) for name in ("eval_subjects", "ft_subjects")]
    if twice := [name for name, n in Counter(sides[0] + sides[1]).items() if n > 1]:
        raise EegToolError(
            f"{path}: subject {twice[0]} is there twice.", "Leave it on one side only."
        )
    split = _split(str(row.get("method", "file")), sides[0] + sides[1], sides[0], row.get("seed"))
    if row.get("digest", split.digest) != split.digest:
        raise EegToolError(
            f"{path} was changed: its subjects are not those of its digest.",
            "Restore the file; or, where the change is meant, remove the line 'digest'.",
        )
    if "validation_subjects" not in row:
        return split
    validated = _side(path, row, "validation_subjects")
    if strays := sorted(set(validated) - set(split.ft_subjects)):
        raise EegToolError(
            f"{path}: the validation subject {strays[0]} is not among its ft_subjects.",
            "Validation is part of the fine-tune side.",
        )
    return replace(split, validation_subjects=tuple(validated))


def check_no_leak(recordings: Iterable[tuple[str, str, str]]) -> None:
    """Refuse one recording under the names of two subjects: it could be on both sides of the split.

    Parameters
    ----------
    recordings : iterable of (str, str, str)
        Name, subject and SHA-256 of the signal of each recording.

    Raises
    ------
    EegToolError
        Naming both.
    """
    seen: dict[str, tuple[str, str]] = {}
    for name, subject, sha256 in recordings:
        other, other_subject = seen.setdefault(sha256, (name, subject))
        if other_subject != subject:
            raise EegToolError(
                f"{other} of subject {other_subject} and {name} of subject {subject} are the same "
                "recording.",
                "Leave one of them out: nobody may be on both sides of the split.",
            )


def balance(epochs: Sequence[Epoch], how: str, seed: int) -> list[Epoch]:
    """Balance the stages of the fine-tune side; the evaluation side stays as people sleep.

    Parameters
    ----------
    epochs : sequence of Epoch
        Of both sides or one.
    how : str
        ``"none"``, or ``"undersample"``: of every stage, draw as many epochs as the rarest one has.
    seed : int
        Seed of the draw. The order of `epochs` does not change who is drawn.

    Returns
    -------
    list of Epoch
        In the order of `epochs`.
    """
    check_name("balance", how, BALANCES)
    if how == "none":
        return list(epochs)
    of_stage: dict[str, list[str]] = {}
    for epoch in epochs:
        if epoch.split == "ft":
            of_stage.setdefault(epoch.stage, []).append(epoch.sample_id)
    rarest = min(map(len, of_stage.values()), default=0)
    rng = np.random.default_rng(seed)
    kept = {
        str(sample_id)
        for stage in sorted(of_stage)
        for sample_id in rng.choice(sorted(of_stage[stage]), rarest, replace=False)
    }
    return [epoch for epoch in epochs if epoch.split != "ft" or epoch.sample_id in kept]


def _split(
    method: str, known: Iterable[str], evaluated: Iterable[str], seed: int | None = None
) -> Split:
    eval_subjects = tuple(sorted(set(evaluated)))
    ft_subjects = tuple(sorted(set(known) - set(evaluated)))
    text = json.dumps([eval_subjects, ft_subjects])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Split(method, eval_subjects, ft_subjects, seed, digest)


def _checked(named: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    for name in named:
        if name not in known:
            raise EegToolError(
                f"--eval-subjects: there is no subject '{name}'.",
                f"Subjects: {', '.join(known)}.{closest(name, known)}",
            )
    if set(named) == set(known):
        raise EegToolError(
            "--eval-subjects names all subjects: none is left to fine-tune on.", "Name fewer."
        )
    return named


def _check_folds(folds: int, fold: int, n_subjects: int) -> None:
    if not 2 <= folds <= n_subjects:
        raise EegToolError(
            f"--folds {folds}: {n_subjects} subjects can be cut into 2 to {n_subjects} folds.",
            "Whole subjects go to a fold, at least one to each.",
        )
    _check_fold(fold, folds)


def _check_fold(fold: int, folds: int) -> None:
    if not 0 <= fold < folds:
        raise EegToolError(
            f"--fold {fold}: {folds} fold{'s are' if folds > 1 else ' is'} numbered 0 to {folds - 1}.",
            "Choose one of them.",
        )


def _draw(
    stages_of: Mapping[str, Counter[str]], sizes: Sequence[int], seed: int
) -> list[list[str]]:
    """Draw disjoint groups of subjects: of all draws the one whose largest total variation from all is smallest."""
    known = sorted(stages_of)
    counts = np.array([[stages_of[name][stage] for stage in STAGES] for name in known], float)
    whole = _shares(counts.sum(axis=0))
    rng = np.random.default_rng(seed)

    def unevenness(groups: list[np.ndarray]) -> float:
        shares = [_shares(counts[group].sum(axis=0)) for group in groups]
        return max(float(np.abs(share - whole).sum()) / 2 for share in shares)

    cuts = np.cumsum(sizes)
    draws = [np.split(rng.permutation(len(known)), cuts)[: len(sizes)] for _ in range(_DRAWS)]
    return [[known[i] for i in group] for group in min(draws, key=unevenness)]


def _shares(counts: np.ndarray) -> np.ndarray:
    return counts / max(counts.sum(), 1)


def _published(name: str, fold: int, known: Sequence[str], *, partial: bool) -> Split:
    protocol = PROTOCOLS[name]
    _check_fold(fold, protocol.n_folds)
    sides = protocol.sides(fold)
    absent = sorted(sides.everybody - set(known))
    if absent and not partial:
        raise EegToolError(
            f"--protocol {name}: {len(absent)} of its {len(sides.everybody)} subjects cannot be used here: "
            f"{', '.join(absent)}.",
            f"Add their recordings of the cohort '{protocol.cohort}'; --protocol-partial continues without them, "
            "and says so wherever the figures are shown.",
        )
    for side, names in (("evaluate", sides.evaluated), ("fine-tune on", sides.trained)):
        if set(names).isdisjoint(known):
            raise EegToolError(
                f"--protocol {name}: of its subjects to {side}, none is here.",
                f"They are {', '.join(names)}.",
            )
    evaluated = [who for who in sides.evaluated if who in known]
    method = name if protocol.n_folds == 1 else f"{name}, fold {fold} of {protocol.n_folds}"
    note = f"--protocol-partial: without {', '.join(absent)}." if absent else ""
    return replace(
        _split(method, sides.everybody & set(known), evaluated),
        protocol=name,
        validation_subjects=tuple(who for who in sides.validated if who in known),
        absent=tuple(absent),
        note=note,
    )


def _reused(path: Path, known: Sequence[str]) -> Split:
    stored = read_split(path)
    listed = {*stored.eval_subjects, *stored.ft_subjects}
    if new := [name for name in known if name not in listed]:
        raise EegToolError(
            f"--split-from {path} does not know these subjects: {', '.join(new)}.",
            "Leave out their recordings, add them to one side in the file (and remove its line "
            "'digest'), or make a new split.",
        )
    split = _split("file", known, [name for name in stored.eval_subjects if name in known])
    if not split.eval_subjects or not split.ft_subjects:
        side = "evaluate" if not split.eval_subjects else "fine-tune on"
        raise EegToolError(
            f"--split-from {path}: of its subjects to {side}, none is here.",
            "Add their recordings, or make a new split.",
        )
    absent = sorted(listed - set(known))
    note = f"Subjects of {path} without a recording here: {', '.join(absent)}." if absent else ""
    validated = tuple(name for name in stored.validation_subjects if name in known)
    return replace(split, note=note, validation_subjects=validated)


def _side(path: Path, row: Mapping[str, Any], name: str) -> list[str]:
    side = row.get(name)
    if not isinstance(side, list) or not side or not all(isinstance(s, str) for s in side):
        raise EegToolError(
            f"{path} is not a split: '{name}' must be a list of subjects.",
            "Give a file that `eegvlm prepare` stored, or list the subjects of both sides.",
        )
    return side
