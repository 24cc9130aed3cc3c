"""Two runs on the same epochs: what is the difference, and how sure is it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from eegtool.core.errors import EegToolError
from eegtool.report.measures.intervals import Basis, Bootstrap, Floats, Interval, Sampling
from eegtool.report.measures.metrics import Agreement, agreement, cells_of, counts_of
from eegtool.report.measures.scores import FIGURES, SHAPE
from eegtool.report.reading.epochs import AnsweredEpoch

FEWEST_SUBJECTS = 6
"""With fewer, the smallest p that Wilcoxon's test can give is above 0.05 (2 / 2⁵ = 0.06)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of the other run less that of the first, with its 95 % interval."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class McNemar:
    """Exact McNemar test (a binomial test of the epochs on which one run alone is right).

    It takes epochs for independent, which those of one night are not: its p is too small.
    """

    only_first_right: int
    only_other_right: int
    p: float


@dataclass(frozen=True, slots=True)
class Wilcoxon:
    """Wilcoxon's signed-rank test over subjects, of their accuracies."""

    subjects: int
    median_difference: float
    p: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Another run (or the vision module alone) beside the first one, on the epochs of both.

    Attributes
    ----------
    first, other : str
        Their names.
    n : int
        Labelled epochs that both have answered; all figures are about these.
    only_first, only_other : int
        Labelled epochs that only one of them has answered.
    differs_in : tuple of str
        Parts of the protocol in which they differ. If there are any, the runs are not ranked, and there
        are neither differences nor tests.
    first_agreement, other_agreement : Agreement or None
        Figures on the common epochs; None where there are none.
    differences : dict of str to Difference
        By name of the figure.
    basis : Basis
        What the intervals rest on.
    decided_otherwise : tuple of str
        In what their stages were calibrated or decided otherwise (see `Run.decided_otherwise`).
    mcnemar : McNemar or None
    wilcoxon : Wilcoxon or None
        None with fewer than `FEWEST_SUBJECTS` subjects, or where all are equal.
    """

    first: str
    other: str
    n: int
    only_first: int
    only_other: int
    differs_in: tuple[str, ...]
    first_agreement: Agreement | None
    other_agreement: Agreement | None
    differences: dict[str, Difference]
    basis: Basis
    mcnemar: McNemar | None
    wilcoxon: Wilcoxon | None
    decided_otherwise: tuple[str, ...] = ()


def compare(
    first: tuple[str, Sequence[AnsweredEpoch]],
    other: tuple[str, Sequence[AnsweredEpoch]],
    sampling: Sampling,
    differs_in: tuple[str, ...] = (),
    decided_otherwise: tuple[str, ...] = (),
) -> Comparison:
    """Compare two runs, joined by sample id.

    Parameters
    ----------
    first, other : (str, sequence of AnsweredEpoch)
        Name and answers of each.
    sampling : Sampling
        How intervals are made: whole subjects are drawn, the same ones for both runs.
    differs_in : tuple of str
        What forbids to rank them (see `Run.differs_in`).
    decided_otherwise : tuple of str
        See `Comparison`.

    Raises
    ------
    EegToolError
        If they have different true stages for one epoch.
    """
    theirs = {e.sample_id: e for e in other[1] if e.true is not None}
    ours = [e for e in first[1] if e.true is not None]
    common = [e for e in ours if e.sample_id in theirs]
    matched = [theirs[e.sample_id] for e in common]
    for mine, yours in zip(common, matched, strict=True):
        if mine.true != yours.true:
            raise EegToolError(
                f"The true stage of '{mine.sample_id}' is {mine.true} in {first[0]} and {yours.true} "
                f"in {other[0]}.",
                "Compare runs over the same scoring; ask one of them again.",
            )
    bootstrap = Bootstrap(common, sampling)
    cells = np.stack([cells_of(common), cells_of(matched)])
    right = cells // SHAPE[1] == cells % SHAPE[1]
    both = [agreement(counts_of(c)) if common else None for c in cells]
    ranked = bool(common) and not differs_in
    return Comparison(
        first=first[0],
        other=other[0],
        n=len(common),
        only_first=len(ours) - len(common),
        only_other=len(theirs) - len(common),
        differs_in=differs_in,
        first_agreement=both[0],
        other_agreement=both[1],
        differences=_differences(cells, bootstrap) if ranked else {},
        basis=bootstrap.basis,
        mcnemar=_mcnemar(right) if ranked else None,
        wilcoxon=_wilcoxon(right, [e.subject for e in common]) if ranked else None,
        decided_otherwise=decided_otherwise,
    )


def as_answers(epochs: Sequence[AnsweredEpoch], stages: Mapping[str, str]) -> list[AnsweredEpoch]:
    """Return the epochs as if `stages` (by sample id) had been answered; those without one are left out."""
    return [
        replace(e, reading=replace(e.reading, stage=stages[e.sample_id], span=None))
        for e in epochs
        if e.sample_id in stages
    ]


def _differences(cells: NDArray[np.intp], bootstrap: Bootstrap) -> dict[str, Difference]:
    # One array for both: the bootstrap then draws the same subjects for the one and the other.
    per_unit = np.stack([bootstrap.sums(c, SHAPE) for c in cells], axis=1)

    def gained(figure: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
        return lambda counts: figure(counts[..., 1, :, :]) - figure(counts[..., 0, :, :])

    return {
        name: Difference(*bootstrap.estimate(per_unit, gained(figure), (-2.0, 2.0)))
        for name, figure in FIGURES.items()
    }


def _mcnemar(right: NDArray[np.bool_]) -> McNemar:
    b, c = (int((one & ~other).sum()) for one, other in (right, right[::-1]))
    p = stats.binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    return McNemar(b, c, float(p))


def _wilcoxon(right: NDArray[np.bool_], subjects: Sequence[str]) -> Wilcoxon | None:
    gained = pd.Series(right[1].astype(float) - right[0]).groupby(np.array(subjects, object)).mean()
    change = gained[gained.index != ""]
    if len(change) < FEWEST_SUBJECTS or not change.any():
        return None
    return Wilcoxon(len(change), float(change.median()), float(stats.wilcoxon(change).pvalue))
