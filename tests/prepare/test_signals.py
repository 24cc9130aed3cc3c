from __future__ import annotations

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.prepare.signals import (
    band_pass,
    check_amplitude,
    check_band,
    cut_epoch,
    trim_wake,
    whole_epochs,
)

SFREQ_HZ = 100.0


def sine(hz: float, seconds: float = 300.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * SFREQ_HZ)) / SFREQ_HZ)


@pytest.mark.parametrize(
    ("hz", "low", "high"),
    [
        (1.0, 0.98, 1.01),
        (10.0, 0.99, 1.01),
        (30.0, 0.8, 1.01),
        (0.05, 0.0, 0.01),
        (45.0, 0.0, 0.01),
    ],
)
def test_band_pass_gain(hz: float, low: float, high: float) -> None:
    middle = slice(10_000, 20_000)
    gain = np.std(band_pass(sine(hz), SFREQ_HZ, 0.3, 35.0)[middle]) / np.std(sine(hz)[middle])
    assert low <= gain <= high


def test_band_pass_shifts_no_phase() -> None:
    wave = sine(10.0)
    filtered = band_pass(wave, SFREQ_HZ, 0.3, 35.0)
    middle = slice(10_000, 20_000)
    np.testing.assert_allclose(filtered[middle], wave[middle], atol=0.01)
    pulse = np.zeros(20_001)
    pulse[10_000] = 1.0
    answer = band_pass(pulse, SFREQ_HZ, 0.3, 35.0)
    assert np.argmax(answer) == 10_000
    np.testing.assert_allclose(answer, answer[::-1], atol=1e-6)


def test_band_pass_without_a_lower_edge_keeps_the_level() -> None:
    assert np.mean(band_pass(sine(10.0) + 7.0, SFREQ_HZ, 0.0, 35.0)) == pytest.approx(7.0, abs=0.01)
    assert np.mean(band_pass(sine(10.0) + 7.0, SFREQ_HZ, 0.3, 35.0)) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(
    ("low_hz", "high_hz", "flags"),
    [
        (35.0, 0.3, ("--low-hz 35", "--high-hz 0.3")),
        (10.0, 10.0, ("--low-hz 10", "--high-hz 10")),
        (0.3, 50.0, ("--high-hz 50", "100 Hz", "below half the sampling rate, 50 Hz")),
    ],
)
def test_edges_that_do_not_fit_name_the_flags(
    low_hz: float, high_hz: float, flags: tuple[str, ...]
) -> None:
    with pytest.raises(EegToolError) as raised:
        band_pass(sine(10.0), SFREQ_HZ, low_hz, high_hz)
    for flag in flags:
        assert flag in str(raised.value)


def test_edges_are_checked_before_the_sampling_rate_is_known() -> None:
    check_band(0.3, 500.0)
    with pytest.raises(EegToolError, match="--low-hz 40 is not below --high-hz 35"):
        check_band(40.0, 35.0)


@pytest.mark.parametrize("uv", [0.1, 20.0, 300.0, 9_000.0])
def test_amplitudes_of_eeg(uv: float) -> None:
    check_amplitude(sine(10.0) * uv * 2**0.5 * 1.01)


@pytest.mark.parametrize(
    "data_uv", [np.zeros(3000), np.full(3000, 80.0), sine(10.0) * 50e6, np.full(3000, np.nan)]
)
def test_amplitudes_that_are_no_eeg(data_uv: np.ndarray) -> None:
    with pytest.raises(EegToolError, match="it is not EEG") as raised:
        check_amplitude(data_uv)
    assert "unit" in raised.value.fix


def test_trim_comes_before_dropping() -> None:
    """The margin is real time: unscored epochs in it count towards its length."""
    stages = ["W"] * 6 + ["unscored", "W", "N1", "N2", "W", "REM", "movement time"] + ["W"] * 5
    kept = trim_wake(stages, margin_min=2.0)
    assert kept == range(4, 16)
    assert [stages[i] for i in kept].count("unscored") == 1
    assert [stages[i] for i in kept].count("movement time") == 1


@pytest.mark.parametrize(
    ("margin_min", "expected"),
    [(0.0, range(3, 6)), (0.5, range(2, 7)), (0.9, range(2, 7)), (30.0, range(9))],
)
def test_margins(margin_min: float, expected: range) -> None:
    stages = ["W"] * 3 + ["N2", "W", "REM"] + ["W"] * 3
    assert trim_wake(stages, margin_min) == expected


@pytest.mark.parametrize("stages", [[], ["W", "W"], ["unscored", "movement time"]])
def test_a_night_without_sleep_keeps_nothing(stages: list[str]) -> None:
    assert len(trim_wake(stages, 30.0)) == 0


@pytest.mark.parametrize(
    ("n_samples", "sfreq_hz", "epochs"),
    [
        (2999, 100.0, 0),
        (3000, 100.0, 1),
        (5999, 100.0, 1),
        (0, 100.0, 0),
        (30 * 29 * 128, 128.0, 29),
        (1000 * 951, 30 / 0.9, 951),  # 951 epochs, less a rounding error
    ],
)
def test_whole_epochs(n_samples: int, sfreq_hz: float, epochs: int) -> None:
    assert whole_epochs(n_samples, sfreq_hz) == epochs


def test_cut_epoch() -> None:
    data = np.arange(10_000.0)
    np.testing.assert_array_equal(cut_epoch(data, 100.0, 0), np.arange(3000.0))
    np.testing.assert_array_equal(cut_epoch(data, 100.0, 2), np.arange(6000.0, 9000.0))


def test_cut_epoch_at_a_broken_rate_does_not_drift() -> None:
    sfreq_hz = 256.017
    data = np.arange(1000 * 30 * 257.0)
    for i in (1, 10, 999):
        epoch = cut_epoch(data, sfreq_hz, i)
        assert abs(epoch[0] - i * 30 * sfreq_hz) <= 0.5
        assert len(epoch) == round(30 * sfreq_hz)
