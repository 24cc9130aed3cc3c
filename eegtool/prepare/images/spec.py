"""What all styles are told about the picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PictureSpec:
    """Size and scale of a picture.

    Attributes
    ----------
    size : int
        Side in pixels.
    amplitude_uv : float
        µV from the middle to the edge, where the style shows amplitude as height.
    """

    size: int
    amplitude_uv: float = 100.0
