"""Several scorers of the same nights, and what a review has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eegtool.core.stages import STAGES, UNSCORED
from eegtool.report.measures.certainty import coverage, probabilities_in
from eegtool.report.measures.compare import as_answers
from eegtool.report.measures.intervals import Bootstrap, Interval, Sampling
from eegtool.report.measures.metrics import Part, agreement, cells_of, counts_of, part
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.reviews import Scoring
from eegtool.scorings.scorers import kappa

LABEL: Final = "label"
CONSENSUS: Final = "consensus"
_PAUSE_S: Final = 120.0
"""Whoever decides nothing for two minutes is taken to do something else. Our choice."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Cohen's κ of two scorers (Cohen 1960) over the epochs that both staged; None where undefined."""

    first: str
    other: str
    n: int
    kappa: float | None


@dataclass(frozen=True, slots=True)
class Scorers:
    """Scorers among themselves and against the model.

    Attributes
    ----------
    pairs : tuple of Pair
        Every two scorers; the label is one of them.
    model : dict of str to Part
        The model against each scorer, and against the `CONSENSUS`: what most of them say where at least
        two have staged an epoch, ties left out.
    ties : int
        Epochs without a majority.
    soft_agreement : float or None
        Mean cosine of the model's five probabilities and the shares of scorers for each stage (the averaged
        cosine similarity of Fiorillo et al. 2023, npj Digital Medicine 6:33); None without probabilities.
    """

    pairs: tuple[Pair, ...]
    model: dict[str, Part]
    ties: int
    soft_agreement: float | None


@dataclass(frozen=True, slots=True)
class Review:
    """What reviewing a night took and gave.

    Attributes
    ----------
    recording, reviewer : str
    n, reviewed, corrected : int
        Answered epochs, those that were decided, and those that became another stage.
    minutes : float
        Of work: between one decision and the next, pauses above two minutes left out.
    before, after : float or None
        κ of the model and of the reviewed stages with the label; None without labels.
    after_interval : tuple of float, or None
        95 %, over blocks of half an hour.
    expected : float or None
        What the coverage curve promises where this share of the epochs, the least certain ones, goes to a human
        who scores as the label does.
    unchanged : float or None
        κ of the model with the reviewed stages.
    """

    recording: str
    reviewer: str
    n: int
    reviewed: int
    corrected: int
    minutes: float
    before: float | None
    after: float | None
    after_interval: Interval | None
    expected: float | None
    unchanged: float | None


def compare_scorers(
    epochs: Sequence[AnsweredEpoch], scorings: Sequence[Scoring], sampling: Sampling
) -> Scorers | None:
    """Compare all scorers; None where there are not at least two, the label among them.

    Parameters
    ----------
    epochs : sequence of AnsweredEpoch
        The answers; those that name no recording or index are left out.
    scorings : sequence of Scoring
        Of their recordings.
    sampling : Sampling
        How intervals are made.
    """
    columns: dict[str, list[str]] = {}
    if any(e.true for e in epochs):
        columns[LABEL] = [e.true or UNSCORED for e in epochs]
    for scoring in scorings:
        column = columns.setdefault(scoring.scorer, [UNSCORED] * len(epochs))
        for k, epoch in enumerate(epochs):
            if epoch.recording == scoring.recording and epoch.epoch_index is not None:
                column[k] = scoring.stages.get(epoch.epoch_index, UNSCORED)
    if len(columns) < 2:
        return None
    votes = np.array([[[s == stage for stage in STAGES] for s in c] for c in columns.values()])
    votes = votes.sum(0)
    several = votes.sum(1) > 1
    tied = several & ((votes == votes.max(1, keepdims=True)).sum(1) > 1)
    elected = zip(votes.argmax(1), several & ~tied, strict=True)
    consensus = [STAGES[k] if clear else UNSCORED for k, clear in elected]
    model = {
        name: found
        for name, column in {**columns, CONSENSUS: consensus}.items()
        if (found := _against(epochs, column, sampling))
    }
    pairs = tuple(
        Pair(one, other, *kappa(columns[one], columns[other]))
        for one, other in combinations(columns, 2)
    )
    return Scorers(pairs, model, int(tied.sum()), _soft(epochs, votes, several))


def measure_review(epochs: Sequence[AnsweredEpoch], scoring: Scoring, sampling: Sampling) -> Review:
    """Measure what a review took and gave, on those of the epochs that are of its recording."""
    epochs = [e for e in epochs if e.recording == scoring.recording and e.epoch_index is not None]
    decisions = scoring.decisions
    final = {
        e.sample_id: stage for e in epochs if (stage := scoring.stages.get(e.epoch_index or 0))
    }
    labelled = [e for e in epochs if e.true]
    reviewed = as_answers(labelled, final)
    before = after = expected = None
    interval: Interval | None = None
    if labelled and len(reviewed) == len(labelled):
        bootstrap = Bootstrap(labelled, sampling)
        whole = part(bootstrap, cells_of(reviewed))
        after, interval = whole.agreement.kappa, whole.intervals["kappa"]
        cells = cells_of(labelled)
        before = agreement(counts_of(cells)).kappa
        share = len(decisions) / len(epochs)
        promised = coverage(labelled, cells, bootstrap, [share])
        # Whoever has reviewed everything agrees with the label fully, if they score as it does.
        expected = promised[0].kappa_together if promised else 1.0 if share == 1 else None
    said = [e.predicted or UNSCORED for e in epochs]
    return Review(
        recording=scoring.recording,
        reviewer=scoring.scorer,
        n=len(epochs),
        reviewed=len(decisions),
        corrected=sum(d.after != d.before for d in decisions.values()),
        minutes=_minutes(scoring),
        before=before,
        after=after,
        after_interval=interval,
        expected=expected,
        unchanged=kappa(said, [final.get(e.sample_id, UNSCORED) for e in epochs])[1],
    )


def _minutes(scoring: Scoring) -> float:
    """Return the time between decisions; the first took as long as the median of the others."""
    times = sorted(d.at.timestamp() for d in scoring.decisions.values())
    gaps_s = [gap for gap in np.diff(times) if gap <= _PAUSE_S]
    return float(sum(gaps_s) + np.median(gaps_s)) / 60 if gaps_s else 0.0


def _against(
    epochs: Sequence[AnsweredEpoch], column: Sequence[str], sampling: Sampling
) -> Part | None:
    """Measure the model against one column of stages."""
    known = [
        replace(e, true=stage) for e, stage in zip(epochs, column, strict=True) if stage in STAGES
    ]
    return part(Bootstrap(known, sampling), cells_of(known)) if known else None


def _soft(
    epochs: Sequence[AnsweredEpoch], votes: NDArray[np.int64], several: NDArray[np.bool_]
) -> float | None:
    """Return the averaged cosine similarity of probabilities and shares of scorers."""
    model, known = probabilities_in(epochs)
    known &= several
    if not known.any():
        return None
    model, votes = model[known], votes[known]
    norms = np.linalg.norm(model, axis=1) * np.linalg.norm(votes, axis=1)
    return float(((model * votes).sum(1) / norms).mean())
