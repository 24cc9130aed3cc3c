"""Whether probabilities keep what they promise, and what is gained where the least certain epochs go to a human."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from eegtool.core.parsing import finite
from eegtool.core.stages import STAGE_INDEX, STAGES
from eegtool.report.measures import scores
from eegtool.report.measures.intervals import Bootstrap, Interval
from eegtool.report.reading.epochs import AnsweredEpoch

BINS: Final = 15
"""Bins of equal width over (0, 1] (Guo et al. 2017, arXiv 1706.04599); each includes its upper end."""

SHARES: Final = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Shares of the epochs that go to a human."""

_SMALLEST: Final = 1e-6
"""Probabilities are stored with six digits: what is smaller counts as this much in `Calibration.nll`."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Epochs of about the same certainty: how sure the model was, and how often it was right."""

    low: float
    high: float
    n: int
    certainty: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well the probabilities keep what they promise.

    Attributes
    ----------
    n : int
        Labelled epochs that have probabilities.
    ece : float
        Expected calibration error: mean distance of certainty and share of right answers over `bins`
        (Guo et al. 2017, eq. 3).
    ece_interval : tuple of float, or None
    brier : float
        Mean squared distance of the five probabilities from the truth, 0 to 2 (Brier 1950).
    nll : float
        Mean negative log-likelihood of the true stage, in nats.
    accuracy : float
        Of the likeliest stage.
    differing : int
        Epochs whose answer is another stage than the likeliest one.
    bins : tuple of ReliabilityBin
    """

    n: int
    ece: float
    ece_interval: Interval | None
    brier: float
    nll: float
    accuracy: float
    differing: int
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class CoveragePoint:
    """What is reached where the least certain epochs go to a human.

    Attributes
    ----------
    to_human : float
        Share of the epochs that goes; unreadable answers go first.
    n_kept : int
        Epochs that the model keeps.
    certainty : float or None
        Of the least certain epoch that it keeps.
    kappa, accuracy : float or None
        Of what the model keeps.
    kappa_interval : tuple of float, or None
    kappa_together : float or None
        κ over all epochs, if the human scored theirs like the label.
    """

    to_human: float
    n_kept: int
    certainty: float | None
    kappa: float | None
    kappa_interval: Interval | None
    accuracy: float | None
    kappa_together: float | None


def calibration(labelled: Sequence[AnsweredEpoch], bootstrap: Bootstrap) -> Calibration | None:
    """Compare certainty with success; None where no epoch has probabilities."""
    shares, known = probabilities_in(labelled)
    if not known.any():
        return None
    true = np.array([STAGE_INDEX[e.true or ""] for e in labelled], np.intp)
    sure, likeliest = shares.max(1), shares.argmax(1)
    right = (likeliest == true) & known
    # Rounded, so that 0.2, which as a float may lie a hair above its edge, stays in its bin.
    bins = np.clip(np.ceil(np.round(sure * BINS, 9)).astype(np.intp) - 1, 0, BINS - 1)
    weights = [known * 1.0, sure * known, right * 1.0]
    per_unit = np.stack([bootstrap.sums(bins, (BINS,), w) for w in weights], axis=1)
    totals = per_unit.sum(0)
    ece, interval = bootstrap.estimate(per_unit, _ece)
    differing = [e.predicted != STAGES[k] for e, k in zip(labelled, likeliest, strict=True)]
    kept, truth = shares[known], true[known]
    clipped = np.clip(kept, _SMALLEST, None)
    clipped /= clipped.sum(1, keepdims=True)
    return Calibration(
        n=int(known.sum()),
        ece=ece or 0.0,
        ece_interval=interval,
        brier=float(((kept - np.eye(len(STAGES))[truth]) ** 2).sum(1).mean()),
        nll=float(log_loss(truth, clipped, labels=range(len(STAGES)))),
        accuracy=float(right.sum() / known.sum()),
        differing=int((known & differing).sum()),
        bins=tuple(
            ReliabilityBin(
                low=i / BINS,
                high=(i + 1) / BINS,
                n=int(n),
                certainty=float(certainty / n) if n else None,
                accuracy=float(hits / n) if n else None,
            )
            for i, (n, certainty, hits) in enumerate(totals.T)
        ),
    )


def coverage(
    labelled: Sequence[AnsweredEpoch],
    cells: NDArray[np.intp],
    bootstrap: Bootstrap,
    to_human: Sequence[float] = SHARES,
) -> tuple[CoveragePoint, ...]:
    """Return agreement by the share of epochs that goes to a human; empty if any has no probabilities.

    Parameters
    ----------
    cells : int array, shape (n,)
        Cell of the confusion matrix of each epoch.
    to_human : sequence of float
        Shares of the epochs that go.
    """
    shares, known = probabilities_in(labelled)
    if not known.all() or not len(known):
        return ()
    width = scores.SHAPE[1]
    readable = cells % width != len(STAGES)
    certainty = np.where(readable, shares.max(1), -1.0)
    order = np.argsort(certainty, kind="stable")
    human = cells // width * (width + 1)  # the cell of the true stage on the diagonal
    points = []
    for share in to_human:
        first = round(share * len(order))
        if first >= len(order):
            break
        kept, together = cells.copy(), cells.copy()
        kept[order[:first]] = -1
        together[order[:first]] = human[order[:first]]
        per_unit, of_all = (bootstrap.sums(c, scores.SHAPE) for c in (kept, together))
        kappa, interval = bootstrap.estimate(per_unit, scores.kappa, scores.BOUNDS["kappa"])
        least = float(certainty[order[first]])
        points.append(
            CoveragePoint(
                to_human=share,
                n_kept=len(order) - first,
                certainty=least if least >= 0 else None,
                kappa=kappa,
                kappa_interval=interval,
                accuracy=finite(float(scores.accuracy(per_unit.sum(0)))),
                kappa_together=finite(float(scores.kappa(of_all.sum(0)))),
            )
        )
    return tuple(points)


def probabilities_in(
    epochs: Sequence[AnsweredEpoch],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the probabilities, shape (n, 5), and which epochs have any; they sum to 1."""
    known = np.array([e.probabilities is not None for e in epochs], bool)
    none = (1.0, 0.0, 0.0, 0.0, 0.0)
    shares = np.array([e.probabilities or none for e in epochs], np.float64)
    shares = shares.reshape(-1, len(STAGES))
    return shares / shares.sum(1, keepdims=True), known


def _ece(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the calibration error out of the sums of each bin: epochs, certainty, right answers."""
    n, certainty, right = sums[..., 0, :], sums[..., 1, :], sums[..., 2, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.abs(right - certainty).sum(-1) / n.sum(-1)
