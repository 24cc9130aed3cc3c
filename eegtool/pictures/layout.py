"""The layout of a picture: a strip for each channel, in it a field for the epoch and one for each neighbour.

The epoch that is asked about has half of its strip, in the middle; its neighbours share the other half,
in dimmed colours. Where nothing was recorded, a field is empty: of a colour that no style draws with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Final

import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.pictures import curve
from eegtool.pictures.png import Colour
from eegtool.pictures.signals import EpochSignals
from eegtool.pictures.spec import PictureSpec, Strip
from eegtool.pictures.styles import STYLES

EMPTY: Final[Colour] = (128, 128, 128)
"""Of fields in which nothing was recorded."""

BORDER: Final[Colour] = curve.PALETTE[curve.BAR]
"""Of the ticks between the epoch and its neighbours."""

LINE: Final[Colour] = curve.PALETTE[curve.TICK]
"""Of the lines between strips."""

_MIN_BAND_PX: Final = 32
_MIN_FIELD_PX: Final = 16


@dataclass(frozen=True, slots=True)
class Field:
    """A rectangle of a picture that shows one channel in one epoch.

    Attributes
    ----------
    channel : int
        Which channel.
    place : int
        Which epoch: 0 is the one that is asked about, -1 the one before it.
    style : str
        One of `STYLES`.
    spec : PictureSpec
        What the style is given.
    top, left, height, width : int
        Where it is, in pixels.
    """

    channel: int
    place: int
    style: str
    spec: PictureSpec
    top: int
    left: int
    height: int
    width: int

    @property
    def where(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)


@lru_cache(maxsize=64)
def fields(style: str, spec: PictureSpec, n_channels: int) -> tuple[Field, ...]:
    """Return the fields of a picture, strip by strip from top to bottom, in the order of time.

    Parameters
    ----------
    style : str
        Of all channels, where the spec has no strips.
    spec : PictureSpec
        Size, strips and neighbours.
    n_channels : int
        As many as there are strips, if there are any.
    """
    n = spec.context_epochs
    shares = [1.0] * n + [max(2.0 * n, 1.0)] + [1.0] * n
    found = []
    for channel, (strip, top, bottom) in enumerate(_strips(style, spec, n_channels)):
        own = replace(spec, amplitude_uv=strip.amplitude_uv, context_epochs=0, strips=())
        in_rows = STYLES[strip.style].in_rows
        for i, (first, last) in enumerate(_parts(bottom - top if in_rows else spec.size, shares)):
            at = (
                (top + first, 0, last - first, spec.size)
                if in_rows
                else (top, first, bottom - top, last - first)
            )
            found.append(Field(channel, i - n, strip.style, own, *at))
    return tuple(found)


def _strips(style: str, spec: PictureSpec, n_channels: int) -> list[tuple[Strip, int, int]]:
    """Return how each channel is drawn, and from which to which row of pixels."""
    strips = spec.strips or (Strip(style, spec.amplitude_uv),) * n_channels
    if len(strips) != n_channels:
        raise ValueError(f"{n_channels} channels for {len(strips)} strips")
    heights = _parts(spec.size, [strip.height for strip in strips])
    return [(strip, *rows) for strip, rows in zip(strips, heights, strict=True)]


def _parts(length: int, shares: Sequence[float]) -> list[tuple[int, int]]:
    """Divide a length; return where each part begins and ends."""
    whole = sum(shares)
    # A little more: what rounding errors leave below a whole number.
    ends = [math.floor(length * part / whole + 1e-9) for part in accumulate(shares)]
    return list(pairwise([0, *ends]))


def check_bands(spec: PictureSpec, n_channels: int, style: str = "spectrogram") -> None:
    """Refuse more channels or neighbours than the picture has room for.

    Raises
    ------
    EegToolError
        If a strip would be too low, or a field too small.
    """
    most = spec.size // _MIN_BAND_PX
    if not spec.strips and n_channels > most:
        raise EegToolError(
            f"{n_channels} channels do not fit a picture of {spec.size} pixels: each needs a band of "
            f"at least {_MIN_BAND_PX}.",
            f"Name at most {most} with --channel, or draw larger pictures with --size.",
        )
    for strip, top, bottom in _strips(style, spec, n_channels):
        least = STYLES[strip.style].min_px
        if spec.strips and bottom - top < least:
            raise EegToolError(
                f"The {n_channels} channels do not fit a picture of {spec.size} pixels: one, of the "
                f"style '{strip.style}', would be {bottom - top} pixels high and needs {least}.",
                "Draw larger pictures with --size, or name fewer channels.",
            )
    least = min(min(f.height, f.width) for f in fields(style, spec, n_channels))
    if spec.context_epochs and least < _MIN_FIELD_PX:
        raise EegToolError(
            f"--context-epochs {spec.context_epochs} does not fit a picture of {spec.size} pixels: a "
            f"neighbour would be {least} pixels wide or high and needs {_MIN_FIELD_PX}.",
            "Draw larger pictures with --size, or fewer neighbours or channels.",
        )


def visible_hz(style: str, spec: PictureSpec, n_channels: int = 1) -> float:
    """Return the highest frequency that can be seen in all channels of a style, in the epoch itself."""
    return min(
        STYLES[style].band_visible_hz(field.width, field.height)
        for field in fields(style, spec, n_channels)
        if field.style == style and not field.place
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Colours:
    """The colours of a picture that has more than one style, or fields of neighbours.

    Attributes
    ----------
    palette : tuple of (r, g, b)
        All of them.
    own, dimmed : dict of str to bytes
        Place in it of each colour of a style, in the epoch itself and in its neighbours: tables for
        `bytes.translate`; empty where all places are the same.
    empty, border, line : int
        Places of `EMPTY`, `BORDER` and `LINE`.
    """

    palette: tuple[Colour, ...]
    own: dict[str, bytes]
    dimmed: dict[str, bytes]
    empty: int
    border: int
    line: int


def _is_plain(spec: PictureSpec) -> bool:
    """Say whether a picture has the colours of one style and nothing else."""
    return not spec.strips and not spec.context_epochs


@lru_cache(maxsize=64)
def _colours(style: str, spec: PictureSpec) -> _Colours:
    styles = dict.fromkeys(strip.style for strip in spec.strips) or {style: None}
    place: dict[Colour, int] = {}

    def places(colours: Sequence[Colour]) -> bytes:
        return bytes(place.setdefault(c, len(place)) for c in colours)

    def table(colours: Sequence[Colour]) -> bytes:
        found = places(colours)
        return b"" if found == bytes(range(len(found))) else found.ljust(256, b"\0")

    own = {name: table(STYLES[name].palette) for name in styles}
    shown = [*styles] if spec.context_epochs else []
    dimmed = {name: table([_dim(c) for c in STYLES[name].palette]) for name in shown}
    empty, border, line = places([EMPTY, BORDER, LINE])
    return _Colours(tuple(place), own, dimmed, empty, border, line)


def _dim(colour: Colour) -> Colour:
    """Return a colour two fifths of the way to `EMPTY`."""
    r, g, b = ((3 * c + 2 * e + 2) // 5 for c, e in zip(colour, EMPTY, strict=True))
    return r, g, b


def palette_of(style: str, spec: PictureSpec) -> tuple[Colour, ...]:
    """Return the colours of pictures of a style and spec."""
    return STYLES[style].palette if _is_plain(spec) else _colours(style, spec).palette


def draw(
    style: str,
    signals: EpochSignals,
    spec: PictureSpec,
    around: Sequence[EpochSignals | None] = (),
) -> np.ndarray:
    """Draw one epoch.

    Parameters
    ----------
    style : str
        One of `STYLES`; of all channels, where the spec has no strips.
    signals : sequence of (float [n_samples], float)
        Signal in µV and sampling rate in Hz of each channel: strips from top to bottom. A signal
        without samples is a channel that is missing: its strip is empty.
    spec : PictureSpec
        Size, scale, strips, and how many neighbours there are.
    around : sequence of (signals or None)
        The ``spec.context_epochs`` epochs before this one and as many after it, in the order of time;
        None where nothing was recorded.

    Returns
    -------
    uint8 [size, size]
        A place in the palette (`palette_of`) per pixel, the same on every machine.
    """
    if _is_plain(spec):
        bands = [
            _field(field, *signals[field.channel]) for field in fields(style, spec, len(signals))
        ]
        return bands[0] if len(bands) == 1 else np.concatenate(bands)
    n = spec.context_epochs
    if len(around) != 2 * n:
        raise ValueError(f"{len(around)} neighbours for {n} on either side")
    epochs = [*around[:n], signals, *around[n:]]
    colours = _colours(style, spec)
    picture = np.full((spec.size, spec.size), colours.empty, np.uint8)
    for field in fields(style, spec, len(signals)):
        epoch = epochs[field.place + n]
        if epoch is not None and len(epoch[field.channel][0]):
            drawn = _field(field, *epoch[field.channel])
            if table := (colours.dimmed if field.place else colours.own)[field.style]:
                shades = np.frombuffer(drawn.tobytes().translate(table), np.uint8)
                drawn = shades.reshape(drawn.shape)
            picture[field.where] = drawn
    lines, ticks = _marks(style, spec, len(signals))
    picture[lines] = colours.line
    picture.reshape(-1)[ticks] = colours.border
    return picture


def _field(field: Field, epoch_uv: np.ndarray, sfreq_hz: float) -> np.ndarray:
    return STYLES[field.style].draw(epoch_uv, sfreq_hz, field.width, field.height, field.spec)


@lru_cache(maxsize=64)
def _marks(style: str, spec: PictureSpec, n_channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first rows of all strips but one, and the numbers of the pixels of ticks between epochs."""
    lines = np.array([top for _, top, _ in _strips(style, spec, n_channels)[1:]], np.intp)
    ticks = np.zeros((spec.size, spec.size), bool)
    long = 2 * spec.tick_px
    for field in fields(style, spec, n_channels):
        rows, columns = field.where
        if field.place == -spec.context_epochs:  # nothing comes before it
            continue
        if STYLES[field.style].in_rows:
            ticks[rows.start, :long] = ticks[rows.start, -long:] = True
        else:
            ticks[rows, columns.start][:long] = ticks[rows, columns.start][-long:] = True
    return lines, np.flatnonzero(ticks)
