"""Style ``spectrogram``: power over time and frequency by multitaper, in which rhythms can be seen."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from scipy.fft import next_fast_len

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

# Half bins that are multiplied at a time: so few that BLAS stays in one thread.
_GROUP: Final = 16

_FINE_BITS: Final = 5
_FINE: Final = 1 << _FINE_BITS  # parts of a level to which power is rounded
_SHARE_BITS: Final = 4
_SHARES: Final = (
    1 << _SHARE_BITS
)  # parts of the way from one value to the next: 16 * 32 * 95 fits 16 bits

TICKS_HZ: Final = (4, 8, 12, 16)
"""Ends of delta, theta, alpha and sigma (AASM Manual; spindles end at 16 Hz)."""


def visible_hz(width: int, height: int) -> float:
    """Top of the picture, whatever its size."""
    return MAX_HZ


class _Scratch(threading.local):
    """Arrays that each thread computes in, from picture to picture.

    To get that much memory from the system, and give it back, takes longer than to fill it.
    """

    def __init__(
        self, pairs: np.ndarray, waves: np.ndarray, n_bins: int, width: int, height: int
    ) -> None:
        self.folded = np.empty(pairs.shape)
        self.halves = np.empty((*waves.shape[:3], pairs.shape[2]))
        self.tapered = np.empty((2, 2, n_bins, pairs.shape[2]))
        self.columns = np.empty((2, width, n_bins), np.uint16)
        self.picture = np.empty((2, height, width), np.uint16)


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """What depends on sizes and rate alone."""

    pairs: np.ndarray  # int [2, n_pairs, n_windows]: samples before the middle and as far behind
    waves: np.ndarray  # float [2, n_groups, _GROUP, n_pairs]: see `_waves`
    window: np.ndarray  # int [width]: the window before each pixel column
    window_share: np.ndarray  # uint16 [width, n_bins]: how far the column is behind it
    bin: np.ndarray  # int [height]: the frequency below each pixel row
    bin_share: np.ndarray  # uint16 [height, width]: how far the row is above it
    scratch: _Scratch


@lru_cache(maxsize=16)
def _grid(n_samples: int, sfreq_hz: float, width: int, height: int) -> _Grid:
    n_window = next_fast_len(round(_WINDOW_S * sfreq_hz), real=True)
    n_windows = round(EPOCH_S / _HOP_S)
    centres = (2 * np.arange(n_windows) + 1) * n_samples // (2 * n_windows)
    samples = np.abs(centres[:, None] + np.arange(n_window) - n_window // 2)
    samples = np.minimum(samples, 2 * (n_samples - 1) - samples)
    # The highest frequency of which the tapers need neighbours is half the sampling rate.
    n_bins = min(math.ceil(MAX_HZ * n_window / sfreq_hz) + 1, (n_window - _TAPERS) // 2 + 1)
    early = np.arange(1, n_window // 2 + 1)  # tapers are zero at the first sample
    pairs = samples.T[np.stack([early, n_window - early])]
    columns = (2 * np.arange(width) + 1) * n_windows / (2 * width) - 0.5
    rows = (2 * np.arange(height)[::-1] + 1) * (MAX_HZ * n_window) / (2 * height * sfreq_hz)
    window, window_share = _between(columns, n_windows, n_bins)
    bin_, bin_share = _between(rows, n_bins, width)
    waves = _waves(n_window, n_bins, sfreq_hz)
    scratch = _Scratch(pairs, waves, n_bins, width, height)
    return _Grid(pairs, waves, window, window_share, bin_, bin_share, scratch)


def _waves(n_window: int, n_bins: int, sfreq_hz: float) -> np.ndarray:
    """Return by what sums of pairs, and by what their differences, are multiplied for the transform in half bins.

    Odd half bins come first, from -3 on, then even ones from -2 on; the last ones fill the group. Signs are
    such that sine tapers take differences, and the scale such that squares add up to a power spectral
    density in µV²/Hz.
    """
    half = np.concatenate([np.arange(-3, 2 * n_bins + 3, 2), np.arange(-2, 2 * n_bins + 2, 2)])
    half = np.pad(half, (0, -len(half) % _GROUP))[:, None]
    early = np.arange(1, n_window // 2 + 1)
    turn = np.pi * (0.5 - early / n_window) * half
    weight = np.where(half // 2 % 2, -1, 1) / math.sqrt(n_window * sfreq_hz * _TAPERS)
    weight = weight * np.where(2 * early == n_window, 0.5, 1)  # the middle is its own counterpart
    return (np.stack([np.cos(turn), np.sin(turn)]) * weight).reshape(2, -1, _GROUP, len(early))


def _between(at: np.ndarray, n: int, wide: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the last of `n` values before each place, and the share of the way to the next, so many times side by side."""
    parts = np.clip(np.rint(at * _SHARES), 0, (n - 1) * _SHARES).astype(np.int64)
    before = np.minimum(parts // _SHARES, n - 2)
    share = (parts - before * _SHARES).astype(np.uint16)
    return before, share[:, None].repeat(wide, axis=1)


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
    scratch = grid.scratch
    psd = _multitaper(epoch_uv, grid)
    level = np.log(np.maximum(psd, 1e-10, out=psd), out=psd)
    level *= 10 / math.log(10) / STEP_DB * _FINE
    level -= FLOOR_DB / STEP_DB * _FINE
    level.clip(0, (N_LEVELS - 1) * _FINE, out=level)
    # From here on in whole numbers: what machines do differently in the last digit ends here.
    fine = np.rint(level, out=level).T.astype(np.uint16, order="C")
    columns = _interpolate(fine, grid.window, grid.window_share, _SHARE_BITS, scratch.columns)
    by_bin = np.ascontiguousarray(columns.T)
    bits = _SHARE_BITS + _FINE_BITS
    picture = _interpolate(by_bin, grid.bin, grid.bin_share, bits, scratch.picture)
    drawn = picture.astype(np.uint8)
    if spec.marks:
        drawn[_marks(width, height, spec.tick_px)] = TICK
    return drawn


def _multitaper(epoch_uv: np.ndarray, grid: _Grid) -> np.ndarray:
    """Return power spectral densities in µV²/Hz by sine tapers (Riedel & Sidorenko 1995), float [n_bins, n_windows]."""
    scratch = grid.scratch
    sums, differences = folded = epoch_uv.take(grid.pairs, out=scratch.folded, mode="clip")
    sums += differences
    differences *= -2
    differences += sums
    halves = np.matmul(grid.waves, folded[:, None], out=scratch.halves)
    halves = halves.reshape(2, -1, halves.shape[-1])
    # A window times a sine has the spectrum of the window, once moved down and once moved up by the frequency of
    # that sine: taper k needs no transform of its own, only the difference of the values k places below and above.
    power, tapered = scratch.tapered
    n_bins = power.shape[1]
    for out, first, taper in ((power, 1, 1), (tapered, n_bins + 3, 2), (tapered, 0, 3)):
        below, above = (halves[:, at : at + n_bins] for at in (first, first + taper))
        np.subtract(below, above, out=out)
        out *= out
        if out is tapered:
            power += tapered
    return power[0] + power[1]


def _interpolate(
    values: np.ndarray, before: np.ndarray, share: np.ndarray, bits: int, out: np.ndarray
) -> np.ndarray:
    """Return rows between those of `values`, uint16, rounded to so many `bits` less; `out` holds twice as many.

    Differences may be negative: they wrap around, and wrap back when they are added.
    """
    step, start = out
    (values[1:] - values[:-1]).take(before, axis=0, out=step, mode="clip")
    step *= share
    (values * _SHARES + (1 << bits >> 1)).take(before, axis=0, out=start, mode="clip")
    step += start
    step >>= bits
    return step


@lru_cache(maxsize=16)
def _marks(width: int, height: int, tick_px: int) -> np.ndarray:
    """Return which pixels are ticks: of frequency at both sides, of every fifth second on top."""
    marks = np.zeros((height, width), bool)
    rows = [height - 1 - round(hz / MAX_HZ * height) for hz in TICKS_HZ]
    marks[rows, :tick_px] = marks[rows, -tick_px:] = True
    marks[:tick_px, np.arange(5, EPOCH_S, 5) * width // EPOCH_S] = True
    return marks
