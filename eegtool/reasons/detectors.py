"""What is found in signals over time: alpha, arousals, eye movements, blinks, the tone of the chin.

Spindles, slow waves and rapid eye movements are yasa's. For alpha over time, arousals, slow eye movements
and blinks yasa has no detector; ours follow the words of the AASM Manual 2.6 (Berry et al. 2020), and every
number that the manual does not give is called our choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.ndimage import maximum_filter1d, median_filter, minimum_filter1d, uniform_filter1d
from scipy.signal import butter, sosfiltfilt

from eegtool.core.stages import EPOCH_S
from eegtool.recordings.signals import cut_epoch

SFREQ_HZ: Final = 100.0
"""Rate of all signals here, which yasa's author recommends."""

_WINDOW: Final = round(2 * SFREQ_HZ)  # two seconds, one of which follows the other by one
_HOP: Final = round(SFREQ_HZ)
_ALPHA_HZ: Final = (8.0, 13.0)  # AASM Manual
_FLANKS_HZ: Final = ((5.0, 7.0), (14.5, 18.0))  # below and above, without what leaks from alpha
_FAST_HZ: Final = ((8.0, 12.0), (16.0, 30.0))  # arousal: alpha and above 16 Hz, no spindles
_ALPHA_EXCESS_DB: Final = 7.0
"""Alpha is there where it has five times the power of the line between what is below and above. Our choice: of
noise, less than 2 % of the time passes."""

_AROUSAL_DB: Final = 6.0
"""Activity is faster where alpha and beta have four times the power of the ten seconds before. Our choice."""

_AROUSAL_S: Final = 3
_STABLE_S: Final = 10
"""AASM Manual, arousal rule: a shift of at least 3 s after at least 10 s of stable sleep."""

_LONGEST_AROUSAL_S: Final = 15
"""What is longer takes more than half of an epoch and is an awakening (AASM Manual, scoring of W)."""

SLOW_EYE_UV: Final = 25.0
"""Amplitude from which on a slow eye movement is counted; our choice, below the 50 µV of rapid ones."""

_SLOW_EYE_HZ: Final = 1.0  # its first deflection lasts longer than half a second (AASM Manual)
_BLINK_S: Final = 0.35
"""A blink is over in this time at half of its height, and falls about as fast as it rises: the lid comes back.
What the eye looks at stays, and a high-pass of 0.3 Hz lets it fall slowly. Our choice."""

_BLINK_SYMMETRY: Final = 2.0
_SWING_S: Final = 0.4
_RAPID_RISE_S: Final = (
    0.25  # half of the half second of the AASM Manual, as it is half of the height
)

RAPID_UV: Final = (50.0, 400.0)
"""Amplitudes of rapid eye movements: yasa's lowest, and high enough for those of wake."""


