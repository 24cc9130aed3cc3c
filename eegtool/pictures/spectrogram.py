"""Style ``spectrogram``: power over time and frequency by multitaper, in which rhythms can be seen."""

from __future__ import annotations

import math
import threading
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

_BLOCKS: Final = round(_WINDOW_S / _HOP_S)  # of a window; a power of two
_GROUP: Final = 32  # blocks that are multiplied at a time: so few that BLAS stays in one thread

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


@dataclass(frozen=True, slots=True, eq=False)
class _Blocks:
    """How windows that overlap share their transforms.

    A window is so many blocks, each of which is in as many windows: the transform of a block is computed
    once. That of two blocks in a row is the first one's plus the second one's, turned by the time between
    them; of four the same of two, and so on.
    """

    samples: (
        np.ndarray
    )  # int [n_groups, _GROUP, n_block]: of each block; the last ones fill the group
    waves: (
        np.ndarray
    )  # float [n_block, 2 * n_half]: cosine and negative sine of each frequency in turn
    turns: (
        np.ndarray
    )  # complex [n_steps, n_half]: by how much later halves of 2, 4, ... blocks turn


class _Scratch(threading.local):
    """Arrays that each thread computes in, from picture to picture.

    To get that much memory from the system, and give it back, takes longer than to fill it.
    """

    def __init__(self, blocks: _Blocks | None, n_windows: int, n_bins: int, size: tuple[int, int]):
        width, height = size
        shape = (0, 0, 0) if blocks is None else (*blocks.samples.shape[:2], blocks.turns.shape[1])
        self.sums = np.empty((2, *shape), np.complex128)
        self.half = np.empty((n_windows, 2 * n_bins + 2 * _TAPERS - 1), np.complex128)
        self.tapered = np.empty((n_windows, n_bins), np.complex128)
        self.power = np.empty((n_windows, 2 * n_bins))
        self.columns = np.empty((2, width, n_bins), np.uint16)
        self.picture = np.empty((2, height, width), np.uint16)


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """What depends on sizes alone."""

    samples: (
        np.ndarray
    )  # int [n_windows, n_window]: of each window; mirrored at the ends of the epoch
    blocks: _Blocks | None  # where windows begin a whole number of samples apart
    n_bins: int  # frequencies, one per sfreq_hz / n_window
    window: np.ndarray  # int [width]: the window before each pixel column
    window_share: np.ndarray  # uint16 [width, 1]: how far the column is behind it
    bin: np.ndarray  # int [height]: the frequency below each pixel row
    bin_share: np.ndarray  # uint16 [height, 1]: how far the row is above it
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
    columns = (2 * np.arange(width) + 1) * n_windows / (2 * width) - 0.5
    rows = (2 * np.arange(height)[::-1] + 1) * (MAX_HZ * n_window) / (2 * height * sfreq_hz)
    window, window_share = _between(columns, n_windows)
    bin_, bin_share = _between(rows, n_bins)
    blocks = _shared(samples, 2 * n_bins + _TAPERS - 1)
    scratch = _Scratch(blocks, n_windows, n_bins, (width, height))
    return _Grid(samples, blocks, n_bins, window, window_share, bin_, bin_share, scratch)


