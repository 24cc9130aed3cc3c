"""Recordings of PhysioNet/CinC 2018 (WFDB), DOD and DCSM (HDF5), with their scorings."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.prepare.nights import outline
from eegtool.prepare.options import PrepareSettings
from eegtool.prepare.step import recipe_of
from eegtool.recordings.reading import is_recording, read_header, read_recording
from eegtool.recordings.wfdb import read_wfdb_annotations
from eegtool.scorings.cohorts import find_nights
from eegtool.scorings.hypnograms import read_hypnogram, stage_per_epoch
from eegtool.scorings.scoring import ReadAs

SFREQ_HZ = 200
STAGES = ("W", "N1", "N2", "N2", "N3", "REM")
UUID = "1da3544e-dc5c-5795-adc3-f5068959211f"
TP = "tpdbf4cda5_e571_4f0e_be9a_1a48306b1247"


def noise_uv(n_channels: int = 2) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.clip(rng.standard_normal((n_channels, len(STAGES) * 30 * SFREQ_HZ)) * 20, -199, 199)


def mit_annotations(*rows: tuple[int, str]) -> bytes:
    """Notes (kind 22) with texts, in the MIT format: a long time takes a word of its own."""
    words, before = b"", 0
    for sample, text in rows:
        step, before = sample - before, sample
        if step > 1023:
            words += (59 << 10).to_bytes(2, "little")
            words += (step >> 16).to_bytes(2, "little") + (step & 0xFFFF).to_bytes(2, "little")
            step = 0
        words += (22 << 10 | step).to_bytes(2, "little")
        words += (62 << 10 | 1).to_bytes(2, "little")  # of the first channel
        aux = text.encode()
        words += (63 << 10 | len(aux)).to_bytes(2, "little") + aux + b"\0" * (len(aux) % 2)
    return words + b"\0\0"


def write_record(folder: Path, unit: str = "1/uV", changes: Sequence[tuple[str, str]] = ()) -> Path:
    """Write a record as CinC 2018 has them: samples in a MATLAB file of version 4 behind its 24 bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tr03-0005.hea"
    samples = np.rint(noise_uv()).astype("<i2").T
    (folder / "tr03-0005.mat").write_bytes(b"\0" * 24 + samples.tobytes())
    text = f"tr03-0005 2 {SFREQ_HZ} {len(samples)}\n" + "".join(
        f"tr03-0005.mat 16+24 {unit} 16 0 -44 -11110 0 {name}\n" for name in ("F3-M2", "C4-M1")
    )
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    rows = [(1, "W"), (30 * SFREQ_HZ, "N1"), (7000, "(arousal_rera"), (7900, "arousal_rera)")]
    rows += [(60 * SFREQ_HZ, "N2"), (120 * SFREQ_HZ, "N3"), (150 * SFREQ_HZ, "R")]
    path.with_suffix(".arousal").write_bytes(mit_annotations(*rows))
    return path


def test_a_wfdb_record(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    header = read_header(path)
    assert (header.format, header.duration_s, header.start) == ("WFDB", 180.0, None)
    assert header.files == (path, path.with_suffix(".mat"))
    assert is_recording(path)
    recording = read_recording(path, ["C4-M1", "F3-M2"])
    expected = np.rint(noise_uv())[::-1]
    np.testing.assert_array_equal([s.data_uv for s in recording.signals], expected)
    assert [s.sfreq_hz for s in recording.signals] == [SFREQ_HZ, SFREQ_HZ]


@pytest.mark.parametrize(
    ("changes", "factor", "offset"),
    [
        ([("1/uV", "10/uV")], 0.1, 0.0),
        ([("1/uV", "1(5)/uV")], 1.0, -5.0),
        ([("1/uV 16 0", "1/uV 16 7")], 1.0, -7.0),
        ([("1/uV", "1000/mV")], 1.0, 0.0),
        ([("36000", "36000 22:10:05 03/04/2018")], 1.0, 0.0),
    ],
)
def test_gain_baseline_and_unit(
    tmp_path: Path, changes: list[tuple[str, str]], factor: float, offset: float
) -> None:
    path = write_record(tmp_path, changes=changes)
    (signal,) = read_recording(path, ["C4-M1"]).signals
    np.testing.assert_allclose(signal.data_uv, (np.rint(noise_uv())[1] + offset) * factor)
    start = read_header(path).start
    assert str(start) == ("2018-04-03 22:10:05" if "36000" in changes[0][0] else "None")


def test_stages_of_a_wfdb_record(tmp_path: Path) -> None:
    path = write_record(tmp_path / "tr03-0005")
    assert [text for _, _, text in read_wfdb_annotations(path.with_suffix(".arousal"))][2:4] == [
        "(arousal_rera",
        "arousal_rera)",
    ]
    (night,) = find_nights([tmp_path]).nights
    plan = outline(night, recipe_of(PrepareSettings([], channel=["C4-M1"])))
    assert plan.stages == STAGES
    assert set(plan.files) == {path, path.with_suffix(".mat"), path.with_suffix(".arousal")}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ([("tr03-0005 2", "tr03-0005 3")], "is not the header of a WFDB record"),
        ([("tr03-0005 2", "tr03-0005/4 2")], "not of 16 bits in one file"),
        ([("16+24", "212+24")], "not of 16 bits in one file"),
        ([("16+24 1/uV 16 0 -44 -11110 0 C4", "16x2+24 1/uV 16 0 -44 -11110 0 C4")], "16 bits in one file"),
        ([("tr03-0005.mat", "gone.mat")], "its samples, gone.mat, are not there"),
        ([("tr03-0005 2 200", "nothing")], "is not the header of a WFDB record"),
    ],
)  # fmt: skip
def test_damaged_wfdb_headers(tmp_path: Path, changes: list[tuple[str, str]], what: str) -> None:
    with pytest.raises(EegToolError, match=what):
        read_header(write_record(tmp_path, changes=changes))


