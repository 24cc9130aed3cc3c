"""One recording's hypnogram for other programs: a table, BIDS events, EDF+ annotations.

Works on plain records and knows nothing of answers or metrics.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import edfio

from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.core.workspace import atomic_path

_MISSING: Final = "n/a"
"""What BIDS writes for a value that is not there."""

_EDF_NAMES: Final = {stage: f"Sleep stage {stage}" for stage in STAGES} | {"REM": "Sleep stage R"}
_EDF_UNKNOWN: Final = "Sleep stage ?"
"""The texts that EDF+ (Kemp & Olivan 2003, and its list of standard texts) has for AASM stages."""


@dataclass(frozen=True, slots=True)
class ScoredEpoch:
    """One epoch of a hypnogram.

    Attributes
    ----------
    epoch_index : int
        Index of the epoch in the whole recording, from 0.
    onset_s : float
        Seconds from the first sample of the recording.
    stage : str or None
        Stage that is exported; None where there is none.
    true : str or None
        Stage of a human scorer, where it is known.
    probabilities : tuple of float, shape (5,), or None
        Of the stages, in the order of `eegtool.core.stages.STAGES`.
    read : str
        Words that the stage was read from, where it was read.
    missing : bool
        Whether nobody has looked at the epoch: it is written only so that there is no gap.
    """

    epoch_index: int
    onset_s: float
    stage: str | None
    true: str | None = None
    probabilities: tuple[float, ...] | None = None
    read: str = ""
    missing: bool = False


def safe_name(name: str) -> str:
    """Return a file name that stays in its folder, whatever the recording is called."""
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "recording"


def write_table(path: Path, epochs: Sequence[ScoredEpoch]) -> None:
    """Write ``<recording>.csv``: one row per epoch, with certainty and probabilities."""
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["epoch_index", "onset_s", "stage", "true", "certainty"]
            + [f"prob_{stage}" for stage in STAGES]
            + ["read"]
        )
        for epoch in epochs:
            shares = [f"{p:.6f}" for p in epoch.probabilities or ()]
            writer.writerow(
                [
                    epoch.epoch_index,
                    f"{epoch.onset_s:g}" if epoch.onset_s < 1e5 else f"{epoch.onset_s:.3f}",
                    epoch.stage or "",
                    epoch.true or "",
                    max(shares, default=""),
                    *(shares or [""] * len(STAGES)),
                    "missing"
                    if epoch.missing
                    else " ".join(epoch.read.split())
                    if epoch.stage
                    else "unreadable",
                ]
            )


def write_events(path: Path, epochs: Sequence[ScoredEpoch]) -> None:
    """Write ``<recording>_events.tsv`` of BIDS: onset, duration and stage of every epoch.

    Stages are named as the AASM does, with ``R`` for REM; an epoch without one has ``n/a``.
    """
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        file.write("onset\tduration\ttrial_type\n")
        for epoch in epochs:
            name = {"REM": "R", None: _MISSING}.get(epoch.stage, epoch.stage)
            file.write(f"{epoch.onset_s:.3f}\t{EPOCH_S}\t{name}\n")


def write_annotations(path: Path, epochs: Sequence[ScoredEpoch]) -> None:
    """Write ``<recording>_hypnogram.edf``: EDF+ with nothing but annotations, one per run of a stage.

    Time that has no stage, between two epochs too, is ``Sleep stage ?``.
    """
    annotations = [
        edfio.EdfAnnotation(onset_s, duration_s, _EDF_NAMES.get(stage or "", _EDF_UNKNOWN))
        for stage, onset_s, duration_s in _runs(epochs)
    ]
    with atomic_path(path) as tmp:
        edfio.Edf([], annotations=annotations).write(tmp)


def _runs(epochs: Sequence[ScoredEpoch]) -> Iterator[tuple[str | None, float, float]]:
    """Yield stage, onset and duration of each run of equal epochs, gaps among them."""
    pieces: list[tuple[str | None, float, float]] = []
    for epoch in sorted(epochs, key=lambda e: e.onset_s):
        end = pieces[-1][2] if pieces else epoch.onset_s
        if epoch.onset_s > end + 1e-6:
            pieces.append((None, end, epoch.onset_s))
        pieces.append((epoch.stage, epoch.onset_s, epoch.onset_s + EPOCH_S))
    for stage, run in groupby(pieces, key=lambda piece: piece[0]):
        members = list(run)
        yield stage, members[0][1], members[-1][2] - members[0][1]
