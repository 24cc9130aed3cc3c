from __future__ import annotations

from datetime import datetime, time, timedelta

import pytest

from eegtool.scorings.moments import (
    Moment,
    parse_moment,
    read_moments,
    seconds_between,
    to_onsets,
)

HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("0", 0.0),
        (" 30.5 ", 30.5),
        ("30,5", 30.5),
        ("-30", -30.0),
        ("23:15:30", timedelta(hours=23, minutes=15, seconds=30)),
        ("9:05:00.25", timedelta(hours=9, minutes=5, seconds=0.25)),
        ("25:00:30", timedelta(hours=25, seconds=30)),
        ("12:00:30 AM", timedelta(seconds=30)),
        ("12:00:00 pm", timedelta(hours=12)),
        ("11:00:00 p.m.", timedelta(hours=23)),
        ("2024-05-31T23:15:30", datetime(2024, 5, 31, 23, 15, 30)),
        ("2024-05-31 23:15:30.5", datetime(2024, 5, 31, 23, 15, 30, 500_000)),
        ("31.5.2024 23:15:30", datetime(2024, 5, 31, 23, 15, 30)),
        ("05/06/2024 11:15:30 PM", datetime(2024, 6, 5, 23, 15, 30)),
        ("31-05-24-23:15:30", datetime(2024, 5, 31, 23, 15, 30)),
        ("2024/05/31 23:15:30", datetime(2024, 5, 31, 23, 15, 30)),
        ("e:3", 60.0),
    ],
)
def test_moments(text: str, moment: Moment) -> None:
    assert parse_moment(text) == moment
    assert type(parse_moment(text)) is type(moment)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no time"),
        ("soon", "no time"),
        ("23:15", "no time"),
        ("23:61:00", "no time"),
        ("31/31/2024 23:15:30", "no time"),
        ("05/06/2024 25:15:30", "no time"),
        ("nan", "no number"),
        ("inf", "no number"),
        ("13:00:00 PM", "no time of day"),
        ("2024-05-31T23:15:30Z", "time zone"),
    ],
)
def test_what_is_no_moment(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_moment(text)


@pytest.mark.parametrize(
    ("texts", "onsets_s", "start"),
    [
        ("0 30 60", [0, 30, 60], None),
        ("23:59:30 00:00:00 00:00:30", [0, 30, 60], time(23, 59, 30)),
        ("23:00:00 04:00:00 11:00:00", [0, 5 * HOUR_S, 12 * HOUR_S], time(23)),
        ("23:59:30 23:59:30", [0, 0], time(23, 59, 30)),
        ("23:59:30 24:00:00", [24 * HOUR_S - 30, 24 * HOUR_S], None),
        ("2024-05-31T23:59:30 2024-06-01T00:00:30", [0, 60], datetime(2024, 5, 31, 23, 59, 30)),
        ("", [], None),
    ],
)
def test_onsets(texts: str, onsets_s: list[float], start: datetime | time | None) -> None:
    assert to_onsets([parse_moment(text) for text in texts.split()]) == (onsets_s, start)


@pytest.mark.parametrize("texts", ["00:00:30 23:59:30", "22:00:00 11:00:00", "22:00:00 10:00:00"])
def test_times_of_day_do_not_run_backwards(texts: str) -> None:
    with pytest.raises(
        ValueError, match="not in order of time, or a gap of more than 12 h; write d"
    ):
        to_onsets([parse_moment(text) for text in texts.split()])


def test_kinds_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="mixed"):
        to_onsets([30.0, timedelta(seconds=60)])
    with pytest.raises(ValueError, match="mixed"):
        seconds_between(30.0, timedelta(seconds=60))


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("30", "90"),
        ("23:59:30", "00:00:30"),
        ("2024-05-31T23:59:30", "2024-06-01T00:00:30"),
    ],
)
def test_seconds_between(first: str, last: str) -> None:
    assert seconds_between(parse_moment(first), parse_moment(last)) == 60


@pytest.mark.parametrize(
    ("text", "recording_start", "day"),
    [
        ("31/05/2024 23:15:30", None, (5, 31)),
        ("05/31/2024 23:15:30", None, (5, 31)),
        ("05/06/2024 23:15:30", datetime(2024, 6, 5, 22), (6, 5)),
        ("05/06/2024 23:15:30", datetime(2024, 5, 6, 22), (5, 6)),
        ("05/06/2024 00:15:30", datetime(2024, 5, 5, 22), (5, 6)),
        ("06/06/2024 23:15:30", None, (6, 6)),
        ("05/06/2024 23:15:30", None, None),
        ("05/06/2024 23:15:30", datetime(2020, 1, 1), None),
    ],
)
def test_days_and_months(
    text: str, recording_start: datetime | None, day: tuple[int, int] | None
) -> None:
    if day is None:
        with pytest.raises(ValueError, match="day or the month first"):
            read_moments([text], recording_start)
    else:
        (moment,) = read_moments([text], recording_start)
        assert moment == datetime(2024, *day, *moment.timetuple()[3:6])  # type: ignore[union-attr]


def test_dates_of_1970_are_seconds() -> None:
    moments = read_moments(["1970-01-01 00:00:30", "1970-01-01 00:01:00.5"])
    assert to_onsets(moments) == ([30.0, 60.5], None)
