"""Style ``waveform``: the whole epoch as one curve, the look of the paper."""

from __future__ import annotations

import numpy as np

from eegtool.core.stages import EPOCH_S
from eegtool.pictures import curve
from eegtool.pictures.spec import PictureSpec

PALETTE = curve.PALETTE


def visible_hz(width: int, height: int) -> float:
    """Half the number of pixel columns per second (Nyquist)."""
    return width / EPOCH_S / 2


def draw(
    epoch_uv: np.ndarray, sfreq_hz: float, width: int, height: int, spec: PictureSpec
) -> np.ndarray:
    """Draw one row, as `curve.draw_rows` does; the curve spans the width at any sampling rate."""
    return curve.draw_rows(epoch_uv, width, height, 1, spec)
