"""Scorings as text: one stage per line, or a table with a line per epoch, per stretch of time or per event."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final, NoReturn

from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S, stage_in_column
from eegtool.scorings.codings import read_stages, stage_of_event, told_stage
from eegtool.scorings.columns import (
    HELP,
    NAMES,
    UNTIL_NEXT,
    Row,
    Table,
    find_table,
    fold_name,
)
from eegtool.scorings.levels import levels_of
from eegtool.scorings.moments import (
    Moment,
    moment_in,
    parse_moment,
    read_moments,
    seconds_between,
    to_onsets,
)
from eegtool.scorings.scorers import chosen
from eegtool.scorings.scoring import CONSENSUS, Entry, ReadAs, Scoring

_MISSING: Final = ("", "n/a", "nan", ".")
_ORIGIN: Final = re.compile(r"^# orig_time\s*:\s*(\d{4}-\d\d-\d\d[ T][\d:.]+)", re.MULTILINE)
_MANY: Final = 1e6  # epochs: more than any entry has


def read_table(
    path: Path,
    text: str,
    read_as: ReadAs | None = None,
    recording_start: datetime | None = None,
) -> Scoring:
    """Read a scoring from text.

    A table with onsets is one of events; else every line is an epoch, of 30 s if `read_as` says nothing else. In a column that is
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
    epoch_s = read_as.epoch_s or float(EPOCH_S)
    table = find_table(path, text)
    _check_whole(table)
    column, note = _chosen(table, read_as)
    of_events = column is None
    column = table.columns["event"] if column is None else column
    levels = levels_of(path).get(table.name(column), ())
    if levels and not read_as.codes:
        read_as = replace(read_as, codes=levels)
        told = f"The meaning of '{table.name(column)}' is that of the Levels in its JSON file."
        note = f"{note} {told}".strip()
    notes: tuple[str, ...] = ()
    if of_events:
        found = [stage_of_event(path, row.place, row[column], read_as) for row in table.rows]
        rows = tuple(row for row, stage in zip(table.rows, found, strict=True) if stage)
        table, stages = replace(table, rows=rows), list(filter(None, found))
    scoring = _timed(table, recording_start, epoch_s)
    if not of_events:
        n_epochs = [min(s / EPOCH_S, _MANY) for s in _lengths_s(scoring.entries)]
        places = [row.place for row in table.rows]
        stages, notes = read_stages(path, table.column(column), places, n_epochs, read_as)
    origin = _ORIGIN.search(text)
    return replace(
        scoring,
        entries=tuple(replace(e, stage=s) for e, s in zip(scoring.entries, stages, strict=True)),
        start=datetime.fromisoformat(origin[1]) if origin and not scoring.start else scoring.start,
        notes=(*filter(None, (note,)), *scoring.notes, *notes),
    )


def _check_whole(table: Table) -> None:
    """Refuse what review.html saved, if rows are missing or it is of another night than its name says."""
    names = [fold_name(name) for name in table.names]
    if not {"recording", "epochs", "reviewedby"} <= {*names}:
        return
    said = {row[names.index("epochs")] for row in table.rows}
    if said != {str(len(table.rows))}:
        raise EegToolError(
            f"The hypnogram {table.path} is not whole: it has {len(table.rows)} of "
            f"{' or '.join(sorted(said))} epochs.",
            "Open review.html and save the night again.",
        )
    of = {re.sub(r"[^\w.-]", "_", row[names.index("recording")]) for row in table.rows}
    if not any(table.path.stem.startswith(name) for name in of) or len(of) > 1:
        raise EegToolError(
            f"The hypnogram {table.path} is a review of {' and '.join(sorted(of))}, by what stands in it.",
            "Lay it beside that recording, under the name by which review.html saved it.",
        )


def _lengths_s(entries: Sequence[Entry]) -> list[float]:
    """Return how long each entry lasts; where none says so, until the next."""
    if any(entry.duration_s for entry in entries):
        return [entry.duration_s for entry in entries]
    return [b.onset_s - a.onset_s for a, b in pairwise(entries)] + [float(EPOCH_S)] * bool(entries)


def scorers_of(path: Path, text: str) -> tuple[str, ...]:
    """Return the names of all columns of a table that hold stages."""
    table = find_table(path, text)
    return tuple(map(table.name, table.scored))


def is_table_of_stages(path: Path, text: str, read_as: ReadAs | None = None) -> bool:
    """Say whether a text file, or its beginning, looks like a scoring: half of the entries are stages."""
    as_ = read_as or ReadAs()
    try:
        table = find_table(path, text)
        column = table.scored[0] if table.scored else table.columns["event"]
        if not as_.codes:
            as_ = replace(as_, codes=levels_of(path).get(table.name(column), ()))
    except EegToolError:
        return False
    if not table.scored:
        return any(stage_of_event(path, Row(0, ()).place, t, as_) for t in table.column(column))
    known = sum(
        bool(told_stage(cell, as_) or stage_in_column(cell))
        for cell in table.column(table.scored[0])
    )
    return known > 0 and 2 * known >= len(table.rows)


