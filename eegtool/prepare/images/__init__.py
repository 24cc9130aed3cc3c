"""Pictures of epochs: one file per style, each ``draw(epoch_uv, sfreq_hz, spec) -> uint8``; table of styles."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from PIL import Image

from eegtool.prepare.images import spectrogram, waveform
from eegtool.prepare.images.spec import PictureSpec


@dataclass(frozen=True, slots=True)
class Style:
    """One way to draw an epoch.

    Attributes
    ----------
    draw : callable
        ``(epoch_uv float [n_samples], sfreq_hz, spec) -> uint8 [size, size]``: an intensity per pixel.
    anchors : tuple of (r, g, b)
        Colours of intensity 0 to 255, evenly spaced; those between are interpolated.
    visible_hz : callable
        ``spec -> float``: the highest frequency that can be seen.
    """

    draw: Callable[[np.ndarray, float, PictureSpec], np.ndarray]
    anchors: tuple[tuple[int, int, int], ...]
    visible_hz: Callable[[PictureSpec], float]


STYLES: Final[dict[str, Style]] = {
    "spectrogram": Style(spectrogram.draw, spectrogram.ANCHORS, spectrogram.visible_hz),
    "waveform": Style(waveform.draw, waveform.ANCHORS, waveform.visible_hz),
}


def draw_png(style: str, epoch_uv: np.ndarray, sfreq_hz: float, spec: PictureSpec) -> bytes:
    """Draw an epoch and return it as a PNG with a palette: one byte per pixel, shown in colour."""
    image = Image.fromarray(STYLES[style].draw(epoch_uv, sfreq_hz, spec))
    image.putpalette(_palette(style))  # turns grey levels into palette entries
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=6)
    return buffer.getvalue()


@cache
def _palette(style: str) -> bytes:
    anchors = np.array(STYLES[style].anchors, float)
    at = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(at, np.arange(len(anchors)), anchors[:, c]) for c in range(3)]
    return np.stack(channels, 1).round().astype(np.uint8).tobytes()
