from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import edfio
import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.stages import MOVEMENT, STAGES, UNSCORED
from eegtool.recordings.signals import trim_wake
from eegtool.scorings.annotations import holds_scoring
from eegtool.scorings.hypnograms import (
    is_hypnogram,
    read_hypnogram,
    stage_per_epoch,
)
from eegtool.scorings.scoring import Entry, Hypnogram

DATA = Path(__file__).parents[1] / "data"
REAL = sorted((DATA / "sleep_edf_hypnograms").glob("*-Hypnogram.edf"))

NSRR = """<?xml version="1.0" encoding="UTF-8"?>
<PSGAnnotation><EpochLength>30</EpochLength><ScoredEvents>
<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>Wake|0</EventConcept>
<Start>0</Start><Duration>30</Duration></ScoredEvent>
<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>Stage 4 sleep|4</EventConcept>
<Start>30</Start><Duration>60</Duration></ScoredEvent>
<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>REM sleep|5</EventConcept>
<Start>90</Start><Duration>30</Duration></ScoredEvent>
</ScoredEvents></PSGAnnotation>"""
PROFUSION = (
    "<CMPStudyConfig><EpochLength>30</EpochLength><SleepStages>"
    + "".join(f"<SleepStage>{code}</SleepStage>" for code in (0, 4, 3, 5))
    + "</SleepStages></CMPStudyConfig>"
)
# One night of W N3 N3 REM, in every kind of text file.
TEXTS = {
    "nsrr.xml": NSRR,
    "profusion.XML": PROFUSION,
    "lines.txt": "W\nN3\nN3\nREM\n",
    "epochs.csv": "Epoch,Sleep Stage\n1,Wake\n2,S4\n3,S3\n4,R\n",
    "sub-01_events.tsv": "onset\tduration\ttrial_type\n0\t30\tWake\n30\t60\tStage 3 sleep\n90\t30\tREM\n",
    "german.csv": "Beginn;Start (s);Duration [s];Stage\nx;0,0;30,0;W\nx;30,0;60,0;N3\nx;90,0;30,0;R\n",
}


