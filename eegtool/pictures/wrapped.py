"""Style ``wrapped``: the epoch in rows of a few seconds, wide enough for spindles to be seen."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np

from eegtool.core.stages import EPOCH_S
from eegtool.pictures import curve
from eegtool.pictures.spec import PictureSpec

PALETTE = curve.PALETTE

_GOAL_HZ: Final = 30.0  # end of the beta band: more rows show nothing that is scored
_MIN_ROW_PX: Final = 18  # below, a spindle of 25 µV is hardly 2 px high
_ROWS: Final = tuple(n for n in range(1, EPOCH_S + 1) if EPOCH_S % n == 0)


@cache
def n_rows(width: int, height: int) -> int:
    """Return the fewest rows of whole seconds that show 30 Hz, or as many as are high enough."""
    fitting = [n for n in _ROWS if height >= n * _MIN_ROW_PX] or [1]
    return next((n for n in fitting if n * width / EPOCH_S / 2 >= _GOAL_HZ), fitting[-1])


def visible_hz(width: int, height: int) -> float:
    """Half the number of pixel columns per second (Nyquist)."""
    return n_rows(width, height) * width / EPOCH_S / 2


def draw(
    epoch_uv: np.ndarray, sfreq_hz: float, width: int, height: int, spec: PictureSpec
) -> np.ndarray:
    """Draw the rows, as `curve.draw_rows` does."""
    return curve.draw_rows(epoch_uv, width, height, n_rows(width, height), spec)
