"""Augmentation that respects the physiology: what another night of the same sleeper could look like.

A sleeper's electrodes sit a little better or worse (amplitude), an epoch could begin a little earlier
or later (time), amplifiers hiss (noise). Nothing else is done: seen backwards or upside down, K-complexes
and slow waves are none any more, and frequencies tell stages apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import torch

from eegtool.core.stages import EPOCH_S

# How prepare lays pictures out (eegtool.pictures: spec, curve, wrapped, hybrid, spectrogram).
# This room may not look into that one; tests/extract/test_augment.py holds both to each other.
_PAPER: Final = 255
_MARKS: Final = ((160, 172, 194), (222, 120, 92))
_GOAL_HZ: Final = 30.0
_MIN_ROW_PX: Final = 18
_ANCHORS: Final = (
    (10, 8, 40),
    (72, 20, 110),
    (170, 45, 95),
    (235, 110, 50),
    (250, 195, 70),
    (255, 250, 215),
)
_N_LEVELS: Final = 95
_STEP_DB: Final = 0.5


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far pictures may be changed; each is drawn anew for every picture.

    Attributes
    ----------
    gain_db : float
        The amplitude is changed by up to so many dB, up or down (2 dB: by a quarter). Curves become
        higher or lower around the middle of their row; the levels of spectrograms shift.
    shift_s : float
        The epoch begins up to so many seconds earlier or later; the value at the edge fills the gap.
    noise : float
        Standard deviation of the noise on the picture, of 255 grey levels.
    flip : bool
        Also turn every second picture round in time, and every second curve upside down. No sleeper
        does that; for those who want to know what it costs.
    """

    gain_db: float = 2.0
    shift_s: float = 1.0
    noise: float = 3.0
    flip: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """Pixel rows from `top` to `bottom` (not included) of one kind.

    Attributes
    ----------
    top, bottom : int
        Pixel rows.
    n_rows : int
        Rows of the curve, which follow each other in time; 0 for a spectrogram.
    """

    top: int
    bottom: int
    n_rows: int


def count_channels(protocol: Mapping[str, Any]) -> int:
    """Return how many channels share each picture, from what prepare stamped."""
    return str(protocol.get("channel", "")).partition("; ")[0].count(", ") + 1


