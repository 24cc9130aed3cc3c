from __future__ import annotations

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.recordings.montages import KINDS
from eegtool.recordings.signals import (
    amplitude,
    band_pass,
    check_amplitude,
    check_band,
    check_rate,
    cut_epoch,
    microvolts,
    notch,
    resample,
    trim_wake,
    whole_epochs,
)

SFREQ_HZ = 100.0


def sine(hz: float, seconds: float = 300.0, sfreq_hz: float = SFREQ_HZ) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * sfreq_hz)) / sfreq_hz)


def noise(size_uv: float = 20.0, seconds: float = 300.0) -> np.ndarray:
    """Noise of which the middle half spans `amplitude`."""
    rng = np.random.default_rng(3)
    return rng.standard_normal(round(seconds * SFREQ_HZ)) * size_uv / 1.349


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


def test_notch_takes_out_the_mains_and_nothing_else() -> None:
    eeg, mains = sine(10.0, sfreq_hz=256.0), sine(50.0, sfreq_hz=256.0)
    middle = slice(20_000, 50_000)
    np.testing.assert_allclose(notch(eeg + mains, 256.0, 50.0)[middle], eeg[middle], atol=0.01)
    np.testing.assert_allclose(notch(eeg, 256.0, 50.0)[middle], eeg[middle], atol=0.01)


@pytest.mark.parametrize("notch_hz", [50.0, 60.0, 0.0, -50.0])
def test_a_notch_that_does_not_fit_names_the_flag(notch_hz: float) -> None:
    with pytest.raises(EegToolError, match=rf"--notch-hz {notch_hz:g} does not fit .* 100 Hz"):
        notch(sine(10.0), 100.0, notch_hz)


@pytest.mark.parametrize("sfreq_hz", [199.9, 200.0, 250.0, 256.0, 512.0, 256.017, 100 / 3, 100.0])
def test_resampling_keeps_time(sfreq_hz: float) -> None:
    """A rhythm is where it was to the end: the ratio is exact, not rounded to whole rates."""
    resampled = resample(sine(10.0, 400.0, sfreq_hz), sfreq_hz, 100.0)
    assert len(resampled) == pytest.approx(40_000, abs=1)
    late = slice(38_000, 39_000)
    np.testing.assert_allclose(resampled[late], sine(10.0, 400.0)[late], atol=0.01)


def test_resampling_folds_nothing_over() -> None:
    assert np.std(resample(sine(70.0, sfreq_hz=256.0), 256.0, 100.0)[1000:-1000]) < 0.01


def test_resampling_to_nothing_is_refused() -> None:
    with pytest.raises(EegToolError, match="--resample-hz -1"):
        resample(sine(10.0), 100.0, -1.0)


@pytest.mark.parametrize("sfreq_hz", [1.0, 10.0, KINDS["eeg"].min_sfreq_hz - 0.1, float("nan")])
def test_rates_too_low_for_eeg(sfreq_hz: float) -> None:
    with pytest.raises(EegToolError, match="too slow to hold the rhythms of sleep"):
        check_rate(sfreq_hz)


def test_rates_of_eeg() -> None:
    for sfreq_hz in (KINDS["eeg"].min_sfreq_hz, 100.0, 199.9, 512.0):
        check_rate(sfreq_hz)


def test_the_amplitude_ignores_drifts_artefacts_and_pauses() -> None:
    wave = noise(20.0)
    assert amplitude(wave, SFREQ_HZ) == pytest.approx(20.0, rel=0.02)
    drifting = wave + np.linspace(0.0, 5_000.0, len(wave))
    assert amplitude(drifting, SFREQ_HZ) == pytest.approx(40.0, rel=0.3)  # 67 µV more per window
    broken = wave.copy()
    broken[:3_000] = 0.0
    broken[9_000:9_500] = 3_000.0
    assert amplitude(broken, SFREQ_HZ) == pytest.approx(20.0, rel=0.05)
    assert amplitude(wave[:5], SFREQ_HZ) > 0


@pytest.mark.parametrize("uv", [0.11, 0.4, 20.0, 300.0, 9_000.0])
def test_amplitudes_of_eeg(uv: float) -> None:
    assert check_amplitude(noise(uv), SFREQ_HZ) == ""


@pytest.mark.parametrize(
    ("data_uv", "message"),
    [
        (np.zeros(3000), "flat"),
        (np.full(3000, 80.0), "flat"),
        (np.where(np.arange(30_000) < 20_000, 0.0, noise(seconds=300.0)), "flat for most"),
        (np.sign(sine(3.1)) * 200.0, "saturated: 100%"),
        (np.clip(noise(20.0), -2.0, 2.0), "saturated: 8[0-9]%"),
        (noise(20e6), r"signal is 2e\+07 µV: it is not EEG"),
        (noise(0.05), r"signal is 0.0499 µV: it is not EEG"),
        (np.full(3000, np.nan), "no numbers"),
        (np.append(noise(20.0), np.inf), "no numbers"),
    ],
    ids=["zeros", "level", "pause", "rails", "clipped", "1e6", "faint", "nan", "inf"],
)
def test_amplitudes_that_are_no_eeg(data_uv: np.ndarray, message: str) -> None:
    with pytest.raises(EegToolError, match=message) as raised:
        check_amplitude(data_uv, SFREQ_HZ)
    assert raised.value.fix


