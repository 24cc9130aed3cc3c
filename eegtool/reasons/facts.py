"""What can be measured in an epoch: powers, rhythm, amplitude, graphic elements, eyes and chin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Final

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import welch

from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S
from eegtool.reasons.detectors import (
    SFREQ_HZ,
    EyeMovements,
    alpha_and_arousals,
    chin_db,
    eye_movements,
    share_of,
)
from eegtool.recordings.signals import cut_epoch, resample

BANDS_HZ: Final = {
    "delta": (0.5, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 12.0),
    "sigma": (12.0, 16.0),
    "beta": (16.0, 30.0),
}
"""The bands of yasa (Vallat & Walker 2021), which make sigma, the band of spindles, one of its own."""

RHYTHM_HZ: Final = (4.0, 16.0)
"""Where a rhythm is looked for: theta to sigma, the rhythms by which the AASM Manual tells stages."""

RHYTHM_EXCESS_DB: Final = 4.0
"""A rhythm has this much more power than a straight line, in log power over log frequency, through
what is half an octave below and above it: 2.5 times. Our choice: of epochs of 1/f noise, which have
no rhythm, about 3 % pass."""

SLOW_WAVE_HZ: Final = (0.5, 2.0)
SLOW_WAVE_UV: Final = 75.0
N3_SHARE: Final = 0.2
"""AASM Manual 2.6 (Berry et al. 2020), staging rules, N3: slow-wave activity has 0.5-2 Hz and more than
75 µV peak to peak, and N3 is scored where it makes up at least 20 % of an epoch."""

K_COMPLEX_RATIO: Final = 2.0
"""AASM Manual, N2: a K-complex is a negative wave with a positive one right behind it, 0.5 s or longer,
that stands out from the background. To stand out is, here, to be a slow wave of at least twice the
amplitude of the epoch; the factor is our choice."""

LOW_UV: Final = SLOW_WAVE_UV / 2
HIGH_UV: Final = SLOW_WAVE_UV
"""Low and high amplitude. The AASM Manual has no number for 'low amplitude'; ours are half and whole of
what it asks of a slow wave."""

DOMINANT_SHARE: Final = 0.8
"""Delta dominates with 80 % of the power: its waves are then twice as high as all faster activity
together (power goes with the square of amplitude). Below that, frequencies are mixed. Our choice."""

SLOW_EYES_SHARE: Final = 0.1
"""Slow eye movements are spoken of from 3 s of an epoch on. Our choice."""

CHIN_DB: Final = 4
"""Chin tone is low or high where it differs so much from the night's own median: by a factor of 1.6. The AASM
Manual compares it with other stages of the night and gives no number; ours is a choice."""

_SFREQ_HZ: Final = SFREQ_HZ
_MARGIN_S: Final = 10.0  # of signal before the first and after the last epoch, for the filters
_BLOCK_SAMPLES: Final = 2 * 3600 * 100
_WELCH_S: Final = 4.0  # yasa's default: two periods of the lowest frequency
_AMPLITUDE_WINDOW_S: Final = 2.0  # one period of the slowest slow wave
_PER_OCTAVE: Final = 24  # steps of the frequency axis on which rhythms are sought


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured in one epoch, rounded as it is quoted.

    Attributes
    ----------
    delta, theta, alpha, sigma, beta : float
        Part of the power of 0.5-30 Hz, 0 to 1, in two decimals.
    rhythms_hz : tuple of float
        Frequencies of the rhythms that stand out (`RHYTHM_EXCESS_DB`), in one decimal: the dominant
        one first, no more than one of a band.
    amplitude_uv : int
        Median peak-to-peak amplitude of 2-s windows.
    slow_wave_share : float
        Part of the epoch, 0 to 1, covered by slow waves higher than `SLOW_WAVE_UV`.
    n_slow_waves : int
        Number of these waves; one that crosses the border of epochs counts where its trough is.
    n_k_complexes : int
        Number of those that stand out as a K-complex does (`K_COMPLEX_RATIO`).
    n_spindles : int
        Number of spindles; they count where their peak is.
    n_before : int
        Number of spindles and K-complexes in the last half of the epoch before.
    n_arousals : int
        Number of arousals that begin in the epoch.
    alpha_cover : float
        Part of the epoch, 0 to 1, over which there is alpha rhythm.
    n_rapid, n_blinks : int or None
        Number of rapid eye movements and of blinks; None where eyes were not measured.
    slow_eyes : float or None
        Part of the epoch, 0 to 1, with slow eye movements; None without two EOG channels.
    chin_db : int or None
        Tone of the chin in dB above the median of the night; None where it was not measured.
    """

    delta: float
    theta: float
    alpha: float
    sigma: float
    beta: float
    rhythms_hz: tuple[float, ...]
    amplitude_uv: int
    slow_wave_share: float
    n_slow_waves: int
    n_k_complexes: int
    n_spindles: int
    n_before: int = 0
    n_arousals: int = 0
    alpha_cover: float = 0.0
    n_rapid: int | None = None
    n_blinks: int | None = None
    slow_eyes: float | None = None
    chin_db: int | None = None

    @property
    def rhythms(self) -> dict[str, float]:
        """The rhythms that stand out: band and Hz, the dominant one first."""
        return {_band_of(hz): hz for hz in self.rhythms_hz}

    @property
    def delta_dominates(self) -> bool:
        """Whether delta has `DOMINANT_SHARE` of the power; if not, frequencies are mixed."""
        return self.delta >= DOMINANT_SHARE

    @property
    def enough_slow_waves(self) -> bool:
        """Whether slow waves cover `N3_SHARE` of the epoch."""
        return self.slow_wave_share >= N3_SHARE

    @property
    def amplitude(self) -> str:
        """``low``, ``medium`` or ``high``."""
        if self.amplitude_uv < LOW_UV:
            return "low"
        return "medium" if self.amplitude_uv < HIGH_UV else "high"

    @property
    def alpha_over_half(self) -> bool:
        """Whether alpha rhythm covers more than half of the epoch."""
        return "alpha" in self.rhythms and self.alpha_cover > 0.5

    @property
    def has_slow_eyes(self) -> bool:
        """Whether slow eye movements were seen."""
        return (self.slow_eyes or 0.0) >= SLOW_EYES_SHARE

    @property
    def chin(self) -> str:
        """``low``, ``medium`` or ``high``; empty where it was not measured."""
        if self.chin_db is None:
            return ""
        return (
            "low" if self.chin_db <= -CHIN_DB else "high" if self.chin_db >= CHIN_DB else "medium"
        )

    def to_row(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Facts:
        """Read the form that `to_row` writes."""
        names = {f.name for f in fields(cls)}
        if set(row) != names:
            raise ValueError(f"the facts of an epoch are {', '.join(sorted(names))}")
        return cls(**row | {"rhythms_hz": tuple(row["rhythms_hz"])})


def _band_of(hz: float) -> str:
    if hz < BANDS_HZ["alpha"][0]:
        return "theta"
    return "alpha" if hz < BANDS_HZ["sigma"][0] else "sigma"


Channel = tuple[np.ndarray, float]
"""A signal of the whole recording in µV, float [n_samples], and its rate in Hz."""


def measure(
    data_uv: np.ndarray,
    sfreq_hz: float,
    onsets_s: Sequence[float],
    eyes: Sequence[Channel] = (),
    chin: Channel | None = None,
) -> list[Facts]:
    """Measure epochs of a recording.

    The detectors run over everything from the first to the last epoch: what a spindle has to stand
    out from is the whole night.

    Parameters
    ----------
    data_uv : float [n_samples]
        One channel of the whole recording in µV, filtered (0.3-35 Hz; a low-pass under 24 Hz would
        make rhythms out of its own edge).
    sfreq_hz : float
        Sampling rate.
    onsets_s : sequence of float
        Where the epochs begin, in seconds from the first sample.
    eyes : sequence of Channel
        None, one or two EOG channels of the recording, filtered.
    chin : Channel, optional
        EMG of the chin, filtered, or its envelope.

    Raises
    ------
    EegToolError
        If the sampling rate is too low for spindles.
    """
    if not onsets_s:
        return []
    if sfreq_hz < 2 * BANDS_HZ["beta"][1]:
        raise EegToolError(
            f"--rationale measured does not fit a channel sampled at {sfreq_hz:g} Hz.",
            f"Bands are measured up to {BANDS_HZ['beta'][1]:g} Hz: 60 Hz is the lowest rate.",
        )
    first = round(max(min(onsets_s) - _MARGIN_S, 0.0) * sfreq_hz)
    last = round((max(onsets_s) + EPOCH_S + _MARGIN_S) * sfreq_hz)
    signal_uv = _at_one_rate(data_uv[first:last], sfreq_hz)
    starts_s = np.asarray(onsets_s) - first / sfreq_hz
    epochs_uv = np.stack([cut_epoch(signal_uv, _SFREQ_HZ, start_s) for start_s in starts_s])

    windows_uv = epochs_uv.reshape(len(epochs_uv), -1, round(_AMPLITUDE_WINDOW_S * _SFREQ_HZ))
    amplitude_uv = np.median(np.ptp(windows_uv, axis=-1), axis=-1).round()
    shares, rhythms_hz = _spectral(epochs_uv)
    with np.errstate(divide="ignore", invalid="ignore"):  # flat stretches, waves without a slope
        spindle_s, slow_waves = _spindles(signal_uv), _slow_waves(signal_uv)
    in_alpha, arousals_s = alpha_and_arousals(signal_uv)
    moved = _eyes(
        [(uv[round(first / sfreq_hz * hz) : round(last / sfreq_hz * hz)], hz) for uv, hz in eyes]
    )
    chins_db = chin_db(*chin, np.asarray(onsets_s)) if chin else [None] * len(starts_s)
    covered = np.zeros(len(signal_uv))
    for start, _, stop, _ in slow_waves:
        covered[round(start * _SFREQ_HZ) : round(stop * _SFREQ_HZ)] = 1.0

    def count(times_s: np.ndarray, start_s: float, lasts_s: float = EPOCH_S) -> int:
        return int(((times_s >= start_s) & (times_s < start_s + lasts_s)).sum())

    def k_complexes_s(above_uv: float) -> np.ndarray:
        return np.asarray(slow_waves[slow_waves[:, 3] >= K_COMPLEX_RATIO * above_uv, 1])

    facts = []
    for i, start_s in enumerate(starts_s):
        before_s, half_s = start_s - EPOCH_S / 2, EPOCH_S / 2
        delta, theta, alpha, sigma, beta = (round(float(share), 2) for share in shares[i])
        facts.append(
            Facts(
                delta=delta,
                theta=theta,
                alpha=alpha,
                sigma=sigma,
                beta=beta,
                rhythms_hz=rhythms_hz[i],
                amplitude_uv=int(amplitude_uv[i]),
                slow_wave_share=round(float(cut_epoch(covered, _SFREQ_HZ, start_s).mean()), 2),
                n_slow_waves=count(slow_waves[:, 1], start_s),
                n_k_complexes=count(k_complexes_s(amplitude_uv[i]), start_s),
                n_spindles=count(spindle_s, start_s),
                n_before=count(spindle_s, before_s, half_s)
                + count(k_complexes_s(amplitude_uv[i]), before_s, half_s),
                n_arousals=count(arousals_s, start_s),
                alpha_cover=share_of(in_alpha, 1.0, start_s),
                n_rapid=count(moved.rapid_s, start_s) if moved else None,
                n_blinks=count(moved.blinks_s, start_s) if moved else None,
                slow_eyes=None
                if moved is None or moved.slow is None
                else share_of(moved.slow, _SFREQ_HZ, start_s),
                chin_db=chins_db[i],
            )
        )
    return facts


def _at_one_rate(signal_uv: np.ndarray, sfreq_hz: float) -> np.ndarray:
    return signal_uv if sfreq_hz == _SFREQ_HZ else resample(signal_uv, sfreq_hz, _SFREQ_HZ)


def _eyes(eyes: Sequence[Channel]) -> EyeMovements | None:
    """Return what one or two EOG channels show; None without any."""
    if not eyes:
        return None
    left_uv, *right = (_at_one_rate(uv, hz) for uv, hz in eyes)
    n = min(len(uv) for uv in (left_uv, *right))  # two rates may differ by a sample
    return eye_movements(left_uv[:n], right[0][:n] if right else None)


def _spectral(epochs_uv: np.ndarray) -> tuple[np.ndarray, list[tuple[float, ...]]]:
    """Return the relative band powers [n, 5] and the rhythms of each epoch in Hz, highest first."""
    import yasa  # takes seconds, and only rationales need it

    freqs_hz, density = welch(
        epochs_uv,
        _SFREQ_HZ,
        "hamming",
        nperseg=round(_WELCH_S * _SFREQ_HZ),
        average="median",  # as yasa: a blink does not count for the whole epoch
    )
    density = np.maximum(density, 1e-12)  # a stretch that is quite flat has no logarithm
    bands = [(low, high, name) for name, (low, high) in BANDS_HZ.items()]
    shares = yasa.bandpower_from_psd_ndarray(density, freqs_hz, bands, relative=True).T

    half = _PER_OCTAVE // 2
    low_hz, high_hz = RHYTHM_HZ
    # One more step than the range on either side: a rhythm is a peak, not the end of a slope.
    n_octaves = np.log2(high_hz / low_hz)
    steps = np.arange(-half - 1, round(n_octaves * _PER_OCTAVE) + half + 2)
    axis_hz = low_hz * 2.0 ** (steps / _PER_OCTAVE)
    level_db = 10 * np.log10(uniform_filter1d(density, 3, axis=-1))
    level_db = np.stack([np.interp(np.log(axis_hz), np.log(freqs_hz[1:]), r[1:]) for r in level_db])
    excess_db = level_db[:, half:-half] - (level_db[:, : -2 * half] + level_db[:, 2 * half :]) / 2
    axis_hz = axis_hz[half:-half]
    inner_db = excess_db[:, 1:-1]
    peaks = (inner_db > excess_db[:, :-2]) & (inner_db >= excess_db[:, 2:])
    peaks &= inner_db >= RHYTHM_EXCESS_DB
    rhythms_hz = []
    for is_peak, height_db in zip(peaks, inner_db, strict=True):
        highest_last = sorted(np.flatnonzero(is_peak), key=lambda i: height_db[i])
        found = [round(float(axis_hz[1 + i]), 1) for i in highest_last]
        of_band = {_band_of(hz): hz for hz in found}  # the highest of a band comes last and stays
        rhythms_hz.append(tuple(hz for hz in reversed(found) if hz in of_band.values()))
    return shares, rhythms_hz


def _spindles(signal_uv: np.ndarray) -> np.ndarray:
    """Return the peaks of yasa's spindles in s [n] (after Lacourse et al. 2018, its own thresholds).

    yasa holds the spectrogram of all it is given: a gigabyte for a night. It gets two hours at a
    time, with that threshold of sigma amplitude which it would draw from the whole night.
    """
    import yasa
    from mne.filter import filter_data
    from yasa.others import moving_transform, trimbothstd

    sigma = filter_data(
        signal_uv, _SFREQ_HZ, 12, 15, l_trans_bandwidth=1.5, h_trans_bandwidth=1.5, verbose="ERROR"
    )
    _, rms_uv = moving_transform(
        sigma, sf=_SFREQ_HZ, window=0.3, step=0.1, method="rms", interp=True
    )
    threshold_uv = min(rms_uv.mean() + 1.5 * trimbothstd(rms_uv, cut=0.1), 10.0)
    overlap = round(_MARGIN_S * _SFREQ_HZ)
    edges = np.linspace(0, len(signal_uv), len(signal_uv) // _BLOCK_SAMPLES + 2).astype(int)
    peaks_s = []
    for start, stop in pairwise(edges):
        first = max(start - overlap, 0)
        block = slice(first, stop + overlap)
        spread_uv = max(trimbothstd(rms_uv[block], cut=0.1), 1e-9)
        found = yasa.spindles_detect(
            signal_uv[block],
            _SFREQ_HZ,
            thresh={"rms": (threshold_uv - rms_uv[block].mean()) / spread_uv},
            verbose="CRITICAL",
        )
        if found is not None:
            peak_s = found.summary()["Peak"].to_numpy() + first / _SFREQ_HZ
            peaks_s.append(peak_s[(peak_s >= start / _SFREQ_HZ) & (peak_s < stop / _SFREQ_HZ)])
    return np.concatenate([*peaks_s, np.empty(0)])


def _slow_waves(signal_uv: np.ndarray) -> np.ndarray:
    """Return start, trough and end in s and height in µV of slow waves [n, 4].

    yasa finds them in the band of the AASM Manual. Their height is that in the signal itself, which
    is what a scorer measures; the filter of the detector makes them smaller.
    """
    import yasa

    waves = yasa.sw_detect(
        signal_uv,
        _SFREQ_HZ,
        freq_sw=SLOW_WAVE_HZ,
        # Not quite half a period of 2 Hz to one of 0.5 Hz; the height is judged below.
        dur_neg=(0.2, 1.0),
        dur_pos=(0.2, 1.0),
        amp_neg=(0.0, 500.0),
        amp_pos=(0.0, 500.0),
        amp_ptp=(SLOW_WAVE_UV / 2, 1000.0),
        verbose="CRITICAL",
    )
    if waves is None:
        return np.empty((0, 4))
    times_s = waves.summary()[["Start", "NegPeak", "End"]].to_numpy()
    samples = np.rint(times_s * _SFREQ_HZ).astype(int)
    heights_uv = [np.ptp(signal_uv[start : stop + 1]) for start, _, stop in samples]
    found = np.column_stack([times_s, heights_uv])
    return found[found[:, 3] > SLOW_WAVE_UV]
