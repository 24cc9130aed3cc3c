"""Scorings as text: one stage per line, or a table with a line per epoch or per stretch of time."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final, NoReturn

from eegtool.core.errors import EegToolError
from eegtool.core.stages import (
    EPOCH_S,
    code_in_column,
    is_misspelt,
    stage_in_column,
    stage_of,
)
from eegtool.scorings.moments import Moment, parse_moment, seconds_between, to_onsets
from eegtool.scorings.scoring import Entry, Scoring, refuse_word

PER_LINE: Final = "one stage per line"

# Names of columns as `_fold_name` leaves them, the surest first.
_NAMES: Final = {
    "onset": "onset start begin starttime onsettime begintime clocktime datetime timestamp time",
    "end": "end stop endtime stoptime",
    "duration": "duration dur length",
    "epoch": "epoch epochnumber epochindex epochno epochid index number unnamed0",
    "stage": "stage sleepstage stages sleepstages hypnogram hypno score scoring",
    "event": "trialtype description label annotation event eventtype class",
}
_LEAST_REM: Final = 0.1
"""Least number of epochs of REM for each of R&K's stage 4; a whole night has far more."""
_MISSING: Final = ("", "n/a", "nan")
_HELP: Final = (
    "Give one stage per line, or a table with the columns onset (s), duration (s) and stage, "
    "or epoch and stage."
)


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    cells: tuple[str, ...]

    def __getitem__(self, column: int) -> str:
        return self.cells[column] if column < len(self.cells) else ""

    @property
    def place(self) -> str:
        return f"line {self.line}"


def read_table(path: Path, text: str) -> Scoring:
    """Read a scoring from text.

    A table with onsets is one of events; else every line is an epoch of 30 s. In a column that is
    named after stages every entry must be one; among events (BIDS ``trial_type``, annotations) those
    about something else are passed over.

    Parameters
    ----------
    path : Path
        The file, for messages.
    text : str
        Its content.

    Raises
    ------
    EegToolError
        If the columns cannot be told, or a stage, time or number cannot be read; the line is named.
    """
    rows, columns = _layout(path, text)
    stages = [_stage(path, row, columns) for row in rows]
    staged = [(row, stage) for row, stage in zip(rows, stages, strict=True) if stage]
    if "onset" in columns:
        scoring = _events(path, staged, columns)
    else:
        if "epoch" in columns:
            _check_count(path, rows, columns["epoch"])
        entries = (
            Entry(float(i * EPOCH_S), EPOCH_S, stage, row.place)
            for i, (row, stage) in enumerate(staged)  # every row, as others are refused
        )
        scoring = Scoring(PER_LINE, tuple(entries))
    column, translate = _translation(columns)
    if translate is stage_in_column:
        return replace(
            scoring, notes=_check_numbers(path, [row[column] for row, _ in staged], scoring.entries)
        )
    return scoring


def is_table_of_stages(text: str) -> bool:
    """Say whether the beginning of a text file looks like a scoring: half of the first lines are stages."""
    try:
        rows, columns = _layout(Path(), text)
    except EegToolError:
        return False
    column, translate = _translation(columns)
    known = sum(translate(row[column]) is not None for row in rows)
    return known > 0 and (2 * known >= len(rows) or translate is stage_of)