def test_a_signal_that_is_clipped_at_times_is_told() -> None:
    assert check_amplitude(np.clip(noise(20.0), -20.0, 20.0), SFREQ_HZ) == (
        "it is clipped for 18% of the time."
    )


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        *[(unit, 1.0) for unit in ("uV", "µV", "μV", " uv ", "UV", "\x83\xcaV", "microvolt")],
        *[("nV", 1e-3), ("mV", 1e3), ("V", 1e6), ("Volts", 1e6)],
    ],
)
def test_a_known_unit_counts(unit: str, factor: float) -> None:
    assert microvolts(noise(20.0) / factor, unit, SFREQ_HZ) == (factor, "")


@pytest.mark.parametrize("unit", ["", "  ", "?V", ".V", "bpm"])
@pytest.mark.parametrize(("meant", "factor"), [("uV", 1.0), ("mV", 1e3), ("V", 1e6)])
@pytest.mark.parametrize("amplitude_uv", [3.0, 30.0, 400.0])
def test_the_amplitude_tells_an_unknown_unit(
    unit: str, meant: str, factor: float, amplitude_uv: float
) -> None:
    found, note = microvolts(noise(amplitude_uv) / factor, unit, SFREQ_HZ)
    assert found == factor
    assert f"was read as {meant}" in note
    assert (f"'{unit}'" if unit.strip() else "missing") in note


@pytest.mark.parametrize(
    ("numbers", "unit", "meant", "factor"),
    [
        (30.0, "mV", "uV", 1.0),  # as in some files of the NSRR
        (8.0, "mV", "uV", 1.0),
        (30.0, "V", "uV", 1.0),  # a million times too large
        (0.03, "V", "mV", 1e3),
        (0.03, "uV", "mV", 1e3),
        (3e-5, "uV", "V", 1e6),
        (3e-5, "mV", "V", 1e6),
    ],
)
def test_the_amplitude_overrules_a_wrong_unit(
    numbers: float, unit: str, meant: str, factor: float
) -> None:
    found, note = microvolts(noise(numbers), unit, SFREQ_HZ)
    assert found == factor
    assert note.startswith(f"its unit '{unit}' was read as {meant}, ")


@pytest.mark.parametrize("numbers", [0.2, 0.4, 1_500.0, 8_000.0])
def test_a_faint_or_large_signal_keeps_its_unit(numbers: float) -> None:
    assert microvolts(noise(numbers), "uV", SFREQ_HZ) == (1.0, "")


@pytest.mark.parametrize("unit", ["uV", "mV", "V", ""])
def test_no_unit_helps_a_signal_a_million_times_too_large(unit: str) -> None:
    with pytest.raises(EegToolError, match=r"not EEG|none makes the signal an EEG") as raised:
        microvolts(noise(20e6), unit, SFREQ_HZ)
    assert "header" in raised.value.fix


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
    ("n_samples", "sfreq_hz", "first_onset_s", "epochs"),
    [
        (2999, 100.0, 0.0, 0),
        (3000, 100.0, 0.0, 1),
        (5999, 100.0, 0.0, 1),
        (0, 100.0, 0.0, 0),
        (30 * 29 * 128, 128.0, 0.0, 29),
        (1000 * 951, 30 / 0.9, 0.0, 951),  # 951 epochs, less a rounding error
        (5997 * 951, 199.9, 0.0, 951),
        (6000, 100.0, 15.0, 1),
        (7500, 100.0, 15.0, 2),
        (1000, 100.0, 15.0, 0),
        (59.7, 1.0, 0.0, 1),  # seconds themselves
    ],
)
def test_whole_epochs(n_samples: float, sfreq_hz: float, first_onset_s: float, epochs: int) -> None:
    assert whole_epochs(n_samples, sfreq_hz, first_onset_s) == epochs


def test_cut_epoch() -> None:
    data = np.arange(10_000.0)
    np.testing.assert_array_equal(cut_epoch(data, 100.0, 0.0), np.arange(3000.0))
    np.testing.assert_array_equal(cut_epoch(data, 100.0, 60.0), np.arange(6000.0, 9000.0))
    np.testing.assert_array_equal(cut_epoch(data, 100.0, 15.0), np.arange(1500.0, 4500.0))


@pytest.mark.parametrize("sfreq_hz", [256.017, 199.9, 100 / 3])
def test_cut_epoch_at_a_broken_rate_does_not_drift(sfreq_hz: float) -> None:
    n_epochs = 1000
    data = np.arange(float(int(n_epochs * 30 * sfreq_hz)))
    assert whole_epochs(len(data), sfreq_hz) == n_epochs
    for i in range(n_epochs):
        epoch = cut_epoch(data, sfreq_hz, 30.0 * i)
        assert abs(epoch[0] - i * 30 * sfreq_hz) <= 1.0
        assert len(epoch) == round(30 * sfreq_hz)
