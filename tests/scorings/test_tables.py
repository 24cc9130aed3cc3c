from __future__ import annotations

import re
from pathlib import Path

import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.stages import MOVEMENT, UNSCORED
from eegtool.scorings.scoring import Scoring
from eegtool.scorings.tables import PER_LINE, read_table

PATH = Path("folder/x.csv")


def read(text: str) -> Scoring:
    return read_table(PATH, text)


def summary(scoring: Scoring) -> list[tuple[float, float, str]]:
    return [(e.onset_s, e.duration_s, e.stage) for e in scoring.entries]


@pytest.mark.parametrize(
    "text",
    [
        "W\nN2\nREM",
        "W\r\nN2\r\nREM\r\n\r\n",
        "stage\nW\nN2\nREM\n",
        "\nSleep Stage\nW\nN2\nREM\n",
        "# expert 1\nhypnogram\nW\nN2\nREM\n",
        "label\nW\nS2\nR\n",
        "Sleep stage W\nSleep stage 2\nSleep stage R\n",
        "epoch,stage\n0,W\n1,N2\n2,REM\n",
        "epoch\tstage\tscorer\n1\tW\tA\n2\tN2\tA\n\n3\tREM\tB\n",
        ",stage\n0,W\n1,N2\n2,REM\n",
        "Epoch;Stage;\n1;W;\n2;N2;\n3;REM;\n",
    ],
)
def test_one_stage_per_line(text: str) -> None:
    scoring = read(text)
    assert scoring.format == PER_LINE
    assert summary(scoring) == [(0, 30, "W"), (30, 30, "N2"), (60, 30, "REM")]
    assert scoring.start is None


@pytest.mark.parametrize("first", ["Sleep stage ?", "Stage W", "?", "W", "Unscored"])
def test_a_first_stage_is_no_header(first: str) -> None:
    scoring = read(f"{first}\nN2\nN2\n")
    assert [entry.onset_s for entry in scoring.entries] == [0, 30, 60]


@pytest.mark.parametrize(
    "text",
    [
        "onset,duration,stage\n0,30,W\n30,60,N2\n",
        "Onset (s)\tDuration (s)\tSleep Stage\n0.0\t30.0\tWake\n30.0\t60.0\tS2\n",
        "start;end;stage\n0,0;30,0;W\n30,0;90,0;N2\n",
        "stage,start_sec,stop_sec\nW,0,30\nN2,30,90\n",
        "onset,duration,stage_hum\n0,30,0\n30,60,2\n",
        "onset\tduration\ttrial_type\n0\t30\tSleep stage W\n5\t3\tEEG arousal\n30\t60\tSleep stage 2\n",
        "onset\tduration\ttrial_type\tstage\n0\t30\tgo\tW\n30\t60\tgo\tN2\n",
        "# MNE-Annotations\n# onset, duration, description\n0.0,30.0,Sleep stage W\n30.0,60.0,Sleep stage 2\n",
        "0,30,0\n30,60,2\n",
        "onset,duration,stage\n0,00:00:30,W\n30,0:01:00,N2\n",
        '"onset","duration","description"\n"0","30","Wake"\n"30","60","Stage 2 sleep"\n',
        "class\tinstance\tchannel\tstart\tstop\tmeta\nW\t.\t.\t0\t30\t.\nN2\t.\t.\t30\t90\t.\n",
    ],
)
def test_events(text: str) -> None:
    scoring = read(text)
    assert summary(scoring) == [(0, 30, "W"), (30, 60, "N2")]
    assert scoring.start is None
    assert not scoring.is_absolute


def test_ends_roll_over_midnight() -> None:
    scoring = read("start time,end time,stage\n23:59:30,00:00:30,N2\n00:00:30,00:01:00,N3\n")
    assert summary(scoring) == [(0, 60, "N2"), (60, 30, "N3")]
    assert scoring.is_absolute


def test_durations_may_be_missing() -> None:
    scoring = read("onset,duration,stage\n0,n/a,W\n30,,N2\n")
    assert summary(scoring) == [(0, 0, "W"), (30, 0, "N2")]


def test_places_are_lines_of_the_file() -> None:
    scoring = read("# a comment\n\nonset,duration,stage\n0,30,W\n\n30,30,N2\n")
    assert [entry.place for entry in scoring.entries] == ["line 4", "line 6"]


