"""Scorings inside EDF+ and BDF+ files and recordings of any format: among the annotations, or as a signal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Final

import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S, UNSCORED, is_misspelt, stage_of
from eegtool.recordings.edf import EDF_MARKS, open_edf
from eegtool.recordings.header import Annotation, Opened
from eegtool.recordings.reading import open_recording
from eegtool.recordings.wfdb import read_wfdb_annotations
from eegtool.scorings.codings import read_stages, stage_of_event
from eegtool.scorings.scoring import Entry, ReadAs, Scoring

_SIGNAL: Final = re.compile(r"hypnogram|hypno|(sleep ?)?stages?|(sleep ?)?scoring", re.IGNORECASE)
_FASTEST_HZ: Final = 8.0
"""A signal that counts stages is not sampled faster."""


def is_edf(path: Path) -> bool:
    """Say whether a file begins as EDF and BDF files do; False for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(EDF_MARKS)
    except OSError:
        return False


def holds_annotations_alone(path: Path) -> bool:
    """Say whether an EDF or BDF file has annotations and no signals; False for one that is damaged."""
    try:
        return is_edf(path) and not open_edf(path, recording=False).header.channels
    except EegToolError:
        return False


def holds_scoring(path: Path) -> bool:
    """Say whether a recording has sleep stages, among its annotations or as a signal; reads all of these."""
    try:
        opened = _opened(path)
        if _slow_channels(opened):
            return True
        annotations, _ = opened.annotations()
    except (OSError, EegToolError):
        return False
    return any(stage_of(text) or is_misspelt(text) for _, _, text in annotations)


def read_inside(path: Path, read_as: ReadAs) -> Scoring:
    """Read the stages among the annotations of an EDF+ or BDF+ file, or in a recording.

    Annotations about something else (arousals, lights off) are passed over.

    Raises
    ------
    EegToolError
        If the file is damaged, a recording without scoring, or has a misspelt stage.
    """
    opened = _opened(path)
    if slow := _slow_channels(opened):
        return _signal(path, opened, slow[0], read_as)
    annotations, encoding = opened.annotations()
    if not annotations and opened.header.channels:
        raise EegToolError(
            f"{path} is a recording and holds no scoring.",
            "Give the hypnogram that belongs to it: an EDF+, XML, CSV, TSV or text file.",
        )
    scoring = _among(path, annotations, encoding, read_as)
    if opened.header.channels:
        return scoring
    return replace(scoring, start=opened.header.start, inside=False)


def read_beside(path: Path, read_as: ReadAs) -> Scoring:
    """Read the stages among the annotations of a WFDB record, each until the next.

    Raises
    ------
    EegToolError
        If the file is damaged, has no stages, or a misspelt one.
    """
    return replace(_among(path, read_wfdb_annotations(path), "", read_as), until_next=True)


def _among(
    path: Path, annotations: Sequence[Annotation], encoding: str, read_as: ReadAs
) -> Scoring:
    entries = []
    for number, (onset_s, duration_s, text) in enumerate(annotations, start=1):
        place = f"annotation {number}"
        if stage := stage_of_event(path, place, text, read_as):
            entries.append(Entry(onset_s, duration_s, stage, place))
    if not entries:
        others = ", ".join(
            repr(text) for text in list(dict.fromkeys(t for _, _, t in annotations))[:4]
        )
        raise EegToolError(
            f"No annotation of {path} is a sleep stage{f'; it has {others}' if others else ''}.",
            "Annotations must read like 'Sleep stage 2' or 'Sleep stage R'; --stage-codes says what "
            "others mean.",
        )
    notes = ("Its annotations are read as Latin-1.",) if encoding == "latin-1" else ()
    return Scoring(tuple(entries), notes=notes, inside=True)


def _opened(path: Path) -> Opened:
    """Open a recording, or an EDF or BDF file without signals, whatever its name."""
    if is_edf(path) and not (opened := open_edf(path, recording=False)).header.channels:
        return opened
    return open_recording(path)


def _slow_channels(opened: Opened) -> list[int]:
    """Return the positions of signals that are a scoring by their name and rate."""
    return [
        i
        for i, channel in enumerate(opened.header.channels)
        if channel.sfreq_hz <= _FASTEST_HZ and _SIGNAL.fullmatch(channel.name.strip())
    ]


def _signal(path: Path, opened: Opened, position: int, read_as: ReadAs) -> Scoring:
    """Read a signal of numbers; an epoch in which they change is unscored."""
    channel, sfreq_hz, _ = astuple(opened.header.channels[position])
    numbers = opened.read([position])[0]
    n_epochs = int((len(numbers) / sfreq_hz + 1e-3) // EPOCH_S)
    parts = np.array_split(np.rint(numbers[: round(n_epochs * EPOCH_S * sfreq_hz)]), n_epochs)
    cells = [str(int(part[0])) if np.ptp(part) == 0 else "?" for part in parts]
    places = [f"channel '{channel}', epoch {i + 1}" for i in range(n_epochs)]
    stages, notes = read_stages(path, cells, places, [1.0] * n_epochs, read_as)
    entries = [
        Entry(float(i * EPOCH_S), EPOCH_S, stage, place)
        for i, (stage, place) in enumerate(zip(stages, places, strict=True))
        if stage != UNSCORED
    ]
    return Scoring(tuple(entries), notes=notes, inside=True)
