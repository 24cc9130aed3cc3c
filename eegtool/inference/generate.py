"""Answers of a batch of questions: words, log-likelihoods of the stages, or both.

Rows are left-padded, so that each answers as it would alone, and whatever is drawn is drawn from
random numbers of its own: no answer depends on its neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers.cache_utils import Cache

from eegtool.core.errors import EegToolError
from eegtool.core.records import Question
from eegtool.core.settings import AnswerMode
from eegtool.inference.cache import Cached
from eegtool.inference.decoding import Decoding, chooser, decode
from eegtool.inference.scoring import Choice, behind_reasons, encode_choice, stage_log_likelihoods
from eegtool.model.answer_form import AnswerForm
from eegtool.model.eegvlm import EEGVLM
from eegtool.model.processor import PixelSpec, Processor, pad

_DECODERS: Final = 4
"""Threads that decode pictures while the model is busy."""

Written = Callable[[Sequence[int], Sequence[str], Cached | None], None]
"""Called with rows of a batch, what was written about them, and what the model has read by then (None
after a beam search)."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says about one question."""

    text: str
    """As it wrote it; in mode ``score`` the likeliest answer."""
    log_likelihood: np.ndarray | None = None
    """float64 ``[5]``, in the order of `STAGES`; None in mode ``generate``."""
    truncated: bool = False
    """Whether it wrote as many tokens as there is room for, and had not come to an end."""


@dataclass(frozen=True, slots=True)
class Asker:
    """A model, and what it is asked for."""

    model: EEGVLM
    processor: Processor
    answers: AnswerForm
    mode: AnswerMode
    decoding: Decoding
    _choices: dict[tuple[str, int], Choice] = field(default_factory=dict)

    @property
    def writes(self) -> bool:
        """Whether the model writes anything, be it only reasons before a score."""
        return self.mode != "score" or self.answers.reasons_first

    def __call__(
        self, questions: Sequence[Question], pixels: np.ndarray, features: np.ndarray | None
    ) -> list[Reply]:
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
        high = None if features is None else torch.from_numpy(features).to(self.model.device)
        replies = [Reply("")] * len(questions)

        def score(rows: Sequence[int], texts: Sequence[str], cached: Cached | None = None) -> None:
            some, at = [questions[row] for row in rows], list(rows)
            features = None if high is None else high[at]
            scored = self._scored(some, texts, pictures[at], features, cached)
            for row, reply in zip(rows, scored, strict=True):
                replies[row] = reply

        if not self.writes:
            score(range(len(questions)), [""] * len(questions))
            return replies
        written = None if self.mode == "generate" else score
        words = write(self.model, self.processor, questions, pictures, high, self.decoding, written)
        if self.mode == "score":
            words = [replace(w, text=r.text) for w, r in zip(words, replies, strict=True)]
        return [
            replace(w, log_likelihood=r.log_likelihood) for w, r in zip(words, replies, strict=True)
        ]

    def _scored(
        self,
        questions: Sequence[Question],
        texts: Sequence[str],
        pictures: torch.Tensor,
        features: torch.Tensor | None,
        cached: Cached | None,
    ) -> list[Reply]:
        """Score the stages, behind what was written where that has reasons; say the likeliest answer."""
        form = self.answers
        endings = [list(form.texts)] * len(questions)
        if form.reasons_first:
            endings = [behind_reasons(text, form.texts, form.lead) for text in texts]
        choices = [self._choice(q, e) for q, e in zip(questions, endings, strict=True)]
        model, processor = self.model, self.processor
        scores = stage_log_likelihoods(model, processor, choices, pictures, features, cached)
        if not np.isfinite(scores).all():
            raise EegToolError(
                f"The model gives no numbers for the stages of '{questions[0].sample_id}' and others.",
                "Ask with --dtype float32; if that does not help, its training diverged.",
            )
        return [Reply(e[int(s.argmax())], s) for e, s in zip(endings, scores, strict=True)]

    def _choice(self, question: Question, answers: list[str]) -> Choice:
        """Tokenise the five answers to a question; without reasons, they are the same for all epochs."""
        key = (question.text, len(question.images))
        is_whole = self.answers.is_whole
        if self.answers.reasons_first:
            return encode_choice(self.processor, *key, answers, is_whole=is_whole)
        if key not in self._choices:
            self._choices[key] = encode_choice(self.processor, *key, answers, is_whole=is_whole)
        return self._choices[key]


@torch.inference_mode()
def write(
    model: EEGVLM,
    processor: Processor,
    questions: Sequence[Question],
    pixel_values: torch.Tensor,
    high_level_features: torch.Tensor | None,
    decoding: Decoding,
    written: Written | None = None,
) -> list[Reply]:
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
    written : callable, optional
        Called once about every row, as soon as rows leave the batch.

    Returns
    -------
    list of Reply
        Without log-likelihoods; the text with special tokens removed, else as the model wrote it.
    """
    tokenizer = processor.tokenizer
    keys = [(q.text, len(q.images)) for q in questions]
    encoded = {key: processor.encode_prompt(*key) for key in set(keys)}
    prompts = [encoded[key] for key in keys]
    input_ids = pad(prompts, tokenizer.pad_token_id, "left").to(model.device)
    mask = pad([[1] * len(p) for p in prompts], 0, "left").to(model.device)
    embeds = model.embed(input_ids, pixel_values, high_level_features)

    n, end = decoding.max_new_tokens, tokenizer.eos_token_id

    def texts_of(tokens: torch.Tensor) -> list[str]:
        return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def replies_of(tokens: torch.Tensor) -> list[Reply]:
        endless = ((tokens != end).all(dim=1) & (tokens.shape[1] == n)).tolist()
        return [Reply(t, truncated=e) for t, e in zip(texts_of(tokens), endless, strict=True)]

    if decoding.num_beams > 1:
        tokens = model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=n,
            num_beams=decoding.num_beams,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=end,
        )
        if written:
            written(range(len(tokens)), texts_of(tokens), None)
        return replies_of(tokens)

    def leave(rows: torch.Tensor, answers: torch.Tensor, cache: Cache) -> None:
        if written:
            n_read = cache.get_seq_length() - mask.shape[1]
            numbers = rows.tolist()
            read = [
                [*prompts[row], *answer]
                for row, answer in zip(numbers, answers[:, :n_read].tolist(), strict=True)
            ]
            written(numbers, texts_of(answers), Cached(cache, read))

    choose = chooser(decoding, [q.sample_id for q in questions])
    return replies_of(decode(model, embeds, mask, choose, n, end, leave if written else None))


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
