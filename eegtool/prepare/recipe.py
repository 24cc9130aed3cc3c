"""What decides which epochs and pictures a recording gives, in one record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from eegtool.pictures import RENDERER
from eegtool.pictures.spec import PictureSpec, Strip
from eegtool.recordings.montages import ChannelSpec, spec_of

_DRAWING: Final = ("style", "size", "amplitude_uv", "marks", "context_epochs")
"""Fields that decide how a stored signal is drawn."""

_ASIDE: Final = ("strict", "measured", "pictures")
"""Fields that change neither signals nor pictures."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a recording becomes epochs and pictures.

    Attributes
    ----------
    channel : tuple of str
        EEG channels, names or derivations (see `eegtool.recordings.channels.resolve`); of a montage, all
        its channels with their kinds.
    low_hz, high_hz : float
        Edges of the band-pass.
    notch_hz, resample_hz : float
        Frequency to take out, new sampling rate; 0 for none.
    style : str
        One of `eegtool.pictures.STYLES`.
    size, amplitude_uv, marks, context_epochs
        See `eegtool.pictures.spec.PictureSpec`.
    wake_margin : float
        Minutes of wake that are kept on both sides of sleep.
    strict : bool
        Refuse a recording of which a part is missing.
    measured : bool
        Measure in every epoch what reasons are made of.
    pictures : bool
        Draw pictures to files; else they are drawn from the stored signals when they are loaded.
    montage : tuple of ChannelSpec
        How each channel is filtered and drawn; empty: all are EEG and drawn alike.
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
    context_epochs: int = 0
    wake_margin: float = 30.0
    strict: bool = False
    measured: bool = False
    pictures: bool = True
    montage: tuple[ChannelSpec, ...] = ()

    @property
    def channels(self) -> tuple[ChannelSpec, ...]:
        """The channels, from the top of a picture to its bottom."""
        band_hz = (self.low_hz, self.high_hz)
        return self.montage or tuple(spec_of(name, band_hz=band_hz) for name in self.channel)

    @property
    def spec(self) -> PictureSpec:
        """What the style is given."""
        strips = tuple(Strip(c.style, c.amplitude_uv, c.height, c.kind) for c in self.montage)
        return PictureSpec(self.size, self.amplitude_uv, self.marks, self.context_epochs, strips)

    def decides(self) -> dict[str, Any]:
        """Return all that changes which epochs there are and what their signals are."""
        aside = (*_ASIDE, *_DRAWING)
        own = {name: value for name, value in asdict(self).items() if name not in aside}
        return own | {"montage": [channel.signal() for channel in self.montage]}

    def drawing(self) -> dict[str, Any]:
        """Return all that changes how these signals are drawn."""
        own = {name: getattr(self, name) for name in _DRAWING}
        return own | {"renderer": RENDERER, "strips": self.strips()}

    def strips(self) -> list[dict[str, Any]]:
        """Return the montage in its JSON form."""
        return [channel.to_row() for channel in self.montage]
