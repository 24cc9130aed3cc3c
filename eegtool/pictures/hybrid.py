"""Style ``hybrid``: the curve in rows above, its spectrogram below."""

from __future__ import annotations

from typing import Final

import numpy as np

from eegtool.pictures import curve, spectrogram, wrapped
from eegtool.pictures.spec import PictureSpec

PALETTE: Final = curve.PALETTE + spectrogram.PALETTE


def _curve_px(height: int) -> int:
    return height * 7 // 12


def visible_hz(width: int, height: int) -> float:
    """Return what the better of both halves shows."""
    above = _curve_px(height)
    return max(wrapped.visible_hz(width, above), spectrogram.visible_hz(width, height - above))


def draw(
    epoch_uv: np.ndarray, sfreq_hz: float, width: int, height: int, spec: PictureSpec
) -> np.ndarray:
    """Draw both, one below the other."""
    above = _curve_px(height)
    picture = np.empty((height, width), np.uint8)
    picture[:above] = wrapped.draw(epoch_uv, sfreq_hz, width, above, spec)
    power = spectrogram.draw(epoch_uv, sfreq_hz, width, height - above, spec)
    np.add(power, len(curve.PALETTE), out=picture[above:])
    return picture
