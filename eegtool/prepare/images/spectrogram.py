"""Style ``spectrogram``: power over time and frequency by multitaper, in which rhythms can be seen."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from scipy.fft import next_fast_len, rfft
from scipy.signal.windows import dpss

from eegtool.prepare.images.spec import PictureSpec

ANCHORS: Final = (
    (10, 8, 40),
    (72, 20, 110),
    (170, 45, 95),
    (235, 110, 50),
    (250, 195, 70),
    (255, 250, 215),
)
"""From quiet to strong: night blue, purple, red, orange, yellow, white; lightness rises throughout."""

MAX_HZ: Final = 30.0
"""Top of the picture: the end of the beta band (AASM Manual)."""

# Fixed for all epochs and subjects: absolute power is what tells stages apart. The range spans
# beta of N3 (about -10 dB re 1 µV²/Hz) to its slow waves (about 30 dB) in Sleep-EDF.
_RANGE_DB: Final = (-15.0, 32.0)

# Windows of 2 s, time-bandwidth 2, three tapers: spindles (0.5-2 s) stay apart in time, and bands
# of 2 Hz in frequency (multitaper after Thomson 1982).
_WINDOW_S: Final = 2.0
_TIME_BANDWIDTH: Final = 2.0
_TAPERS: Final = 3


def visible_hz(spec: PictureSpec) -> float:
    """Top of the picture, whatever its size."""
    return MAX_HZ


def draw(epoch_uv: np.ndarray, sfreq_hz: float, spec: PictureSpec) -> np.ndarray:
    """Draw the multitaper spectrogram, one window per pixel column, low frequencies at the bottom.

    Parameters
    ----------
    epoch_uv : float [n_samples]
        One epoch in µV.
    sfreq_hz : float
        Sampling rate.
    spec : PictureSpec
        Size; the amplitude does not matter here.

    Returns
    -------
    uint8 [size, size]
        Power spectral density in dB, from the lowest to the highest of the fixed range.
    """
    size, n_window = spec.size, round(_WINDOW_S * sfreq_hz)
    # One bin per pixel row, but at most two where the window itself has one: between those its
    # spectrum is so smooth that straight lines do.
    bins = min(int(np.ceil(sfreq_hz / MAX_HZ * size)), 2 * n_window)
    n_fft = next_fast_len(max(bins, n_window), real=True)
    padded = np.pad(epoch_uv, n_window // 2, mode="reflect")
    centres = (np.arange(size) + 0.5) / size * len(epoch_uv)
    starts = np.minimum(centres.astype(int), len(padded) - n_window)
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_window)[starts]

    power = np.zeros((size, n_fft // 2 + 1))
    for taper in _tapers(n_window):
        spectrum = rfft(windows * taper, n_fft, axis=1)
        power += spectrum.real**2 + spectrum.imag**2
    psd = power * (2.0 / (sfreq_hz * _TAPERS))  # one-sided; tapers have unit energy

    at = (np.arange(size) + 0.5) / size * MAX_HZ * n_fft / sfreq_hz  # rows, in bins
    below = np.minimum(at.astype(int), n_fft // 2 - 1)
    share = np.clip(at - below, 0.0, 1.0)
    rows = psd[:, below] * (1 - share) + psd[:, below + 1] * share  # [time, frequency]

    low, high = _RANGE_DB
    level = (10 * np.log10(np.maximum(rows, 1e-10)) - low) / (high - low)
    return (np.clip(level, 0.0, 1.0).T[::-1] * 255 + 0.5).astype(np.uint8)


@cache
def _tapers(n_window: int) -> np.ndarray:
    return np.asarray(dpss(n_window, _TIME_BANDWIDTH, _TAPERS))
