"""Smoothing over time: the likeliest sequence of stages, given each epoch's probabilities.

A hidden Markov model (Rabiner 1989, Proceedings of the IEEE 77, 257-286) whose transitions are those of
the training subjects' nights. A model's probabilities hold how common the stages were in its training,
and so do the transitions: the former are divided out, so that it counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from eegtool.core.errors import EegToolError
from eegtool.core.probabilities import of_stages
from eegtool.core.records import Answer
from eegtool.core.stages import STAGES
from eegtool.inference.calibration import Calibration

_ADDED: Final = 1.0
"""To each count of a transition (Laplace's rule): what no training night showed is rare, not impossible."""
_LEAST: Final = 1e-12
"""Of a probability: rounded to nothing, it would forbid a stage whatever its neighbours say."""


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
    """

    transitions: np.ndarray
    start: np.ndarray
    trained: np.ndarray

    def calibrated(self, calibration: Calibration | None) -> Chain:
        """Return the chain for probabilities that a calibration has brought to other frequencies."""
        counts = calibration.stages if calibration else ()
        return self.of_probabilities(counts) if counts else self

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


def smoothed(
    epoch_indices: Sequence[int], probabilities: np.ndarray, chain: Chain
) -> tuple[str, ...]:
    """Return the stage of each epoch in the likeliest sequence.

    Stretches are decoded by themselves: behind epochs that are missing (a gap, an electrode that was
    off) the sequence starts again, whatever stood before.

    Parameters
    ----------
    epoch_indices : sequence of int
        Places of the epochs in their recording, rising.
    probabilities : float [n_epochs, 5]
        Of each stage, as the model gives them.
    """
    if not len(epoch_indices):
        return ()
    log_likelihood = np.log(np.maximum(probabilities, _LEAST)) - np.log(chain.trained)
    cuts = [k for k, (i, j) in enumerate(pairwise(epoch_indices), start=1) if j != i + 1]
    paths = [
        viterbi(part, np.log(chain.transitions), np.log(chain.start))
        for part in np.split(log_likelihood, cuts)
    ]
    return tuple(STAGES[state] for state in np.concatenate(paths).tolist())


def smoothed_stages(rows: Iterable[Answer], chain: Chain) -> dict[str, str]:
    """Return the stage of each epoch in the likeliest sequence of its recording, by sample id.

    Parameters
    ----------
    rows : iterable of Answer
        Those without probabilities, or without a place in a recording, get no stage.
    chain : Chain
        For the frequencies of stages that the probabilities hold.
    """
    found: dict[str, dict[int, tuple[str, tuple[float, ...]]]] = {}
    for row in rows:
        shares = of_stages(row.metadata.get("stage_probabilities"))
        place, recording = (row.metadata.get(name) for name in ("epoch_index", "recording"))
        if shares and recording and isinstance(place, int):
            found.setdefault(recording, {})[place] = (row.question_id, shares)
    stages: dict[str, str] = {}
    for epochs in found.values():
        places = sorted(epochs)
        sequence = smoothed(places, np.array([epochs[i][1] for i in places]), chain)
        stages |= {epochs[i][0]: stage for i, stage in zip(places, sequence, strict=True)}
    return stages


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
