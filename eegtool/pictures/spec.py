"""What all styles are told about the picture, and how channels share it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class PictureSpec:
    """Size and scale of a picture.

    Attributes
    ----------
    size : int
        Side in pixels.
    amplitude_uv : float
        µV from the middle of a curve's row to its edge.
    marks : bool
        Whether to draw scale marks: a tick per second, a bar of 75 µV from trough to crest (the
        slow waves of N3, AASM Manual), ticks of frequency.
    """

    size: int
    amplitude_uv: float = 100.0
    marks: bool = False

    @property
    def tick_px(self) -> int:
        """Length of a tick."""
        return max(self.size // 84, 2)


def band_heights(spec: PictureSpec, n_channels: int) -> list[int]:
    """Return the heights of the horizontal bands of the channels, from top to bottom, in pixels."""
    borders = [i * spec.size // n_channels for i in range(n_channels + 1)]
    return [below - above for above, below in pairwise(borders)]
