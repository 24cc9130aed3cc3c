from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pytest
import yasa
from scipy.signal import welch

from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.simulate.twins import (
    CALIBRATION,
    PHYSICAL_RANGE_UV,
    NightTwin,
    available_nights,
    load_twin,
    simulate_cohort,
    simulate_signal,
    write_night,
)
from eegtool.simulate.waveforms import BANDS_HZ, SFREQ_HZ, Floats

NIGHT = "SC4001E0"
EPOCH_SAMPLES = EPOCH_S * SFREQ_HZ


@pytest.fixture(scope="module")
def night() -> NightTwin:
    return load_twin(NIGHT).cropped_around_sleep(10)


@pytest.fixture(scope="module")
def signal_uv(night: NightTwin) -> Floats:
    return simulate_signal(night, seed=1)


def band_powers(signal_uv: Floats) -> Floats:
    """Power per epoch, channel and band, measured as any reader would: by Welch's method."""
    epochs = signal_uv.reshape(len(signal_uv), -1, EPOCH_SAMPLES).swapaxes(0, 1)
    freqs, density = welch(epochs, SFREQ_HZ, nperseg=4 * SFREQ_HZ)
    bands = [density[..., (freqs >= low) & (freqs < high)].mean(-1) for low, high in BANDS_HZ]
    return np.stack(bands, axis=-1)


def test_calibration_is_small_and_attributed() -> None:
    assert sum(path.stat().st_size for path in CALIBRATION.iterdir()) <= 400_000
    readme = (CALIBRATION / "README.md").read_text(encoding="utf-8")
    for credit in ("Sleep-EDF Database Expanded 1.0.0", "ODC-By 1.0", "Kemp", "Goldberger"):
        assert credit in readme


def test_each_night_is_another_sleeper_with_all_stages() -> None:
    twins = [load_twin(name) for name in available_nights()]
    assert len({twin.subject for twin in twins}) == len(twins) == 7
    for twin in twins:
        assert set(STAGES) <= set(twin.stages())
        assert len(twin.stages()) == twin.n_epochs
        assert twin.channels == ("EEG Fpz-Cz", "EEG Pz-Oz")
    assert {twin.night for twin in twins} == {1, 2}


def test_unknown_night_is_named() -> None:
    with pytest.raises(EegToolError, match="Did you mean 'SC4001E0'"):
        load_twin("SC4001E")


def test_original_scoring_is_kept() -> None:
    runs = load_twin("SC4041E0").hypnogram
    assert "Movement time" in {run.text for run in runs}
    assert runs[-1].text == "Sleep stage ?"
    assert runs[-1].onset_s + runs[-1].duration_s == 24 * 3600
    assert {"Sleep stage 3", "Sleep stage 4"} <= {run.text for run in load_twin(NIGHT).hypnogram}


@pytest.mark.parametrize("name", [NIGHT, "SC4061E0"])
def test_band_powers_are_those_of_the_real_night(name: str) -> None:
    twin = load_twin(name).cropped_around_sleep(10)
    error_db = 10 * np.log10(band_powers(simulate_signal(twin, seed=1)) / twin.psd_uv2_per_hz)
    stages = np.array(twin.stages())
    for stage in STAGES:
        median_db = np.median(np.abs(error_db[stages == stage]), axis=0)
        assert median_db.max() < 1.0, f"{stage}: {median_db.round(2)}"


def test_no_seams_between_epochs(night: NightTwin) -> None:
    # With the same power everywhere, a step between two samples is no larger at a seam than elsewhere.
    powers = np.median(night.psd_uv2_per_hz, axis=0)
    even = replace(night, psd_uv2_per_hz=np.broadcast_to(powers, night.psd_uv2_per_hz.shape))
    steps = np.abs(np.diff(simulate_signal(even, seed=1)))
    at = np.arange(EPOCH_SAMPLES, steps.shape[1], EPOCH_SAMPLES)
    for offset in (-51, -50, -1, 0, 49, 50):  # around the seam and both ends of its crossfade
        assert steps[:, at + offset].mean() == pytest.approx(steps.mean(), rel=0.1)
        assert steps[:, at + offset].max() <= steps.max()


def test_same_seed_same_bytes_in_any_order(tmp_path: Path) -> None:
    names = available_nights()[:2]
    first = list(simulate_cohort(tmp_path / "a", names, seed=3, margin_min=1))
    again = list(simulate_cohort(tmp_path / "b", names[::-1], seed=3, margin_min=1))[::-1]
    assert [path.name for path in first] == [f"{name}-PSG.edf" for name in names]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert first[0].read_bytes()[-60_000:] != first[1].read_bytes()[-60_000:]


def test_other_seed_other_signal(night: NightTwin) -> None:
    short = night.condensed(1)
    assert not np.allclose(simulate_signal(short, seed=1), simulate_signal(short, seed=2))


