"""Hypnograms: scored time to one stage per 30-s epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import mne

from eegtool.core.errors import EegToolError, brief
from eegtool.core.stages import EPOCH_S, SLEEP_STAGES, UNSCORED, stage_of

_EDF_VERSION: Final = b"0       "

_TOLERANCE_S: Final = 1e-3
"""Onsets are decimal text: sums of them may miss the border of an epoch by a rounding error."""


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """Consecutive time with one scoring: a stage, or a kind of scored time that is no stage."""

    onset_s: float
    duration_s: float
    stage: str


def read_hypnogram(path: Path) -> tuple[ScoredRun, ...]:
    """Read the scoring of an EDF+ annotation file.

    Returns
    -------
    tuple of ScoredRun
        In order of time; onsets in seconds from the start of the recording.

    Raises
    ------
    EegToolError
        If the file is missing, not readable, or scores no sleep.
    """
    if not path.is_file():
        raise EegToolError(f"The hypnogram {path} does not exist.", "Check the path.")
    with path.open("rb") as file:
        if file.read(8) != _EDF_VERSION:
            raise EegToolError(
                f"The hypnogram {path} is not an EDF+ file.",
                "The file is damaged or of another format; fetch it again.",
            )
    try:
        annotations = mne.read_annotations(path)
    except Exception as error:  # MNE raises whatever its parsers stumble over
        raise EegToolError(
            f"The hypnogram {path} cannot be read: {brief(error)}.",
            "It must be an EDF+ annotation file, named *.edf.",
        ) from error
    runs = [
        ScoredRun(float(onset), float(duration), stage)
        for onset, duration, text in zip(
            annotations.onset, annotations.duration, annotations.description, strict=True
        )
        if (stage := stage_of(text)) is not None
    ]
    if not any(run.stage in SLEEP_STAGES for run in runs):
        raise EegToolError(
            f"The hypnogram {path} scores no sleep.",
            "Its annotations must read like 'Sleep stage 2' or 'Sleep stage R', not all 'Sleep stage W'.",
        )
    return tuple(runs)  # MNE has sorted them by onset


def stage_per_epoch(runs: Sequence[ScoredRun], n_epochs: int) -> list[str]:
    """Cut scored runs into epochs.

    An epoch has a stage only if one run covers it whole; gaps and epochs in which the scoring
    changes are unscored.

    Parameters
    ----------
    runs : sequence of ScoredRun
        The scoring.
    n_epochs : int
        Number of whole epochs of the recording; scoring beyond it is left out.

    Returns
    -------
    list of str
        One of `STAGES` or a dropped kind, per epoch.
    """
    stages = [UNSCORED] * n_epochs
    for run in runs:
        first = math.ceil((run.onset_s - _TOLERANCE_S) / EPOCH_S)
        stop = math.floor((run.onset_s + run.duration_s + _TOLERANCE_S) / EPOCH_S)
        for i in range(max(first, 0), min(stop, n_epochs)):
            stages[i] = run.stage
    return stages
