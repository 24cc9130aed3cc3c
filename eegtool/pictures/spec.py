"""What a picture looks like: its size and scale, the strips of its channels, the neighbours that it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Strip:
    """How one of several channels is drawn.

    Attributes
    ----------
    style : str
        One of `eegtool.pictures.STYLES`.
    amplitude_uv : float
        As in `PictureSpec`.
    height : float
        Its share of the picture, compared with that of the other strips.
    kind : str
        What kind of channel it shows.
    """

    style: str
    amplitude_uv: float
    height: float = 1.0
    kind: str = "eeg"


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
    context_epochs : int
        How many epochs before and after the one that is asked about are shown, too.
    strips : tuple of Strip
        How each channel is drawn, from top to bottom; empty: all alike.
    """

    size: int
    amplitude_uv: float = 100.0
    marks: bool = False
    context_epochs: int = 0
    strips: tuple[Strip, ...] = ()

    @property
    def tick_px(self) -> int:
        """Length of a tick."""
        return max(self.size // 84, 2)

    @classmethod
    def from_protocol(cls, protocol: Mapping[str, Any]) -> PictureSpec:
        """Read what prepare stamped; `KeyError`, `TypeError` or `ValueError` if it is not that."""
        strips = [
            Strip(str(s["style"]), float(s["amplitude_uv"]), float(s["height"]), s["kind"])
            for s in protocol.get("strips", ())
        ]
        return cls(
            int(protocol["size"]),
            float(protocol["amplitude_uv"]),
            bool(protocol["marks"]),
            int(protocol.get("context_epochs", 0)),
            tuple(strips),
        )