def test_mne_reads_what_was_written(tmp_path: Path) -> None:
    twin = load_twin(NIGHT).condensed(2)
    psg, hypnogram = write_night(twin, tmp_path, seed=5)
    assert (psg.name, hypnogram.name) == ("SC4001E0-PSG.edf", "SC4001EC-Hypnogram.edf")
    assert sorted(path.name for path in tmp_path.iterdir()) == [psg.name, hypnogram.name]

    raw = mne.io.read_raw_edf(psg, verbose="ERROR")
    assert raw.ch_names == ["EEG Fpz-Cz", "EEG Pz-Oz"]
    assert raw.info["sfreq"] == SFREQ_HZ
    assert raw.n_times == twin.n_epochs * EPOCH_SAMPLES
    assert raw.info["meas_date"].replace(tzinfo=None) == twin.start
    step_uv = np.ptp(PHYSICAL_RANGE_UV) / 2**16
    np.testing.assert_allclose(raw.get_data() * 1e6, simulate_signal(twin, seed=5), atol=step_uv)

    annotations = mne.read_annotations(hypnogram)
    written = list(
        zip(annotations.onset, annotations.duration, annotations.description, strict=True)
    )
    assert written == [(run.onset_s, run.duration_s, run.text) for run in twin.hypnogram]
    for path in (psg, hypnogram):
        assert b"SIMULATED" in path.read_bytes()[:168]


def test_loud_epochs_are_clipped_within_the_range(tmp_path: Path) -> None:
    twin = load_twin(NIGHT).condensed(1)
    loud = replace(twin, psd_uv2_per_hz=twin.psd_uv2_per_hz * 1e4)
    psg, _ = write_night(loud, tmp_path, seed=5)
    peaks_uv = mne.io.read_raw_edf(psg, verbose="ERROR").get_data() * 1e6
    assert (peaks_uv.min(), peaks_uv.max()) == pytest.approx(PHYSICAL_RANGE_UV)


def test_cropping_starts_later_and_counts_onsets_from_there() -> None:
    twin = load_twin(NIGHT)
    cut = twin.cropped(1000, 1100)
    assert cut.n_epochs == 100
    assert (cut.start - twin.start).total_seconds() == 1000 * EPOCH_S
    assert cut.stages() == twin.stages()[1000:1100]
    np.testing.assert_array_equal(cut.psd_uv2_per_hz, twin.psd_uv2_per_hz[1000:1100])
    assert cut.hypnogram[0].onset_s == 0
    last = cut.hypnogram[-1]
    assert last.onset_s + last.duration_s == 100 * EPOCH_S
    with pytest.raises(EegToolError, match="has 2650"):
        twin.cropped(2600, 2651)


def test_cropping_around_sleep_leaves_the_margin() -> None:
    stages = load_twin(NIGHT).cropped_around_sleep(5).stages()
    assert set(stages[:10]) == set(stages[-10:]) == {"W"}
    assert "W" not in (stages[10], stages[-11])


@pytest.mark.parametrize("epochs_per_stage", [1, 3, 4])
def test_condensed_night_has_so_many_of_every_stage(epochs_per_stage: int) -> None:
    for name in available_nights():
        short = load_twin(name).condensed(epochs_per_stage)
        assert [short.stages().count(stage) for stage in STAGES] == [epochs_per_stage] * 5
        assert short.stages()[0] == "W"
        assert simulate_signal(short, seed=0).shape == (2, 5 * epochs_per_stage * EPOCH_SAMPLES)
    with pytest.raises(EegToolError, match="cannot be taken"):
        load_twin(NIGHT).condensed(1000)


def test_yasa_finds_spindles_in_n2(night: NightTwin, signal_uv: Floats) -> None:
    stages = np.array(night.stages())
    channel = signal_uv[0].reshape(-1, EPOCH_SAMPLES)
    epochs = {stage: channel[stages == stage] for stage in ("N2", "REM", "W")}
    # yasa judges a spindle against the rest of the signal: give it all three stages at a time.
    one_row = np.concatenate(list(epochs.values()))
    found = yasa.spindles_detect(one_row.ravel(), SFREQ_HZ, verbose="ERROR").summary()
    label = np.repeat(list(epochs), [len(rows) for rows in epochs.values()])
    counts = {
        stage: int((label[(found["Peak"] // EPOCH_S).astype(int)] == stage).sum())
        for stage in epochs
    }
    per_min = {stage: 2 * counts[stage] / len(epochs[stage]) for stage in epochs}
    assert 1.0 < per_min["N2"] < 6.0
    assert max(per_min["W"], per_min["REM"]) < per_min["N2"] / 4


def test_n3_has_high_slow_waves(night: NightTwin, signal_uv: Floats) -> None:
    stages = np.array(night.stages())
    seconds = signal_uv[0].reshape(night.n_epochs, -1, 2 * SFREQ_HZ)  # a slow wave fits into 2 s
    high = (np.ptp(seconds, axis=-1) > 75).mean(axis=1)
    assert np.median(high[stages == "N3"]) > 0.5
    assert np.median(high[stages == "REM"]) == 0