def test_numbers() -> None:
    scoring = read("0\n1\n2\n3\n4\n5\n6\n9\n")
    assert [e.stage for e in scoring.entries] == [
        *("W", "N1", "N2", "N3", "N3", "REM", MOVEMENT, UNSCORED)
    ]
    assert scoring.notes == ("Numbers are read as 0 W, 1 N1, 2 N2, 3 and 4 N3, 5 REM.",)
    assert read("W\nN2\n").notes == ()


@pytest.mark.parametrize(
    "text",
    [
        "0\n1\n2\n3\n4\n",
        "0\n04\n",
        "0\n4.0\n",
        "epoch;stage\n0;0\n1;4,0\n",
        "0\n2\n" + "4\n" * 30 + "5\n",  # 4 is REM, 5 movement
        "onset,duration,stage\n0,30,2\n30,900,4\n930,30,5\n",
    ],
)
def test_four_without_rem_may_be_rem(text: str) -> None:
    with pytest.raises(EegToolError, match=r"4 may be R&K's stage 4 \(.*\), or REM \(") as raised:
        read(text)
    assert "of 4 and" in raised.value.what


@pytest.mark.parametrize(
    ("text", "n3"),
    [
        ("W\n1\n2\n3\n4\nR\n", 2),
        ("0\n" + "4\n" * 30 + "REM\n", 30),
        ("0\n" + "4\n" * 30 + "5\n" * 3, 30),
        # A stage 4 in many pieces, and one long REM.
        ("onset,duration,stage\n" + "".join(f"{i * 30},30,{4 - i % 2}\n" for i in range(60)), 60),
    ],
    ids=["letters", "word", "enough", "pieces"],
)
def test_four_beside_rem_is_stage_4(text: str, n3: int) -> None:
    if text.startswith("onset"):
        text += "1800,180,5\n"
    scoring = read(text)
    assert [e.stage for e in scoring.entries].count("N3") == n3
    assert len(scoring.notes) == 1


def test_numbers_among_events_are_no_stages() -> None:
    scoring = read("onset,duration,trial_type\n0,30,N2\n5,1,4\n30,30,S  1\n60,30,R\n")
    assert summary(scoring) == [(0, 30, "N2"), (60, 30, "REM")]
    assert scoring.notes == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("W\nN2\nWakee\nN2\n", "unknown stage in line 3: 'Wakee'.* Did you mean 'Wake'"),
        ("W\n\nN2\n", "unknown stage in line 2: ''"),
        ("\nW\nN2\n", "unknown stage in line 1: ''"),
        ("Sleep stage 5\nN2\n", "unknown stage in line 1: 'Sleep stage 5'"),
        ("onset,stage\n0,W\n30,Lights off\n", "unknown stage in line 3: 'Lights off'"),
        ("onset,trial_type\n0,W\n30,Sleep stge 2\n", "unknown stage in line 3: 'Sleep stge 2'"),
        ("0\n8\n", "unknown stage in line 2: '8'"),
        ("onset,stage\n0,W\n30,\n", "unknown stage in line 3: ''"),
        ("onset,stage\nsoon,W\n", "'soon' in line 2: it is no time"),
        ("onset,stage\n0,W\n23:00:00,W\n", "onsets .* mixed"),
        ("onset,end,stage\n0,23:00:00,W\n", "'23:00:00' in line 2: .* mixed"),
        ("onset,duration,stage\n0,2024-05-31,W\n", "'2024-05-31' in line 2: it is no duration"),
        ("2024-05-31T22:00:00Z,30,W\n", "unknown|names|time zone"),
        ("epoch,stage\n1,W\n3,N2\n", "'3' in line 3: .* should be 2"),
        ("epoch,stage\n7,W\n8,N2\n", "'7' in line 2: .* should be 1"),
        ("epoch,stage\nx,W\n", "'x' in line 2"),
        ("onset (min),stage\n0,W\n", r"no column of onsets; it has: onset \(min\), stage"),
        ("epoch,duration,stage\n1,20,W\n", "no column of onsets"),
        ("night,stage\n1,W\n", "no column of onsets"),
        ("onset,stage_a,stage_b\n0,W,W\n", "several columns of stages: stage_a, stage_b"),
        ("0,W\n30,N2\n", "no names that are known: line 1 has '0, W'"),
        ("a;b\n1;2\n", "no names that are known"),
        ("# nothing\n\n", "is empty"),
        ("x,stage\n" + "9" * 200_000, "is no table: field larger than field limit"),
    ],
)
def test_what_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(EegToolError) as raised:
        read(text)
    message = str(raised.value).replace("\n", " ")
    assert re.search(words, message), message
    assert str(PATH) in raised.value.what
    assert raised.value.fix
