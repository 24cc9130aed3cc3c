"""Style ``spectrogram``: power over time and frequency by multitaper, in which rhythms can be seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from scipy.fft import next_fast_len, rfft

from eegtool.core.stages import EPOCH_S
from eegtool.pictures.png import gradient
from eegtool.pictures.spec import PictureSpec

ANCHORS: Final = (
    (10, 8, 40),
    (72, 20, 110),
    (170, 45, 95),
    (235, 110, 50),
    (250, 195, 70),
    (255, 250, 215),
)
"""From quiet to strong: night blue, purple, red, orange, yellow, white; lightness rises throughout."""

N_LEVELS: Final = 95
TICK: Final = N_LEVELS
PALETTE: Final = (*gradient(ANCHORS, N_LEVELS), (120, 150, 190))
"""Half a decibel per colour, then `TICK`."""

MAX_HZ: Final = 30.0
"""Top of the picture: the end of the beta band (AASM Manual)."""

FLOOR_DB: Final = -15.0
STEP_DB: Final = 0.5
"""Level 0, re 1 µV²/Hz, and height of a level.

Fixed for all epochs and subjects: absolute power is what tells stages apart. The range to 32 dB spans
beta of N3 (about -10 dB) to its slow waves (about 30 dB) in Sleep-EDF.
"""

# Windows of 2 s and three tapers: spindles (0.5-2 s) stay apart in time, and bands of 2 Hz in
# frequency. What lies between windows and between frequencies is so smooth that straight lines do.
_WINDOW_S: Final = 2.0
_HOP_S: Final = 0.25
_TAPERS: Final = 3

_FINE: Final = 32  # parts of a level to which power is rounded
_SHARES: Final = 16  # parts of the way from one value to the next: 16 * 32 * 95 fits 16 bits

TICKS_HZ: Final = (4, 8, 12, 16)
"""Ends of delta, theta, alpha and sigma (AASM Manual; spindles end at 16 Hz)."""


def visible_hz(width: int, height: int) -> float:
    """Top of the picture, whatever its size."""
    return MAX_HZ


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """What depends on sizes alone.

    Attributes
    ----------
    samples : int [n_windows, n_window]
        The sample of the epoch at each place of each window; mirrored at the ends of the epoch.
    n_bins : int
        Number of frequencies, one per ``sfreq_hz / n_window``.
    window, window_share : int [width], uint16 [width, 1]
        The window before each pixel column, and how far it is behind that.
    bin, bin_share : int [height], uint16 [height, 1]
        The frequency below each pixel row, and how far it is above that.
    """

    samples: np.ndarray
    n_bins: int
    window: np.ndarray
    window_share: np.ndarray
    bin: np.ndarray
    bin_share: np.ndarray


@lru_cache(maxsize=16)
def _grid(n_samples: int, sfreq_hz: float, width: int, height: int) -> _Grid:
    n_window = next_fast_len(round(_WINDOW_S * sfreq_hz), real=True)
    n_windows = round(EPOCH_S / _HOP_S)
    centres = (2 * np.arange(n_windows) + 1) * n_samples // (2 * n_windows)
    samples = np.abs(centres[:, None] + np.arange(n_window) - n_window // 2)
    samples = np.minimum(samples, 2 * (n_samples - 1) - samples)
    # The highest frequency of which the tapers need neighbours is half the sampling rate.
    n_bins = min(math.ceil(MAX_HZ * n_window / sfreq_hz) + 1, (n_window - _TAPERS) // 2 + 1)
    columns = (2 * np.arange(width) + 1) * n_windows / (2 * width) - 0.5
    rows = (2 * np.arange(height)[::-1] + 1) * (MAX_HZ * n_window) / (2 * height * sfreq_hz)
    window, window_share = _between(columns, n_windows)
    bin_, bin_share = _between(rows, n_bins)
    return _Grid(samples, n_bins, window, window_share, bin_, bin_share)


def _between(at: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the last of `n` values before each place and the share of the way to the next."""
    parts = np.clip(np.rint(at * _SHARES), 0, (n - 1) * _SHARES).astype(np.int64)
    before = np.minimum(parts // _SHARES, n - 2)
    return before, (parts - before * _SHARES).astype(np.uint16)[:, None]


def draw(
    epoch_uv: np.ndarray, sfreq_hz: float, width: int, height: int, spec: PictureSpec
) -> np.ndarray:
    """Draw the multitaper spectrogram, low frequencies at the bottom.

    Parameters
    ----------
    epoch_uv : float [n_samples]
        One epoch in µV.
    sfreq_hz : float
        Sampling rate.
    width, height : int
        Size in pixels.
    spec : PictureSpec
        Marks; the amplitude does not matter here.

    Returns
    -------
    uint8 [height, width]
        Power spectral density in levels of `STEP_DB` from `FLOOR_DB`; or `TICK`.
    """
    grid = _grid(len(epoch_uv), sfreq_hz, width, height)
    psd = _multitaper(epoch_uv.take(grid.samples), sfreq_hz, grid.n_bins)
    level = np.log(np.maximum(psd, 1e-10)) * (10 / math.log(10) / STEP_DB) - FLOOR_DB / STEP_DB
    # From here on in whole numbers: what machines do differently in the last digit ends here.
    fine = np.rint(np.clip(level, 0, N_LEVELS - 1) * _FINE).astype(np.uint16)
    columns = _interpolate(fine, grid.window, grid.window_share, _SHARES)
    picture = _interpolate(columns.T.copy(), grid.bin, grid.bin_share, _SHARES * _FINE)
    drawn = picture.astype(np.uint8)
    if spec.marks:
        drawn[_marks(width, height, spec.tick_px)] = TICK
    return drawn


def _multitaper(windows: np.ndarray, sfreq_hz: float, n_bins: int) -> np.ndarray:
    """Return power spectral densities by sine tapers (Riedel & Sidorenko 1995).

    A window times a sine has the spectrum of the window, once moved down and once moved up by the
    frequency of that sine: taper k needs no transform of its own, only the difference of the values
    k places below and above. Of the transform to twice the length of the window, they are
    half a bin apart.

    Parameters
    ----------
    windows : float [n_windows, n_window]
        Signal in µV.
    sfreq_hz : float
        Sampling rate.
    n_bins : int
        Number of frequencies, from 0 Hz.

    Returns
    -------
    float [n_windows, n_bins]
        Density in µV²/Hz.
    """
    n_window = windows.shape[1]
    positive = rfft(windows, 2 * n_window)[:, : 2 * n_bins + _TAPERS - 1]
    # Values at -3 ... 2 n_bins + 1 half bins; below zero they mirror those above.
    half = np.concatenate([positive[:, _TAPERS:0:-1].conj(), positive], axis=1)
    power = np.zeros((len(windows), 2 * n_bins))  # real and imaginary parts beside each other
    for k in range(1, _TAPERS + 1):
        below, above = (
            half[:, _TAPERS + shift : _TAPERS + shift + 2 * n_bins - 1 : 2] for shift in (-k, k)
        )
        tapered = (below - above).view(np.float64)
        power += tapered * tapered
    return (power[:, ::2] + power[:, 1::2]) / (n_window * sfreq_hz * _TAPERS)


def _interpolate(
    values: np.ndarray, before: np.ndarray, share: np.ndarray, divisor: int
) -> np.ndarray:
    """Return rows between those of `values`, uint16, divided and rounded.

    Differences may be negative: they wrap around, and wrap back when they are added.
    """
    start = values * _SHARES + divisor // 2
    step = (values[1:] - values[:-1]).take(before, axis=0)
    step *= share
    step += start.take(before, axis=0)
    step //= divisor
    return step


@lru_cache(maxsize=16)
def _marks(width: int, height: int, tick_px: int) -> np.ndarray:
    """Return which pixels are ticks: of frequency at both sides, of every fifth second on top."""
    marks = np.zeros((height, width), bool)
    rows = [height - 1 - round(hz / MAX_HZ * height) for hz in TICKS_HZ]
    marks[rows, :tick_px] = marks[rows, -tick_px:] = True
    marks[:tick_px, np.arange(5, EPOCH_S, 5) * width // EPOCH_S] = True
    return marks
