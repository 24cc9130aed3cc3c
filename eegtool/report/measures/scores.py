"""Agreement from confusion matrices, one or thousands at a time.

Every function takes counts of shape (..., 5, 6), true stage × answer, the sixth answer being the one that
cannot be read, and returns one figure per matrix; NaN marks what is not defined. They serve point figures and resampling
alike, and equal scikit-learn's, which a test holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eegtool.core.stages import STAGES

SHAPE: Final = (len(STAGES), len(STAGES) + 1)
"""Of a confusion matrix."""

Floats = NDArray[np.float64]


def accuracy(counts: Floats) -> Floats:
    """Return the share of right answers."""
    return _ratio(_right(counts).sum(-1), counts.sum((-2, -1)))


def macro_f1(counts: Floats) -> Floats:
    """Return the mean F1 over the stages that occur in the true labels."""
    return _mean(stage_f1(counts), counts.sum(-1) > 0)


def weighted_f1(counts: Floats) -> Floats:
    """Return the mean F1 weighted by the number of true epochs."""
    return _mean(stage_f1(counts), counts.sum(-1))


def balanced_accuracy(counts: Floats) -> Floats:
    """Return the mean recall over the stages that occur in the true labels."""
    return _mean(stage_recall(counts), counts.sum(-1) > 0)


def kappa(counts: Floats) -> Floats:
    """Return Cohen's κ (Cohen 1960); NaN where chance alone agrees fully."""
    total = counts.sum((-2, -1))
    observed = _right(counts).sum(-1) * total
    expected = (counts.sum(-1) * counts.sum(-2)[..., :5]).sum(-1)
    return _ratio(observed - expected, total**2 - expected)


def mcc(counts: Floats) -> Floats:
    """Return Matthews' correlation for several classes (Gorodkin 2004); 0 where it is 0/0."""
    total = counts.sum((-2, -1))
    true, said = counts.sum(-1), counts.sum(-2)
    covariance = _right(counts).sum(-1) * total - (true * said[..., :5]).sum(-1)
    spread = (total**2 - (true**2).sum(-1)) * (total**2 - (said**2).sum(-1))
    return np.where(total > 0, np.nan_to_num(_ratio(covariance, np.sqrt(spread))), np.nan)


def stage_precision(counts: Floats) -> Floats:
    """Return the precision of each stage, shape (..., 5)."""
    return _ratio(_right(counts), counts.sum(-2)[..., :5])


def stage_recall(counts: Floats) -> Floats:
    """Return the recall of each stage, shape (..., 5)."""
    return _ratio(_right(counts), counts.sum(-1))


def stage_f1(counts: Floats) -> Floats:
    """Return F1 of each stage, shape (..., 5)."""
    return _ratio(2 * _right(counts), counts.sum(-1) + counts.sum(-2)[..., :5])


FIGURES: Final[dict[str, Callable[[Floats], Floats]]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "weighted_f1": weighted_f1,
    "kappa": kappa,
    "mcc": mcc,
    "balanced_accuracy": balanced_accuracy,
}
"""The headline figures, by their names in ``metrics.json``."""

BOUNDS: Final = {"kappa": (-1.0, 1.0), "mcc": (-1.0, 1.0)}
"""Smallest and largest value of those that are not between 0 and 1."""

STAGE_FIGURES: Final[dict[str, Callable[[Floats], Floats]]] = {
    "precision": stage_precision,
    "recall": stage_recall,
    "f1": stage_f1,
}


def _right(counts: Floats) -> Floats:
    return np.diagonal(counts[..., :5], axis1=-2, axis2=-1)


def _mean(values: Floats, weights: NDArray[Any]) -> Floats:
    return _ratio((np.nan_to_num(values) * weights).sum(-1), weights.sum(-1).astype(float))


def _ratio(above: Floats, below: Floats) -> Floats:
    out = np.full(np.broadcast_shapes(np.shape(above), np.shape(below)), np.nan)
    return np.divide(above, below, out=out, where=np.asarray(below) > 0)
