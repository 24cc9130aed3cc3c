"""Agreement of the answers with the scoring. Pure: answered epochs in, figures out.

An unreadable answer is wrong in every figure: it is a sixth answer that is never true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from eegtool.core.stages import STAGES
from eegtool.core.workspace import jsonable
from eegtool.report.epochs import AnsweredEpoch
from eegtool.report.protocol import Run

UNREADABLE: Final = "unreadable"
ANSWERS: Final = (*STAGES, UNREADABLE)
"""Columns of the confusion matrix: the stages, and the answer that says none of them."""

ONE_SIDED: Final = 0.95
"""Above this share of equal answers the model has most likely not looked at the pictures."""


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
    macro_f1 : float
        Mean F1 over the stages that occur in the true labels.
    kappa : float or None
        Cohen's κ with `UNREADABLE` as an answer of its own (Cohen 1960). None where true stages and
        answers are one and the same stage throughout: chance alone then agrees fully.
    """

    n: int
    accuracy: float
    macro_f1: float
    kappa: float | None


@dataclass(frozen=True, slots=True)
class Chance:
    """What the figures would be without looking at the signal.

    Attributes
    ----------
    stage : str
        Commonest true stage, which the constant answer gives.
    accuracy, macro_f1, kappa : float
        Figures of always answering `stage`.
    random_accuracy : float
        Accuracy expected of answers drawn at random as often as the model gave each of them.
    """

    stage: str
    accuracy: float
    macro_f1: float
    kappa: float
    random_accuracy: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """All figures of a report: ``metrics.json``.

    Attributes
    ----------
    n, accuracy, macro_f1, kappa
        See `Agreement`; pooled over all labelled epochs.
    macro_f1_stages : tuple of str
        Stages that occur in the true labels.
    per_stage : dict of str to StageScore
        One per stage.
    confusion : tuple of tuple of int, shape (5, 6)
        Number of epochs, true stage × answer.
    confusion_labels : tuple of str, shape (6,)
        Names of the columns; the first five name the rows.
    unreadable : int
        Labelled epochs whose answer names no stage.
    unlabelled : int
        Epochs without a true stage, in no figure.
    most_common_answer : str
        One of `ANSWERS`.
    most_common_answer_share : float
        Its share of the answers to labelled epochs.
    chance : Chance
        Figures without looking.
    per_subject : dict of str to Agreement
        Figures of each subject; epochs that name no subject are in none.
    model_id, features, protocol
        See `Run`.
    """

    n: int
    accuracy: float | None
    macro_f1: float | None
    kappa: float | None
    macro_f1_stages: tuple[str, ...]
    per_stage: dict[str, StageScore]
    confusion: tuple[tuple[int, ...], ...]
    confusion_labels: tuple[str, ...]
    unreadable: int
    unlabelled: int
    most_common_answer: str
    most_common_answer_share: float
    chance: Chance | None
    per_subject: dict[str, Agreement]
    model_id: str
    features: str | None
    protocol: dict[str, Any]

    @property
    def one_sided(self) -> bool:
        """Whether nearly all answers are the same."""
        return self.most_common_answer_share > ONE_SIDED

    def to_row(self) -> dict[str, Any]:
        """Return the form of ``metrics.json``."""
        return dict(jsonable(asdict(self)))


def measure(epochs: Sequence[AnsweredEpoch], run: Run) -> Metrics:
    """Compute all figures.

    Parameters
    ----------
    epochs : sequence of AnsweredEpoch
        At least one has a true stage.
    run : Run
        What made the answers.
    """
    labelled = [epoch for epoch in epochs if epoch.true is not None]
    true, predicted = _columns(labelled)
    matrix = confusion_matrix(true, predicted, labels=ANSWERS)[: len(STAGES)]
    common, count = Counter(sorted(predicted, key=ANSWERS.index)).most_common(1)[0]
    overall = agreement(true, predicted)
    return Metrics(
        n=overall.n,
        accuracy=overall.accuracy,
        macro_f1=overall.macro_f1,
        kappa=overall.kappa,
        macro_f1_stages=_occurring(true),
        per_stage=stage_scores(true, predicted),
        confusion=tuple(tuple(int(k) for k in row) for row in matrix),
        confusion_labels=ANSWERS,
        unreadable=predicted.count(UNREADABLE),
        unlabelled=len(epochs) - len(labelled),
        most_common_answer=common,
        most_common_answer_share=count / len(labelled),
        chance=chance(true, predicted),
        per_subject=_per_subject(labelled),
        model_id=run.model_id,
        features=run.features,
        protocol=run.protocol,
    )


def agreement(true: Sequence[str], predicted: Sequence[str]) -> Agreement:
    """Compare answers with the scoring.

    Parameters
    ----------
    true : sequence of str, shape (n,)
        Stages.
    predicted : sequence of str, shape (n,)
        Each one of `ANSWERS`.
    """
    undefined = len({*true, *predicted}) == 1
    return Agreement(
        n=len(true),
        accuracy=float(accuracy_score(true, predicted)),
        macro_f1=_macro_f1(true, predicted),
        kappa=None if undefined else float(cohen_kappa_score(true, predicted)),
    )


def stage_scores(true: Sequence[str], predicted: Sequence[str]) -> dict[str, StageScore]:
    """Return precision, recall, F1 and number of true epochs of each stage."""
    columns = precision_recall_fscore_support(true, predicted, labels=STAGES, zero_division=np.nan)
    return {
        stage: StageScore(_defined(precision), _defined(recall), _defined(f1), int(support))
        for stage, precision, recall, f1, support in zip(STAGES, *columns, strict=True)
    }


def chance(true: Sequence[str], predicted: Sequence[str]) -> Chance:
    """Return what the constant answer and random answers would reach on the same epochs."""
    n_true, n_predicted = Counter(true), Counter(predicted)
    stage = max(STAGES, key=lambda s: n_true[s])  # the first in their order where several tie
    constant = [stage] * len(true)
    return Chance(
        stage=stage,
        accuracy=n_true[stage] / len(true),
        macro_f1=_macro_f1(true, constant),
        kappa=0.0,
        random_accuracy=sum(n_true[s] * n_predicted[s] for s in STAGES) / len(true) ** 2,
    )


def _per_subject(labelled: Sequence[AnsweredEpoch]) -> dict[str, Agreement]:
    groups: dict[str, list[AnsweredEpoch]] = {}
    for epoch in labelled:
        if epoch.subject:
            groups.setdefault(epoch.subject, []).append(epoch)
    return {subject: agreement(*_columns(groups[subject])) for subject in sorted(groups)}


def _columns(epochs: Sequence[AnsweredEpoch]) -> tuple[list[str], list[str]]:
    true = [epoch.true for epoch in epochs if epoch.true is not None]
    return true, [epoch.predicted or UNREADABLE for epoch in epochs]


def _macro_f1(true: Sequence[str], predicted: Sequence[str]) -> float:
    labels = _occurring(true)
    return float(f1_score(true, predicted, labels=labels, average="macro", zero_division=0.0))


def _occurring(true: Sequence[str]) -> tuple[str, ...]:
    present = set(true)
    return tuple(stage for stage in STAGES if stage in present)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
