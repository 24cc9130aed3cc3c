"""Agreement of the answers with the scoring. Pure: answered epochs in, figures out.

An unreadable answer is wrong in every figure: it is a sixth answer that is never true. Everything is
computed from confusion matrices by scikit-learn, with their cells as weighted samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
    recall_score,
)

from eegtool.core.stages import STAGE_INDEX, STAGES
from eegtool.core.workspace import jsonable
from eegtool.report.measures.certainty import Calibration, CoveragePoint, calibration, coverage
from eegtool.report.measures.intervals import Basis, Bootstrap, Interval, Sampling
from eegtool.report.measures.scores import BOUNDS, FIGURES, STAGE_FIGURES
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.protocol import Run

UNREADABLE: Final = "unreadable"
ANSWERS: Final = (*STAGES, UNREADABLE)
"""Columns of the confusion matrix: the stages, and the answer that says none of them."""

ONE_SIDED: Final = 0.95
"""Above this share of equal answers the model has most likely not looked at the pictures."""

_CELLS: Final = len(STAGES) * len(ANSWERS)

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
    """Agreement over a set of epochs.

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
    accuracy: float
    macro_f1: float
    weighted_f1: float
    kappa: float | None
    mcc: float | None
    balanced_accuracy: float


@dataclass(frozen=True, slots=True)
class Chance:
    """What the figures would be without looking at the signal.

    Attributes
    ----------
    stage : str
        Commonest true stage, which the constant answer gives.
    accuracy, macro_f1, kappa, weighted_f1, mcc, balanced_accuracy : float
        Figures of always answering `stage`.
    random_accuracy : float
        Accuracy expected of answers drawn at random as often as the model gave each of them.
    """

    stage: str
    accuracy: float
    macro_f1: float
    kappa: float
    weighted_f1: float
    mcc: float
    balanced_accuracy: float
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
class Metrics:
    """All figures of a run: what ``metrics.json`` begins with.

    Attributes
    ----------
    n, accuracy, macro_f1, weighted_f1, kappa, mcc, balanced_accuracy
        See `Agreement`; pooled over all labelled epochs. All None where no epoch has a label.
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

    n: int
    answered: int
    accuracy: float | None
    macro_f1: float | None
    weighted_f1: float | None
    kappa: float | None
    mcc: float | None
    balanced_accuracy: float | None
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

    def to_row(self) -> dict[str, Any]:
        """Return the form of ``metrics.json``."""
        return dict(jsonable(asdict(self)))


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
    answers = counts.sum(0) if labelled else _answers(epochs)
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
        intervals=_intervals(bootstrap, cells, counts),
        per_subject=_per_group(cells, [e.subject for e in labelled]),
        per_night=_per_group(cells, [e.recording for e in labelled]),
        surroundings={
            name: part(bootstrap, np.where(inside, cells, -1))
            for name, inside in surroundings(labelled).items()
            if inside.any()
        },
        calibration=calibration(labelled, bootstrap),
        coverage=coverage(labelled, cells, bootstrap),
        model_id=run.model_id,
        features=run.features,
        protocol=run.protocol,
        how=run.how,
    )


def surroundings(labelled: Sequence[AnsweredEpoch]) -> dict[str, NDArray[np.bool_]]:
    """Tell transition epochs from stable ones; the former are hard for humans, too.

    An epoch is in transition where the true stage of the epoch before it or after it, in the same
    recording, is another one. It is stable where that is not so. A neighbour that has no label says
    nothing; an epoch without any labelled neighbour is neither.

    Parameters
    ----------
    labelled : sequence of AnsweredEpoch, length n
        Epochs with a true stage.

    Returns
    -------
    dict of str to bool array, shape (n,)
        ``"transition"`` and ``"stable"``.
    """
    placed = [
        (e.recording, min(e.epoch_index, 2**60), e.true, i)
        for i, e in enumerate(labelled)
        if e.recording and e.epoch_index is not None
    ]
    table = pd.DataFrame(sorted(placed), columns=["recording", "index", "true", "row"])
    before = table.shift(1)
    beside = (table["recording"] == before["recording"]) & (table["index"] == before["index"] + 1)
    differ = table["true"] != before["true"]
    found = {}
    for name, border in (("transition", beside & differ), ("stable", beside & ~differ)):
        found[name] = np.zeros(len(labelled), bool)
        found[name][table["row"][border | border.shift(-1, fill_value=False)]] = True
    found["stable"] &= ~found["transition"]
    return found


def cells_of(labelled: Sequence[AnsweredEpoch]) -> NDArray[np.intp]:
    """Return the cell of the (flattened) confusion matrix into which each labelled epoch falls."""
    width = len(ANSWERS)
    return np.array(
        [
            STAGE_INDEX[e.true or ""] * width + STAGE_INDEX.get(e.predicted or "", width - 1)
            for e in labelled
        ],
        np.intp,
    )


def counts_of(cells: NDArray[np.intp]) -> Counts:
    """Return the confusion matrix of epochs given by their cells; negative ones do not count."""
    counts = np.bincount(cells[cells >= 0], minlength=_CELLS)
    return counts.reshape(len(STAGES), len(ANSWERS)).astype(np.int64)


def agreement(counts: Counts) -> Agreement:
    """Compute the figures of a confusion matrix that holds at least one epoch."""
    true, said, weight = _samples(counts)
    occurring = [i for i, n in enumerate(counts.sum(1)) if n]
    how: dict[str, Any] = {
        "labels": occurring,
        "sample_weight": weight,
        "zero_division": 0.0,
    }
    undefined = len({*true, *said}) == 1
    return Agreement(
        n=int(counts.sum()),
        accuracy=float(accuracy_score(true, said, sample_weight=weight)),
        macro_f1=float(f1_score(true, said, average="macro", **how)),
        weighted_f1=float(f1_score(true, said, average="weighted", **how)),
        kappa=None if undefined else float(cohen_kappa_score(true, said, sample_weight=weight)),
        mcc=None if undefined else float(matthews_corrcoef(true, said, sample_weight=weight)),
        balanced_accuracy=float(recall_score(true, said, average="macro", **how)),
    )


def stage_scores(counts: Counts) -> dict[str, StageScore]:
    """Return precision, recall, F1 and number of true epochs of each stage."""
    true, said, weight = _samples(counts)
    columns = precision_recall_fscore_support(
        true, said, labels=range(len(STAGES)), sample_weight=weight, zero_division=np.nan
    )
    return {
        stage: StageScore(_defined(precision), _defined(recall), _defined(f1), int(support))
        for stage, precision, recall, f1, support in zip(STAGES, *columns, strict=True)
    }


def chance(counts: Counts) -> Chance:
    """Return what the constant answer and random answers would reach on the same epochs."""
    true, said = counts.sum(1), counts.sum(0)[: len(STAGES)]
    commonest = int(true.argmax())  # the first in their order where several tie
    constant = np.zeros_like(counts)
    constant[:, commonest] = true
    always = agreement(constant)
    figures = {name: getattr(always, name) for name in FIGURES} | {"kappa": 0.0, "mcc": 0.0}
    at_random = float((true * said).sum() / true.sum() ** 2)
    return Chance(stage=STAGES[commonest], random_accuracy=at_random, **figures)


def part(bootstrap: Bootstrap, cells: NDArray[np.intp]) -> Part:
    """Return the agreement on those epochs whose cell is not negative, at least one, with intervals."""
    figures = agreement(counts_of(cells))
    draws = _drawn(bootstrap, cells)
    return Part(
        figures,
        {
            name: bootstrap.interval(
                None if draws is None else of(draws),
                getattr(figures, name),
                BOUNDS.get(name, (0.0, 1.0)),
            )
            for name, of in FIGURES.items()
        },
    )


def _intervals(bootstrap: Bootstrap, cells: NDArray[np.intp], counts: Counts) -> Intervals:
    if not len(cells):
        return Intervals(bootstrap.basis)
    draws = _drawn(bootstrap, cells)
    scores = stage_scores(counts)
    stages: dict[str, dict[str, Interval | None]] = {stage: {} for stage in STAGES}
    for name, of in STAGE_FIGURES.items():
        drawn = None if draws is None else of(draws)
        for i, stage in enumerate(STAGES):
            column = None if drawn is None else drawn[:, i]
            stages[stage][name] = bootstrap.interval(column, getattr(scores[stage], name))
    return Intervals(bootstrap.basis, part(bootstrap, cells).intervals, stages)


def _drawn(bootstrap: Bootstrap, cells: NDArray[np.intp]) -> NDArray[np.float64] | None:
    """Return the confusion matrix of each bootstrap sample, shape (draws, 5, 6)."""
    per_unit = bootstrap.counts(cells, _CELLS)
    return bootstrap.draw(per_unit.reshape(-1, len(STAGES), len(ANSWERS)))


def _per_group(cells: NDArray[np.intp], names: Sequence[str]) -> dict[str, Agreement]:
    found, index = np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)
    return {
        str(name): agreement(counts_of(cells[index == i])) for i, name in enumerate(found) if name
    }


def _answers(epochs: Sequence[AnsweredEpoch]) -> Counts:
    said = [STAGE_INDEX.get(epoch.predicted or "", len(STAGES)) for epoch in epochs]
    return np.bincount(said, minlength=len(ANSWERS)).astype(np.int64)


def _samples(counts: Counts) -> tuple[Counts, Counts, Counts]:
    """Return true stage, answer and number of epochs of each cell that is not empty."""
    true, said = counts.nonzero()
    return true, said, counts[true, said]


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
