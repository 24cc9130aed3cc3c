"""A curve in one or more rows, anti-aliased; in whole numbers after its first step."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from eegtool.core.stages import EPOCH_S
from eegtool.pictures.png import Colour, gradient
from eegtool.pictures.spec import PictureSpec

PAPER: Final[Colour] = (255, 255, 255)
INK: Final[Colour] = (24, 39, 75)
N_INKS: Final = 10
TICK: Final = N_INKS
BAR: Final = N_INKS + 1
PALETTE: Final = (*gradient((PAPER, INK), N_INKS), (160, 172, 194), (222, 120, 92))
"""From paper to ink, then `TICK` and `BAR`. Few colours: two pixels of a PNG share a byte."""

BAR_UV: Final = 75.0
"""Least height of the slow waves of N3 from trough to crest (AASM Manual)."""

_UNIT_BITS: Final = 4
_UNIT: Final = 1 << _UNIT_BITS  # heights are counted in sixteenths of a pixel
_PARTS: Final = 4  # a pixel's width has four parts
_PEN: Final = (9, 8, 4)  # half height of a round pen of 1.1 px at 0, 1 and 2 parts from its middle
_FULL: Final = 1 << 8  # all of a pixel


class _Scratch(threading.local):
    """Arrays that each thread computes in, from picture to picture.

    To get that much memory from the system, and give it back, takes longer than to fill it.
    """

    def __init__(self, n_borders: int, n_pixels: int) -> None:
        n_parts = n_borders - 1
        self.borders = np.empty((2, n_borders), np.int32)
        self.curve = np.empty((2, n_parts), np.int16)  # heights fit 16 bits up to 4,000 px
        self.edges = np.empty((2, 2, n_parts - 2 * (len(_PEN) - 1)), np.int16)
        self.pixels = np.empty((2, 2 * n_pixels), np.int32)
        self.place = np.empty(n_pixels, np.intp)


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """What depends on sizes alone; the columns of all rows follow each other."""

    before: np.ndarray  # int [n_parts + 1]: the sample before each border of the parts
    share: np.ndarray  # how far the border is on its way to the next sample, in 256ths
    inner: np.ndarray  # int [n_inner, n_parts]: samples within the parts
    edges: np.ndarray  # int32 [2, n_rows * width]: where both edges of the pen are at rest
    x: np.ndarray  # int [n_rows * width]: where in the picture each column is
    columns: np.ndarray  # int [n_rows * width]: 0, 1, 2 ...
    shares: np.ndarray  # int32 [n_spans]: _FULL ** 2 divided by 0, 1, 2 ... sixteenths of a pixel
    numbers: np.ndarray  # int32: 0, 1, 2 ... for as many pixels as there can be
    below: np.ndarray  # int: 0, width, 2 * width ... likewise
    reach: int  # from the middle of a row as far as the middle of the pen can go
    scratch: _Scratch


@lru_cache(maxsize=16)
def _grid(n_samples: int, height: int, width: int, n_rows: int) -> _Grid:
    n_parts = n_rows * width * _PARTS
    beyond = len(_PEN) - 1  # the pen begins before and ends after the picture
    border = np.arange(-beyond, n_parts + beyond + 1)
    # Sample i stands in the middle of its share of the width.
    at = np.clip(border * n_samples * 256 // n_parts - 128, 0, (n_samples - 1) * 256 - 1)
    # The curve runs straight from sample to sample: between borders, only those count. Two looks
    # per sample leave none out.
    looks = np.arange(1, max(-(-2 * n_samples // n_parts), 1))[:, None]
    inner = (border[:-1] * (len(looks) + 1) + looks) * n_samples // (n_parts * (len(looks) + 1))
    spans = np.maximum(np.arange((height + 2) * _UNIT), 1)
    number = np.arange((height + 2 * n_rows) * width)
    middle = (np.arange(n_rows) * 2 + 1) * height * _UNIT // (2 * n_rows)
    return _Grid(
        before=at >> 8,
        share=(at & 255).astype(np.int32),
        inner=np.clip(inner, 0, n_samples - 1),
        edges=np.repeat([middle - _PEN[0], middle + _PEN[0]], width, axis=1).astype(np.int32),
        x=np.tile(np.arange(width), n_rows),
        columns=np.arange(n_rows * width),
        shares=((_FULL * _FULL + spans // 2) // spans).astype(np.int32),
        numbers=number.astype(np.int32),
        below=number * width,
        reach=max(height * _UNIT // (2 * n_rows) - _PEN[0], 1),
        scratch=_Scratch(len(border), len(number)),
    )


def draw_rows(
    epoch_uv: np.ndarray, width: int, height: int, n_rows: int, spec: PictureSpec
) -> np.ndarray:
    """Draw an epoch, cut into rows of equal time from top to bottom.

    Within a pixel column both edges of the pen's track run from one height to another. A pixel is
    inked by how much of it lies above the lower edge, less how much lies above the upper edge.

    Parameters
    ----------
    epoch_uv : float [n_samples]
        One epoch in µV, positive up; beyond ``±amplitude_uv`` it runs along the edge of its row.
    width, height : int
        Size in pixels.
    n_rows : int
        Number of rows.
    spec : PictureSpec
        Scale and marks; its size does not matter here.

    Returns
    -------
    uint8 [height, width]
        Indices of `PALETTE`.
    """
    grid = _grid(len(epoch_uv), height, width, n_rows)
    # The only step with fractions. Where two machines differ in the last digit of a filter's
    # output, they practically never round to different sixteenths of a pixel.
    y = epoch_uv * (-grid.reach / spec.amplitude_uv)
    y.clip(-grid.reach, grid.reach, out=y)
    top, bottom = _extent(_track(np.rint(y, out=y).astype(np.int32), grid))
    top = top + grid.edges
    bottom = bottom + grid.edges

    # All pixels that the track touches have a number, column by column.
    first = top[0] >> _UNIT_BITS
    count = (bottom[1] - 1 >> _UNIT_BITS) - first + 1
    start = count.cumsum(dtype=np.int32) - count

    # How much of each is above the one and the other edge. An edge is taken to be at all heights
    # from its top to its bottom for equally long. What lies beyond 32 bits cancels out.
    share = grid.shares.take(bottom - top + _UNIT)
    heights = (bottom - (first << _UNIT_BITS)) * share
    share <<= _UNIT_BITS
    heights += start * share
    column = grid.columns.repeat(count)
    n = len(column)
    above, step = grid.scratch.pixels[:, : 2 * n].reshape(2, 2, n)
    heights.take(column, axis=1, out=above, mode="clip")
    share.take(column, axis=1, out=step, mode="clip")
    step *= grid.numbers[:n]
    above -= step
    above >>= 8
    above.clip(0, _FULL, out=above)
    ink = above[1] - above[0]
    ink *= N_INKS - 1
    ink += _FULL // 2
    ink >>= 8

    picture = _paper(width, height, n_rows, spec).copy()
    place = grid.scratch.place[:n]
    (grid.x + (first - start) * width).take(column, out=place, mode="clip")
    place += grid.below[:n]
    picture.reshape(-1)[place] = ink.astype(np.uint8)
    return picture


def _track(y: np.ndarray, grid: _Grid) -> np.ndarray:
    """Return how far both edges of what the pen draws are from where they rest in each part, int16 [2, n_parts]."""
    scratch = grid.scratch
    border, step = scratch.borders
    y.take(grid.before, out=border, mode="clip")
    (y[1:] - y[:-1]).take(grid.before, out=step, mode="clip")
    step *= grid.share
    step += 128
    step >>= 8
    border += step
    upper, lower = curve = scratch.curve
    np.minimum(border[:-1], border[1:], out=upper, casting="same_kind")
    np.maximum(border[:-1], border[1:], out=lower, casting="same_kind")
    if len(grid.inner):
        inner = y.astype(np.int16).take(grid.inner)
        np.minimum(upper, inner.min(0), out=upper)
        np.maximum(lower, inner.max(0), out=lower)
    np.negative(lower, out=lower)

    reach = len(_PEN) - 1
    edge, other = scratch.edges
    n = edge.shape[1]
    edge[:] = curve[:, reach : reach + n]
    for i in range(1, reach + 1):
        np.minimum(curve[:, reach - i :][:, :n], curve[:, reach + i :][:, :n], out=other)
        other += _PEN[0] - _PEN[i]
        np.minimum(edge, other, out=edge)
    np.negative(edge[1], out=edge[1])
    return edge


def _extent(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return from where to where both edges run in each column, int16 [2, n_columns] each."""
    a, b, c, d = (edges[:, i::_PARTS] for i in range(_PARTS))
    least = np.minimum(np.minimum(a, b), np.minimum(c, d))
    most = np.maximum(np.maximum(a, b), np.maximum(c, d))
    return least, most


@lru_cache(maxsize=16)
def _paper(width: int, height: int, n_rows: int, spec: PictureSpec) -> np.ndarray:
    """Return what is under the curve: nothing, or scale marks; uint8 [height, width]."""
    paper = np.zeros((height, width), np.uint8)
    if not spec.marks:
        return paper
    row_s = EPOCH_S // n_rows
    seconds = np.arange(1, row_s) * width // row_s
    half_bar = BAR_UV / 2 / spec.amplitude_uv * height / n_rows / 2
    for i in range(n_rows):
        top, bottom = i * height // n_rows, (i + 1) * height // n_rows
        paper[bottom - spec.tick_px : bottom, seconds] = TICK
        middle = (top + bottom) / 2
        paper[max(round(middle - half_bar), top) : round(middle + half_bar), :2] = BAR
        paper[bottom:, :2] = 0  # of a bar that is higher than its row
    return paper
