"""Hypnograms: what a scoring says, laid onto the time of its recording, as one stage per 30-s epoch.

`scorings` reads the files; here is what all kinds have in common: where the scoring begins, whether it
fits the recording, and where its epochs lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from eegtool.core.errors import EegToolError, brief
from eegtool.core.stages import EPOCH_S, SLEEP_STAGES, UNSCORED
from eegtool.scorings.edf_annotations import (
    BDF_MARK,
    EDF_MARK,
    has_stages,
    read_edf_annotations,
    read_layout,
)
from eegtool.scorings.fit import (
    TOLERANCE_S,
    check_list,
    check_overlaps,
    find_grid_s,
    find_offset_s,
    misfits,
    sleep_within,
    with_durations,
)
from eegtool.scorings.scoring import Entry, Scoring, decode
from eegtool.scorings.tables import PER_LINE, is_table_of_stages, read_table
from eegtool.scorings.xml_scorings import NSRR_ROOT, PROFUSION_ROOT, read_xml

_EDF_SUFFIXES: Final = (".edf", ".bdf", ".rec")
_TEXT_SUFFIXES: Final = (".txt", ".csv", ".tsv", ".eannot", ".annot", ".hyp")
_LOOK_BYTES: Final = 4096
_KINDS: Final = (
    "A hypnogram is an EDF+ file with annotations, NSRR or Profusion XML, or text (UTF-8) with one "
    "stage per line or the columns onset, duration and stage."
)


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """Consecutive time with one scoring: a stage, or a kind of scored time that is no stage."""

    onset_s: float
    duration_s: float
    stage: str


@dataclass(frozen=True, slots=True)
class Hypnogram:
    """A scoring on the time of its recording.

    Attributes
    ----------
    runs : tuple of ScoredRun
        In order of time and without overlaps; onsets in seconds from the first sample of the
        recording. Nothing lies outside of the recording.
    first_onset_s : float
        Where the 30-s grid of the scoring begins: at least 0, less than 30.
    notes : tuple of str
        What the user should know.
    """

    runs: tuple[ScoredRun, ...]
    first_onset_s: float = 0.0
    notes: tuple[str, ...] = ()


def is_hypnogram(path: Path) -> bool:
    """Say, from the name and the first bytes, whether a file is a scoring without signals.

    A recording that holds its own scoring is no such file: see `holds_scoring`.
    """
    suffix = path.suffix.casefold()
    if suffix not in (*_EDF_SUFFIXES, ".xml", *_TEXT_SUFFIXES):
        return False
    try:
        if suffix in _EDF_SUFFIXES:
            layout = read_layout(path)
            return layout is not None and bool(layout.annotations) and not layout.n_signals
        with path.open("rb") as file:
            data = file.read(_LOOK_BYTES)
        text, _ = decode(data, whole=len(data) < _LOOK_BYTES)
    except (OSError, ValueError):
        return False
    if suffix == ".xml":
        return NSRR_ROOT in text or PROFUSION_ROOT in text
    return is_table_of_stages(text if len(data) < _LOOK_BYTES else text.rpartition("\n")[0])


def holds_scoring(path: Path) -> bool:
    """Say whether an EDF+ or BDF+ file has sleep stages among its annotations; reads all of these."""
    try:
        return has_stages(path)
    except (OSError, EegToolError):
        return False


def read_hypnogram(path: Path, recording_start: datetime | None, duration_s: float) -> Hypnogram:
    """Read a scoring, of any kind that `scorings` knows, and lay it onto a recording.

    Parameters
    ----------
    path : Path
        EDF+ annotations (those in the recording itself, too), NSRR or Profusion XML, one stage per
        line, or a table of onsets, durations and stages. They are told apart by content.
    recording_start : datetime or None
        Local time of the first sample, where it is known.
    duration_s : float
        Length of the recording.

    Raises
    ------
    EegToolError
        If the file cannot be read, does not fit the recording, has overlaps, no single 30-s grid, or
        scores no sleep.
    """
    scoring = _read(path)
    entries, notes = with_durations(path, scoring.entries)
    offset_s, note = find_offset_s(path, scoring, entries, recording_start, duration_s)
    entries = sorted(
        (replace(entry, onset_s=entry.onset_s + offset_s) for entry in entries),
        key=lambda entry: entry.onset_s,
    )
    if not sleep_within(entries, 0.0, duration_s):
        asleep = [entry for entry in entries if entry.stage in SLEEP_STAGES]
        raise EegToolError(
            f"The hypnogram {path} scores no sleep within the recording, which lasts {duration_s:g} s: "
            f"its sleep is at {asleep[0].onset_s:g} to {asleep[-1].end_s:g} s.",
            "Check that it belongs to this recording, and that its times are in seconds from its start.",
        )
    if scoring.format == PER_LINE:
        check_list(path, len(entries), duration_s)
    check_overlaps(path, entries)
    grid_s = find_grid_s(path, entries)
    if grid_s:
        notes.append(
            f"The epochs of the scoring begin {grid_s:g} s after those of the recording; they are used."
        )
    return Hypnogram(
        _within(entries, duration_s),
        grid_s,
        (*scoring.notes, *([note] if note else []), *notes, *misfits(entries, duration_s)),
    )


def stage_per_epoch(hypnogram: Hypnogram, n_epochs: int) -> list[str]:
    """Cut a scoring into epochs.

    An epoch has a stage only if one run covers it whole; gaps and epochs in which the scoring
    changes are unscored.

    Parameters
    ----------
    hypnogram : Hypnogram
        The scoring.
    n_epochs : int
        Number of epochs; epoch ``i`` begins at ``first_onset_s + 30 i`` seconds.

    Returns
    -------
    list of str
        One of `STAGES` or a dropped kind, per epoch.
    """
    stages = [UNSCORED] * n_epochs
    for run in hypnogram.runs:
        onset_s = run.onset_s - hypnogram.first_onset_s
        first = math.ceil((onset_s - TOLERANCE_S) / EPOCH_S)
        stop = math.floor((onset_s + run.duration_s + TOLERANCE_S) / EPOCH_S)
        for i in range(max(first, 0), min(stop, n_epochs)):
            stages[i] = run.stage
    return stages


def _read(path: Path) -> Scoring:
    """Find out by its content what kind of file this is, and read it."""
    if not path.is_file():
        raise EegToolError(f"The hypnogram {path} does not exist.", "Check the path.")
    try:
        with path.open("rb") as file:
            data = file.read(_LOOK_BYTES)
            if data.startswith((EDF_MARK, BDF_MARK)):
                return read_edf_annotations(path)
            decode(data, whole=len(data) < _LOOK_BYTES)  # of a large binary file no more is read
            data += file.read()
        text, encoding = decode(data)
    except OSError as error:
        raise EegToolError(
            f"The hypnogram {path} cannot be read: {brief(error)}.", "Check its permissions."
        ) from error
    except ValueError as error:
        raise EegToolError(f"The hypnogram {path} cannot be read: {error}.", _KINDS) from error
    if not text.strip():
        raise EegToolError(f"The hypnogram {path} is empty.", "Fetch or export it again.")
    if text.startswith("Brain"):  # "Brain Vision Data Exchange Header File"
        raise EegToolError(f"{path} is the header of a recording and no hypnogram.", _KINDS)
    scoring = (read_xml if text.lstrip().startswith("<") else read_table)(path, text)
    if encoding == "latin-1":
        return replace(scoring, notes=(*scoring.notes, "The hypnogram is read as Latin-1."))
    return scoring


def _within(entries: Sequence[Entry], duration_s: float) -> tuple[ScoredRun, ...]:
    """Cut off what lies outside of the recording."""
    return tuple(
        ScoredRun(begin_s, end_s - begin_s, entry.stage)
        for entry in entries
        if (begin_s := max(entry.onset_s, 0.0)) < (end_s := min(entry.end_s, duration_s))
    )