@lru_cache(maxsize=16)
def strips(style: str, size: int, n_channels: int) -> tuple[Strip, ...]:
    """Return where in a picture which signal is drawn how; nothing for a style that is not known here.

    Parameters
    ----------
    style : str
        One of prepare's: 'waveform', 'wrapped', 'spectrogram', 'hybrid'.
    size : int
        Side of the picture in pixels.
    n_channels : int
        Channels, from top to bottom.
    """
    found = []
    for top, bottom in pairwise(i * size // n_channels for i in range(n_channels + 1)):
        height = bottom - top
        if style == "waveform":
            found.append(Strip(top, bottom, 1))
        elif style == "wrapped":
            found.append(Strip(top, bottom, _wrapped_rows(size, height)))
        elif style == "spectrogram":
            found.append(Strip(top, bottom, 0))
        elif style == "hybrid":
            middle = top + height * 7 // 12
            found.append(Strip(top, middle, _wrapped_rows(size, middle - top)))
            found.append(Strip(middle, bottom, 0))
    return tuple(found)


def _wrapped_rows(width: int, height: int) -> int:
    whole_seconds = [n for n in range(1, EPOCH_S + 1) if EPOCH_S % n == 0]
    fitting = [n for n in whole_seconds if height >= n * _MIN_ROW_PX] or [1]
    return next((n for n in fitting if n * width / EPOCH_S / 2 >= _GOAL_HZ), fitting[-1])


def augment(
    pictures: torch.Tensor, style: str, n_channels: int, how: Augmentation, seed: int
) -> torch.Tensor:
    """Return changed pictures, drawn by `seed`; everything happens on the device they are on.

    Parameters
    ----------
    pictures : uint8 [B, 3, size, size]
        As prepare drew them. They are not changed.
    style : str
        How; of a style that is not known here, only noise is added.
    n_channels : int
        Channels that share each picture.
    how : Augmentation
        What may be done.
    seed : int
        Another one for every batch.

    Returns
    -------
    uint8 [B, 3, size, size]
        A copy.
    """
    n, device = len(pictures), pictures.device
    generator = torch.Generator(device).manual_seed(seed)
    between = 2 * torch.rand(2, n, 1, 1, generator=generator, device=device) - 1
    coins = torch.rand(2, n, 1, 1, generator=generator, device=device) < 0.5
    backwards, inverted = coins & how.flip
    gain_db, shift = between[0] * how.gain_db, between[1] * (how.shift_s / EPOCH_S)
    changed = pictures.clone()
    for strip in strips(style, pictures.shape[-1], n_channels):
        part = pictures[:, :, strip.top : strip.bottom]
        if strip.n_rows:
            scale = 10 ** (gain_db / 20) * (1 - 2 * inverted.float())
            new = _move_curves(part, strip.n_rows, scale, shift, backwards)
        else:
            new = _move_power(part, gain_db, shift, backwards)
        changed[:, :, strip.top : strip.bottom] = new
    if how.noise:
        size = (n, 1, *pictures.shape[2:])
        hiss = torch.randn(size, generator=generator, device=device).mul_(how.noise).round_()
        noisy = changed.to(torch.int16).add_(hiss.to(torch.int16))
        changed = noisy.clamp_(0, 255).to(torch.uint8)
    return changed


def _columns(
    columns: torch.Tensor, n: int, shift: torch.Tensor, backwards: torch.Tensor
) -> torch.Tensor:
    """Return where each of `columns` comes from, of `n` that span the epoch; int64."""
    come_from = torch.where(backwards, n - 1 - columns, columns)
    return (come_from - (shift * n).round().long()).clamp_(0, n - 1)


def _move_curves(
    part: torch.Tensor,
    n_rows: int,
    scale: torch.Tensor,
    shift: torch.Tensor,
    backwards: torch.Tensor,
) -> torch.Tensor:
    """Scale curves around the middles of their rows and move them in time, from row to row.

    Scale marks stay where they are, on the paper under the curve.

    Parameters
    ----------
    part : uint8 [B, 3, height, width]
        The curve in `n_rows` rows.
    scale, shift, backwards : [B, 1, 1]
        Factor of the amplitude, share of the epoch by which it moves, whether time is turned round.
    """
    height, width = part.shape[2:]
    device = part.device
    colours = torch.tensor(_MARKS, dtype=torch.uint8, device=device)[:, None, :, None, None]
    is_mark = (part == colours).all(2).any(0)[:, None]
    curve = part.masked_fill(is_mark, _PAPER)
    row_borders = torch.arange(n_rows + 1, device=device) * height // n_rows
    middles = (2 * torch.arange(n_rows, device=device) + 1) * height / (2 * n_rows)
    y = torch.arange(height, device=device)
    row = torch.bucketize(y, row_borders[1:], right=True)
    columns = (row[:, None] * width + torch.arange(width, device=device))[None]
    columns = _columns(columns, n_rows * width, shift, backwards)
    from_row = columns.div(width, rounding_mode="floor")
    offset = (y + 0.5 - middles[row])[None, :, None] / scale  # of pixel middles
    from_y = middles[from_row] + (offset - 0.5)
    above = from_y.floor()
    share = (from_y - above)[:, None]
    above = above.long()
    top, bottom = row_borders[from_row], row_borders[from_row + 1]
    flat, x = curve.reshape(*part.shape[:2], -1), columns - from_row * width

    def pixels(y: torch.Tensor) -> torch.Tensor:
        """Return what is at these heights: in another row than the own one, paper."""
        place = (y.clamp(0, height - 1) * width + x).reshape(len(y), 1, -1)
        found = flat.gather(2, place.expand(-1, flat.shape[1], -1)).view(part.shape)
        return found.masked_fill_(((y < top) | (y >= bottom))[:, None], _PAPER).float()

    moved = torch.lerp(pixels(above), pixels(above + 1), share).round_().to(torch.uint8)
    is_paper = (moved == _PAPER).all(1, keepdim=True)
    return torch.where(is_mark & is_paper, part, moved)


def _move_power(
    part: torch.Tensor, gain_db: torch.Tensor, shift: torch.Tensor, backwards: torch.Tensor
) -> torch.Tensor:
    """Shift the levels of a spectrogram and move it in time; what is no level (marks) stays.

    Parameters
    ----------
    part : uint8 [B, 3, height, width]
        The spectrogram.
    gain_db, shift, backwards : [B, 1, 1]
        Change of power in dB, share of the epoch by which it moves, whether time is turned round.
    """
    width = part.shape[-1]
    palette, level_of = (table.to(part.device, non_blocking=True) for table in _colours())
    level = level_of[part.sum(1)]
    is_level = (palette[level].movedim(-1, 1) == part).all(1, keepdim=True)
    columns = _columns(torch.arange(width, device=part.device), width, shift, backwards)
    level = level.gather(2, columns.expand(level.shape))
    level = (level + (gain_db / _STEP_DB).round().long()).clamp_(0, _N_LEVELS - 1)
    return torch.where(is_level, palette[level].movedim(-1, 1), part)


@lru_cache(maxsize=1)
def _colours() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the colour of each level, uint8 ``[95, 3]``, and the level by the sum of red, green and blue.

    That sum rises with the level: it tells them apart. Sums in between belong to no level.
    """
    at = torch.arange(_N_LEVELS) * (len(_ANCHORS) - 1)
    left = at.div(_N_LEVELS - 1, rounding_mode="floor").clamp_(max=len(_ANCHORS) - 2)
    share = (at - left * (_N_LEVELS - 1))[:, None]
    anchors = torch.tensor(_ANCHORS)
    mixed = anchors[left] * (_N_LEVELS - 1 - share) + anchors[left + 1] * share
    palette = (mixed + (_N_LEVELS - 1) // 2).div(_N_LEVELS - 1, rounding_mode="floor")
    level_of = torch.bucketize(torch.arange(3 * 255 + 1), palette.sum(1)).clamp_(max=_N_LEVELS - 1)
    return palette.to(torch.uint8), level_of
