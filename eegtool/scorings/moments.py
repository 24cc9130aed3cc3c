"""Times as tables write them: seconds, times of day, dates with times; told apart and never mixed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from itertools import pairwise
from typing import Final

Moment = float | timedelta | datetime
"""Seconds, hours:minutes:seconds (a time of day, or time gone by), or a date with a time."""

_DAY_S: Final = 86400.0
_CLOCK: Final = re.compile(
    r"(?P<h>\d{1,3}):(?P<m>[0-5]\d):(?P<s>[0-5]\d(?:[.,]\d+)?)\s*(?P<half>[ap]\.?m\.?)?",
    re.IGNORECASE,
)
_GERMAN: Final = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})[ T]+(.+)")


def parse_moment(text: str) -> Moment:
    """Read one cell.

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
    if german := _GERMAN.fullmatch(text):
        day, month, year, rest = german.groups()
        text = f"{year}-{int(month):02d}-{int(day):02d}T{rest}"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("it is no time; write seconds, 23:15:30 or 2024-05-31T23:15:30") from None
    if moment.tzinfo:
        raise ValueError("it has a time zone, which recordings do not have; write local time")
    return moment


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
    if dates:
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


def _clock(found: re.Match[str]) -> timedelta:
    hours, half = int(found["h"]), (found["half"] or "").casefold()[:1]
    if half:
        if not 1 <= hours <= 12:
            raise ValueError("it is no time of day")
        hours = hours % 12 + (12 if half == "p" else 0)
    seconds = float(found["s"].replace(",", "."))
    return timedelta(hours=hours, minutes=int(found["m"]), seconds=seconds)
