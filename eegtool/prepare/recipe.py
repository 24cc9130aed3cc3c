"""What decides which epochs and pictures a recording gives, in one record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from eegtool.pictures.spec import PictureSpec

_ASIDE: Final = ("strict", "measured")
"""Fields that change nothing that is drawn."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a recording becomes epochs and pictures.

    Attributes
    ----------
    channel : tuple of str
        Names or derivations, see `eegtool.recordings.channels.resolve`.
    low_hz, high_hz : float
        Edges of the band-pass.
    notch_hz, resample_hz : float
        Frequency to take out, new sampling rate; 0 for none.
    style : str
        One of `eegtool.pictures.STYLES`.
    size, amplitude_uv, marks
        See `eegtool.pictures.spec.PictureSpec`.
    wake_margin : float
        Minutes of wake that are kept on both sides of sleep.
    strict : bool
        Refuse a recording of which a part is missing.
    measured : bool
        Measure in every epoch what reasons are made of.
    """

    channel: tuple[str, ...]
    low_hz: float
    high_hz: float
    notch_hz: float
    resample_hz: float
    style: str
    size: int
    amplitude_uv: float
    marks: bool
    wake_margin: float = 30.0
    strict: bool = False
    measured: bool = False

    @property
    def spec(self) -> PictureSpec:
        """What the style is told."""
        return PictureSpec(self.size, self.amplitude_uv, self.marks)

    def decides(self) -> dict[str, Any]:
        """Return all that changes what is drawn."""
        return {name: value for name, value in asdict(self).items() if name not in _ASIDE}
