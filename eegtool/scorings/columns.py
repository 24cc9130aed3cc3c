"""The table in a text: where it begins, and what each of its columns is, by its name or by what is in it."""

from __future__ import annotations

import csv
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from eegtool.core.errors import EegToolError
from eegtool.core.stages import (
    EPOCH_S,
    SLEEP_STAGES,
    code_in_column,
    is_misspelt,
    stage_in_column,
    stage_of,
)
from eegtool.scorings.moments import (
    moment_in,
    parse_moment,
    read_moments,
    seconds_between,
    to_onsets,
)

# Names of columns as `fold_name` leaves them, the surest first.
NAMES: Final = {
    "onset": "recordingonset onset start begin starttime onsettime begintime startsec clocktime datetime "
    "timestamp time beginn debut inicio inizio uhrzeit zeit heure hora tijd 时间 開始 時刻",
    "date": "date datum fecha data 日期",
    "end": "end stop endtime stoptime stopsec endsec ende fin fine einde",
    "duration": "duration dur length dauer duree duracion duur duracao",
    "epoch": "epoch epochnumber epochindex epochno epochnr epochid epoche epoque epoca index number nr unnamed0",
    "stage": "stage sleepstage stages sleepstages hypnogram hypno score scoring schlafstadium schlafstadien "
    "stadium stade fase etapa estadio estagio slaapstadium 睡眠分期 分期 睡眠段階",
    "event": "trialtype description label annotation event eventtype class type",
}
HELP: Final = (
    "Give one stage per line, or a table with the columns onset (s), duration (s) and stage, "
    "or epoch and stage."
)
UNTIL_NEXT: Final = "..."
"""The end of a row that lasts until the next begins, in files of Luna."""

_UNITS: Final = ("s", "sec", "seconds", "hh", "mm", "ss", "xxx")
_COMMENTS: Final = ("#", "*")
_HEADER_ROWS: Final = 200  # within which the table begins
_ENDS: Final = re.compile(r"^\*Duration_sec\b", re.MULTILINE)  # of Visbrain, whose times are ends
_NO_STAGE: Final = re.compile(
    r"[:=]|\S+ \S+ \S+|^\[.*\]$"
)  # lines that cannot be stages, not even misspelt ones


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    line: int
    cells: tuple[str, ...]

    def __getitem__(self, column: int) -> str:
        return self.cells[column] if column < len(self.cells) else ""

    @property
    def place(self) -> str:
        """Such as ``"line 12"``, for messages."""
        return f"line {self.line}"


@dataclass(frozen=True, slots=True)
class Table:
    """What was found in a text.

    Attributes
    ----------
    path : Path
        The file, for messages.
    rows : tuple of Row
        Without header and preamble.
    names : tuple of str
        Of all columns; empty where the table does not name them.
    columns : dict of str to int
        Column of every role of `NAMES` but that of the stages.
    scored : tuple of int
        Columns that hold stages, the surest first; none where stages stand among events.
    """

    path: Path
    rows: tuple[Row, ...]
    names: tuple[str, ...]
    columns: dict[str, int]
    scored: tuple[int, ...]

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.names) or max((len(row.cells) for row in self.rows), default=1)

    def name(self, column: int) -> str:
        """Return how the user would call a column."""
        return self.names[column] if column < len(self.names) else str(column + 1)

    def cell(self, row: Row, role: str) -> str:
        """Return the cell of a role in a row; empty where the table has no such column."""
        return row[self.columns[role]] if role in self.columns else ""

    def column(self, index: int) -> list[str]:
        """Return all cells of a column."""
        return [row[index] for row in self.rows]


def find_table(path: Path, text: str) -> Table:
    """Find the table in a text.

    Raises
    ------
    EegToolError
        If there is none, or its columns cannot be told.
    """
    rows = _rows(path, text.splitlines())
    while rows and not any(rows[-1].cells):
        del rows[-1]
    if not any(any(row.cells) and not _is_comment(row) for row in rows):
        raise EegToolError(f"The hypnogram {path} is empty.", HELP)
    top, names = _header(rows)
    body = [row for row in rows[top + 1 if names else 0 :] if not _is_comment(row)]
    if names:
        table = _named(path, body, names)
    else:
        table = _unnamed(path, body, ends=bool(_ENDS.search(text)))
    if table.columns or len(table.names) > 1:
        return replace(table, rows=_filled(table.rows))
    return table  # a blank line of a mere list may be a forgotten epoch: it will be refused


