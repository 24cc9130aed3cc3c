"""Agreement of the answers with the scoring. Pure: answered epochs in, figures out.

An unreadable answer is wrong in every figure: it is a sixth answer that is never true. Everything is
computed from confusion matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eegtool.core.parsing import finite
from eegtool.core.stages import STAGE_INDEX, STAGES
from eegtool.report.measures.certainty import Calibration, CoveragePoint, calibration, coverage
from eegtool.report.measures.intervals import Basis, Bootstrap, Floats, Interval, Sampling
from eegtool.report.measures.scores import BOUNDS, FIGURES, SHAPE, STAGE_FIGURES
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.protocol import Run

UNREADABLE: Final = "unreadable"
ANSWERS: Final = (*STAGES, UNREADABLE)
"""Columns of the confusion matrix: the stages, and the answer that says none of them."""

ONE_SIDED: Final = 0.95
"""Above this share of equal answers the model has most likely not looked at the pictures."""

NEAR: Final = 5
"""Epochs (2.5 min) within which a change is near."""
SPARSE: Final = 0.75
"""Of the epochs in the context of one: what has fewer is sparse, as at the ends of a night or beside a pause."""

Counts = NDArray[np.int64]
"""Confusion matrix, shape (5, 6): number of epochs, true stage × answer."""


@dataclass(frozen=True, slots=True)
class StageScore:
    """Agreement on one stage. None marks a quotient by zero: a stage never answered, or never true."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement over a set of epochs; a figure is None where it is not defined.

    Attributes
    ----------
    n : int
        Labelled epochs.
    accuracy : float
        Share of right answers.
    macro_f1, weighted_f1 : float
        Mean F1 over the stages that occur in the true labels; plain, and weighted by their epochs.
    kappa : float or None
        Cohen's κ with `UNREADABLE` as an answer of its own (Cohen 1960). None where true stages and
        answers are one and the same stage throughout: chance alone then agrees fully.
    mcc : float or None
        Matthews' correlation coefficient for several classes (Gorodkin 2004). 0 where true stages or
        answers are all the same; None where `kappa` is.
    balanced_accuracy : float
        Mean recall over the stages that occur in the true labels.
    """

    n: int
    accuracy: float | None
    macro_f1: float | None
    weighted_f1: float | None
    kappa: float | None
    mcc: float | None
    balanced_accuracy: float | None


@dataclass(frozen=True, slots=True)
class Chance(Agreement):
    """What the figures would be without looking at the signal: those of always answering one stage.

    Attributes
    ----------
    stage : str
        Commonest true stage, which the constant answer gives.
    random_accuracy : float
        Accuracy expected of answers drawn at random as often as the model gave each of them.
    """

    stage: str
    random_accuracy: float


@dataclass(frozen=True, slots=True)
class Intervals:
    """95 % intervals of the pooled figures.

    Attributes
    ----------
    basis : Basis
        What they rest on.
    figures : dict of str to (float, float) or None
        By name of the figure, as in `Agreement`.
    stages : dict of str to dict of str to (float, float) or None
        Precision, recall and F1 of each stage.
    """

    basis: Basis
    figures: dict[str, Interval | None] = field(default_factory=dict)
    stages: dict[str, dict[str, Interval | None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """Agreement on a part of the epochs, with intervals of its figures (by name, as in `Intervals`)."""

    agreement: Agreement
    intervals: dict[str, Interval | None]


@dataclass(frozen=True, slots=True)
class Metrics(Agreement):
    """All figures of a run, pooled over its labelled epochs: what ``metrics.json`` begins with.

    Attributes
    ----------
    answered : int
        All epochs with an answer, labelled or not.
    macro_f1_stages : tuple of str
        Stages that occur in the true labels.
    per_stage : dict of str to StageScore
        One per stage.
    confusion : tuple of tuple of int, shape (5, 6)
        Number of epochs, true stage × answer.
    confusion_labels : tuple of str, shape (6,)
        Names of the columns; the first five name the rows.
    unreadable : int
        Epochs whose answer names no stage: labelled ones, or all where none is labelled.
    unlabelled : int
        Epochs without a true stage, in no figure.
    most_common_answer : str
        One of `ANSWERS`.
    most_common_answer_share : float
        Its share of the answers to labelled epochs (to all, where none is labelled).
    chance : Chance or None
        Figures without looking.
    intervals : Intervals
        Of the pooled figures.
    per_subject, per_night : dict of str to Agreement
        Figures of each subject and of each recording; epochs that name none are in none.
    surroundings : dict of str to Part
        ``"transition"``: epochs next to one of another true stage; ``"stable"``: between equal ones.
    calibration : Calibration or None
        How well probabilities keep what they promise; None without any.
    coverage : tuple of CoveragePoint
        Agreement where the least certain epochs go to a human; empty without probabilities.
    model_id, features, protocol, how
        See `Run`.
    """

    answered: int
    macro_f1_stages: tuple[str, ...]
    per_stage: dict[str, StageScore]
    confusion: tuple[tuple[int, ...], ...]
    confusion_labels: tuple[str, ...]
    unreadable: int
    unlabelled: int
    most_common_answer: str
    most_common_answer_share: float
    chance: Chance | None
    intervals: Intervals
    per_subject: dict[str, Agreement]
    per_night: dict[str, Agreement]
    surroundings: dict[str, Part]
    calibration: Calibration | None
    coverage: tuple[CoveragePoint, ...]
    model_id: str
    features: str | None
    protocol: dict[str, Any]
    how: dict[str, Any]

    @property
    def one_sided(self) -> bool:
        """Whether nearly all answers are the same."""
        return self.most_common_answer_share > ONE_SIDED


def measure(epochs: Sequence[AnsweredEpoch], run: Run, sampling: Sampling | None = None) -> Metrics:
    """Compute all figures.

    Parameters
    ----------
    epochs : sequence of AnsweredEpoch
        At least one.
    run : Run
        What made the answers.
    sampling : Sampling, optional
        How intervals are made.
    """
    labelled = [epoch for epoch in epochs if epoch.true is not None]
    cells = cells_of(labelled)
    counts = counts_of(cells)
    bootstrap = Bootstrap(labelled, sampling or Sampling())
    overall = agreement(counts) if labelled else None
    answers = np.bincount(answers_of(labelled or epochs), minlength=len(ANSWERS))
    common = int(answers.argmax())  # the first in their order where several tie
    return Metrics(
        n=len(labelled),
        answered=len(epochs),
        **{name: getattr(overall, name, None) for name in FIGURES},
        macro_f1_stages=tuple(s for s, n in zip(STAGES, counts.sum(1), strict=True) if n),
        per_stage=stage_scores(counts) if labelled else {},
        confusion=tuple(tuple(int(k) for k in row) for row in counts),
        confusion_labels=ANSWERS,
        unreadable=int(answers[-1]),
        unlabelled=len(epochs) - len(labelled),
        most_common_answer=ANSWERS[common],
        most_common_answer_share=float(answers[common] / answers.sum()),
        chance=chance(counts) if labelled else None,
        intervals=_intervals(bootstrap, cells),
        per_subject=_per_group(cells, [e.subject for e in labelled]),
        per_night=_per_group(cells, [e.recording for e in labelled]),
        surroundings={
            name: part(bootstrap, np.where(inside, cells, -1))
            for name, inside in surroundings(labelled, _context(run)).items()
            if inside.any()
        },
        calibration=calibration(labelled, bootstrap),
        coverage=coverage(labelled, cells, bootstrap),
        model_id=run.model_id,
        features=run.features,
        protocol=run.protocol,
        how=run.how,
    )


def surroundings(
    labelled: Sequence[AnsweredEpoch], context: int = 0
) -> dict[str, NDArray[np.bool_]]:
    """Sort epochs by what is around them: changes of stage, which are hard for humans, too, and missing epochs.

    An epoch is in transition where the true stage of the epoch before it or after it, in the same
    recording, is another one. It is stable where that is not so: near a change, or further away. A neighbour
    that has no label says nothing; an epoch without any labelled neighbour is neither.

    Parameters
    ----------
    labelled : sequence of AnsweredEpoch, length n
        Epochs with a true stage.
    context : int
        Epochs on either side that the features know of.

    Returns
    -------
    dict of str to bool array, shape (n,)
        ``"transition"`` and ``"stable"``; of the stable ones ``"near"`` (a change within `NEAR` epochs) and
        ``"far"``; with a context ``"full"`` and ``"sparse"`` (less than `SPARSE` of the epochs in it are among
        these).
    """
    placed = [
        (e.recording, min(e.epoch_index, 2**60), e.true, i)
        for i, e in enumerate(labelled)
        if e.recording and e.epoch_index is not None
    ]
    groups = ("transition", "stable", "near", "far", *(("full", "sparse") if context else ()))
    found = {name: np.zeros(len(labelled), bool) for name in groups}
    table = pd.DataFrame(sorted(placed), columns=["recording", "index", "true", "row"])
    for _, night in table.groupby("recording"):
        index, true = night["index"].to_numpy(np.int64), night["true"].to_numpy()
        beside = np.diff(index) == 1
        borders = index[1:][beside & (true[1:] != true[:-1])]  # each lies before this epoch
        apart = _distances(borders, index + 0.5)  # half an epoch: right beside it
        transition = apart < 1
        stable = ~transition & (np.append(beside, False) | np.insert(beside, 0, False))
        near = stable & (apart < NEAR)
        low, high = (np.searchsorted(index, index + k) for k in (-context, context + 1))
        sparse = high - low - 1 < SPARSE * 2 * context
        parts = (transition, stable, near, stable & ~near, ~sparse, sparse)
        for name, inside in zip(groups, parts, strict=False):
            found[name][night["row"].to_numpy()[inside]] = True
    return found


def _context(run: Run) -> int:
    """Return how many epochs on either side the features know of, as the rows say."""
    reach = run.protocol.get("context")
    return reach if isinstance(reach, int) and 0 < reach < 10**6 else 0


def _distances(borders: NDArray[np.int64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far the nearest border is from each place; infinity where there is none. Borders rise."""
    ends = np.concatenate([[-np.inf], borders, [np.inf]])
    after = np.searchsorted(ends, places)
    return np.minimum(places - ends[after - 1], ends[after] - places)


