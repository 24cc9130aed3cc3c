"""Smoothing over time: the likeliest sequence of stages, given each epoch's probabilities.

A hidden Markov model (Rabiner 1989, Proceedings of the IEEE 77, 257-286) whose transitions are those of
the training subjects' nights. A model's probabilities hold how common the stages were in its training,
and so do the transitions: the former are divided out, so that it counts once. How much the sequence counts
beside the probabilities is a weight, fitted on validation subjects: features that know their neighbours leave
less to be learnt from them, and the nights that it was learnt from are whole and mostly healthy ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import cohen_kappa_score

from eegtool.core.errors import EegToolError
from eegtool.core.probabilities import of_stages
from eegtool.core.records import Answer
from eegtool.core.stages import STAGES

MUCH: Final = 0.2
"""Share of a recording's epochs; where smoothing changes more of them, that must be said."""

_ADDED: Final = 1.0
"""To each count of a transition (Laplace's rule): what no training night showed is rare, not impossible."""
_LEAST: Final = 1e-12
"""Of a probability: rounded to nothing, it would forbid a stage whatever its neighbours say."""
_WEIGHTS: Final = tuple(i / 10 for i in range(11))
"""That are tried on validation subjects."""

Place = tuple[str, int]
"""Recording and epoch index."""


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """What is known of sequences of stages; stages are in the order of `STAGES`.

    Attributes
    ----------
    transitions : float64 [5, 5]
        Probability of the later stage (column), given the earlier one (row).
    start : float64 [5]
        Probability of each stage where a stretch begins: how common it is in the training nights.
    trained : float64 [5]
        How common each stage was among the epochs the model was trained on.
    weight : float
        Of the sequence, from 0 (the likeliest stage of each epoch) to 1 (the whole hidden Markov model).
    short : int
        Epochs of a recording in which the sequence counts half of that; by default 30 min.
    """

    transitions: np.ndarray
    start: np.ndarray
    trained: np.ndarray
    weight: float = 1.0
    short: int = 60

    def of_probabilities(self, counts: Sequence[float]) -> Chain:
        """Return the chain for probabilities that were brought to other frequencies, by a calibration."""
        return replace(self, trained=_shares(counts))


def chain_of(sequence: Mapping[str, Any], where: object) -> Chain:
    """Read ``transitions``, counts ``[5][5]``, and ``stages``, counts ``[5]`` of the trained epochs.

    Raises
    ------
    EegToolError
        If the model (`where`) does not have them: it was trained by an earlier version.
    """
    if not knows_sequences(sequence):  # what they hold the contract has checked
        raise EegToolError(
            f"--smooth: {where} does not say how stages follow each other in the nights it was trained "
            "on: it is of an earlier version.",
            "Run `eegvlm prepare` and `eegvlm finetune` again, or leave --smooth out.",
        )
    counts = np.array(sequence["transitions"], np.float64) + _ADDED
    rows = counts.sum(axis=1)
    return Chain(counts / rows[:, None], rows / rows.sum(), _shares(sequence["stages"]))


def knows_sequences(sequence: Mapping[str, Any]) -> bool:
    """Say whether a model knows how stages follow each other."""
    return {"transitions", "stages"} <= sequence.keys()


def _shares(counts: ArrayLike) -> np.ndarray:
    """Return how common stages are, by Laplace's rule."""
    raised = np.asarray(counts, np.float64) + _ADDED
    return raised / raised.sum()


