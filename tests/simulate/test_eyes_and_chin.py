"""Simulated eyes and chin: what a scorer looks for in each stage, and nothing where there is none."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np
import pytest

from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.simulate.eyes_and_chin import CHANNELS
from eegtool.simulate.twins import NightTwin, load_twin, simulate_psg, simulate_signal, write_night
from eegtool.simulate.waveforms import SFREQ_HZ, Floats

N = EPOCH_S * SFREQ_HZ


@pytest.fixture(scope="module")
def twin() -> NightTwin:
    return load_twin("SC4001E0").condensed(20)


@pytest.fixture(scope="module")
def psg(twin: NightTwin) -> dict[str, Floats]:
    return simulate_psg(twin, seed=1)


def by_stage(twin: NightTwin, signal_uv: Floats) -> dict[str, Floats]:
    epochs, stages = signal_uv.reshape(-1, N), np.array(twin.stages())
    return {stage: epochs[stages == stage] for stage in STAGES}


def test_the_eeg_is_that_of_ever(twin: NightTwin, psg: dict[str, Floats]) -> None:
    assert (*psg,) == (*twin.channels, *CHANNELS)
    np.testing.assert_array_equal(np.stack([*psg.values()])[:2], simulate_signal(twin, seed=1))
    again, other = simulate_psg(twin, seed=1), simulate_psg(twin, seed=2)
    np.testing.assert_array_equal(again["EMG chin"], psg["EMG chin"])
    assert not np.allclose(other["EMG chin"], psg["EMG chin"])


def test_eyes_move_together_and_the_eeg_reaches_both_alike(
    twin: NightTwin, psg: dict[str, Floats]
) -> None:
    left, right = (by_stage(twin, psg[name]) for name in CHANNELS[:2])
    together = {s: np.corrcoef(left[s].ravel(), right[s].ravel())[0, 1] for s in STAGES}
    assert max(together["W"], together["N1"]) < -0.3
    assert together["REM"] < 0
    assert min(together["N2"], together["N3"]) > 0.7


def test_eyes_are_quick_in_wake_and_rem_slow_in_n1_and_still_in_n2_and_n3(
    twin: NightTwin, psg: dict[str, Floats]
) -> None:
    moves = by_stage(twin, (psg[CHANNELS[0]] - psg[CHANNELS[1]]) / 2)
    peaks_uv = {s: np.median(np.abs(x).max(axis=1)) for s, x in moves.items()}
    assert min(peaks_uv[s] for s in ("W", "N1", "REM")) > 40
    assert max(peaks_uv["N2"], peaks_uv["N3"]) < 15
    rises_uv = {
        s: np.quantile(np.abs(x[:, 10:] - x[:, :-10]).max(axis=1), 0.8) for s, x in moves.items()
    }
    assert min(rises_uv["W"], rises_uv["REM"]) > 40 > rises_uv["N1"]  # within a tenth of a second


def test_chin_tone_falls_with_sleep_and_is_lowest_in_rem(
    twin: NightTwin, psg: dict[str, Floats]
) -> None:
    tone_uv = {s: np.median(x.std(axis=1)) for s, x in by_stage(twin, psg["EMG chin"]).items()}
    assert sorted(STAGES, key=lambda s: tone_uv[s]) == ["REM", "N3", "N2", "N1", "W"]
    assert tone_uv["N3"] > 2 * tone_uv["REM"]


def test_written_and_called_simulated(twin: NightTwin, tmp_path: Path) -> None:
    short = twin.cropped(0, 4)
    path, _ = write_night(short, tmp_path, seed=1, eyes_and_chin=True)
    raw = mne.io.read_raw_edf(path, verbose="ERROR")
    assert raw.ch_names == [*short.channels, *CHANNELS]
    content = path.read_bytes()
    assert content[:256].count(b"SIMULATED") >= 2
    assert content.count(b"SIMULATED", 256) == 5