@pytest.fixture(scope="module")
def truth() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Stage indices and epoch indices per night, read from the same nights by other means."""
    with np.load(DATA / "sleep_edf_stages.npz", allow_pickle=False) as file:
        nights = {key.removesuffix("_stage") for key in file if key.endswith("_stage")}
        return {
            night[:6]: (file[f"{night}_stage"], file[f"{night}_epoch_index"]) for night in nights
        }


def test_all_nights_are_there(truth: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    assert len(REAL) == 14
    assert {path.name[:6] for path in REAL} == set(truth)


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.name[:6])
def test_real_hypnograms(path: Path, truth: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    stage, epoch_index = truth[path.name[:6]]
    n_epochs = int(epoch_index[-1]) + 1
    hypnogram = read_hypnogram(path, None, n_epochs * 30.0)
    assert hypnogram.first_onset_s == 0
    stages = stage_per_epoch(hypnogram, n_epochs)
    assert len(stages) == n_epochs
    assert [stages[i] for i in epoch_index] == [STAGES[s] for s in stage]
    # Whatever the other reading has no stage for, this one has none for either.
    rest = set(range(n_epochs)) - set(epoch_index.tolist())
    assert {stages[i] for i in rest} <= {MOVEMENT, UNSCORED}
    assert is_hypnogram(path)


def test_sc4001_keeps_841_epochs() -> None:
    assert REAL[0].name == "SC4001EC-Hypnogram.edf"
    hypnogram = read_hypnogram(REAL[0], datetime(1989, 4, 24, 16, 13), 79500.0)
    assert hypnogram.notes == ()
    stages = stage_per_epoch(hypnogram, 2650)
    kept = [stages[i] for i in trim_wake(stages, 30) if stages[i] in STAGES]
    assert {stage: kept.count(stage) for stage in STAGES} == {
        "W": 188,
        "N1": 58,
        "N2": 250,
        "N3": 220,
        "REM": 125,
    }
    assert len(kept) == 841


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"], ids=["plain", "BOM", "UTF-16", "UTF-32"]
)
def test_one_night_in_every_kind_of_text(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_text(TEXTS[name], encoding=encoding)
    assert is_hypnogram(path)
    assert not holds_scoring(path)
    hypnogram = read_hypnogram(path, datetime(2024, 5, 31, 22), 120.0)
    assert stage_per_epoch(hypnogram, 4) == ["W", "N3", "N3", "REM"]
    assert hypnogram.first_onset_s == 0
    assert hypnogram.notes == ()


def test_latin_1_is_read_and_said(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("onset;stage;Prüfer\n0;W;Jörg\n30;N2;Jörg\n".encode("latin-1"))
    hypnogram = read_hypnogram(path, None, 60.0)
    assert stage_per_epoch(hypnogram, 2) == ["W", "N2"]
    assert "The hypnogram is read as Latin-1." in hypnogram.notes


def run(onset_s: float, duration_s: float, stage: str) -> Entry:
    return Entry(onset_s, duration_s, stage)


@pytest.mark.parametrize(
    ("runs", "stages"),
    [
        pytest.param([], "? ? ? ?", id="nothing"),
        pytest.param([run(0, 120, "W")], "W W W W", id="whole"),
        pytest.param([run(0, 30, "W"), run(90, 30, "N2")], "W ? ? N2", id="gap"),
        pytest.param([run(0, 45, "W"), run(45, 75, "N1")], "W ? N1 N1", id="change-in-an-epoch"),
        pytest.param([run(0, 15, "N2"), run(15, 15, "N2")], "? ? ? ?", id="halves"),
        pytest.param([run(10, 100, "REM")], "? REM REM ?", id="partly-covered"),
        pytest.param([run(0, 29, "REM")], "? ? ? ?", id="too-short"),
        pytest.param([run(-60, 90, "W"), run(30, 30, "N1")], "W N1 ? ?", id="before-recording"),
        pytest.param([run(90, 3000, "W")], "? ? ? W", id="longer-than-recording"),
        pytest.param([run(600, 30, "W")], "? ? ? ?", id="after-recording"),
        pytest.param(
            [run(0, 30, "movement time"), run(30, 30, "unscored")], "M ? ? ?", id="dropped-kinds"
        ),
        pytest.param(
            [run(0, 30 - 1e-3, "W"), run(30 + 1e-3, 60, "N1")], "W N1 N1 ?", id="rounding-errors"
        ),
    ],
)
@pytest.mark.parametrize("first_onset_s", [0.0, 15.0])
def test_epochs_of_runs(runs: list[Entry], stages: str, first_onset_s: float) -> None:
    words = {"?": UNSCORED, "M": MOVEMENT}
    shifted = tuple(run(r.onset_s + first_onset_s, r.duration_s, r.stage) for r in runs)
    hypnogram = Hypnogram(shifted, first_onset_s)
    assert stage_per_epoch(hypnogram, 4) == [words.get(word, word) for word in stages.split()]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("missing.edf", None, "does not exist"),
        ("empty.edf", b"", "is empty"),
        ("empty.txt", b"", "is empty"),
        ("blank.csv", b" \n\n\xc2\xa0\n", "is empty"),
        ("mark.txt", b"\xef\xbb\xbf", "is empty"),
        ("header.csv", b"onset,duration,stage\n", "scores no sleep"),
        ("short.edf", b"0       " + b" " * 100, "is cut off"),
        ("utf16.txt", "W\nN2\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        ("cut.txt", b"\xff\xfeW", "cannot be read: .*utf-16"),
        ("recording.fif", b"\0\0\0d" + bytes(5000), "cannot be read"),
        ("recording.set", b"MATLAB 5.0 MAT-file" + bytes(5000), "cannot be read"),
        ("x.txt", b"Brain Vision Data Exchange Header File Version 1.0", "header of a recording"),
        ("other.xml", b"<html><body/></html>", "no scoring that is known: it is a <html>"),
        ("wake.txt", b"W\nW\n?\nM\n", "scores no sleep"),
        ("prose.txt", b"The quick brown fox\njumps\n", "unknown stage in line 1"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes | None, what: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EegToolError, match=what) as raised:
        read_hypnogram(path, datetime(2024, 5, 31, 22), 120.0)
    assert str(path) in raised.value.what
    assert raised.value.fix


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("participants.tsv", "participant_id\tage\tsex\nsub-01\t33\tF\n"),
        ("channels.tsv", "name\ttype\tunits\tdescription\nFpz\tEEG\tuV\tn/a\n"),
        ("pairs.csv", "recording,hypnogram,subject,night\na.edf,a.txt,01,1\n"),
        ("sub-01_events.tsv", "onset\tduration\ttrial_type\n0\t1\tgo\n2\t1\tstop\n"),
        ("README.txt", "Recordings of 2024.\n\nThe stages are N1, N2 and N3.\n"),
        ("pulse.txt", "60\n61\n62\n"),
        ("empty.txt", ""),
        ("W.docx", "W\nN2\n"),
        ("other.xml", "<html/>"),
        ("text.edf", "not EDF"),
        ("binary.txt", "W\0\0"),
    ],
)
def test_other_files_are_no_hypnograms(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert not is_hypnogram(path)
    assert not holds_scoring(path)


def test_a_long_hypnogram_is_known_by_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("Stage 2 sleep\n" * 400 + "Snoring\n")
    assert is_hypnogram(path)


def test_a_hypnogram_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.txt"
    path.write_text("N2")

    def refuse(self: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    assert not is_hypnogram(path)
    with pytest.raises(EegToolError, match=r"cannot be read: .*Permission denied"):
        read_hypnogram(path, None, 60.0)


def recording_with(
    path: Path, annotations: Sequence[tuple[float, float | None, str]], start: datetime
) -> Path:
    signal = edfio.EdfSignal(np.zeros(12000), sampling_frequency=100, physical_range=(-1, 1))
    edf = edfio.Edf(
        [signal],
        annotations=[edfio.EdfAnnotation(*a) for a in annotations],
        starttime=start.time(),
        recording=edfio.Recording(startdate=start.date()),
    )
    edf.write(path)
    return path


@pytest.mark.parametrize("fraction", [0, 250_000], ids=["whole-second", "fraction"])
def test_the_scoring_may_be_in_the_recording(tmp_path: Path, fraction: int) -> None:
    start = datetime(2024, 5, 31, 22, 13, 5, fraction)
    scored = [(0.0, 30.0, "Sleep stage W"), (30.0, 90.0, "Sleep stage N2"), (4.0, None, "Arousal")]
    path = recording_with(tmp_path / "X.EDF", scored, start)
    assert not is_hypnogram(path)
    assert holds_scoring(path)
    for header_start in (start, start.replace(microsecond=0), None):
        hypnogram = read_hypnogram(path, header_start, 120.0)
        assert hypnogram.runs == (Entry(0, 30, "W"), Entry(30, 90, "N2"))
        assert hypnogram.first_onset_s == 0


def test_a_recording_instead_of_a_hypnogram(tmp_path: Path, write_edf: Callable[..., Path]) -> None:
    path = write_edf([("Fpz", np.zeros(12000), 100.0)])
    assert not is_hypnogram(path)
    assert not holds_scoring(path)
    with pytest.raises(EegToolError, match="is a recording and holds no scoring"):
        read_hypnogram(path, None, 120.0)
    path = recording_with(tmp_path / "y.edf", [(0.0, None, "Lights off")], datetime(2024, 5, 31))
    assert not holds_scoring(path)
    with pytest.raises(EegToolError, match="is a sleep stage; it has 'Lights off'"):
        read_hypnogram(path, None, 120.0)


def test_other_annotations_are_passed_over(write_hypnogram: Callable[..., Path]) -> None:
    path = write_hypnogram(
        [(0.0, None, "Lights off"), (0.0, 30.0, "Sleep stage 2"), (10.0, 3.0, "EEG arousal")]
    )
    assert read_hypnogram(path, None, 30.0).runs == (Entry(0.0, 30.0, "N2"),)


@pytest.mark.parametrize(
    "annotations",
    [
        [(0.0, 30.0, "Sleep stage ?"), (30.0, 30.0, "Movement time")],
        [(0.0, 900.0, "Sleep stage W")],
    ],
)
def test_no_scored_sleep_is_an_error(
    write_hypnogram: Callable[..., Path], annotations: list[tuple[float, float, str]]
) -> None:
    path = write_hypnogram(annotations)
    with pytest.raises(EegToolError) as raised:
        read_hypnogram(path, None, 900.0)
    assert raised.value.what == f"The hypnogram {path} scores no sleep."
    assert "'Sleep stage 2'" in raised.value.fix


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("padding", range(4))
def test_a_character_may_lie_on_the_border_of_the_look_ahead(
    tmp_path: Path, encoding: str, padding: int
) -> None:
    header = "onset,duration,stage," + "x" * padding + "ö" * 5000 + "\n"
    path = tmp_path / "scoring.csv"
    path.write_bytes((header + "".join(f"{30 * i},30,N2,\n" for i in range(100))).encode(encoding))
    assert len(read_hypnogram(path, None, 3000.0).runs) == 100