def _chosen(table: Table, read_as: ReadAs) -> tuple[int | None, str]:
    """Return the column of stages, None where these stand among events; and what should be known of it."""
    if read_as.column:
        names = [table.name(i) for i in range(table.width)]
        folded = list(map(fold_name, names))
        if fold_name(read_as.column) in folded:
            return folded.index(fold_name(read_as.column)), ""
        raise EegToolError(
            f"The hypnogram {table.path} has no column '{read_as.column}'.",
            f"Its columns are {', '.join(names)}; --scoring-column takes one.",
        )
    if not table.scored:
        return None, ""
    surest = table.scored[0]
    if read_as.scorer and len(table.scored) > 1:
        named = chosen([table.name(i) for i in table.scored], read_as.scorer)
        if len(named) == 1:
            return table.scored[named[0]], ""
    if len(table.scored) == 1 or fold_name(table.name(surest)) in NAMES["stage"].split():
        return surest, ""
    listed = ", ".join(map(table.name, table.scored))
    if len({tuple(table.column(i)) for i in table.scored}) == 1:
        return surest, f"The columns {listed} of {table.path.name} hold the same scoring."
    raise EegToolError(
        f"The hypnogram {table.path} has several columns of stages: {listed}.",
        f"Choose with --scoring-column, such as --scoring-column {table.name(surest)}, or take the "
        f"majority with --scorer {CONSENSUS}.",
    )


def _timed(table: Table, recording_start: datetime | None, epoch_s: float) -> Scoring:
    """Lay the rows onto time, their stages left open."""
    rows, roles = table.rows, table.columns.keys()
    start = None
    if "onset" in roles:
        moments = _moments(table, [_onset_cell(table, row) for row in rows], recording_start)
        try:
            onsets_s, start = to_onsets(moments)
        except ValueError as error:
            raise EegToolError(
                f"The onsets of the hypnogram {table.path} cannot be read: {error}.", HELP
            ) from error
        durations_s = [_duration_s(table, row, m) for row, m in zip(rows, moments, strict=True)]
    elif roles & {"end", "duration"}:  # each row begins where the one before ends
        if "end" in roles:
            ends = _moments(table, [table.cell(row, "end") for row in rows], recording_start)
            rows_and_ends = zip(rows, [0.0, *ends], ends, strict=False)
            durations_s = [_between(table, row, a, b) for row, a, b in rows_and_ends]
        else:
            durations_s = [_duration_s(table, row, 0.0) for row in rows]
        onsets_s = [0.0, *accumulate(durations_s)][:-1]
    else:
        numbers = _epoch_numbers(table)
        onsets_s, durations_s = [n * epoch_s for n in numbers], [epoch_s] * len(rows)
    entries = tuple(
        Entry(onset_s, duration_s, "", row.place)
        for row, onset_s, duration_s in zip(rows, onsets_s, durations_s, strict=True)
    )
    if roles & {"onset", "end"}:
        endless = "end" in roles and all(table.cell(row, "end") == UNTIL_NEXT for row in rows)
        return Scoring(entries, start, start is not None, until_next=endless)
    n_missing = round(onsets_s[-1] / epoch_s) + 1 - len(rows) if rows else 0
    counted = n_missing and "duration" not in roles
    notes = (f"{n_missing} epochs are missing in its count.",) if counted else ()
    return Scoring(entries, notes=notes, is_list=True)


def _onset_cell(table: Table, row: Row) -> str:
    """Return the onset of a row, with its date where that stands in another column."""
    onset, date = table.cell(row, "onset"), table.cell(row, "date")
    dated = f"{date} {onset}"
    return dated if date and ":" in onset and moment_in(dated) is not None else onset


def _epoch_numbers(table: Table) -> Sequence[int]:
    """Return where numbered epochs lie; some may be missing, but none is misplaced or there twice."""
    if "epoch" not in table.columns:
        return range(len(table.rows))
    numbers: list[int] = []
    for row in table.rows:
        cell = table.cell(row, "epoch")
        number = re.fullmatch(r"(\d+)(?:\.0)?", cell)
        least = numbers[-1] + 1 if numbers else 0
        if number is None or int(number[1]) < least or (not numbers and int(number[1]) > 1):
            next_one = f"{least} or more" if numbers else "0 or 1"
            _refuse(table, row, cell, f"epochs count up from 0 or 1; it should be {next_one}")
        numbers.append(int(number[1]))
    return [number - numbers[0] for number in numbers]


def _moments(table: Table, cells: Sequence[str], recording_start: datetime | None) -> list[Moment]:
    try:
        return read_moments(cells, recording_start)
    except ValueError as why:
        for row, cell in zip(table.rows, cells, strict=True):
            _moment(table, row, cell)  # names the line
        raise EegToolError(
            f"The times of the hypnogram {table.path} cannot be read: {why}.", HELP
        ) from why


def _duration_s(table: Table, row: Row, onset: Moment) -> float:
    """Return how long a row lasts; 0 where the table does not say."""
    length, end = table.cell(row, "duration"), table.cell(row, "end")
    if end.startswith("+"):  # of Luna
        length, end = end, ""
    if length.casefold() not in _MISSING:
        duration = _moment(table, row, length)
        if isinstance(duration, float | timedelta):
            return duration if isinstance(duration, float) else duration.total_seconds()
        _refuse(table, row, length, "it is no duration")
    if end.casefold() in (*_MISSING, UNTIL_NEXT):
        return 0.0
    # Luna's epochs end when they are over.
    return _between(table, row, onset, _moment(table, row, end)) + EPOCH_S * end.startswith("e:")


def _between(table: Table, row: Row, first: Moment, last: Moment) -> float:
    try:
        return seconds_between(first, last)
    except ValueError as error:
        _refuse(table, row, f"{last}", str(error))


def _moment(table: Table, row: Row, cell: str) -> Moment:
    try:
        return parse_moment(cell)
    except ValueError as error:
        _refuse(table, row, cell, str(error))


def _refuse(table: Table, row: Row, cell: str, why: str) -> NoReturn:
    raise EegToolError(f"The hypnogram {table.path} has '{cell[:40]}' in {row.place}: {why}.", HELP)
