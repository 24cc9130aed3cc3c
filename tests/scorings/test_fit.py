"""How scorings fit their recordings, through `read_hypnogram`, which applies all of it."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import edfio
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.stages import UNSCORED
from eegtool.scorings.hypnograms import read_hypnogram, stage_per_epoch
from eegtool.scorings.scoring import Entry, Hypnogram, ReadAs

START = datetime(2024, 5, 31, 22, 13, 5)


class Read(Protocol):
    def __call__(
        self, text: str, duration_s: float, start: datetime | None = START
    ) -> Hypnogram: ...


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read a text as the hypnogram of a recording that starts at START."""

    def read(text: str, duration_s: float, start: datetime | None = START) -> Hypnogram:
        path = tmp_path / "x.csv"
        path.write_text(text)
        return read_hypnogram(path, start, duration_s)

    return read


def table(*rows: tuple[object, object, str]) -> str:
    return "onset,duration,stage\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows)


def stages(hypnogram: Hypnogram, n_epochs: int) -> str:
    return " ".join(stage_per_epoch(hypnogram, n_epochs)).replace(UNSCORED, "?")


def test_longer_than_the_recording(read: Read) -> None:
    hypnogram = read(table((0, 60, "N2"), (60, 600, "REM"), (660, 900, "?")), 130.0)
    assert hypnogram.runs == (Entry(0, 60, "N2"), Entry(60, 70, "REM"))
    assert hypnogram.notes == (
        "8.8 min of scored time after the end of the recording are left out.",
    )


def test_shorter_than_the_recording(read: Read) -> None:
    hypnogram = read(table((60, 60, "N2")), 9000.0)
    assert stages(hypnogram, 5) == "? ? N2 N2 ?"
    assert hypnogram.notes == (
        "60 s at the beginning of the recording are unscored.",
        "2.5 h at the end of the recording are unscored.",
    )


def test_less_than_an_epoch_is_no_misfit(read: Read) -> None:
    assert read(table((0, 60, "N2")), 89.9).notes == ()
    assert read(table((0, 120, "N2")), 91.0).notes == ()


@pytest.mark.parametrize("shift_s", [15, 15.02, 0.5])
def test_a_shifted_scoring_keeps_its_own_grid(read: Read, shift_s: float) -> None:
    rows = [(shift_s + 30 * i, 30, stage) for i, stage in enumerate(["W", "N1", "N2"])]
    hypnogram = read(table(*rows), 120.0)
    assert hypnogram.first_onset_s == shift_s
    assert stages(hypnogram, 3) == "W N1 N2"
    assert f"begin {shift_s:g} s after those of the recording" in hypnogram.notes[0]


@pytest.mark.parametrize("shift_s", [-0.04, 0.04, 30.01])
def test_rounding_is_no_shift(read: Read, shift_s: float) -> None:
    hypnogram = read(table((shift_s, 30, "N1"), (shift_s + 30, 30, "N2")), 90.0)
    assert hypnogram.first_onset_s == 0
    assert stages(hypnogram, 3) == ("? N1 N2" if shift_s > 30 else "N1 N2 ?")


def test_borders_on_no_single_grid(read: Read) -> None:
    with pytest.raises(EegToolError, match="do not lie on one grid") as raised:
        read(table((0, 30, "W"), (30, 20, "N1"), (50, 30, "N2")), 120.0)
    assert "line 2 begins at 0 s, line 4 at 50 s" in raised.value.what
    # What is not scored has no epochs.
    hypnogram = read(table((0, 7, "?"), (7, 8, "?"), (15, 30, "N2")), 120.0)
    assert hypnogram.first_onset_s == 15


def test_overlaps(read: Read) -> None:
    with pytest.raises(EegToolError, match="scores some time twice") as raised:
        read(table((0, 30, "W"), (90, 30, "N2"), (30, 90, "N1")), 120.0)
    assert "line 4 (N1 from 30 to 120 s) and line 3 (N2 from 90 s)" in raised.value.what
    with pytest.raises(EegToolError, match=r"line 2 .* and line 3"):
        read(table((0, 30, "W"), (0, 30, "N2")), 120.0)