def cells_of(labelled: Sequence[AnsweredEpoch]) -> NDArray[np.intp]:
    """Return the cell of the (flattened) confusion matrix into which each labelled epoch falls."""
    true = [STAGE_INDEX[e.true or ""] for e in labelled]
    return np.array(true, np.intp) * SHAPE[1] + answers_of(labelled)


def answers_of(epochs: Sequence[AnsweredEpoch]) -> NDArray[np.intp]:
    """Return the column of the confusion matrix into which each answer falls."""
    return np.array([STAGE_INDEX.get(e.predicted or "", len(STAGES)) for e in epochs], np.intp)


def counts_of(cells: NDArray[np.intp]) -> Counts:
    """Return the confusion matrix of epochs given by their cells; negative ones do not count."""
    counts = np.bincount(cells[cells >= 0], minlength=SHAPE[0] * SHAPE[1])
    return counts.reshape(SHAPE).astype(np.int64)


def agreement(counts: Counts) -> Agreement:
    """Compute the figures of a confusion matrix that holds at least one epoch."""
    numbers = counts.astype(np.float64)
    figures: dict[str, Any] = {name: finite(float(of(numbers))) for name, of in FIGURES.items()}
    if figures["kappa"] is None:
        figures["mcc"] = None
    return Agreement(n=int(counts.sum()), **figures)


