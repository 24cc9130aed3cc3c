"""Validation while training: held-out epochs scored by the model that is being trained, as `evaluate` scores them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from transformers import IntervalStrategy

from eegtool.core.errors import EegToolError
from eegtool.core.probabilities import nll
from eegtool.core.records import Question
from eegtool.core.stages import STAGE_INDEX
from eegtool.inference.loaded import Batch, LoadedModel, longest_first
from eegtool.model.answer_form import AnswerForm
from eegtool.model.processor import Pixels

METRICS: Final = {"kappa": 1, "macro_f1": 1, "loss": -1}
"""What the best weights may be chosen by; 1 where more is better."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best validation of a training so far."""

    step: int
    value: float
    since: int
    """Validations after it, none of which was better."""
    figures: dict[str, float]
    """All that was logged of it, by name."""


def best_of(log: Sequence[Mapping[str, Any]], metric: str) -> Best | None:
    """Find the best validation in a training's log; of equal ones the first. None where there is none.

    Parameters
    ----------
    log : sequence of mapping
        Rows as transformers logs them (``eval_kappa``, ``step``).
    metric : str
        One of `METRICS`; empty where the best is not asked for.
    """
    rows = [row for row in log if f"eval_{metric}" in row]
    if not rows:
        return None
    values = [METRICS[metric] * row[f"eval_{metric}"] for row in rows]
    at = max(range(len(rows)), key=lambda i: -math.inf if math.isnan(values[i]) else values[i])
    figures = {
        name.removeprefix("eval_"): value
        for name, value in rows[at].items()
        if name.removeprefix("eval_") in (*METRICS, "accuracy")
    }
    value = rows[at][f"eval_{metric}"]
    return Best(rows[at]["step"], value, len(rows) - 1 - at, figures)


def figures(log_likelihood: np.ndarray, stages: Sequence[str]) -> dict[str, float]:
    """Return Cohen's κ, macro-F1 over the stages that occur, accuracy, and negative log-likelihood in nats.

    Parameters
    ----------
    log_likelihood : float [N, 5]
        Of the stage answers; the likeliest counts as answered.
    stages : sequence of str
        True stage of each epoch, at least two different ones.
    """
    true = np.array([STAGE_INDEX[stage] for stage in stages])
    said = log_likelihood.argmax(axis=1)
    macro_f1 = f1_score(true, said, labels=np.unique(true), average="macro", zero_division=0.0)
    return {
        "kappa": float(cohen_kappa_score(true, said)),
        "macro_f1": float(macro_f1),
        "accuracy": float(accuracy_score(true, said)),
        "loss": nll(log_likelihood, stages),
    }


class Validator:
    """Scores the held-out epochs, shared among all ranks.

    Under ZeRO-3 all ranks must run the same modules as often: there the shares are filled up to the same
    size, and so are the batches.

    Parameters
    ----------
    model : torch.nn.Module
        What is trained, with all that is wrapped around it but its engine.
    loaded : LoadedModel
        The network in it, and how to ask it.
    questions : sequence of Question
        The held-out epochs, with their true stages.
    pixels_of, feature_of : callable
        See `LoadedModel.replies`.
    rank, ranks : int
        Which of how many this is.
    sharded_batch : int
        Epochs at a time where the weights are sharded (ZeRO-3); 0: as many as fit.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loaded: LoadedModel,
        questions: Sequence[Question],
        pixels_of: Callable[[Question], Pixels],
        feature_of: Callable[[str], np.ndarray] | None,
        *,
        rank: int = 0,
        ranks: int = 1,
        sharded_batch: int = 0,
    ) -> None:
        self.model = model
        self.loaded = loaded
        self.questions = longest_first(questions, loaded.processor)
        self.pixels_of = pixels_of
        self.feature_of = feature_of
        self.ranks = ranks
        self.sharded_batch = sharded_batch
        filled = len(questions) + (-len(questions) % ranks if sharded_batch else 0)
        self.share = (self.questions * ranks)[:filled][rank::ranks]

    def figures(
        self, is_stopped: Callable[[], bool], tell: Callable[[int, int], None]
    ) -> dict[str, float] | None:
        """Score all epochs; all ranks must call it, and all get the same figures (see `figures`).

        Parameters
        ----------
        is_stopped : callable
            Asked after each batch whether to give up.
        tell : callable
            Told before and after each batch how many epochs of how many this rank has scored.

        Returns
        -------
        dict or None
            None where it was stopped, on any rank.
        """
        found: dict[str, np.ndarray | None] = {}
        tell(0, len(self.share))
        stopped = is_stopped()
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), closing(self._replies()) as batches:
                while not stopped and (batch := next(batches, None)):
                    for question, reply in zip(batch.questions, batch.replies, strict=True):
                        found[question.sample_id] = reply.log_likelihood
                    tell(len(found), len(self.share))
                    stopped = is_stopped()
        finally:
            self.model.train(training)
        parts = _from_all_ranks((stopped, found))
        if any(part[0] for part in parts):
            return None
        scored = {sample_id: scores for _, part in parts for sample_id, scores in part.items()}
        scores = np.array([scored[question.sample_id] for question in self.questions])
        return figures(scores, [question.category for question in self.questions])

    def _replies(self) -> Generator[Batch, None, None]:
        return self.loaded.replies(
            self.share, self.pixels_of, self.feature_of, batch_size=self.sharded_batch or None
        )


def is_due(args: Any, state: Any) -> bool:
    """Say whether a validation belongs to the step that transformers' Trainer is at."""
    if not state.global_step:
        return False
    steps = args.eval_strategy == IntervalStrategy.STEPS
    in_time = state.global_step % state.eval_steps if steps else state.epoch % 1
    return in_time == 0 or state.global_step >= state.max_steps


def check_scorable(form: AnswerForm, zero_stage: int, ranks: int) -> None:
    """Refuse to validate where the stages of the answers could not be scored.

    Raises
    ------
    EegToolError
        If the answers have no form in common; or if reasons come before the stage and several ranks share the
        weights (ZeRO-3): they write as long as each of them likes, and could not gather weights together.
    """
    if not form.stages:
        raise EegToolError(
            f"--eval-strategy: the answers have no form in common that could be scored: {form.sentence()}.",
            "Leave it out, or let all answers name their stage in the same way.",
        )
    if form.reasons_first and zero_stage == 3 and ranks > 1:
        raise EegToolError(
            "--eval-strategy: answers with reasons before the stage cannot be validated by several ranks "
            "under ZeRO-3.",
            "Use --deepspeed zero2, or leave --eval-strategy out.",
        )


def _from_all_ranks(part: tuple[bool, Mapping[str, Any]]) -> list[Any]:
    """Return what each rank has; all ranks must ask."""
    parts: list[Any] = [part]
    if dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, part)
    return parts
