"""The table of styles: how one signal is drawn into one field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from eegtool.pictures import hybrid, level, png, spectrogram, waveform, wrapped
from eegtool.pictures.spec import PictureSpec


@dataclass(frozen=True, slots=True)
class Style:
    """One way to draw an epoch.

    Attributes
    ----------
    draw : callable
        ``(epoch_uv float [n_samples], sfreq_hz, width, height, spec) -> uint8 [height, width]``:
        a place in the palette per pixel.
    palette : tuple of (r, g, b)
        Colours, at most 256.
    band_visible_hz : callable
        ``(width, height) -> float``: the highest frequency that can be seen.
    in_rows : bool
        Whether time runs in rows: neighbouring epochs then stand above and below, else beside it.
    min_px : int
        Height below which nothing can be read.
    """

    draw: Callable[[np.ndarray, float, int, int, PictureSpec], np.ndarray]
    palette: tuple[png.Colour, ...]
    band_visible_hz: Callable[[int, int], float]
    in_rows: bool = False
    min_px: int = 32


STYLES: Final[dict[str, Style]] = {
    "hybrid": Style(hybrid.draw, hybrid.PALETTE, hybrid.visible_hz),
    "level": Style(level.draw, level.PALETTE, level.visible_hz, min_px=16),
    "spectrogram": Style(spectrogram.draw, spectrogram.PALETTE, spectrogram.visible_hz),
    "waveform": Style(waveform.draw, waveform.PALETTE, waveform.visible_hz, min_px=24),
    "wrapped": Style(wrapped.draw, wrapped.PALETTE, wrapped.visible_hz, in_rows=True),
}

RENDERER: Final = 1
"""Counts up when a style draws other pixels than before (GOLDEN in tests/pictures/test_styles.py): pictures
of two renderers do not belong together. 1 is the first that draws from stored signals."""