def _shared(samples: np.ndarray, n_half: int) -> _Blocks | None:
    """Return how windows share their first `n_half` half bins, if they are made of the same blocks."""
    n_windows, n_window = samples.shape
    n_block, rest = divmod(n_window, _BLOCKS)
    blocks = samples.reshape(n_windows, _BLOCKS, -1) if not rest else None
    if blocks is None or not (blocks[1:, :-1] == blocks[:-1, 1:]).all():
        return None
    own = np.concatenate([blocks[:, 0], blocks[-1, 1:]])
    own = np.concatenate([own, np.repeat(own[-1:], -len(own) % _GROUP, axis=0)])
    # Of the transform to twice the length of the window.
    turn = -2j * np.pi / (2 * n_window) * np.arange(n_half)
    waves = np.exp(np.arange(n_block)[:, None] * turn)
    steps = 2 ** np.arange(round(math.log2(_BLOCKS)))
    return _Blocks(
        own.reshape(-1, _GROUP, n_block),
        np.ascontiguousarray(waves).view(np.float64),
        np.exp(steps[:, None] * n_block * turn),
    )


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
    scratch = grid.scratch
    psd = _multitaper(_half_bins(epoch_uv, grid), grid.samples.shape[1], sfreq_hz, scratch)
    level = np.log(np.maximum(psd, 1e-10, out=psd), out=psd)
    level *= 10 / math.log(10) / STEP_DB
    level -= FLOOR_DB / STEP_DB
    np.minimum(np.maximum(level, 0, out=level), N_LEVELS - 1, out=level)
    level *= _FINE
    # From here on in whole numbers: what machines do differently in the last digit ends here.
    fine = np.rint(level, out=level).astype(np.uint16)
    columns = _interpolate(fine, grid.window, grid.window_share, _SHARE_BITS, scratch.columns)
    by_bin = np.ascontiguousarray(columns.T)
    bits = _SHARE_BITS + _FINE_BITS
    picture = _interpolate(by_bin, grid.bin, grid.bin_share, bits, scratch.picture)
    drawn = picture.astype(np.uint8)
    if spec.marks:
        drawn[_marks(width, height, spec.tick_px)] = TICK
    return drawn


def _half_bins(epoch_uv: np.ndarray, grid: _Grid) -> np.ndarray:
    """Return the transforms of all windows, filled up with zeros to twice their length, from `_TAPERS` half bins below 0 Hz on."""
    n_windows, n_window = grid.samples.shape
    half = grid.scratch.half
    positive = half[:, _TAPERS:]
    if grid.blocks is None:
        transforms = rfft(epoch_uv.take(grid.samples), 2 * n_window)
        positive[:] = transforms[:, : positive.shape[1]]
    else:
        sums, later = grid.scratch.sums
        np.matmul(epoch_uv.take(grid.blocks.samples), grid.blocks.waves, out=sums.view(np.float64))
        sums, later = (x.reshape(-1, x.shape[-1]) for x in (sums, later))
        *turns, last = grid.blocks.turns
        for i, turn in enumerate(turns):
            n = len(sums) - 2**i
            np.multiply(sums[2**i :], turn, out=later[:n])
            later[:n] += sums[:n]
            sums, later = later[:n], sums
        np.multiply(sums[_BLOCKS // 2 :][:n_windows], last, out=positive)
        positive += sums[:n_windows]
    # Values below zero mirror those above.
    np.conjugate(positive[:, _TAPERS:0:-1], out=half[:, :_TAPERS])
    return half


def _multitaper(half: np.ndarray, n_window: int, sfreq_hz: float, scratch: _Scratch) -> np.ndarray:
    """Return power spectral densities in µV²/Hz by sine tapers (Riedel & Sidorenko 1995), float [n_windows, n_bins]."""
    # A window times a sine has the spectrum of the window, once moved down and once moved up by the frequency of
    # that sine: taper k needs no transform of its own, only the difference of the values k places below and above.
    n_bins = half.shape[1] // 2 - _TAPERS + 1
    tapered, power = scratch.tapered, scratch.power  # real and imaginary parts beside each other
    for k in range(1, _TAPERS + 1):
        below, above = (
            half[:, _TAPERS + shift : _TAPERS + shift + 2 * n_bins - 1 : 2] for shift in (-k, k)
        )
        np.subtract(below, above, out=tapered)
        parts = tapered.view(np.float64)
        np.multiply(parts, parts, out=parts if k > 1 else power)
        if k > 1:
            power += parts
    density: np.ndarray = power[:, ::2] + power[:, 1::2]
    density /= n_window * sfreq_hz * _TAPERS
    return density


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