def smoothed(places: Sequence[Place], probabilities: np.ndarray, chain: Chain) -> list[str]:
    """Return the stage of each epoch in the likeliest sequence of its recording.

    Stretches are decoded by themselves: behind epochs that are missing (a gap, an electrode that was
    off) the sequence starts again, whatever stood before. The shorter the recording, the less the sequence
    counts.

    Parameters
    ----------
    places : sequence of (str, int)
        Recording and epoch index of each epoch, in any order.
    probabilities : float [n_epochs, 5]
        Of each stage, as the model gives them.
    chain : Chain
        For the frequencies of stages that the probabilities hold.
    """
    stages = [""] * len(places)
    for rows in _by_recording(places).values():
        weight = chain.weight * len(rows) / (len(rows) + chain.short)
        prior, moves, start = (
            weight * np.log(part) for part in (chain.trained, chain.transitions, chain.start)
        )
        log_likelihood = np.log(np.maximum(probabilities[rows], _LEAST)) - prior
        indices = [places[row][1] for row in rows]
        cuts = [k for k, (i, j) in enumerate(pairwise(indices), start=1) if j != i + 1]
        paths = [viterbi(part, moves, start) for part in np.split(log_likelihood, cuts)]
        for row, state in zip(rows, np.concatenate(paths).tolist(), strict=True):
            stages[row] = STAGES[state]
    return stages


def _by_recording(places: Sequence[Place]) -> dict[str, list[int]]:
    """Return the rows of each recording in order of time."""
    found: dict[str, list[int]] = {}
    for row in sorted(range(len(places)), key=places.__getitem__):
        found.setdefault(places[row][0], []).append(row)
    return found


def fitted_weight(
    places: Sequence[Place], probabilities: np.ndarray, stages: Sequence[str], chain: Chain
) -> float:
    """Return the weight of the sequence by which Cohen's κ is highest on validation subjects; of equals the lowest.

    Parameters
    ----------
    places, probabilities
        See `smoothed`.
    stages : sequence of str
        True ones.
    chain : Chain
        Its own weight is the answer where these epochs are all of one stage.
    """
    if len({*stages}) < 2:
        return chain.weight

    def kappa(weight: float) -> float:
        said = smoothed(places, probabilities, replace(chain, weight=weight))
        return round(float(cohen_kappa_score(list(stages), said)), 4)

    return max(_WEIGHTS, key=kappa)


def smoothed_stages(
    rows: Iterable[Answer], chain: Chain
) -> tuple[dict[str, str], dict[str, float]]:
    """Return the stage of each answered epoch in the likeliest sequence of its recording (see `smoothed`).

    Returns
    -------
    stages : dict of str to str
        By sample id; rows without probabilities, or without a place in a recording, get none.
    changed : dict of str to float
        Of each recording the share of its epochs in which this is not the likeliest stage.
    """
    ids: list[str] = []
    places: list[Place] = []
    known: list[tuple[float, ...]] = []
    for row in rows:
        probabilities = of_stages(row.metadata.get("stage_probabilities"))
        index, recording = (row.metadata.get(name) for name in ("epoch_index", "recording"))
        if probabilities and recording and isinstance(index, int):
            ids.append(row.question_id)
            places.append((recording, index))
            known.append(probabilities)
    shares = np.array(known).reshape(-1, len(STAGES))
    stages = smoothed(places, shares, chain)
    differs = [STAGES[i] != stage for i, stage in zip(shares.argmax(axis=1), stages, strict=True)]
    changed = {
        recording: float(np.mean([differs[row] for row in own]))
        for recording, own in _by_recording(places).items()
    }
    return dict(zip(ids, stages, strict=True)), changed


def viterbi(log_likelihood: np.ndarray, log_transitions: np.ndarray, log_start: np.ndarray) -> Any:
    """Find the sequence of states of the highest probability (Viterbi 1967; Rabiner 1989, section III.B).

    Parameters
    ----------
    log_likelihood : float64 [n, k]
        Of what was seen at each time, given each state; up to a constant for each time.
    log_transitions : float64 [k, k]
        From the state of the row to that of the column.
    log_start : float64 [k]
        Of the first state.

    Returns
    -------
    int [n]
        Of several best sequences, the one whose states come first, seen from its end.
    """
    best = log_start + log_likelihood[0]
    came_from = np.empty(log_likelihood.shape, np.intp)
    for t in range(1, len(log_likelihood)):
        ways = best[:, None] + log_transitions
        came_from[t] = ways.argmax(axis=0)
        best = ways.max(axis=0) + log_likelihood[t]
    path = np.empty(len(log_likelihood), np.intp)
    path[-1] = best.argmax()
    for t in range(len(path) - 1, 0, -1):
        path[t - 1] = came_from[t, path[t]]
    return path
