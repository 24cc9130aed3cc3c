from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import edfio
import mne
import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.scorings.annotations import holds_annotations_alone, holds_scoring, read_inside
from eegtool.scorings.scoring import ReadAs, Scoring

REAL = sorted((Path(__file__).parents[1] / "data" / "sleep_edf_hypnograms").glob("*.edf"))
HEADER_BYTES = 256 * 3  # of one signal beside the annotations
NIGHT = [(0.0, 30.0, "Sleep stage W"), (30.0, 60.0, "Sleep stage 2"), (90.0, 30.0, "REM")]


def read_edf_annotations(path: Path) -> Scoring:
    return read_inside(path, ReadAs())


def write(path: Path, annotations: Sequence[tuple[float, float | None, str]] = NIGHT) -> Path:
    edfio.Edf([], annotations=[edfio.EdfAnnotation(*a) for a in annotations]).write(path)
    return path


@pytest.mark.parametrize("path", REAL[:2], ids=lambda p: p.name[:6])
def test_the_annotations_are_those_that_mne_reads(path: Path) -> None:
    theirs = mne.read_annotations(path)
    scoring = read_edf_annotations(path)
    assert len(scoring.entries) == len(theirs) > 100
    np.testing.assert_array_equal([e.onset_s for e in scoring.entries], theirs.onset)
    np.testing.assert_array_equal([e.duration_s for e in scoring.entries], theirs.duration)
    assert isinstance(scoring.start, datetime)
    assert scoring.start.year == 1989


def test_the_name_of_the_file_means_nothing(tmp_path: Path) -> None:
    for name in ("x.EDF", "x.rec", "x.hyp"):
        scoring = read_edf_annotations(write(tmp_path / name))
        assert [e.stage for e in scoring.entries] == ["W", "N2", "REM"]
        assert [e.place for e in scoring.entries] == [f"annotation {i}" for i in (1, 2, 3)]


def test_unknown_stages_are_refused_and_others_passed_over(tmp_path: Path) -> None:
    lights = (0.0, None, "Lights off")
    path = write(tmp_path / "x.edf", [lights, *NIGHT, (120.0, 30.0, "Sleep stage 5")])
    with pytest.raises(EegToolError, match="unknown stage in annotation 5: 'Sleep stage 5'") as e:
        read_edf_annotations(path)
    assert "Did you mean" in e.value.fix
    assert holds_scoring(path)
    path = write(tmp_path / "y.edf", [lights])
    assert not holds_scoring(path)
    with pytest.raises(EegToolError, match="'Lights off'"):
        read_edf_annotations(path)


def test_latin_1(tmp_path: Path) -> None:
    path = write(tmp_path / "x.edf", [*NIGHT, (1.0, None, "Geraet aus")])
    path.write_bytes(path.read_bytes().replace(b"Geraet", b"Ger\xe4t.", 1))
    scoring = read_edf_annotations(path)
    assert len(scoring.entries) == 3
    assert scoring.notes == ("Its annotations are read as Latin-1.",)


def test_bdf(tmp_path: Path) -> None:
    path = tmp_path / "x.bdf"
    edfio.Bdf([], annotations=[edfio.EdfAnnotation(*a) for a in NIGHT]).write(path)
    assert [e.stage for e in read_edf_annotations(path).entries] == ["W", "N2", "REM"]


def recording(path: Path, seconds: int = 120) -> Path:
    """Write a recording with its scoring, in records of 1 s."""
    signal = edfio.EdfSignal(np.zeros(100 * seconds), 100, physical_range=(-1, 1))
    annotations = [edfio.EdfAnnotation(*a) for a in NIGHT]
    edfio.Edf([signal], annotations=annotations, data_record_duration=1).write(path)
    return path


def with_first_list(path: Path, first: bytes) -> Path:
    """Replace the first list of annotations, and what else is in the first record."""
    content = recording(path).read_bytes()
    begin = content.index(b"+0\x14\x14\0")
    stop = HEADER_BYTES + (len(content) - HEADER_BYTES) // 120
    assert len(first) <= stop - begin
    path.write_bytes(content[:begin] + first.ljust(stop - begin, b"\0") + content[stop:])
    return path