def fold_name(name: str) -> str:
    """Return ``"Start_Time (s)"`` as ``"starttime"``; units other than seconds stay part of the name."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return "".join(w for w in re.split(r"[\W_]+", plain.casefold()) if w not in _UNITS)


def _rows(path: Path, lines: Sequence[str]) -> list[Row]:
    """Split lines by the mark that most of them have."""
    used = [line for line in lines if line.strip() and not line.startswith(_COMMENTS)]
    marks = (m for m in "\t;," if 2 * sum(m in line for line in used) >= len(used) > 0)
    mark = next(marks, None)
    if mark is None:
        split = [tuple(line.split()) for line in lines]
        # Blanks stand between columns, as Visbrain writes, or within the name of a stage.
        tables = sum(
            len(cells) > 1 and _tells_time(cells) and any(map(stage_in_column, cells))
            for cells in split
        )
        if 2 * tables > len(used) > 2 * sum(stage_in_column(line) is not None for line in used):
            return [Row(i, cells or ("",)) for i, cells in enumerate(split, start=1)]
        return [Row(i, (line.strip(),)) for i, line in enumerate(lines, start=1)]
    reader = csv.reader(lines, delimiter=mark)
    try:
        return [
            Row(reader.line_num, tuple(cell.strip() for cell in row) or ("",)) for row in reader
        ]
    except csv.Error as error:
        raise EegToolError(
            f"The hypnogram {path} is no table: {error} in line {reader.line_num}.", HELP
        ) from error


def _header(rows: Sequence[Row]) -> tuple[int, tuple[str, ...]]:
    """Return which row names the columns, and their names; no names if none does."""
    for i, row in enumerate(rows[:_HEADER_ROWS]):
        names = (row[0].lstrip("# "), *row.cells[1:])  # MNE's header stands in a comment
        data = any(map(stage_in_column, names))
        roles = {} if data else _roles(names)
        timed = roles.keys() & {"onset", "end", "epoch"}
        told = roles.keys() & {"stage", "event"}
        like = not data and any("stage" in fold_name(name) for name in names)
        # The first line of a mere list must have one of the very names: it may be a misspelt stage.
        comment, several = _is_comment(row), sum(map(bool, names)) > 1
        if (told and not comment) or (
            several and (timed or like) and (told or like or not comment)
        ):
            return i, names
        if not comment and several and _tells_time(row.cells):
            break  # the table has begun
    return 0, ()


def _roles(names: Sequence[str]) -> dict[str, int]:
    """Return the column of every role that a name tells."""
    folded = [fold_name(name) for name in names]
    return {
        role: folded.index(found)
        for role, known in NAMES.items()
        if (found := next((name for name in known.split() if name in folded), None))
    }


def _named(path: Path, rows: Sequence[Row], names: tuple[str, ...]) -> Table:
    """Tell the columns of a table by their names."""
    columns, folded = _roles(names), [fold_name(name) for name in names]
    first = next(iter(_filled(rows)), Row(0, ("",)))
    # Seconds count before times of day: recordings may have lost their clock.
    starts = [folded.index(name) for name in NAMES["onset"].split() if name in folded]
    columns |= dict([("onset", i) for i in starts if isinstance(moment_in(first[i]), float)][:1])
    stage = columns.pop("stage", None)
    alike = [i for i, n in enumerate(folded) if "stage" in n and i != stage and len(names) > 1]
    if stage is None and not alike and "event" not in columns:
        alike = [i for i in _of_words(rows, len(names)) if i not in columns.values()]
    scored = [i for i in (stage, *alike) if i is not None]
    if "" in folded and "epoch" not in columns and (scored or [0])[0] > 0:
        columns["epoch"] = folded.index("")  # pandas leaves the name of its index empty
    if "event" in columns and scored:
        # RemLogic repeats the stage beside every event, and has the stages themselves among these.
        if "onset" in columns and any(stage_of(row[columns["event"]]) for row in rows):
            scored = []
        else:
            del columns["event"]
    elif "event" in columns and "onset" not in columns:  # without onsets every line is an epoch
        scored = [columns.pop("event")]
    if not scored and "event" not in columns:
        raise _nameless(path, Row(rows[0].line - 1 if rows else 1, names))
    timed = columns.keys() & {"onset", "end"} or ("epoch" in columns) != ("duration" in columns)
    if len(names) > 1 and not timed:
        raise EegToolError(
            f"The hypnogram {path} has no column of onsets; it has: {', '.join(filter(None, names))}.",
            HELP,
        )
    return Table(path, tuple(rows), names, columns, tuple(scored))


def _unnamed(path: Path, rows: Sequence[Row], *, ends: bool) -> Table:
    """Tell the columns of a table without header by what is in them."""
    width = Counter(sum(map(bool, row.cells)) for row in _filled(rows)).most_common(1)[0][0]
    if width == 1:
        lines = [Row(row.line, (next(filter(None, row.cells), ""),)) for row in rows]
        return Table(path, tuple(lines[_after_preamble(lines) :]), (), {}, (0,))
    top = next(i for i, row in enumerate(rows) if sum(map(bool, row.cells)) == width)
    rows = _filled(rows[top:])
    cells = list(
        zip(
            *([row[i] for i in range(max(len(r.cells) for r in rows))] for row in rows), strict=True
        )
    )
    scored = _of_words(rows, len(cells))
    times = [i for i, column in enumerate(cells) if i not in scored and _counts_up(column)]
    rest = [i for i in range(len(cells)) if i not in (*scored, *times)]
    columns: dict[str, int] = {}
    if not scored and (events := [i for i in rest if any(map(stage_of, cells[i]))]):
        columns["event"] = events[0]
    elif not scored:  # numbers, few of them
        scored = [i for i in rest if _are_codes(cells[i])]
    numbered = [i for i in times if _counts_epochs(cells[i])]
    times = sorted((i for i in times if i not in numbered), key=lambda i: _first(cells[i]))
    if times and ends:
        columns["end"] = times[0]
    elif times:
        lasting = [i for i in (*times[1:], *rest) if i not in scored]
        columns |= {"onset": times[0]} | _second_time(cells[times[0]], lasting, cells)
    elif numbered:
        columns["epoch"] = numbered[0]
    if not (scored or "event" in columns) or not columns.keys() & {"onset", "end", "epoch"}:
        raise _nameless(path, rows[0])
    first = cells[columns["onset"]][0] if "onset" in columns else "0"
    length = cells[columns["duration"]][0] if "duration" in columns else first
    at_s = moment_in(first)
    if at_s and isinstance(at_s, float) and "end" not in columns and at_s == moment_in(length):
        raise EegToolError(
            f"The times of the hypnogram {path} are {first} and so on: they may be when each stage begins, "
            "or when it ends.",
            "Name its columns in a first line: onset and stage, or end and stage.",
        )
    return Table(path, rows, (), columns, tuple(scored))


def _second_time(
    starts: Sequence[str], candidates: Sequence[int], cells: Sequence[Sequence[str]]
) -> dict[str, int]:
    """Find ends or durations beside onsets: where a row ends, the next begins."""
    for i in candidates:
        rows = list(zip(starts, cells[i], starts[1:], strict=False))
        ends = sum(moment_in(cell) == moment_in(later) is not None for _, cell, later in rows)
        lengths = sum(_reaches(onset, cell, later) for onset, cell, later in rows)
        if UNTIL_NEXT in cells[i] or 2 * max(ends, lengths) >= len(rows) > 0:
            return {"end" if ends > lengths or UNTIL_NEXT in cells[i] else "duration": i}
    return {}


def _after_preamble(lines: Sequence[Row]) -> int:
    """Return where a mere list begins: behind lines that cannot be stages, not even misspelt ones."""
    for i, row in enumerate(lines[:_HEADER_ROWS]):
        if stage_in_column(row[0]) or is_misspelt(row[0]) or not _NO_STAGE.search(row[0]):
            return i if all(stage_in_column(r[0]) for r in lines[i:]) else 0
    return 0


def _of_words(rows: Sequence[Row], width: int) -> list[int]:
    """Return the columns in which every entry is a stage, and some are words for sleep."""
    return [
        i
        for i in range(width)
        if (cells := [row[i] for row in _filled(rows)])
        and all(map(stage_in_column, cells))
        and any(stage_of(cell) in SLEEP_STAGES for cell in cells)
    ]


def _filled(rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(row for row in rows if any(row.cells))


def _is_comment(row: Row) -> bool:
    return row[0].startswith(_COMMENTS)


def _tells_time(cells: Sequence[str]) -> bool:
    return any(moment_in(cell) is not None for cell in cells)


def _counts_up(cells: Sequence[str]) -> bool:
    """Say whether a column counts up: seconds, times of day or dates."""
    try:
        onsets_s, _ = to_onsets(read_moments(cells))
    except ValueError:
        return False
    return len(cells) > 1 and all(b > a for a, b in pairwise(onsets_s))


def _first(cells: Sequence[str]) -> tuple[int, Any]:
    """Rank columns of times by which is the surest onset: from 0 on, dates, times of day, later seconds."""
    first = parse_moment(cells[0])
    kinds = (datetime, timedelta, float)
    return (0 if first == 0.0 else 1 + kinds.index(type(first))), first


def _counts_epochs(cells: Sequence[str]) -> bool:
    """Say whether a column numbers epochs, from 0 or 1."""
    numbers = [
        code_in_column(cell) if len(cell) < 4 else cell.isdecimal() and int(cell) for cell in cells
    ]
    return numbers in (list(range(len(cells))), list(range(1, len(cells) + 1)))


def _are_codes(cells: Sequence[str]) -> bool:
    codes = set(map(code_in_column, cells))
    return 1 < len(codes) <= 10 and all(code is not None and abs(code) < EPOCH_S for code in codes)


def _reaches(onset: str, length: str, later: str) -> bool:
    """Say whether a row of a length ends where the next begins."""
    begin, lasts_s, end = map(moment_in, (onset, length.lstrip("+"), later))
    if begin is None or end is None or not isinstance(lasts_s, float):
        return False
    return math.isclose(seconds_between(begin, end), lasts_s, abs_tol=0.05)


def _nameless(path: Path, row: Row) -> EegToolError:
    return EegToolError(
        f"The columns of the hypnogram {path} have no names that are known: {row.place} has "
        f"'{', '.join(row.cells)[:60]}'.",
        f"{HELP} --scoring-column takes the column of stages.",
    )
