"""What ``review.html`` saved beside recordings: each file names the one that it is a scoring of."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from eegtool.scorings.cohorts.night import Night, several_hypnograms

_MARKS: Final = {"recording", "reviewed_by", "reviewed_at"}
"""Columns by which such a table is known; see `eegtool.report.reading.reviews.COLUMNS`."""


def with_reviews(nights: Sequence[Night], files: Sequence[Path]) -> tuple[Night, ...]:
    """Return the nights with the reviews of them.

    A night that has no scoring is taken as it was reviewed. One that has gets a rival: unless both are the same,
    the user must say by ``--scorer`` which is meant.

    Parameters
    ----------
    nights : sequence of Night
        As their names pair them.
    files : sequence of Path
        All files there are.
    """
    reviews: dict[str, list[Path]] = {}
    for path in files:
        if "_reviewed" in path.stem and (recording := _recording_of(path)):
            reviews.setdefault(recording, []).append(path)
    return tuple(_with(night, reviews.get(night.recording, ())) for night in nights)


def _with(night: Night, reviews: Sequence[Path]) -> Night:
    scorings = tuple(dict.fromkeys((*night.scorings, *reviews)))
    if not reviews or night.hypnogram_path in reviews:
        return night
    if len(scorings) == 1:
        return replace(night, hypnogram_path=scorings[0], problem="")
    problem = several_hypnograms(night.signal_path, scorings)
    return replace(night, hypnogram_path=None, problem=problem, rivals=scorings)


def _recording_of(path: Path) -> str:
    """Return the recording that a review names; nothing for any other file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            marked = set(table.fieldnames or ()) >= _MARKS
            return (next(table, {}).get("recording") or "") if marked else ""
    except (OSError, UnicodeDecodeError, csv.Error):
        return ""
