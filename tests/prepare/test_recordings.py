from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.prepare.recordings import (
    channel_names,
    find_channel,
    is_simulated,
    read_recording,
    start_time,
)

WriteEdf = Callable[..., Path]


def sine_uv(hz: float, sfreq_hz: float, seconds: float = 60.0) -> np.ndarray:
    return 50.0 * np.sin(2 * np.pi * hz * np.arange(round(seconds * sfreq_hz)) / sfreq_hz)


@pytest.fixture
def psg(write_edf: WriteEdf) -> Path:
    """As in Sleep-EDF, a fast channel beside one of 1 Hz."""
    return write_edf(
        [
            ("EEG Fpz-Cz", sine_uv(2, 100), 100),
            ("EEG Pz-Oz", sine_uv(3, 100), 100),
            ("Temp rectal", sine_uv(0.1, 1), 1),
            ("EMG", sine_uv(40, 200), 200),
        ]
    )


@pytest.mark.parametrize("unit", ["uV", "mV"])
def test_microvolts_come_out_whatever_the_unit(write_edf: WriteEdf, unit: str) -> None:
    signal_uv = sine_uv(2, 100)
    recording = read_recording(write_edf([("EEG Fpz-Cz", signal_uv, 100)], unit), "EEG Fpz-Cz")
    np.testing.assert_allclose(recording.data_uv, signal_uv, atol=0.01)


@pytest.mark.parametrize(
    ("wanted", "name", "hz", "sfreq_hz"),
    [
        ("EEG Fpz-Cz", "EEG Fpz-Cz", 2, 100),
        ("eegpz-oz", "EEG Pz-Oz", 3, 100),
        (" EEG  PZ-OZ ", "EEG Pz-Oz", 3, 100),
        ("temp RECTAL", "Temp rectal", 0.1, 1),
        ("EMG", "EMG", 40, 200),
    ],
)
def test_every_channel_keeps_its_own_rate(
    psg: Path, wanted: str, name: str, hz: float, sfreq_hz: float
) -> None:
    recording = read_recording(psg, wanted)
    assert (recording.channel, recording.sfreq_hz) == (name, sfreq_hz)
    np.testing.assert_allclose(recording.data_uv, sine_uv(hz, sfreq_hz), atol=0.01)


def test_unknown_channel_lists_those_present(psg: Path) -> None:
    present = channel_names(psg)
    assert present == ["EEG Fpz-Cz", "EEG Pz-Oz", "Temp rectal", "EMG"]
    with pytest.raises(EegToolError) as raised:
        find_channel(psg, present, "Fpz-Cz")
    assert raised.value.what == f"{psg} has no channel 'Fpz-Cz'."
    assert raised.value.fix == (
        "It has: EEG Fpz-Cz, EEG Pz-Oz, Temp rectal, EMG. "
        "Did you mean 'EEG Fpz-Cz'? Choose with --channel."
    )
    with pytest.raises(EegToolError, match="no channel 'C3-A2'"):
        read_recording(psg, "C3-A2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "cannot be read as EDF"),
        (b"time,uV\n0.01,5\n" * 50, "cannot be read as EDF"),
        (b"0       " + b"?" * 400, "cannot be read as EDF"),
    ],
    ids=["missing", "empty", "text", "damaged"],
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "SC4001E0-PSG.edf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EegToolError, match=message) as raised:
        read_recording(path, "EEG Fpz-Cz")
    assert str(path) in raised.value.what
    assert len(raised.value.what.splitlines()) == 1
    assert raised.value.fix


@pytest.mark.parametrize("kept", [0.99, 0.6, 0.2])
def test_a_broken_download_is_no_short_night(psg: Path, kept: float) -> None:
    content = psg.read_bytes()
    psg.write_bytes(content[: round(kept * len(content))])
    with pytest.raises(EegToolError, match="cannot be read as EDF: Number of records") as raised:
        read_recording(psg, "EEG Fpz-Cz")
    assert "fetch it again" in raised.value.fix


def test_header(psg: Path, recordings: Path) -> None:
    simulated = recordings / "SC4001E0-PSG.edf"
    assert is_simulated(simulated)
    assert not is_simulated(psg)
    assert start_time(simulated) == "24.04.89 16.13.00"
    assert start_time(simulated) == start_time(recordings / "SC4001EC-Hypnogram.edf")