@pytest.mark.parametrize(
    ("row", "words"),
    [((30, -30, "N2"), "duration -30 s"), (("nan", 30, "N2"), "'nan' in line 3")],
)
def test_impossible_times(read: Read, row: tuple[object, object, str], words: str) -> None:
    with pytest.raises(EegToolError, match=words) as raised:
        read(table((0, 30, "W"), row), 120.0)
    assert "line 3" in raised.value.what


def test_without_durations_an_entry_is_an_epoch(read: Read) -> None:
    hypnogram = read("onset,stage\n0,W\n30,N1\n60,N2\n120,N2\n", 150.0)
    assert stages(hypnogram, 5) == "W N1 N2 ? N2"
    assert hypnogram.notes == (
        "The scoring has no durations; each entry is taken as one 30-s epoch.",
    )


def test_a_list_of_changes(read: Read) -> None:
    hypnogram = read("onset,stage\n0,W\n600,N1\n900,N2\n", 3600.0)
    assert stage_per_epoch(hypnogram, 120) == ["W"] * 20 + ["N1"] * 10 + ["N2"] * 90
    assert "each entry lasts until the next" in hypnogram.notes[0]
    # Whoever changes to the same stage has left something out.
    with pytest.raises(EegToolError, match="followed by a gap: line 2 ends at 30 s, line 3 begins"):
        read("onset,stage\n0,W\n600,N1\n900,N1\n", 3600.0)


def test_onsets_in_samples_are_refused(read: Read) -> None:
    rows = [(3000 * i, 30, "N2") for i in range(100)]
    with pytest.raises(EegToolError, match="followed by a gap"):
        read(table(*rows), 3000.0)


def test_one_entry_without_duration_is_left_out(read: Read) -> None:
    hypnogram = read(table((0, 30, "W"), (30, 0, "REM"), (30, 30, "N2")), 60.0)
    assert stages(hypnogram, 2) == "W N2"
    assert hypnogram.notes == ("1 scored entries without a duration are left out.",)


def test_endless_entries(read: Read) -> None:
    with pytest.raises(EegToolError, match=r"impossible time in line 2: .* duration inf s"):
        read("onset,end,stage\n-1e308,1e308,2\n", 120.0)


def test_no_sleep_with_a_duration(read: Read) -> None:
    with pytest.raises(EegToolError, match="for none of its entries of sleep"):
        read(table((0, 30, "W"), (30, "n/a", "N2")), 60.0)


LIST = (
    "N2 N2 N2 W W W "
    + "N2 N2 N2 N2 W W "
    + "N2 N2 W W REM REM "
    + "MT MT MT MT ? ? "
    + "? ? ? ? ? N2 "
)


@pytest.mark.parametrize(
    ("entries", "length_s", "expected", "n_ties"),
    [
        pytest.param(LIST.split(), 5, "? N2 ? movement ?", 2, id="5 s"),
        pytest.param("W N1 N2 N2 REM REM".split(), 20, "W N2 N2 REM", 0, id="20 s"),
        pytest.param("W N2".split(), 60, "W W N2 N2", 0, id="60 s"),
        pytest.param("N1 N1 N1 N1 N2 N2".split(), 15, "N1 N1 N2", 0, id="15 s"),
    ],
)
@pytest.mark.parametrize("form", ["list", "numbered", "table", "onsets", "stretches"])
def test_other_epochs_are_brought_to_30_s(
    tmp_path: Path, form: str, entries: list[str], length_s: int, expected: str, n_ties: int
) -> None:
    forms = {
        "list": "".join(f"{stage}\n" for stage in entries),
        "numbered": "epoch,stage\n" + "".join(f"{i},{s}\n" for i, s in enumerate(entries, 1)),
        "table": table(*((i * length_s, length_s, s) for i, s in enumerate(entries))),
        "onsets": "onset,stage\n" + "".join(f"{i * length_s},{s}\n" for i, s in enumerate(entries)),
        "stretches": "duration,stage\n" + "".join(f"{length_s},{s}\n" for s in entries),
    }
    path = tmp_path / "x.csv"
    path.write_text(forms[form])
    seconds = float(len(entries) * length_s)
    hypnogram = read_hypnogram(path, START, seconds, ReadAs(epoch_s=length_s))
    assert stages(hypnogram, len(expected.split())) == expected.replace("movement", "movement time")
    assert f"Epochs of {length_s} s were scored; a 30-s epoch has the stage that fills most of it ({n_ties} ties are unscored)." in hypnogram.notes  # fmt: skip


