"""Style ``level``: how strong a signal is over time, on a logarithmic scale: the tone of a muscle."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from eegtool.core.stages import EPOCH_S
from eegtool.pictures import curve
from eegtool.pictures.spec import PictureSpec

PALETTE = curve.PALETTE

DECADES: Final = 2.5
"""From the highest level down to the lowest: at 100 µV, to 0.3 µV. Chin tone falls from tens of µV in wake
to a microvolt in REM."""

TICKS_UV: Final = (1.0, 10.0, 100.0)

_WINDOW_S: Final = (
    0.5  # of which the root mean square is taken: a twitch (0.1-0.25 s) still stands out
)
_FILL: Final = 3  # ink below the level, of `curve.N_INKS`
_EDGE_PX: Final = 2
_FINE: Final = 16  # parts of a pixel to which the level is rounded


def visible_hz(width: int, height: int) -> float:
    """Half the number of windows per second: the level itself holds no rhythm."""
    return 1 / _WINDOW_S / 2


@lru_cache(maxsize=16)
def _windows(n_samples: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first sample of the window of each pixel column, and the one after its last."""
    half = _WINDOW_S / 2 * n_samples / EPOCH_S
    centres = (np.arange(width) + 0.5) * n_samples / width
    first = np.clip(np.floor(centres - half), 0, n_samples - 1).astype(np.intp)
    stop = np.clip(np.ceil(centres + half), first + 1, n_samples).astype(np.intp)
    return first, stop


@lru_cache(maxsize=16)
def _columns(height: int) -> np.ndarray:
    """Return the column of pixels of each level, by its part of a pixel and its whole pixels, uint8 [16, n, height]."""
    # How far the lower edge of a pixel is below the level.
    depth = np.arange(_FINE * (1 - height), _FINE * (1 + height))
    inside = np.clip(depth, 0, _FINE)
    rim = inside - np.clip(depth - _EDGE_PX * _FINE, 0, _FINE)
    ink = _FILL * inside + (curve.N_INKS - 1 - _FILL) * rim
    inks = ((ink + _FINE // 2) // _FINE).astype(np.uint8)
    return sliding_window_view(np.ascontiguousarray(inks.reshape(-1, _FINE).T), height, axis=1)


def draw(
    epoch_uv: np.ndarray, sfreq_hz: float, width: int, height: int, spec: PictureSpec
) -> np.ndarray:
    """Draw the root mean square of half seconds as an area; what comes as a level is drawn as it is.

    Parameters
    ----------
    epoch_uv : float [n_samples]
        One epoch in µV: an EMG, or its envelope at any rate.
    sfreq_hz : float
        Sampling rate.
    width, height : int
        Size in pixels.
    spec : PictureSpec
        The highest level (``amplitude_uv``), and marks.

    Returns
    -------
    uint8 [height, width]
        Indices of `PALETTE`.
    """
    first, stop = _windows(len(epoch_uv), width)
    sums = np.concatenate([[0.0], np.cumsum(np.square(epoch_uv, dtype=np.float64))])
    power = np.maximum((sums[stop] - sums[first]) / (stop - first), 1e-12)
    # Half of the logarithm of a square. What machines do differently in the last digit ends here.
    share = 1 + (np.log10(power) / 2 - math.log10(spec.amplitude_uv)) / DECADES
    level = np.rint(np.clip(share * height, 1, height) * _FINE).astype(np.int64)
    picture = np.ascontiguousarray(_columns(height)[level % _FINE, level // _FINE].T)
    if spec.marks:
        for uv in TICKS_UV:
            at = 1 + (math.log10(uv) - math.log10(spec.amplitude_uv)) / DECADES
            if 0 < at < 1:
                row = height - 1 - round(at * height)
                picture[row, : spec.tick_px] = picture[row, -spec.tick_px :] = curve.BAR
        picture[-spec.tick_px :, np.arange(1, EPOCH_S) * width // EPOCH_S] = curve.TICK
    return picture
