from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.pictures.signals import (
    StoredNight,
    check_signals,
    quantise,
    read_signals,
    sidecar_path,
    write_signals,
)
from eegtool.recordings.signals import cut_epoch


@pytest.fixture
def made() -> StoredNight:
    """Two channels of different rates, with an onset that is not the first sample."""
    rng = np.random.default_rng(4)
    channels = [("EEG", rng.normal(0, 60, 13_000), 100.0), ("EMG", rng.normal(0, 4, 26_000), 200.0)]
    return quantise("n1", "2001-02-03T23:00:00", 7.5, channels)


@pytest.fixture
def path(made: StoredNight, tmp_path: Path) -> Path:
    path = tmp_path / "n1.npy"
    write_signals(path, made)
    return path


def test_what_is_stored_comes_back(made: StoredNight, path: Path) -> None:
    night = read_signals(path, "n1")
    assert (night.recording, night.start, night.first_onset_s) == ("n1", "2001-02-03T23:00:00", 7.5)
    for found, channel in zip(night.channels, made.channels, strict=True):
        whole = found.samples.base
        assert whole is not None
        assert isinstance(whole.base, np.memmap)
        np.testing.assert_array_equal(found.samples, channel.samples)
        assert (found.sfreq_hz, found.scale_uv) == (channel.sfreq_hz, channel.scale_uv)
    for (epoch_uv, sfreq_hz), channel in zip(
        night.cut_uv(night.onset_s(2)), made.channels, strict=True
    ):
        assert sfreq_hz == channel.sfreq_hz
        np.testing.assert_array_equal(epoch_uv, cut_epoch(channel.data_uv, sfreq_hz, 67.5))
    assert check_signals(path, "n1") == json.loads(sidecar_path(path).read_text())["sha256"]
    # Anybody can read it.
    assert np.load(path).dtype == np.int16
    assert path.read_bytes()[6:8] == b"\x01\x00"


@pytest.mark.parametrize("peak_uv", [1e-3, 1.0, 511.0, 512.0, 32_767.0, 1e5])
def test_a_scale_is_a_power_of_two_and_fine_enough(peak_uv: float) -> None:
    data_uv = np.linspace(-peak_uv, peak_uv, 1001)
    (channel,) = quantise("n", "", 0.0, [("a", data_uv, 100.0)]).channels
    assert np.frexp(channel.scale_uv)[0] == 0.5
    assert 16_000 < np.abs(channel.samples).max() <= 32_767
    assert np.abs(channel.data_uv - data_uv).max() <= channel.scale_uv / 2


def test_a_flat_channel_is_stored_too() -> None:
    (channel,) = quantise("n", "", 0.0, [("a", np.zeros(3000), 100.0)]).channels
    assert channel.scale_uv == 1.0
    assert not channel.samples.any()


def edited(**changes: Any) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        card = json.loads(sidecar_path(path).read_text())
        sidecar_path(path).write_text(json.dumps(card | changes))

    return edit


def replaced(path: Path) -> None:
    other = quantise("n1", "", 7.5, [("EEG", np.ones(13_000), 100.0)])
    write_signals(path.with_name("other.npy"), other)
    path.with_name("other.npy").replace(path)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (Path.unlink, "n1.npy does not exist"),
    "no sidecar": (lambda p: sidecar_path(p).unlink(), "n1.json does not exist"),
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:-40]), "n1.npy is cut short"),
    "empty": (lambda p: p.write_bytes(b""), "n1.npy is cut short or is not a .npy file"),
    "objects": (lambda p: np.save(p, np.array([{}])), "n1.npy is cut short"),
    "other version": (edited(version=2), "n1.npy is of version 2 .* reads version 1"),
    "other recording": (edited(recording="n2"), "n1.npy holds the signals of n2, not of n1"),
    "other file": (replaced, r"holds int16 \(13000,\), and its sidecar 39000 samples"),
    "other type": (lambda p: np.save(p, np.zeros(39_000)), "holds float64"),
    "no channels": (edited(channels=[]), "n1.json does not describe signals"),
    "negative": (edited(channels=[{"name": "a", "sfreq_hz": -1, "scale_uv": 1, "n_samples": 3}]), "n1.json does not"),
    "no number": (edited(first_onset_s="noon"), "n1.json does not describe signals"),
    "not a sidecar": (lambda p: sidecar_path(p).write_text("[]"), "n1.json is not a JSON object"),
    "half a sidecar": (lambda p: sidecar_path(p).write_text('{"version": 1'), "n1.json"),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_named(
    path: Path, harm: Callable[[Path], object], said: str
) -> None:
    harm(path)
    with pytest.raises(EegToolError, match=said) as caught:
        read_signals(path, "n1")
    assert "prepare" in caught.value.fix or "half" not in said


def test_samples_that_were_changed_are_found_when_all_is_read(path: Path) -> None:
    flipped(path)
    read_signals(path, "n1")
    with pytest.raises(
        EegToolError, match=r"n1\.npy is not the file that n1\.json was written for"
    ):
        check_signals(path, "n1")


def test_an_epoch_beyond_the_end(path: Path) -> None:
    night = read_signals(path, "n1")
    assert night.onset_s(3) == 97.5  # 97.5 s + 30 s < 130 s
    with pytest.raises(EegToolError, match="n1 last 130 s: they have no epoch 4"):
        night.onset_s(4)


def test_a_file_that_was_written_again_is_read_again(made: StoredNight, path: Path) -> None:
    assert len(read_signals(path, "n1").channels) == 2
    write_signals(path, replace(made, channels=made.channels[:1]))
    assert len(read_signals(path, "n1").channels) == 1


def test_nothing_half_written_takes_the_name(
    made: StoredNight, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sidecar goes first: signals never stand beside what describes others."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(EegToolError, match="No space left"):
        write_signals(path, made)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["n1.npy"]
    monkeypatch.undo()
    shutil.rmtree(path.parent)
    write_signals(path, made)
    assert check_signals(path, "n1")
