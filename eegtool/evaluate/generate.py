"""Answers of a batch of questions: words, log-likelihoods of the stages, or both.

Rows are left-padded, so that each answers as it would alone, and whatever is drawn is drawn from
random numbers of its own: no answer depends on its neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from eegtool.core.errors import EegToolError
from eegtool.core.records import Question
from eegtool.core.settings import AnswerMode
from eegtool.core.stages import STAGES
from eegtool.evaluate.decode import Decoding, chooser, decode
from eegtool.evaluate.score import Choice, behind_reasons, encode_choice, stage_log_likelihoods
from eegtool.model.adapters import Contract
from eegtool.model.eegvlm import EEGVLM
from eegtool.model.processor import PixelSpec, Processor, pad

_DECODERS: Final = 4
"""Threads that decode pictures while the model is busy."""


@dataclass(frozen=True, slots=True)
class StageAnswers:
    """How the model was taught to name the stages."""

    texts: tuple[str, ...]
    """Answer of each stage, in the order of `STAGES`; where reasons come first, the conclusion."""
    lead: str
    """Words with which a conclusion begins; empty where there are no reasons."""
    max_new_tokens: int
    """Room for an answer."""


def stage_answers(contract: Contract) -> StageAnswers:
    """Read them from the contract; those of version 0.1 have bare labels and say nothing.

    Raises
    ------
    EegToolError
        If what it says is not the five stages.
    """
    told = contract.answers or {}
    stages = told.get("stages", {stage: stage for stage in STAGES})
    if set(stages) != set(STAGES) or len(set(stages.values())) < len(STAGES):
        raise EegToolError(
            f"The model's contract does not have one answer for each stage, but {stages}.",
            "Fine-tune again after `eegvlm prepare`.",
        )
    texts = tuple(stages[stage] for stage in STAGES)
    return StageAnswers(texts, told.get("lead", ""), told.get("max_new_tokens", 8))


@dataclass(frozen=True, slots=True)
class Told:
    """What the model says about one question."""

    text: str
    """As it wrote it; in mode ``score`` the likeliest answer."""
    log_likelihood: np.ndarray | None = None
    """float64 ``[5]``, in the order of `STAGES`; None in mode ``generate``."""


@dataclass(frozen=True, slots=True)
class Asker:
    """A model, and what it is asked for."""

    model: EEGVLM
    processor: Processor
    answers: StageAnswers
    mode: AnswerMode
    decoding: Decoding
    _choices: dict[tuple[str, int], Choice] = field(default_factory=dict)

    def __call__(
        self, questions: Sequence[Question], pixels: np.ndarray, features: np.ndarray | None
    ) -> list[Told]:
        """Ask about a batch.

        Parameters
        ----------
        questions : sequence of Question
            The batch.
        pixels : float32 [B, 3, S, S]
            A picture per question.
        features : float32 [B, 1, 1024] or None
            A high-level feature per question; None if the fusion needs none.

        Raises
        ------
        EegToolError
            If the model's log-likelihoods are no numbers.
        """
        pictures = torch.from_numpy(pixels).to(self.model.device)
        rows = None if features is None else torch.from_numpy(features).to(self.model.device)
        texts: list[str] = []
        if self.mode != "score" or self.answers.lead:
            texts = write(self.model, self.processor, questions, pictures, rows, self.decoding)
        if self.mode == "generate":
            return [Told(text) for text in texts]
        endings = [list(self.answers.texts)] * len(questions)
        if self.answers.lead:
            endings = [
                behind_reasons(text, self.answers.texts, self.answers.lead) for text in texts
            ]
        choices = [self._choice(q, e) for q, e in zip(questions, endings, strict=True)]
        scores = stage_log_likelihoods(self.model, self.processor, choices, pictures, rows)
        if not np.isfinite(scores).all():
            raise EegToolError(
                f"The model gives no numbers for the stages of '{questions[0].sample_id}' and others.",
                "Ask with --dtype float32; if that does not help, its training diverged.",
            )
        if self.mode == "score":
            texts = [e[int(s.argmax())] for e, s in zip(endings, scores, strict=True)]
        return [Told(text, score) for text, score in zip(texts, scores, strict=True)]

    def _choice(self, question: Question, answers: list[str]) -> Choice:
        """Tokenise the five answers to a question; without reasons, they are the same for all epochs."""
        key = (question.text, len(question.images))
        if self.answers.lead:
            return encode_choice(self.processor, *key, answers)
        if key not in self._choices:
            self._choices[key] = encode_choice(self.processor, *key, answers)
        return self._choices[key]


@torch.inference_mode()
def write(
    model: EEGVLM,
    processor: Processor,
    questions: Sequence[Question],
    pixel_values: torch.Tensor,
    high_level_features: torch.Tensor | None,
    decoding: Decoding,
) -> list[str]:
    """Let the model write an answer to each question of a batch.

    Parameters
    ----------
    model : EEGVLM
        The fine-tuned model.
    processor : Processor
        Its processor, with the template to ask by.
    questions : sequence of Question
        The batch.
    pixel_values : float [B, 3, S, S]
        A picture per question, on the model's device.
    high_level_features : float [B, 1, 1024] or None
        A feature per question; None if the fusion needs none.
    decoding : Decoding
        How words are chosen.

    Returns
    -------
    list of str
        Special tokens removed, else as the model wrote it.
    """
    tokenizer = processor.tokenizer
    keys = [(q.text, len(q.images)) for q in questions]
    encoded = {key: processor.encode_prompt(*key) for key in set(keys)}
    prompts = [encoded[key] for key in keys]
    input_ids = pad(prompts, tokenizer.pad_token_id, "left").to(model.device)
    mask = pad([[1] * len(p) for p in prompts], 0, "left").to(model.device)
    embeds = model.embed(input_ids, pixel_values, high_level_features)
    if decoding.num_beams > 1:
        new_tokens = model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=decoding.max_new_tokens,
            num_beams=decoding.num_beams,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    else:
        choose = chooser(decoding, [q.sample_id for q in questions])
        n, end = decoding.max_new_tokens, tokenizer.eos_token_id
        new_tokens = decode(model, embeds, mask, choose, n, end)
    texts: list[str] = tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
    return [text.strip() for text in texts]


def decoded_ahead(
    spec: PixelSpec, paths: Iterable[Path], ahead: int
) -> Generator[np.ndarray, None, None]:
    """Yield the pixels of each picture, float32 ``[3, S, S]``; threads decode up to `ahead` more.

    Raises
    ------
    EegToolError
        If a picture cannot be read, when its turn comes.
    """
    pool = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")
    waiting: deque[Future[Any]] = deque()
    try:
        for path in paths:
            waiting.append(pool.submit(spec.pixels, path))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