def test_a_wfdb_record_that_broke_off(tmp_path: Path) -> None:
    path = write_record(tmp_path)
    samples = path.with_suffix(".mat")
    samples.write_bytes(samples.read_bytes()[: 24 + 4 * SFREQ_HZ * 150])
    header = read_header(path)
    assert (header.duration_s, header.notes) == (150.0, ("The file is cut off: the last 30 s are missing.",))  # fmt: skip
    with pytest.raises(EegToolError, match="cut off"):
        read_header(path, strict=True)
    scoring = path.with_suffix(".arousal")
    scoring.write_bytes(scoring.read_bytes()[:-5])
    with pytest.raises(EegToolError, match=r"arousal is cut off"):
        read_hypnogram(scoring, None, 180.0)
    path.unlink()
    with pytest.raises(EegToolError, match=r"its header, tr03-0005\.hea, is not there"):
        read_hypnogram(scoring, None, 180.0)


def write_dreem(path: Path, hypnogram: Sequence[int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        names = ("C3_M2", "F3_M2")
        for name, row in zip(names, noise_uv(), strict=True):
            file[f"signals/eeg/{name}"] = row
        file["hypnogram"] = np.array(hypnogram)
        listed = [
            {"path": f"signals/eeg/{name}", "fs": SFREQ_HZ, "unit": "uV", "name": "eeg"}
            for name in names
        ]
        file.attrs["description"] = json.dumps(listed)
    return path


def test_a_night_of_dod(tmp_path: Path) -> None:
    path = write_dreem(tmp_path / "dodh" / f"{UUID}.h5", [0, 1, 2, -1, 3, 4])
    (night,) = find_nights([tmp_path]).nights
    plan = outline(night, recipe_of(PrepareSettings([], channel=["C3-M2"])))
    assert plan.stages == ("W", "N1", "N2", "unscored", "N3", "REM")
    assert plan.files == (path,)
    (signal,) = read_recording(path, ["C3-M2"]).signals
    assert (signal.name, signal.sfreq_hz) == ("C3_M2", SFREQ_HZ)
    np.testing.assert_array_equal(signal.data_uv, noise_uv()[0])


@pytest.mark.parametrize("of_all", [True, False], ids=["one rate", "a rate each"])
def test_a_night_of_dcsm(tmp_path: Path, of_all: bool) -> None:
    path = tmp_path / TP / "psg.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        for name, row in zip(("C3-M2", "C4-M1"), noise_uv(), strict=True):
            file[f"channels/{name}"] = row
            if not of_all:
                file[f"channels/{name}"].attrs["sample_rate"] = SFREQ_HZ
        if of_all:
            file.attrs["sample_rate"] = SFREQ_HZ
    path.with_name("hypnogram.ids").write_text(
        "0,30,W\n30,30,N1\n60,60,N2\n120,30,N3\n150,30,REM\n"
    )
    (night,) = find_nights([tmp_path]).nights
    plan = outline(night, recipe_of(PrepareSettings([], channel=["C4-M1"])))
    assert plan.stages == STAGES
    recording = read_recording(path, ["C4-M1"])
    np.testing.assert_array_equal(recording.signals[0].data_uv, noise_uv()[1])
    assert any("the missing unit was read as uV" in note for note in recording.notes)


def test_hdf5_of_another_layout_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    assert not is_recording(path)
    with pytest.raises(EegToolError, match="is not an HDF5 file of Dreem or U-Time"):
        read_header(path)
    path.write_bytes(b"no HDF5")
    assert not is_recording(path)
    with pytest.raises(EegToolError, match="cannot be read"):
        read_header(path)


def test_hdf5_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dreem(tmp_path / f"{UUID}.h5", [0] * 6)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(EegToolError, match="needs h5py") as raised:
        read_header(path)
    assert "eegvlm[hdf5]" in raised.value.fix


def test_a_hypnogram_of_a_whole_night_loses_no_epoch(tmp_path: Path) -> None:
    for n in (959, 1007, 1199):
        path = write_dreem(tmp_path / f"{n}.h5", ([0, 1, 2, 2, 3, 4] * 200)[:n])
        codes = (("0", "W"), ("1", "N1"), ("2", "N2"), ("3", "N3"), ("4", "REM"))
        scored = read_hypnogram(path, None, n * 30.0, ReadAs(codes))
        assert "unscored" not in stage_per_epoch(scored, n)