def _layout(path: Path, text: str) -> tuple[list[_Row], dict[str, int]]:
    """Split the text into rows without their header; return them and the column of every role."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    delimiter = next((mark for mark in "\t;," if mark in first), None)
    if delimiter is None:
        rows = [_Row(i, (line.strip(),)) for i, line in enumerate(lines, start=1)]
    else:
        reader = csv.reader(lines, delimiter=delimiter)
        try:
            rows = [_Row(reader.line_num, tuple(cell.strip() for cell in row)) for row in reader]
        except csv.Error as error:
            raise EegToolError(
                f"The hypnogram {path} is no table: {error} in line {reader.line_num}.", _HELP
            ) from error
    rows = [row for row in rows if not row[0].startswith("#")]
    while rows and not any(rows[-1].cells):
        del rows[-1]
    top = next((i for i, row in enumerate(rows) if any(row.cells)), None)
    if top is None:
        raise EegToolError(f"The hypnogram {path} is empty.", _HELP)
    if columns := _named(path, rows[top]):
        rows = rows[top + 1 :]
    else:
        columns = _guessed(path, rows, rows[top])
    # In a mere list a blank line may be an epoch that was forgotten: `_stage` will refuse it.
    return rows if len(columns) == 1 else [row for row in rows if any(row.cells)], columns


def _guessed(path: Path, rows: Sequence[_Row], first: _Row) -> dict[str, int]:
    """Return the columns of a file without a header: a list of stages, or onset, duration, stage."""
    width = max(i + 1 for row in rows for i, cell in enumerate(row.cells) if cell)
    if width == 1:
        return {"stage": 0}
    if width == 3 and all(map(_is_moment, first.cells[:2])):
        only_stages = all(stage_in_column(row[2]) for row in rows if any(row.cells))
        return {"onset": 0, "duration": 1, "stage" if only_stages else "event": 2}
    raise EegToolError(
        f"The columns of the hypnogram {path} have no names that are known: {first.place} has "
        f"'{', '.join(first.cells)[:60]}'.",
        _HELP,
    )


def _named(path: Path, header: _Row) -> dict[str, int]:
    """Return the column of every role, or nothing if this is no header."""
    if any(stage_in_column(cell) for cell in header.cells):
        return {}
    names = [_fold_name(cell) for cell in header.cells]
    columns = {
        role: names.index(found)
        for role, known in _NAMES.items()
        if (found := next((name for name in known.split() if name in names), None))
    }
    # The first line of a mere list must have one of the very names: it may be a misspelt stage.
    like_stage = [i for i, name in enumerate(names) if "stage" in name and len(names) > 1]
    if "stage" not in columns and len(like_stage) > 1:
        raise EegToolError(
            f"The hypnogram {path} has several columns of stages: "
            f"{', '.join(header[i] for i in like_stage)}.",
            "Name the one to use 'stage'.",
        )
    if "stage" not in columns and like_stage:
        columns["stage"] = like_stage[0]
    if "" in names and "epoch" not in columns and columns.get("stage", 0) > 0:
        columns["epoch"] = names.index("")  # pandas leaves the name of its index empty
    if "stage" not in columns and "event" not in columns:
        return {}
    if (
        "onset" not in columns
        and len(names) > 1
        and ("epoch" not in columns or "duration" in columns)
    ):
        raise EegToolError(
            f"The hypnogram {path} has no column of onsets; it has: "
            f"{', '.join(cell for cell in header.cells if cell)}.",
            _HELP,
        )
    return columns


def _fold_name(name: str) -> str:
    """Return ``"Start_Time (s)"`` as ``"starttime"``; units other than seconds stay part of the name."""
    words = re.split(r"[^a-z0-9]+", name.casefold())
    return "".join(w for w in words if w not in ("s", "sec", "seconds", "hh", "mm", "ss", "xxx"))


def _translation(columns: dict[str, int]) -> tuple[int, Callable[[str], str | None]]:
    """Return the column with the stages, and how its words are to be read."""
    if "stage" in columns or "onset" not in columns:  # without onsets every line is an epoch
        return columns.get("stage", columns.get("event", 0)), stage_in_column
    return columns["event"], stage_of


def _stage(path: Path, row: _Row, columns: dict[str, int]) -> str | None:
    """Return the stage of a row; None for an event about something else."""
    column, translate = _translation(columns)
    stage = translate(row[column])
    if stage is None and (translate is stage_in_column or is_misspelt(row[column])):
        refuse_word(path, row.place, row[column])
    return stage


def _check_numbers(path: Path, cells: Sequence[str], entries: Sequence[Entry]) -> tuple[str, ...]:
    """Refuse numbers that mean one thing here and another there; say how the others are read.

    Nights have much REM: a 5 that is hardly there beside 4 is movement, as in lists of 0 W, 1 to 3
    N1 to N3, 4 REM, 5 movement. Where REM is a word, 4 can only be stage 4.
    """
    epochs: defaultdict[int, float] = defaultdict(float)
    rem_is_a_word = False
    for cell, entry in zip(cells, entries, strict=True):
        code = code_in_column(cell)
        if code is not None:
            epochs[code] += max(entry.duration_s / EPOCH_S, 1.0)
        elif entry.stage == "REM":
            rem_is_a_word = True
    fours, fives = epochs.get(4, 0.0), epochs.get(5, 0.0)
    if fours and fives < _LEAST_REM * fours and not rem_is_a_word:
        raise EegToolError(
            f"The hypnogram {path} has {fours:.0f} epochs of 4 and {fives:.0f} of 5: 4 may be "
            "R&K's stage 4 (then 5 is REM), or REM (then 5 is movement).",
            "Write N3 and REM as words.",
        )
    if not epochs:
        return ()
    return ("Numbers are read as 0 W, 1 N1, 2 N2, 3 and 4 N3, 5 REM.",)


def _check_count(path: Path, rows: Sequence[_Row], column: int) -> None:
    """Refuse numbers of epochs that do not count up: one is missing, twice there, or misplaced."""
    first = 0 if rows and rows[0][column] in ("0", "0.0") else 1
    for number, row in enumerate(rows, start=first):
        if row[column] not in (f"{number}", f"{number}.0"):
            _refuse(
                path,
                row,
                row[column],
                f"epochs count from 0 or 1 without a gap; it should be {number}",
            )


def _events(path: Path, staged: Sequence[tuple[_Row, str]], columns: dict[str, int]) -> Scoring:
    moments = [_moment(path, row, columns["onset"]) for row, _ in staged]
    try:
        onsets_s, start = to_onsets(moments)
    except ValueError as error:
        raise EegToolError(
            f"The onsets of the hypnogram {path} cannot be read: {error}.", _HELP
        ) from error
    entries = tuple(
        Entry(onset_s, _duration_s(path, row, moment, columns), stage, row.place)
        for (row, stage), moment, onset_s in zip(staged, moments, onsets_s, strict=True)
    )
    return Scoring("table of onsets and stages", entries, start, start is not None)


def _duration_s(path: Path, row: _Row, onset: Moment, columns: dict[str, int]) -> float:
    """Return how long a row lasts; 0 where the table does not say."""
    if "duration" in columns and row[columns["duration"]].casefold() not in _MISSING:
        duration = _moment(path, row, columns["duration"])
        if isinstance(duration, float | timedelta):
            return duration if isinstance(duration, float) else duration.total_seconds()
        _refuse(path, row, row[columns["duration"]], "it is no duration")
    if "end" in columns and row[columns["end"]].casefold() not in _MISSING:
        try:
            return seconds_between(onset, _moment(path, row, columns["end"]))
        except ValueError as error:
            _refuse(path, row, row[columns["end"]], str(error))
    return 0.0


def _moment(path: Path, row: _Row, column: int) -> Moment:
    try:
        return parse_moment(row[column])
    except ValueError as error:
        _refuse(path, row, row[column], str(error))


def _refuse(path: Path, row: _Row, cell: str, why: str) -> NoReturn:
    raise EegToolError(f"The hypnogram {path} has '{cell[:40]}' in {row.place}: {why}.", _HELP)


def _is_moment(cell: str) -> bool:
    try:
        parse_moment(cell)
    except ValueError:
        return False
    return True
