"""Style ``waveform``: the whole epoch as one curve, the look of the paper."""

from __future__ import annotations

from typing import Final

import numpy as np

from eegtool.core.stages import EPOCH_S
from eegtool.prepare.images.spec import PictureSpec

ANCHORS: Final = ((255, 255, 255), (24, 39, 75))
"""Ink on paper."""

_LINE_PX: Final = 1.1


def visible_hz(spec: PictureSpec) -> float:
    """Half the number of pixel columns per second (Nyquist)."""
    return spec.size / EPOCH_S / 2


def draw(epoch_uv: np.ndarray, sfreq_hz: float, spec: PictureSpec) -> np.ndarray:
    """Draw the curve, anti-aliased.

    Within a pixel column the curve sweeps from its lowest to its highest point; every pixel is
    inked by the share of its height that this sweep, one line width thick, covers.

    Parameters
    ----------
    epoch_uv : float [n_samples]
        One epoch in µV, positive up; beyond ``±amplitude_uv`` it runs along the edge.
    sfreq_hz : float
        Sampling rate (the curve always spans the width).
    spec : PictureSpec
        Size and scale.

    Returns
    -------
    uint8 [size, size]
        Ink: 0 is paper.
    """
    size = spec.size
    scaled = np.clip(epoch_uv / spec.amplitude_uv, -1.0, 1.0)
    y = (1.0 - scaled) * 0.5 * (size - 1) + 0.5
    # Corners of the polyline plus its crossings of the column borders, in order of time.
    x = (np.arange(len(y)) + 0.5) * (size / len(y))
    borders = np.arange(size + 1.0)
    at = np.concatenate([x, borders])
    order = np.argsort(at, kind="stable")
    points = np.concatenate([y, np.interp(borders, x, y)])[order]
    starts = np.searchsorted(at[order], borders[:-1])
    # The right border of a column is the first point of the next one: both columns need it.
    top = np.minimum.reduceat(points, starts)
    bottom = np.maximum.reduceat(points, starts)
    border_y = np.interp(borders[1:], x, y)
    top, bottom = np.minimum(top, border_y), np.maximum(bottom, border_y)

    rows = np.arange(size, dtype=float)[:, None]
    covered = np.minimum(bottom + _LINE_PX / 2, rows + 1) - np.maximum(top - _LINE_PX / 2, rows)
    return (np.clip(covered, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)
