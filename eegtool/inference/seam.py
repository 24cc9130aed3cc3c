"""Words and scores of models of many families, by their own code of generation and positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from eegtool.core.records import Question
from eegtool.inference.decoding import Choose, Decoding, chooser
from eegtool.inference.scoring import Choice
from eegtool.inference.writing import Written, replies_of
from eegtool.model.families.chat import FamilyProcessor
from eegtool.model.families.fused import FusedModel
from eegtool.model.processor import Pixels


@torch.no_grad()
def stage_scores(
    network: FusedModel,
    processor: FamilyProcessor,
    choices: Sequence[Choice],
    pixels: Sequence[Pixels],
    features: torch.Tensor | None,
) -> np.ndarray:
    """Return the mean log-likelihood of each answer to each question, float64 ``[B, answers]``.

    See `eegtool.inference.scoring.stage_log_likelihoods`, which packs answers where a model lets it.
    """
    inputs = _inputs(network, processor, [choice.prompt for choice in choices], pixels)
    return network.score(inputs, features, [choice.answers for choice in choices])


@torch.no_grad()
def write(
    network: FusedModel,
    processor: FamilyProcessor,
    questions: Sequence[Question],
    pixels: Sequence[Pixels],
    features: torch.Tensor | None,
    decoding: Decoding,
) -> Iterator[Written]:
    """Let the model write an answer to each question of a batch; see `eegtool.inference.writing.write`."""
    prompts = [processor.encode_prompt(q.text, len(q.images)) for q in questions]
    inputs = _inputs(network, processor, prompts, pixels)
    choose = chooser(decoding, [q.sample_id for q in questions])
    tokens = network.generate(
        **inputs,
        high_level_features=features,
        max_new_tokens=decoding.max_new_tokens,
        num_beams=decoding.num_beams,
        do_sample=False,
        logits_processor=[_Chosen(choose)] if decoding.temperature else [],
        suppress_tokens=[processor.image_token_id],
        eos_token_id=processor.end_token_id,
        pad_token_id=processor.end_token_id,
    )
    new = tokens[:, inputs["input_ids"].shape[1] :]
    yield Written(range(len(new)), replies_of(new, processor, decoding), None)


def _inputs(
    network: FusedModel,
    processor: FamilyProcessor,
    rows: Sequence[Sequence[int]],
    pixels: Sequence[Pixels],
) -> Pixels:
    inputs = processor.inputs(rows, pixels)
    return {name: value.to(network.device) for name, value in inputs.items()}


class _Chosen(LogitsProcessor):  # type: ignore[misc]
    """Leaves of the next tokens only the one that `Choose` takes."""

    def __init__(self, choose: Choose) -> None:
        self._choose = choose

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        rows = torch.arange(len(scores), device=scores.device)
        chosen = self._choose(scores, rows)[:, None]
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)
