"""Splits: whole subjects go to one side, never nights or epochs of one subject to both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch
from eegtool.core.registry import closest


def choose_eval_subjects(
    subjects: Iterable[str], named: Sequence[str], fraction: float, seed: int
) -> frozenset[str]:
    """Choose who is evaluated.

    Parameters
    ----------
    subjects : iterable of str
        All subjects.
    named : sequence of str
        Evaluation subjects that the user named; empty to draw them.
    fraction : float
        Share of subjects drawn where none is named (rounded, at least one, never all).
    seed : int
        Seed of the draw.

    Raises
    ------
    EegToolError
        If a named subject is not there, or a side would be empty.
    """
    known = sorted(set(subjects))
    for name in named:
        if name not in known:
            raise EegToolError(
                f"--eval-subjects: there is no subject '{name}'.",
                f"Subjects: {', '.join(known)}.{closest(name, known)}",
            )
    if len(known) < 2:
        raise EegToolError(
            f"There is only one subject, {', '.join(known)}: it cannot be on both sides.",
            "Add recordings of another subject.",
        )
    if not named:
        count = min(max(math.floor(fraction * len(known) + 0.5), 1), len(known) - 1)
        named = [known[i] for i in np.random.default_rng(seed).permutation(len(known))[:count]]
    if set(named) == set(known):
        raise EegToolError(
            "--eval-subjects names all subjects: none is left to fine-tune on.", "Name fewer."
        )
    return frozenset(named)


def check_no_leak(epochs: Iterable[Epoch]) -> None:
    """Refuse epochs in which a subject is on both sides.

    Raises
    ------
    EegToolError
        Naming the subject.
    """
    side: dict[str, str] = {}
    for epoch in epochs:
        if side.setdefault(epoch.subject, epoch.split) != epoch.split:
            raise EegToolError(f"Subject {epoch.subject} is on both sides of the split.")