def test_the_grid_of_other_epochs_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        table(*((7 + i * 20, 20, s) for i, s in enumerate("W N2 N2 REM REM REM".split())))
    )
    hypnogram = read_hypnogram(path, START, 130.0, ReadAs(epoch_s=20.0))
    assert hypnogram.first_onset_s == 7.0
    assert stages(hypnogram, 4) == "W N2 REM REM"
    with pytest.raises(EegToolError, match="one grid of 30-s epochs") as raised:
        read_hypnogram(path, START, 130.0)
    assert "--scoring-epoch" in raised.value.fix
    with pytest.raises(EegToolError, match="one grid of 25-s epochs"):
        read_hypnogram(path, START, 130.0, ReadAs(epoch_s=25.0))


def test_a_list_in_30_s_that_is_said_to_be_in_5_s(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("N2\n" * 960)
    with pytest.raises(
        EegToolError, match=r"80 min 0 s in steps of 5 s, .* steps of 30 s would fit"
    ):
        read_hypnogram(path, START, 28800.0, ReadAs(epoch_s=5.0))


@pytest.mark.parametrize("tail_s", [0, 10, 500])
@pytest.mark.parametrize("length_s", [5, 10, 15, 20, 60])
def test_lines_of_other_epochs_are_refused(read: Read, length_s: int, tail_s: int) -> None:
    with pytest.raises(EegToolError, match=f"steps of {length_s} s would fit") as raised:
        read("N2\n" * (28800 // length_s), 28800.0 + tail_s)
    assert "pad it" in raised.value.fix
    assert "onsets" in raised.value.fix
    assert f"or say --scoring-epoch {length_s}." in raised.value.fix


@pytest.mark.parametrize(
    ("n_lines", "duration_s", "words"),
    [
        (1020, 3600.0, "1020 epochs, 510 min 0 s in steps of 30 s, .* lasts 60 min 0 s: .* 3.53 s"),
        (960, 28800 + 601.0, "steps of 30.6 s would fit"),
        (960, 28800 - 601.0, "steps of 29.4 s would fit"),
    ],
)
def test_lists_of_other_nights_are_refused(
    read: Read, n_lines: int, duration_s: float, words: str
) -> None:
    with pytest.raises(EegToolError, match=words):
        read("N2\n" * n_lines, duration_s)


@pytest.mark.parametrize("more_s", [-600.0, 0.0, 29.0, 600.0])
def test_lists_may_end_a_little_early_or_late(read: Read, more_s: float) -> None:
    hypnogram = read("N2\n" * 960, 28800 + more_s)
    assert len(hypnogram.runs) == 960 + min(more_s, 0) / 30
    assert len(hypnogram.notes) == (abs(more_s) > 30)


def test_other_time_than_the_recordings(read: Read) -> None:
    with pytest.raises(EegToolError, match="no sleep within the recording, which lasts 600 s") as e:
        read(table((9000, 300, "N2"), (9300, 300, "REM")), 600.0)
    assert "9000 to 9600 s" in e.value.what


@pytest.mark.parametrize(
    "onsets",
    [
        ["22:13:35", "22:14:05", "22:14:35"],
        ["10:13:35 PM", "10:14:05 PM", "10:14:35 PM"],
        ["2024-05-31T22:13:35", "2024-05-31T22:14:05", "2024-05-31T22:14:35"],
        ["31.05.2024 22:13:35", "31.05.2024 22:14:05", "31.05.2024 22:14:35"],
        ["30", "60", "90"],
    ],
    ids=["clock", "am-pm", "iso", "german", "seconds"],
)
def test_absolute_and_relative_times(read: Read, onsets: list[str]) -> None:
    hypnogram = read(table(*zip(onsets, [30] * 3, ["W", "N1", "N2"], strict=True)), 120.0)
    assert stages(hypnogram, 4) == "? W N1 N2"


def test_clocks_roll_over_midnight(read: Read) -> None:
    hypnogram = read(clocks(22 * 3600 + 13 * 60 + 5, 960), 28800.0)
    assert stage_per_epoch(hypnogram, 960) == ["N2"] * 960


def test_clocks_before_the_recording(read: Read) -> None:
    rows = [("22:12:05", 60, "W"), ("22:13:05", 60, "N2")]
    hypnogram = read(table(*rows), 60.0)
    assert stages(hypnogram, 2) == "N2 N2"
    assert hypnogram.notes == (
        "The hypnogram's own start is 1 min 0 s before the recording's.",
        "60 s of scored time before the recording are left out.",
    )


@pytest.mark.parametrize("start", [None, datetime(1985, 1, 1)])
def test_absolute_times_need_the_start(read: Read, start: datetime | None) -> None:
    with pytest.raises(EegToolError, match="does not say when it starts"):
        read(table(("22:13:35", 30, "N2")), 120.0, start)


@pytest.mark.parametrize("onset", ["23:13:05", "2024-05-31T23:13:05"])
def test_absolute_times_name_the_offset(read: Read, onset: str) -> None:
    hypnogram = read(table((onset, 300, "N2")), 4000.0)
    assert "The hypnogram's own start is 60 min 0 s after the recording's." in hypnogram.notes
    assert hypnogram.runs[0].onset_s == 3600


def clocks(begin_s: int, n_epochs: int) -> str:
    times = [datetime(2024, 5, 31) + timedelta(seconds=begin_s + 30 * i) for i in range(n_epochs)]
    return "time,stage\n" + "".join(f"{t:%H:%M:%S},N2\n" for t in times)


@pytest.mark.parametrize(
    ("start", "begin_s", "n_epochs", "onset_s"),
    [
        ("22:00:00", 30, 959, 30),
        ("22:00:00", 300, 950, 300),
        ("22:00:00", 300, 710, 7500),
        ("22:00:00", 3 * 3600, 590, 3 * 3600),
        ("22:00:00", 22 * 3600, 960, 0),
        ("22:00:00", 22 * 3600 + 300, 100, 300),
        ("00:00:00", 600, 100, 600),
        ("00:20:00", 20 * 60, 100, 0),
        ("00:05:00", 330, 959, 30),
        ("00:30:00", 30 * 60 + 30, 959, 30),
        ("07:00:00", 7 * 3600 + 900, 500, 900),
    ],
)
def test_times_of_day_and_times_gone_by(
    read: Read, start: str, begin_s: int, n_epochs: int, onset_s: float
) -> None:
    begin = datetime.fromisoformat(f"2024-05-31T{start}")
    hypnogram = read(clocks(begin_s, n_epochs), 28800.0, begin)
    assert hypnogram.runs[0].onset_s == onset_s
    elapsed = any("read as time since the start" in note for note in hypnogram.notes)
    assert elapsed == (onset_s == begin_s and start != "00:00:00")


@pytest.mark.parametrize(
    ("start", "begin_s", "n_epochs", "duration_s"),
    [
        ("22:00:00", 30, 500, 28800.0),  # ends early either way
        ("22:00:00", 30, 959, 20000.0),  # ends late either way: the recording is cut off
        ("22:00:00", 300, 350, 14400.0),  # cut off, and times of day
        ("23:58:00", 30, 950, 28800.0),  # both meet the end
    ],
)
def test_times_that_may_be_both(
    read: Read, start: str, begin_s: int, n_epochs: int, duration_s: float
) -> None:
    begin = datetime.fromisoformat(f"2024-05-31T{start}")
    with pytest.raises(
        EegToolError, match="may be a time of day or time since the start"
    ) as raised:
        read(clocks(begin_s, n_epochs), duration_s, begin)
    assert f"the recording, {start}" in raised.value.what


@pytest.mark.parametrize(
    ("duration_s", "first"),
    [(28800, 0), (28900, 0), (28800 + 6415, 6415 // 30 + 1)],
    ids=["gone-by", "nearly", "midnight"],
)
def test_clocks_from_00_00_00(read: Read, duration_s: float, first: int) -> None:
    hypnogram = read(clocks(0, 960), duration_s)
    begin_s = hypnogram.runs[0].onset_s
    assert math.ceil(begin_s / 30) == first
    said = any("begin with 00:00:00" in note for note in hypnogram.notes)
    assert said == (first == 0)


def test_clocks_from_00_00_00_that_may_mean_both(read: Read) -> None:
    with pytest.raises(EegToolError, match="begin with 00:00:00, which may be a time of day or"):
        read(table(("00:00:00", 3600, "N2")), 28800.0)
    # A recording from midnight on leaves no doubt.
    assert stages(read(table(("00:00:00", 60, "N2")), 60.0, datetime(2024, 5, 31)), 2) == "N2 N2"


def test_dates_of_another_night(read: Read) -> None:
    with pytest.raises(EegToolError, match="is of another night") as raised:
        read(table(("2024-06-02T22:13:35", 30, "N2")), 120.0)
    assert "2024-06-02 22:13:35" in raised.value.what
    assert "2024-05-31 22:13:05" in raised.value.what


def hypnogram_file(path: Path, start: datetime) -> Path:
    """Write W N2 N2 to an EDF+ file with a start of its own."""
    scored = [(0, 30, "Sleep stage W"), (30, 60, "Sleep stage 2")]
    edfio.Edf(
        [],
        annotations=[edfio.EdfAnnotation(*a) for a in scored],
        starttime=start.time(),
        recording=edfio.Recording(startdate=start.date()),
    ).write(path)
    return path


@pytest.mark.parametrize(
    ("start", "expected", "note"),
    [
        (START, "W N2 N2 ? ? ?", ""),
        (
            START + timedelta(seconds=60),
            "? ? W N2 N2 ?",
            "The hypnogram's own start is 1 min 0 s after the recording's.",
        ),
        (
            START - timedelta(seconds=60),
            "N2 ? ? ? ? ?",
            "The hypnogram's own start is 1 min 0 s before the recording's.",
        ),
        (
            datetime(1999, 1, 2, 22, 13, 5),
            "W N2 N2 ? ? ?",
            "The hypnogram is dated 1999-01-02, the recording 2024-05-31; as both start at the same "
            "time of day, they are taken as one night.",
        ),
        (
            datetime(1985, 1, 1),
            "W N2 N2 ? ? ?",
            "Recording and hypnogram do not both say when they start; they are taken to start together.",
        ),
    ],
    ids=["same", "later", "earlier", "other-date", "unknown"],
)
def test_the_files_own_start(tmp_path: Path, start: datetime, expected: str, note: str) -> None:
    hypnogram = read_hypnogram(hypnogram_file(tmp_path / "x.edf", start), START, 180.0)
    assert stages(hypnogram, 6) == expected
    own_start = [n for n in hypnogram.notes if "unscored" not in n and "left out" not in n]
    assert own_start == ([note] if note else [])


def test_a_file_of_another_night(tmp_path: Path) -> None:
    path = hypnogram_file(tmp_path / "x.edf", START + timedelta(days=1, minutes=7))
    with pytest.raises(EegToolError, match="is of another night") as raised:
        read_hypnogram(path, START, 28800.0)
    assert "2024-06-01 22:20:05" in raised.value.what
    assert "2024-05-31 22:13:05" in raised.value.what
