"""Scorings as text: one stage per line, or a table with a line per epoch, per stretch of time or per event.

Columns are told by their names, and where there are none, by what is in them; lines before the table, as
programs write them above their exports, are passed over.
"""

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
from typing import Final, NoReturn

from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S, code_in_column, is_misspelt, stage_in_column, stage_of
from eegtool.scorings.codings import read_stages
from eegtool.scorings.moments import (
    Moment,
    parse_moment,
    read_moments,
    seconds_between,
    to_onsets,
)
from eegtool.scorings.scoring import CONSENSUS, Entry, ReadAs, Scoring, refuse_word

PER_LINE: Final = "one stage per line"

# Names of columns as `_fold_name` leaves them, the surest first.
_NAMES: Final = {
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
_UNITS: Final = ("s", "sec", "seconds", "hh", "mm", "ss", "xxx")
_MISSING: Final = ("", "n/a", "nan", ".")
_UNTIL_NEXT: Final = "..."  # of Luna
_PREAMBLE_ROWS: Final = 200
_MANY: Final = 1e6  # epochs: more than any entry has
_ORIGIN: Final = re.compile(r"#?\s*orig_time\s*:\s*(\d{4}-\d\d-\d\d[ T][\d:.]+)", re.IGNORECASE)
_ENDS: Final = re.compile(r"\*?Duration_sec\b", re.IGNORECASE)  # of Visbrain, whose times are ends
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


@dataclass(frozen=True, slots=True)
class _Table:
    path: Path
    rows: list[_Row]
    names: tuple[str, ...]
    """Of all columns; empty where the table does not name them."""
    columns: dict[str, int]
    """Column of every role but the stages'."""
    scored: tuple[int, ...]
    """Columns that hold stages, the surest first."""
    preamble: str

    def name(self, column: int) -> str:
        """Return how the user would call a column."""
        return self.names[column] if column < len(self.names) else str(column + 1)

    def column(self, index: int) -> list[str]:
        """Return all cells of a column."""
        return [row[index] for row in self.rows]


def read_table(
    path: Path,
    text: str,
    read_as: ReadAs | None = None,
    recording_start: datetime | None = None,
) -> Scoring:
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
    read_as : ReadAs, optional
        What the user says of columns and codes.
    recording_start : datetime, optional
        Tells apart days and months.

    Raises
    ------
    EegToolError
        If the columns cannot be told, or a stage, time or number cannot be read; the line is named.
    """
    read_as = read_as or ReadAs()
    table = _layout(path, text)
    column, note = _chosen(table, read_as)
    if column is None:
        column = table.columns["event"]
        table = replace(
            table, rows=[row for row in table.rows if _of_stage(path, row, column, read_as)]
        )
    origin = _ORIGIN.search(table.preamble)
    scoring = _timed(table, recording_start)
    n_epochs = [min(entry.duration_s / EPOCH_S, _MANY) for entry in scoring.entries]
    cells, places = table.column(column), [row.place for row in table.rows]
    if column == table.columns.get("event"):  # words, as among annotations
        told = dict(read_as.codes)
        stages = [told.get("".join(c.split()).casefold()) or str(stage_of(c)) for c in cells]
        notes: tuple[str, ...] = ()
    else:
        stages, notes = read_stages(path, cells, places, n_epochs, read_as)
    return replace(
        scoring,
        entries=tuple(replace(e, stage=s) for e, s in zip(scoring.entries, stages, strict=True)),
        start=datetime.fromisoformat(origin[1]) if origin and not scoring.start else scoring.start,
        notes=(*filter(None, (note,)), *notes),
    )


def scorers_of(path: Path, text: str) -> tuple[str, ...]:
    """Return the names of all columns of a table that hold stages."""
    table = _layout(path, text)
    return tuple(table.name(column) for column in table.scored)


def is_table_of_stages(text: str) -> bool:
    """Say whether a text file, or its beginning, looks like a scoring: half of the entries are stages."""
    try:
        table = _layout(Path(), text)
    except EegToolError:
        return False
    if not table.scored:
        return any(map(stage_of, table.column(table.columns["event"])))
    known = sum(stage_in_column(cell) is not None for cell in table.column(table.scored[0]))
    return known > 0 and 2 * known >= len(table.rows)


def _layout(path: Path, text: str) -> _Table:
    """Find the table in a text: its rows, and what each column is."""
    lines = text.splitlines()
    rows = _rows(path, lines)
    while rows and not any(rows[-1].cells):
        del rows[-1]
    if not any(any(row.cells) and not row[0].startswith("#") for row in rows):
        raise EegToolError(f"The hypnogram {path} is empty.", _HELP)
    top, names = _header(rows)
    if names:
        body = [row for row in rows[top + 1 :] if not row[0].startswith("#")]
        table = _named(path, body, names)
    else:
        body = [row for row in rows if not row[0].startswith("#")]
        top, table = _unnamed(path, body, text)
    preamble = "\n".join(lines[: rows[top].line]) if names else text[:2000]
    table = replace(table, preamble=preamble)
    # In a mere list a blank line may be an epoch that was forgotten: it will be refused.
    if table.columns or len(table.names) > 1:
        return replace(table, rows=[row for row in table.rows if any(row.cells)])
    return table


def _rows(path: Path, lines: Sequence[str]) -> list[_Row]:
    """Split lines by the mark that most of them have."""
    used = [line for line in lines if line.strip() and not line.startswith("#")]
    counts = {mark: sum(mark in line for line in used) for mark in ("\t", ";", ",")}
    mark = next((m for m, n in counts.items() if 2 * n >= len(used) > 0), None)
    if mark is None:
        pieces = [line.split() for line in used]
        stages = sum(stage_in_column(line) is not None for line in used)
        width = Counter(map(len, pieces)).most_common(1)[0][0] if pieces else 1
        if width in (2, 3) and 2 * stages < len(used):  # blanks between columns, as Visbrain writes
            timed = [p for p in pieces if len(p) == width and any(map(_is_moment, p))]
            if 2 * len(timed) > len(used) and any(map(stage_in_column, timed[-1])):
                return [_Row(i, tuple(line.split()) or ("",)) for i, line in enumerate(lines, 1)]
        return [_Row(i, (line.strip(),)) for i, line in enumerate(lines, start=1)]
    reader = csv.reader(lines, delimiter=mark)
    try:
        rows = [_Row(reader.line_num, tuple(cell.strip() for cell in row)) for row in reader]
    except csv.Error as error:
        raise EegToolError(
            f"The hypnogram {path} is no table: {error} in line {reader.line_num}.", _HELP
        ) from error
    return [row if row.cells else _Row(row.line, ("",)) for row in rows]


def _header(rows: Sequence[_Row]) -> tuple[int, tuple[str, ...]]:
    """Return which row names the columns, and their names; no names if none does."""
    found: tuple[int, tuple[str, ...]] = (0, ())
    for i, row in enumerate(rows[:_PREAMBLE_ROWS]):
        if not any(row.cells):
            continue
        comment = row[0].startswith("#")
        names = (row[0].lstrip("# "), *row.cells[1:])
        # MNE's text files have their header in a comment.
        roles = {} if any(map(stage_in_column, names)) else _roles(names)
        told = roles.keys() & {"stage", "event"} or any("stage" in _fold_name(n) for n in names)
        timed = roles.keys() & {"onset", "end", "epoch"}
        if len(names) > 1 and (timed or (told and not comment)):
            if told or not found[1]:
                found = (i, names)
            if told:
                break
        elif len(names) == 1 and not comment and roles.keys() & {"stage", "event"} and not found[1]:
            # A mere list: the first line must have one of the very names, it may be a misspelt stage.
            return i, names
        if not comment and sum(map(bool, row.cells)) > 1 and any(map(_is_moment, row.cells)):
            break  # the table has begun
    return found


def _roles(names: Sequence[str]) -> dict[str, int]:
    """Return the column of every role that a name tells."""
    folded = [_fold_name(name) for name in names]
    return {
        role: folded.index(found)
        for role, known in _NAMES.items()
        if (found := next((name for name in known.split() if name in folded), None))
    }


def _named(path: Path, rows: list[_Row], names: tuple[str, ...]) -> _Table:
    """Tell the columns of a table by their names."""
    columns, folded = _roles(names), [_fold_name(name) for name in names]
    # Seconds count before times of day: recordings may have lost their clock.
    starts = [folded.index(n) for n in _NAMES["onset"].split() if n in folded]
    first = next((row for row in rows if any(row.cells)), _Row(0, ("",)))
    columns |= dict([("onset", i) for i in starts if _is_seconds(first[i])][:1])
    stage = columns.pop("stage", None)
    alike = [
        i for i, name in enumerate(folded) if "stage" in name and i != stage and len(names) > 1
    ]
    if stage is None and not alike and columns.get("event") is None:
        alike = _by_content(rows, set(columns.values()), len(names))
    scored = [i for i in (stage, *alike) if i is not None]
    if "" in folded and "epoch" not in columns and (scored or [0])[0] > 0:
        columns["epoch"] = folded.index("")  # pandas leaves the name of its index empty
    if scored and "event" in columns:
        # RemLogic repeats the stage beside every event, and writes the stages themselves as events.
        if "onset" in columns and any(map(_stage_event, (r[columns["event"]] for r in rows))):
            scored = []
        else:
            del columns["event"]
    elif "event" in columns and "onset" not in columns:  # without onsets every line is an epoch
        scored = [columns.pop("event")]
    if not scored and "event" not in columns:
        raise _nameless(path, _Row(rows[0].line if rows else 0, names))
    if (
        not columns.keys() & {"onset", "end"}
        and len(names) > 1
        and ("epoch" not in columns or "duration" in columns)
    ):
        raise EegToolError(
            f"The hypnogram {path} has no column of onsets; it has: {', '.join(filter(None, names))}.",
            _HELP,
        )
    return _Table(path, rows, names, columns, tuple(scored), "")


def _by_content(rows: Sequence[_Row], taken: set[int], width: int) -> list[int]:
    """Return the columns in which every entry is a stage, and not all are numbers."""
    return [
        i
        for i in range(width)
        if i not in taken
        and rows
        and all(stage_in_column(row[i]) for row in rows if any(row.cells))
        and not all(code_in_column(row[i]) is not None for row in rows if any(row.cells))
    ]


def _unnamed(path: Path, rows: list[_Row], text: str) -> tuple[int, _Table]:
    """Tell the columns of a table without header by what is in them; return its first row, too."""
    width = Counter(sum(map(bool, row.cells)) for row in rows if any(row.cells)).most_common(1)[0][
        0
    ]
    if width == 1:
        top = _after_preamble(rows)
        rows = [_Row(row.line, (next(filter(None, row.cells), ""),)) for row in rows[top:]]
        return top, _Table(path, rows, (), {}, (0,), "")
    top = next(i for i, row in enumerate(rows) if sum(map(bool, row.cells)) == width)
    rows = [row for row in rows[top:] if any(row.cells)]
    n_columns = max(len(row.cells) for row in rows)
    cells = [[row[i] for row in rows] for i in range(n_columns)]
    scored = _by_content(rows, set(), n_columns)
    times = [i for i in range(n_columns) if i not in scored and _is_time_column(cells[i])]
    rest = [i for i in range(n_columns) if i not in (*scored, *times)]
    columns: dict[str, int] = {}
    if not scored:  # numbers, few of them; or stages among other events
        few = [i for i in rest if _is_code_column(cells[i])]
        events = [i for i in rest if any(map(stage_of, cells[i]))]
        scored = [i for i in few if len(set(cells[i])) > 1] if not events else []
        columns = {"event": events[0]} if events else {}
    if times and all(
        _is_seconds(c) and float(c) == n
        for n, c in enumerate(cells[times[0]], start=cells[times[0]][0] == "1")
    ):
        columns["epoch"] = times.pop(0)
    if times:
        onset, *others = times
        lasting = [i for i in (*others, *rest) if i not in scored and _are_lengths(cells[i])]
        columns |= _second_time(cells[onset], onset, others, lasting, cells)
    if _ENDS.search(text) and "onset" in columns and "end" not in columns:
        columns["end"] = columns.pop("onset")
    if not (scored or "event" in columns) or not columns.keys() & {"onset", "end", "epoch"}:
        raise _nameless(path, rows[0])
    first = cells[columns["onset"]][0] if "onset" in columns else ""
    if len(columns) == 1 and _is_seconds(first) and float(first.replace(",", ".")) != 0:
        raise EegToolError(
            f"The hypnogram {path} has one time per stage, from {first} on: it may be when each begins, "
            "or when it ends.",
            "Name its columns in a first line: onset and stage, or end and stage.",
        )
    return top, _Table(path, rows, (), columns, tuple(scored), "")


def _second_time(
    starts: Sequence[str],
    onset: int,
    others: Sequence[int],
    lasting: Sequence[int],
    cells: Sequence[Sequence[str]],
) -> dict[str, int]:
    """Tell ends and durations beside onsets: an end is where the next row begins."""
    columns = {"onset": onset}
    for i in dict.fromkeys((*others, *lasting)):
        ends = sum(_same(a, b) for a, b in zip(cells[i], starts[1:], strict=False))
        lengths = sum(
            _reaches(a, b, c) for a, b, c in zip(starts, cells[i], starts[1:], strict=False)
        )
        if max(ends, lengths) * 2 >= len(starts) - 1:
            columns["end" if ends > lengths else "duration"] = i
            break
    return columns


def _after_preamble(rows: Sequence[_Row]) -> int:
    """Return where a mere list begins: behind lines that cannot be stages, not even misspelt ones."""
    for i, row in enumerate(rows[:_PREAMBLE_ROWS]):
        line = " ".join(row.cells)
        if stage_in_column(line) or is_misspelt(line) or not re.search("[:=]|\\S+ \\S+ \\S+", line):
            return i if all(stage_in_column(r[0]) for r in rows[i:]) else 0
    return 0


def _chosen(table: _Table, read_as: ReadAs) -> tuple[int | None, str]:
    """Return the column of stages, None where stages stand among events; and what should be known of it."""
    every = range(len(table.names) or max(len(row.cells) for row in table.rows or [_Row(0, ("",))]))
    scorer = "" if read_as.scorer == CONSENSUS else read_as.scorer.casefold()
    if read_as.column:
        found = [i for i in every if _fold_name(table.name(i)) == _fold_name(read_as.column)]
        if not found:
            raise EegToolError(
                f"The hypnogram {table.path} has no column '{read_as.column}'.",
                f"Its columns are {', '.join(map(table.name, every))}; --scoring-column takes one.",
            )
        return found[0], ""
    if not table.scored:
        return None, ""
    named = [i for i in table.scored if scorer and scorer in table.name(i).casefold()]
    if len(named) == 1:
        return named[0], ""
    surest = _fold_name(table.name(table.scored[0])) in _NAMES["stage"].split()
    if len(table.scored) == 1 or surest:
        return table.scored[0], ""
    if len({tuple(table.column(i)) for i in table.scored}) == 1:
        names = " and ".join(map(table.name, table.scored))
        return table.scored[0], f"Columns {names} of {table.path.name} hold the same scoring."
    raise EegToolError(
        f"The hypnogram {table.path} has several columns of stages: "
        f"{', '.join(map(table.name, table.scored))}.",
        f"Choose with --scoring-column, such as --scoring-column {table.name(table.scored[0])}, or "
        f"take the majority with --scorer {CONSENSUS}.",
    )


def _of_stage(path: Path, row: _Row, column: int, read_as: ReadAs) -> bool:
    """Say whether an event is about a stage."""
    text = row[column]
    if stage_of(text) or "".join(text.split()).casefold() in dict(read_as.codes):
        return True
    if is_misspelt(text):
        refuse_word(path, row.place, text)
    return False


def _stage_event(text: str) -> bool:
    return stage_of(text) is not None


def _timed(table: _Table, recording_start: datetime | None) -> Scoring:
    """Lay the rows onto time, their stages left open."""
    path, rows, columns = table.path, table.rows, table.columns
    if not columns.keys() & {"onset", "end"}:
        numbers = (
            _epoch_numbers(path, rows, columns["epoch"]) if "epoch" in columns else range(len(rows))
        )
        return Scoring(
            PER_LINE
            if not columns.keys() & {"epoch"} or list(numbers) == list(range(len(rows)))
            else "numbered epochs",
            tuple(
                Entry(float(i * EPOCH_S), EPOCH_S, "", row.place)
                for i, row in zip(numbers, rows, strict=True)
            ),
        )
    if "onset" not in columns:  # each row begins where the one before ends
        ends = _moments(path, rows, columns["end"], recording_start)
        starts = [0.0, *ends[:-1]]
        durations = [
            _between(path, row, a, b) for row, a, b in zip(rows, starts, ends, strict=True)
        ]
        onsets_s, start = [0.0, *(float(sum(durations[:i])) for i in range(1, len(rows)))], None
    else:
        texts = None
        if "date" in columns and columns["date"] != columns["onset"]:
            texts = [f"{row[columns['date']]} {row[columns['onset']]}" for row in rows]
            if not all(_is_moment(text) for text in texts):
                texts = None
        moments = _moments(path, rows, columns["onset"], recording_start, texts)
        try:
            onsets_s, start = to_onsets(moments)
        except ValueError as error:
            raise EegToolError(
                f"The onsets of the hypnogram {path} cannot be read: {error}.", _HELP
            ) from error
        durations = [
            _duration_s(path, row, m, columns) for row, m in zip(rows, moments, strict=True)
        ]
    until_next = (
        bool(rows)
        and all(row[columns["end"]] == _UNTIL_NEXT for row in rows if "end" in columns)
        and "end" in columns
    )
    entries = tuple(
        Entry(onset_s, duration_s, "", row.place)
        for row, onset_s, duration_s in zip(rows, onsets_s, durations, strict=True)
    )
    return Scoring(
        "table of onsets and stages", entries, start, start is not None, until_next=until_next
    )


def _epoch_numbers(path: Path, rows: Sequence[_Row], column: int) -> list[int]:
    """Return where numbered epochs lie; some may be missing, but none is misplaced or there twice."""
    numbers: list[int] = []
    for row in rows:
        number = re.fullmatch(r"(\d+)(?:\.0)?", row[column])
        least = numbers[-1] + 1 if numbers else 0
        if number is None or int(number[1]) < least or (not numbers and int(number[1]) > 1):
            _refuse(
                path,
                row,
                row[column],
                f"epochs count up from 0 or 1; it should be {least or '0 or 1'}"
                + (" or more" if numbers else ""),
            )
        numbers.append(int(number[1]))
    return [number - numbers[0] for number in numbers]


def _moments(
    path: Path,
    rows: Sequence[_Row],
    column: int,
    recording_start: datetime | None,
    texts: Sequence[str] | None = None,
) -> list[Moment]:
    cells = texts or [row[column] for row in rows]
    try:
        return read_moments(cells, recording_start)
    except ValueError as why:
        for row, cell in zip(rows, cells, strict=True):
            try:
                parse_moment(cell)
            except ValueError as error:
                _refuse(path, row, cell, str(error))
        raise EegToolError(
            f"The times of the hypnogram {path} cannot be read: {why}.", _HELP
        ) from why


def _duration_s(path: Path, row: _Row, onset: Moment, columns: dict[str, int]) -> float:
    """Return how long a row lasts; 0 where the table does not say."""
    length = row[columns["duration"]] if "duration" in columns else ""
    end = row[columns["end"]] if "end" in columns else ""
    if end.startswith("+"):  # of Luna
        length, end = end[1:], ""
    if length.casefold() not in _MISSING:
        duration = _moment(path, row, length)
        if isinstance(duration, float | timedelta):
            return duration if isinstance(duration, float) else duration.total_seconds()
        _refuse(path, row, length, "it is no duration")
    if end.casefold() in (*_MISSING, _UNTIL_NEXT):
        return 0.0
    stop = _moment(path, row, end)
    return _between(path, row, onset, stop) + (EPOCH_S if end.startswith("e:") else 0)


def _between(path: Path, row: _Row, first: Moment, last: Moment) -> float:
    try:
        return seconds_between(first, last)
    except ValueError as error:
        _refuse(path, row, _spelt(last), str(error))


def _spelt(moment: Moment) -> str:
    return f"{moment:g}" if isinstance(moment, float) else str(moment)


def _moment(path: Path, row: _Row, cell: str) -> Moment:
    try:
        return parse_moment(cell)
    except ValueError as error:
        _refuse(path, row, cell, str(error))


def _refuse(path: Path, row: _Row, cell: str, why: str) -> NoReturn:
    raise EegToolError(f"The hypnogram {path} has '{cell[:40]}' in {row.place}: {why}.", _HELP)


def _nameless(path: Path, row: _Row) -> EegToolError:
    return EegToolError(
        f"The columns of the hypnogram {path} have no names that are known: {row.place} has "
        f"'{', '.join(row.cells)[:60]}'.",
        f"{_HELP} --scoring-column takes the column of stages.",
    )


def _fold_name(name: str) -> str:
    """Return ``"Start_Time (s)"`` as ``"starttime"``; units other than seconds stay part of the name."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    words = re.split(r"[\W_]+", plain.casefold())
    return "".join(word for word in words if word not in _UNITS)


def _is_moment(cell: str) -> bool:
    try:
        parse_moment(cell)
    except ValueError:
        return False
    return True


def _is_seconds(cell: str) -> bool:
    return _is_moment(cell) and isinstance(parse_moment(cell), float)


def _is_time_column(cells: Sequence[str]) -> bool:
    """Say whether a column counts up: seconds, times of day or dates."""
    try:
        onsets_s, _ = to_onsets(read_moments(cells))
    except ValueError:
        return False
    return len(cells) > 1 and all(b > a for a, b in pairwise(onsets_s))


def _is_code_column(cells: Sequence[str]) -> bool:
    return all(code_in_column(cell) is not None for cell in cells) and len(set(cells)) <= 10


def _are_lengths(cells: Sequence[str]) -> bool:
    return all(_is_seconds(cell.lstrip("+")) or cell == _UNTIL_NEXT for cell in cells)


def _same(one: str, other: str) -> bool:
    return _is_moment(one) and _is_moment(other) and parse_moment(one) == parse_moment(other)


def _reaches(onset: str, length: str, next_onset: str) -> bool:
    """Say whether a row of a length ends where the next begins."""
    if not (_is_moment(onset) and _is_moment(next_onset) and _is_seconds(length.lstrip("+"))):
        return False
    step_s = seconds_between(parse_moment(onset), parse_moment(next_onset))
    return math.isclose(step_s, float(length.lstrip("+").replace(",", ".")), abs_tol=0.05)
