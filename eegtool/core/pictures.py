"""Pictures as people have them: whatever a file holds, as RGB on white."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from eegtool.core.errors import EegToolError, brief
from eegtool.core.workspace import fault_of

# Beyond 90 million pixels Pillow warns once and decodes them, beyond twice as many it refuses.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

PICTURE_SIDE: Final = 336
"""Side of a picture in pixels where nothing else is asked for: that of CLIP ViT-L, LLaVA-1.5's tower."""

_BROKEN: Final = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError),
    *(struct.error, zlib.error, MemoryError),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
"""What Pillow raises over broken files depends on where they are broken."""

_WHITE: Final[dict[str, float]] = {
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N", "I"), 65535.0),
    "F": 1.0,
}
"""White of the modes that have more than 8 bits; black is 0."""


def read_rgb(source: Path | bytes | Image.Image, fix: str) -> Image.Image:
    """Read a picture of any kind as RGB (see `as_rgb`).

    Parameters
    ----------
    source : Path, bytes or Image
        The file, links are followed; what is in it; or a picture that was decoded or drawn.
    fix : str
        What to do where it cannot be read.

    Raises
    ------
    EegToolError
        If it is missing or is not a picture.
    """
    if isinstance(source, Image.Image):
        return as_rgb(source)
    called = "A picture in memory" if isinstance(source, bytes) else f"The picture {source}"
    if isinstance(source, Path) and (fault := fault_of(source)):
        raise EegToolError(f"{called} {fault}.", fix)
    with open_picture(source, called, fix) as image:
        return as_rgb(image)


@contextmanager
def open_picture(source: Path | bytes, called: str, fix: str) -> Iterator[Image.Image]:
    """Open a picture, not yet decoded; whatever goes wrong with it in the block is one error.

    Parameters
    ----------
    source : Path or bytes
        The file, or what is in it.
    called : str
        What to call it in a message.
    fix : str
        What to do where it cannot be read.

    Raises
    ------
    EegToolError
        If it is not a picture, is broken, or has more pixels than Pillow trusts.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            yield image
    except _BROKEN as error:
        raise EegToolError(f"{called} cannot be read: {brief(error)}.", fix) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Return a picture as RGB of 8 bits.

    What is transparent shows the white of the page that it was drawn for. Grey of 16 bits is scaled from
    0 to 65535, that of floating-point numbers from 0 to 1.

    Raises
    ------
    ValueError
        If grey values are of another scale than that, which nobody but their author knows.
    """
    if image.mode in _WHITE:
        return _scaled(image, _WHITE[image.mode])
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _scaled(image: Image.Image, white: float) -> Image.Image:
    """Bring grey values from 0 to `white` to 8 bits, if they are plausibly of that scale."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and (high == 0 or white / 255 < high <= white)):
        raise ValueError(
            f"its grey values are {low:g} to {high:g}, where black is 0 and white {white:g}; save it "
            "as a PNG of 8 bits"
        )
    grey = np.rint(values * (255 / white))
    if (transparent := image.info.get("transparency")) is not None:
        grey[values == transparent] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