@pytest.mark.parametrize(
    ("first", "onset_s"),
    [
        (b"+0\x14\x14\0", 30.0),
        (b"+0.5\x14\x14\0", 29.5),  # the first record begins there
        (b"+7\x14\x14\0", 23.0),
        (b"+600\x14\x14\0", -570.0),
        (b"+0.5\x14\x14Lights off\x14\0", 29.5),
        (b"+0.5\x14Lights off\x14\0", 30.0),
        (b"+7\x14Lights off\x14\0", 30.0),
    ],
)
def test_only_time_keeping_moves_onsets(tmp_path: Path, first: bytes, onset_s: float) -> None:
    path = with_first_list(tmp_path / "x.edf", first)
    entry = next(e for e in read_edf_annotations(path).entries if e.stage == "N2")
    assert entry.onset_s == onset_s


def test_triggers_are_no_stages(tmp_path: Path) -> None:
    path = write(tmp_path / "x.edf", [(30.0 * i, 30.0, "S  1") for i in range(20)])
    assert not holds_scoring(path)
    with pytest.raises(EegToolError, match="is a sleep stage; it has 'S  1'"):
        read_edf_annotations(path)


def test_a_recording_may_be_cut_off_or_not_know_its_length(tmp_path: Path) -> None:
    path = recording(tmp_path / "x.edf")
    content = path.read_bytes()
    record_bytes = (len(content) - HEADER_BYTES) // 120
    path.write_bytes(content[:236] + b"-1      " + content[244:])
    assert len(read_edf_annotations(path).entries) == 3
    path.write_bytes(content[: HEADER_BYTES + 40 * record_bytes + 7])
    assert [e.stage for e in read_edf_annotations(path).entries] == ["W", "N2"]
    path.write_bytes(content[:HEADER_BYTES])
    with pytest.raises(EegToolError, match="not one whole record follows"):
        read_edf_annotations(path)


def test_a_recording_whose_records_have_no_length_is_no_hypnogram(tmp_path: Path) -> None:
    path = recording(tmp_path / "x.edf")
    content = path.read_bytes()
    path.write_bytes(content[:244] + b"0       " + content[252:])
    assert not holds_annotations_alone(path)
    assert not holds_scoring(path)
    with pytest.raises(EegToolError, match="its duration of a record is '0'"):
        read_edf_annotations(path)


def test_a_hypnogram_must_be_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "x.edf")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(EegToolError, match="is cut off"):
        read_edf_annotations(path)


@pytest.mark.parametrize("at", [100, 230, 260, 500])
def test_damaged_headers(tmp_path: Path, at: int) -> None:
    path = write(tmp_path / "x.edf")
    path.write_bytes(path.read_bytes()[:at])
    with pytest.raises(EegToolError, match=r"is cut off|is damaged"):
        read_edf_annotations(path)


@pytest.mark.parametrize(
    ("date", "clock", "start"),
    [
        ("24.04.89", "16.13.00", datetime(1989, 4, 24, 16, 13)),
        ("24.04.24", "16:13:00", datetime(2024, 4, 24, 16, 13)),
        ("4.4.24", "6.3.0", datetime(2024, 4, 4, 6, 3)),
        ("00.00.00", "16.13.00", datetime(1985, 1, 1, 16, 13)),
        ("xx.xx.xx", "16.13.00", datetime(1985, 1, 1, 16, 13)),
        ("24.04.89", "25.13.00", None),
        ("24.04.89", "", None),
    ],
)
def test_starts(tmp_path: Path, date: str, clock: str, start: datetime | None) -> None:
    path = write(tmp_path / "x.edf")
    content = path.read_bytes()
    path.write_bytes(content[:168] + f"{date:8}{clock:8}".encode() + content[184:])
    assert read_edf_annotations(path).start == start
