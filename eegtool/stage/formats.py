"""A staged night in the formats of others: a table, BIDS events, EDF+ annotations, sleep statistics."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import edfio
import yasa

from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.core.workspace import atomic_path, write_json

UNSTAGED: Final = "?"
"""What stands in the table for the stage of an epoch that has none."""

# EDF+ (Kemp & Olivan 2003), its list of standard texts for annotations.
_EDF_TEXT: Final = {stage: f"Sleep stage {stage}" for stage in STAGES} | {
    "REM": "Sleep stage R",
    UNSTAGED: "Sleep stage ?",
}
_YASA: Final = {"W": "WAKE", UNSTAGED: "UNS"}
_NONE: Final = "n/a"  # BIDS for a missing value
_DECIMALS: Final = 4


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One epoch of a staged night.

    Attributes
    ----------
    epoch : int
        Index in the recording, from 0.
    stage : str
        One of `STAGES`, or `UNSTAGED`.
    probabilities : mapping of str to float
        Of each stage; empty where it was not asked about.
    why : str
        Why it has no stage; empty where it has one.
    smoothed : str
        Stage in the likeliest sequence, or `UNSTAGED`.
    words : str
        What the model wrote, where that is wanted.
    """

    epoch: int
    stage: str
    probabilities: Mapping[str, float]
    why: str = ""
    smoothed: str = UNSTAGED
    words: str = ""

    @property
    def onset_s(self) -> float:
        """Seconds from the first sample of the recording."""
        return float(self.epoch * EPOCH_S)


def write_table(path: Path, rows: Sequence[EpochRow], *, smooth: bool, words: bool) -> None:
    """Write the hypnogram as CSV: a row for each epoch, with the probability of each stage."""
    names = ["epoch", "onset_s", "duration_s", "stage", *(f"p_{stage}" for stage in STAGES)]
    names += ["stage_smoothed"] * smooth + ["unstaged_because"] + ["words"] * words
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            shares = [_share(row.probabilities.get(stage)) for stage in STAGES]
            cells = [row.epoch, f"{row.onset_s:g}", EPOCH_S, row.stage, *shares]
            cells += [row.smoothed] * smooth + [row.why] + [row.words] * words
            writer.writerow(cells)


def write_events(path: Path, rows: Sequence[EpochRow], *, smooth: bool) -> None:
    """Write BIDS ``events.tsv``, and beside it the ``.json`` that says what its columns are.

    The stage of an epoch without one is ``n/a``.
    """
    names = ["onset", "duration", "trial_type", *(f"p_{stage}" for stage in STAGES)]
    names += ["trial_type_smoothed"] * smooth
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            shares = [_share(row.probabilities.get(stage)) or _NONE for stage in STAGES]
            cells = [f"{row.onset_s:g}", EPOCH_S, _or_none(row.stage), *shares]
            writer.writerow(cells + [_or_none(row.smoothed)] * smooth)
    levels = {stage: f"AASM stage {stage}" for stage in STAGES}
    told: dict[str, Any] = {
        "trial_type": {"Description": "Sleep stage, by eegvlm", "Levels": levels},
        **{f"p_{stage}": {"Description": f"Probability of stage {stage}"} for stage in STAGES},
    }
    if smooth:
        about = "Sleep stage in the likeliest sequence (Viterbi)"
        told["trial_type_smoothed"] = {"Description": about, "Levels": levels}
    write_json(path.with_suffix(".json"), told)


def write_annotations(path: Path, rows: Sequence[EpochRow], start: datetime | None) -> None:
    """Write EDF+ annotations, one for each epoch, in the words of that standard.

    Parameters
    ----------
    path : Path
        The ``.edf`` file.
    rows : sequence of EpochRow
        In order of time.
    start : datetime or None
        Local time of the first sample, by which a viewer lays it beside the recording.
    """
    header: dict[str, Any] = {}
    if start is not None:
        header["starttime"] = start.time().replace(microsecond=0)
        header["recording"] = edfio.Recording(startdate=start.date(), equipment_code="eegvlm")
    annotations = [edfio.EdfAnnotation(r.onset_s, EPOCH_S, _EDF_TEXT[r.stage]) for r in rows]
    with atomic_path(path) as tmp:
        edfio.Edf([], annotations=annotations, **header).write(tmp)


def statistics(stages: Sequence[str]) -> dict[str, float | None]:
    """Return the sleep statistics of a night, by yasa (Vallat & Walker 2021) after the AASM Manual.

    Parameters
    ----------
    stages : sequence of str
        Stage of every epoch of the recording, or `UNSTAGED`. The whole recording counts as time in bed.

    Returns
    -------
    dict
        Minutes, and percent where the name says so (``SE``, ``SME``, ``%N1``, ...); None where a
        figure has no meaning, such as the latency of a stage that does not occur.
    """
    hypnogram = yasa.Hypnogram([_YASA.get(s, s) for s in stages], n_stages=len(STAGES), freq="30s")
    found = {name: float(value) for name, value in hypnogram.sleep_statistics().items()}
    return {name: round(v, 2) if math.isfinite(v) else None for name, v in found.items()}


def _share(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.{_DECIMALS}f}"


def _or_none(stage: str) -> str:
    return _NONE if stage == UNSTAGED else stage
