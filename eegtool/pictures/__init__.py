"""Pictures of epochs: styles, one file each, and the layout in which strips and neighbours share a picture."""

from __future__ import annotations

from collections.abc import Sequence

from eegtool.pictures import png
from eegtool.pictures.layout import check_bands, draw, palette_of, visible_hz
from eegtool.pictures.signals import EpochSignals
from eegtool.pictures.spec import PictureSpec
from eegtool.pictures.styles import RENDERER, STYLES, Style

__all__ = [
    "RENDERER",
    "STYLES",
    "Style",
    "check_bands",
    "draw",
    "draw_png",
    "palette_of",
    "visible_hz",
]


def draw_png(
    style: str,
    signals: EpochSignals,
    spec: PictureSpec,
    around: Sequence[EpochSignals | None] = (),
) -> bytes:
    """Draw one epoch (see `draw`) as PNG file, ``spec.size`` pixels wide and high."""
    return png.encode(draw(style, signals, spec, around), palette_of(style, spec))
