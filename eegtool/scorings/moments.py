"""Times as tables write them: seconds, times of day, dates with times; told apart and never mixed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from itertools import pairwise
from typing import Final

from eegtool.core.stages import EPOCH_S

Moment = float | timedelta | datetime
"""Seconds, hours:minutes:seconds (a time of day, or time gone by), or a date with a time."""

_DAY_S: Final = 86400.0
_CLOCK: Final = re.compile(
    r"(?P<h>\d{1,3}):(?P<m>[0-5]\d):(?P<s>[0-5]\d(?:[.,]\d+)?)\s*(?P<half>[ap]\.?m\.?)?",
    re.IGNORECASE,
)
_LOCAL: Final = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4}|\d\d)[ T-]+(.+)")
_EPOCH_NUMBER: Final = re.compile(r"e:([1-9]\d*)")  # of Luna
_UNIX: Final = datetime(1970, 1, 1)
"""What MNE counts from where a recording has no date."""


def read_moments(texts: Sequence[str], recording_start: datetime | None = None) -> list[Moment]:
    """Read a column; whether days or months come first, is told by its dates, or that of the recording.

    Raises
    ------
    ValueError
        Saying what is wrong with which cell.
    """
    readings: dict[bool, list[Moment]] = {}
    why: Exception | None = None
    for day_first in (True, False):
        try:
            readings[day_first] = [parse_moment(text, day_first=day_first) for text in texts]
        except ValueError as error:
            why = why or error
    if not readings:
        raise ValueError(why)
    found = list(readings.values())
    if len(found) > 1 and found[0] != found[1] and recording_start:
        firsts = [next(m for m in f if isinstance(m, datetime)) for f in found]
        apart_s = [abs((first - recording_start).total_seconds()) for first in firsts]
        found = [f for f, s in zip(found, apart_s, strict=True) if s < 1.5 * _DAY_S] or found
    if len(found) > 1 and found[0] != found[1]:
        raise ValueError(
            f"'{texts[0]}' may have the day or the month first; write dates as 2024-05-31"
        )
    return found[0]


def parse_moment(text: str, *, day_first: bool = True) -> Moment:
    """Read one cell; `day_first` matters for dates with slashes or dashes and a year at their end.

    Raises
    ------
    ValueError
        Saying what is wrong with it.
    """
    text = text.strip()
    try:
        seconds = float(text.replace(",", "."))
    except ValueError:
        pass
    else:
        if not math.isfinite(seconds):
            raise ValueError("it is no number")
        return seconds
    if clock := _CLOCK.fullmatch(text):
        return _clock(clock)
    if number := _EPOCH_NUMBER.fullmatch(text):
        return (int(number[1]) - 1) * float(EPOCH_S)
    try:
        moment = _local(text, day_first) or datetime.fromisoformat(text.replace("/", "-"))
    except ValueError:
        raise ValueError("it is no time; write seconds, 23:15:30 or 2024-05-31T23:15:30") from None
    if moment.tzinfo:
        raise ValueError("it has a time zone, which recordings do not have; write local time")
    return moment


def moment_in(cell: str) -> Moment | None:
    """Return the moment that a cell tells; None if it is no time of any kind."""
    try:
        return parse_moment(cell)
    except ValueError:
        return None


def to_onsets(moments: Sequence[Moment]) -> tuple[list[float], datetime | time | None]:
    """Turn the onsets of a table into seconds.

    Times of day roll over midnight: each is taken to be less than 12 h after the one before. Hours from
    24 on can be no time of day, and count from the start of the recording.

    Returns
    -------
    onsets_s : list of float
        From the start.
    start : datetime, time or None
        The first moment if that is a date or a time of day; None where seconds count from the start of
        the recording.

    Raises
    ------
    ValueError
        If kinds of times are mixed, or times of day run backwards.
    """
    if len({type(moment) for moment in moments}) > 1:
        raise ValueError("seconds, times of day and dates are mixed")
    dates = [m for m in moments if isinstance(m, datetime)]
    if dates and dates[0].date() == _UNIX.date():
        return [(m - _UNIX).total_seconds() for m in dates], None
    if dates:
        back = [pair for pair in pairwise(dates) if pair[1] < pair[0]]
        if len(back) == 1:  # several: a table that is sorted by stage
            raise ValueError(
                f"{back[0][1]} after {back[0][0]} is not in order of time: the clock was set back, or the "
                "date does not change at midnight; write seconds"
            )
        return [(m - dates[0]).total_seconds() for m in dates], dates[0]
    clocks = [m.total_seconds() for m in moments if isinstance(m, timedelta)]
    if clocks and max(clocks) < _DAY_S:
        onsets_s = [0.0]
        for before, after in pairwise(clocks):
            step_s = (after - before + _DAY_S / 2) % _DAY_S - _DAY_S / 2
            if step_s < 0:
                raise ValueError(
                    f"{timedelta(seconds=after)} after {timedelta(seconds=before)} is not in order of "
                    "time, or a gap of more than 12 h; write dates"
                )
            onsets_s.append(onsets_s[-1] + step_s)
        return onsets_s, (datetime.min + timedelta(seconds=clocks[0])).time()
    return clocks or [m for m in moments if isinstance(m, float)], None


def seconds_between(first: Moment, last: Moment) -> float:
    """Return the time from one moment to a later one; times of day roll over midnight.

    Raises
    ------
    ValueError
        If they are of different kinds.
    """
    if isinstance(first, datetime) and isinstance(last, datetime):
        return (last - first).total_seconds()
    if isinstance(first, timedelta) and isinstance(last, timedelta):
        return (last - first).total_seconds() % _DAY_S
    if isinstance(first, float) and isinstance(last, float):
        return last - first
    raise ValueError("seconds, times of day and dates are mixed")


def _local(text: str, day_first: bool) -> datetime | None:
    """Read a date with its year at the end, and a time of day."""
    found = _LOCAL.fullmatch(text)
    if not found:
        return None
    one, mark, other, year, rest = found.groups()
    day, month = (one, other) if day_first or mark == "." else (other, one)
    clock = _CLOCK.fullmatch(rest.strip())
    if clock is None or int(clock["h"]) > 23:
        raise ValueError
    date = datetime(int(year) + (2000 if len(year) == 2 else 0), int(month), int(day))
    return date + _clock(clock)


def _clock(found: re.Match[str]) -> timedelta:
    hours, half = int(found["h"]), (found["half"] or "").casefold()[:1]
    if half:
        if not 1 <= hours <= 12:
            raise ValueError("it is no time of day")
        hours = hours % 12 + (12 if half == "p" else 0)
    seconds = float(found["s"].replace(",", "."))
    return timedelta(hours=hours, minutes=int(found["m"]), seconds=seconds)