def stage_scores(counts: Counts) -> dict[str, StageScore]:
    """Return precision, recall, F1 and number of true epochs of each stage."""
    numbers = counts.astype(np.float64)
    columns = {name: of(numbers).tolist() for name, of in STAGE_FIGURES.items()}
    return {
        stage: StageScore(
            **{name: finite(column[i]) for name, column in columns.items()},
            support=int(counts[i].sum()),
        )
        for i, stage in enumerate(STAGES)
    }


def chance(counts: Counts) -> Chance:
    """Return what the constant answer and random answers would reach on the same epochs."""
    true, said = counts.sum(1), counts.sum(0)[: len(STAGES)]
    commonest = int(true.argmax())  # the first in their order where several tie
    constant = np.zeros_like(counts)
    constant[:, commonest] = true
    always = asdict(agreement(constant)) | {"kappa": 0.0, "mcc": 0.0}
    at_random = float((true * said).sum() / true.sum() ** 2)
    return Chance(stage=STAGES[commonest], random_accuracy=at_random, **always)


def part(bootstrap: Bootstrap, cells: NDArray[np.intp]) -> Part:
    """Return the agreement on those epochs whose cell is not negative, at least one, with intervals."""
    per_unit = bootstrap.sums(cells, SHAPE)
    intervals = {
        name: bootstrap.estimate(per_unit, of, BOUNDS.get(name, (0.0, 1.0)))[1]
        for name, of in FIGURES.items()
    }
    figures = agreement(counts_of(cells))
    return Part(figures, intervals | {"mcc": intervals["mcc"] if figures.mcc is not None else None})


def _intervals(bootstrap: Bootstrap, cells: NDArray[np.intp]) -> Intervals:
    if not len(cells):
        return Intervals(bootstrap.basis)
    per_unit = bootstrap.sums(cells, SHAPE)

    def interval(of: Callable[[Floats], Floats], i: int) -> Interval | None:
        return bootstrap.estimate(per_unit, lambda counts: of(counts)[..., i])[1]

    stages = {
        stage: {name: interval(of, i) for name, of in STAGE_FIGURES.items()}
        for i, stage in enumerate(STAGES)
    }
    return Intervals(bootstrap.basis, part(bootstrap, cells).intervals, stages)


def _per_group(cells: NDArray[np.intp], names: Sequence[str]) -> dict[str, Agreement]:
    groups = pd.Series(cells).groupby(np.array(names, dtype=object))
    return {name: agreement(counts_of(of.to_numpy())) for name, of in groups if name}
