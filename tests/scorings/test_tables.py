from __future__ import annotations

import re
from pathlib import Path

import pytest

from eegtool.core.errors import EegToolError
from eegtool.scorings.scoring import Scoring
from eegtool.scorings.tables import read_table

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
    assert scoring.is_list
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
        "onset,duration,stage_hum\n0,30,W\n30,60,N2\n",
        "onset\tduration\ttrial_type\n0\t30\tSleep stage W\n5\t3\tEEG arousal\n30\t60\tSleep stage 2\n",
        "onset\tduration\ttrial_type\tstage\n0\t30\tgo\tW\n30\t60\tgo\tN2\n",
        "# MNE-Annotations\n# onset, duration, description\n0.0,30.0,Sleep stage W\n30.0,60.0,Sleep stage 2\n",
        "0,30,W\n30,60,N2\n",
        "W,0,30\nN2,30,60\n",
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


@pytest.mark.parametrize(
    "text",
    [
        "W\t0\t30\nN2\t30\t90\nREM\t90\t120\n",
        "0,30,W\n30,60,N2\n90,30,REM\n",
        "0;W;30\n30;N2;90\n90;REM;120\n",
        "W . . 0 30 .\nN2 . . 30 90 .\nREM . . 90 120 .\n".replace(" ", "\t"),
        "W . . 0 +30 .\nN2 . . 30 +60 .\nREM . . 90 +30 .\n".replace(" ", "\t"),
        "class instance channel start stop meta\nW . . e:1 e:1 .\nN2 . . e:2 e:3 .\nREM . . e:4 e:4 .\n".replace(
            " ", "\t"
        ),
        "W 30\nN2 90\nREM 120\n*Duration_sec 120\n".replace(" ", "\t"),
        "stage,end\nW,30\nN2,90\nREM,120\n",
    ],
)
def test_onsets_ends_and_durations_without_names(text: str) -> None:
    assert summary(read(text)) == [(0, 30, "W"), (30, 60, "N2"), (90, 30, "REM")]


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


def test_numbers_are_judged() -> None:
    night = [0] * 20 + [1] * 3 + [2] * 20 + [3] * 15 + [2] * 9 + [5] * 15 + [0] * 3
    scoring = read("".join(f"{code}\n" for code in night))
    assert scoring.notes == ("Numbers are read as 0 W, 1 N1, 2 N2, 3 N3, 5 REM.",)
    assert [e.stage for e in scoring.entries[20:24]] == ["N1", "N1", "N1", "N2"]
    assert read("W\nN2\n").notes == ()
    with pytest.raises(EegToolError, match="may be read in more than one way"):
        read("onset,duration,stage_hum\n0,30,0\n30,60,2\n")


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
        ("0\n12\n", "no coding that is known: 0, 12"),
        ("onset,stage\n0,W\n30,\n", "unknown stage in line 3: ''"),
        ("onset,stage\nsoon,W\n", "'soon' in line 2: it is no time"),
        ("onset,stage\n0,W\n23:00:00,W\n", "onsets .* mixed"),
        ("onset,end,stage\n0,23:00:00,W\n", "'23:00:00' in line 2: .* mixed"),
        ("onset,duration,stage\n0,2024-05-31,W\n", "'2024-05-31' in line 2: it is no duration"),
        ("2024-05-31T22:00:00Z,30,W\n", "unknown|names|time zone"),
        ("epoch,stage\n1,W\n1,N2\n", "'1' in line 3: .* should be 2 or more"),
        ("epoch,stage\n7,W\n8,N2\n", "'7' in line 2: .* should be 0 or 1"),
        ("epoch,stage\nx,W\n", "'x' in line 2"),
        ("onset (min),stage\n0,W\n", r"no column of onsets; it has: onset \(min\), stage"),
        ("epoch,duration,stage\n1,20,W\n", "no column of onsets"),
        ("night,stage\n1,W\n", "no column of onsets"),
        ("onset,stage_a,stage_b\n0,W,N1\n", "several columns of stages: stage_a, stage_b"),
        ("30,W\n60,N2\n", "when each stage begins, or when it ends"),
        ("x,W\ny,N2\n", "no names that are known: line 1 has 'x, W'"),
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