def _power(signal_uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the power of windows of 2 s that begin every second [n, n_freqs], and the frequencies."""
    windows = np.lib.stride_tricks.sliding_window_view(signal_uv, _WINDOW)[::_HOP]
    taper = np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(windows * taper)) ** 2
    return np.maximum(power, 1e-9), np.fft.rfftfreq(_WINDOW, 1 / SFREQ_HZ)


def _band(power: np.ndarray, freqs_hz: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    inside = (freqs_hz >= low_hz) & (freqs_hz < high_hz)
    return np.asarray(power[:, inside].mean(axis=1))


def alpha_and_arousals(signal_uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find alpha rhythm and arousals in an EEG.

    Parameters
    ----------
    signal_uv : float [n_samples]
        At `SFREQ_HZ`.

    Returns
    -------
    alpha : bool [n_seconds]
        Whether there is alpha rhythm in the two seconds that begin there.
    arousals_s : float [n]
        When arousals begin, in seconds.
    """
    if len(signal_uv) < _WINDOW:
        return np.zeros(0, bool), np.empty(0)
    power, freqs_hz = _power(signal_uv)
    below, above = (_band(power, freqs_hz, *flank) for flank in _FLANKS_HZ)
    line = np.sqrt(below * above)  # alpha is about half way in log frequency
    # The strongest 1.5 Hz of the band: a rhythm has one frequency.
    near = uniform_filter1d(power, 3, axis=1)[
        :, (freqs_hz >= _ALPHA_HZ[0]) & (freqs_hz <= _ALPHA_HZ[1])
    ]
    alpha = near.max(axis=1) > line * 10 ** (_ALPHA_EXCESS_DB / 10)
    alpha = median_filter(alpha.astype(np.uint8), 3).astype(bool)  # one second alone is chance

    fast_db = 10 * np.log10(sum(_band(power, freqs_hz, *band) for band in _FAST_HZ))
    arousals_s = []
    second, n = _STABLE_S, len(fast_db)
    while second + _AROUSAL_S <= n:
        before_db = fast_db[second - _STABLE_S : second]
        is_faster = fast_db[second:] >= np.median(before_db) + _AROUSAL_DB
        stable = before_db.max() < np.median(before_db) + _AROUSAL_DB
        n_faster = int(np.argmin(is_faster)) if not is_faster.all() else len(is_faster)
        lasts_s = (
            n_faster - 1
        )  # windows of 2 s see it half a second before it begins, and after its end
        if stable and _AROUSAL_S <= lasts_s <= _LONGEST_AROUSAL_S:
            arousals_s.append(float(second))
        second += max(n_faster, 1)
    return alpha, np.array(arousals_s)


@dataclass(frozen=True, slots=True, eq=False)
class EyeMovements:
    """What eyes did.

    Attributes
    ----------
    rapid_s, blinks_s : float [n]
        When they had their peaks, in seconds.
    slow : bool [n_samples] or None
        Where slow eye movements are; None with one channel, in which they cannot be told from slow EEG.
    """

    rapid_s: np.ndarray
    blinks_s: np.ndarray
    slow: np.ndarray | None


def eye_movements(left_uv: np.ndarray, right_uv: np.ndarray | None) -> EyeMovements:
    """Find eye movements in one or two EOG channels at `SFREQ_HZ`.

    Eyes move together: what is opposite in both channels is them, what is the same is EEG. Rapid ones are
    found by `yasa.rem_detect` (Agarwal et al. 2005, Yetton et al. 2016), from which blinks are then told apart.
    """
    import yasa  # takes seconds, and only reasons need it

    other_uv = -left_uv if right_uv is None else right_uv
    moving_uv = (left_uv - other_uv) / 2
    found = yasa.rem_detect(
        left_uv, other_uv, SFREQ_HZ, amplitude=RAPID_UV, duration=(0.15, 1.5), verbose="CRITICAL"
    )
    peaks_s = found.summary()["Peak"].to_numpy(float) if found is not None else np.empty(0)
    # The filter of yasa lets a step ring: of two peaks within that time, the first is the ringing.
    peaks_s = peaks_s[np.append(np.diff(peaks_s) > _SWING_S, True)[: len(peaks_s)]]
    times_s = np.array([_rise_and_fall_s(moving_uv, peak_s) for peak_s in peaks_s]).reshape(-1, 2)
    rise_s, fall_s = times_s.T
    is_blink = (rise_s + fall_s <= _BLINK_S) & (fall_s <= _BLINK_SYMMETRY * rise_s + 0.02)
    is_rapid = ~is_blink & (rise_s <= _RAPID_RISE_S)
    slow = None if right_uv is None else _slow(moving_uv, (left_uv + right_uv) / 2)
    return EyeMovements(peaks_s[is_rapid], peaks_s[is_blink], slow)


def _rise_and_fall_s(moving_uv: np.ndarray, peak_s: float) -> tuple[float, float]:
    """Return how long a deflection is higher than half of its height before its peak, and after it."""
    reach = round(0.15 * SFREQ_HZ)
    at = round(peak_s * SFREQ_HZ)
    first = max(at - reach, 0)
    near = np.abs(moving_uv[first : at + reach])
    at = first + int(near.argmax())  # yasa's peak is that of the filtered signal
    height = np.abs(moving_uv[at])
    higher = np.sign(moving_uv[at]) * moving_uv >= height / 2
    reach = round(SFREQ_HZ)
    rise = int(np.argmin(np.append(higher[max(at - reach, 0) : at + 1][::-1], False)))
    fall = int(np.argmin(np.append(higher[at : at + reach], False)))
    return rise / SFREQ_HZ, fall / SFREQ_HZ


def _slow(moving_uv: np.ndarray, shared_uv: np.ndarray) -> np.ndarray:
    """Return where both eyes move slowly, more than what they share with the EEG, and nothing is quick."""
    sos = butter(2, _SLOW_EYE_HZ, fs=SFREQ_HZ, output="sos")
    slow_uv, eeg_uv = (np.asarray(sosfiltfilt(sos, x)) for x in (moving_uv, shared_uv))
    half = round(4 * SFREQ_HZ)  # two periods of 0.5 Hz: long enough for a movement to come and go

    def size(x: np.ndarray) -> np.ndarray:
        return np.asarray(maximum_filter1d(x, half) - minimum_filter1d(x, half)) / 2

    quick_uv = size(moving_uv - slow_uv)
    swing_uv = size(slow_uv)
    return (swing_uv >= SLOW_EYE_UV) & (swing_uv > 2 * size(eeg_uv)) & (quick_uv < swing_uv)


def chin_db(chin_uv: np.ndarray, sfreq_hz: float, onsets_s: np.ndarray) -> list[int]:
    """Return the tone of the chin in each epoch, in dB above the median of all these epochs.

    Parameters
    ----------
    chin_uv : float [n_samples]
        EMG, filtered, or its envelope.
    sfreq_hz : float
        Its sampling rate.
    onsets_s : float [n]
        Where epochs begin.
    """
    # The median over half seconds: a twitch does not count for the whole epoch.
    power = uniform_filter1d(np.square(chin_uv), max(round(sfreq_hz / 2), 1))
    levels = [float(np.median(cut_epoch(power, sfreq_hz, at))) for at in onsets_s]
    decibels = 10 * np.log10(np.maximum(levels, 1e-9))
    return [int(db) for db in np.rint(decibels - np.median(decibels))]


def share_of(found: np.ndarray, per_s: float, start_s: float) -> float:
    """Return the part of an epoch in which something was found, in two decimals."""
    first = round(start_s * per_s)
    part = found[max(first, 0) : first + round(EPOCH_S * per_s)]
    return round(float(part.mean()), 2) if len(part) else 0.0
