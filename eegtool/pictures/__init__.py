"""Pictures of epochs: one file per style, and the table of styles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.pictures import hybrid, png, spectrogram, waveform, wrapped
from eegtool.pictures.spec import PictureSpec, band_heights


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
    """

    draw: Callable[[np.ndarray, float, int, int, PictureSpec], np.ndarray]
    palette: tuple[png.Colour, ...]
    band_visible_hz: Callable[[int, int], float]

    def visible_hz(self, spec: PictureSpec, n_channels: int = 1) -> float:
        """Return the highest frequency that can be seen in pictures of so many channels."""
        return min(self.band_visible_hz(spec.size, h) for h in band_heights(spec, n_channels))


STYLES: Final[dict[str, Style]] = {
    "hybrid": Style(hybrid.draw, hybrid.PALETTE, hybrid.visible_hz),
    "spectrogram": Style(spectrogram.draw, spectrogram.PALETTE, spectrogram.visible_hz),
    "waveform": Style(waveform.draw, waveform.PALETTE, waveform.visible_hz),
    "wrapped": Style(wrapped.draw, wrapped.PALETTE, wrapped.visible_hz),
}

RENDERER: Final = 1
"""Counts up when a style draws other pixels than before (GOLDEN in tests/pictures/test_styles.py): pictures
of two renderers do not belong together. 1 is the first that draws from stored signals."""

_MIN_BAND_PX: Final = 32


def check_bands(spec: PictureSpec, n_channels: int) -> None:
    """Refuse more channels than the picture has room for.

    Raises
    ------
    EegToolError
        If a band would be lower than 32 pixels.
    """
    most = spec.size // _MIN_BAND_PX
    if n_channels > most:
        raise EegToolError(
            f"{n_channels} channels do not fit a picture of {spec.size} pixels: each needs a band of "
            f"at least {_MIN_BAND_PX}.",
            f"Name at most {most} with --channel, or draw larger pictures with --size.",
        )


def draw(style: str, signals: Sequence[tuple[np.ndarray, float]], spec: PictureSpec) -> np.ndarray:
    """Draw one epoch.

    Parameters
    ----------
    style : str
        One of `STYLES`.
    signals : sequence of (float [n_samples], float)
        Signal in µV and sampling rate in Hz of each channel: bands from top to bottom.
    spec : PictureSpec
        Size and scale.

    Returns
    -------
    uint8 [size, size]
        A place in the palette of the style per pixel, the same on every machine.
    """
    drawing = STYLES[style]
    heights = band_heights(spec, len(signals))
    bands = [
        drawing.draw(epoch_uv, sfreq_hz, spec.size, height, spec)
        for (epoch_uv, sfreq_hz), height in zip(signals, heights, strict=True)
    ]
    return bands[0] if len(bands) == 1 else np.concatenate(bands)


def draw_png(style: str, signals: Sequence[tuple[np.ndarray, float]], spec: PictureSpec) -> bytes:
    """Draw one epoch (see `draw`) as PNG file, ``spec.size`` pixels wide and high."""
    return png.encode(draw(style, signals, spec), STYLES[style].palette)
