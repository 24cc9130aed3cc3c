"""Words about a batch of questions, and pictures decoded ahead.

Rows are left-padded, so that each answers as it would alone, and whatever is drawn is drawn from
random numbers of its own: no answer depends on its neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from eegtool.core.records import Question
from eegtool.inference.cache import Cached
from eegtool.inference.decoding import Decoding, chooser, decode
from eegtool.model.checkpoints import AnyProcessor
from eegtool.model.eegvlm import EEGVLM
from eegtool.model.processor import Processor, pad

_DECODERS: Final = 4
"""Threads that decode pictures while the model is busy."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says about one question."""

    text: str
    """As it wrote it; in mode ``score`` the likeliest answer."""
    log_likelihood: np.ndarray | None = None
    """float64 ``[5]``, in the order of `STAGES`; None in mode ``generate``."""
    truncated: bool = False
    """Whether it wrote as many tokens as there is space for, and had not come to an end."""


class Written(NamedTuple):
    """Rows of a batch that have come to their end."""

    rows: Sequence[int]
    replies: list[Reply]
    """Without log-likelihoods; the text without special tokens, else as the model wrote it."""
    cached: Cached | None
    """What the model has read by then; None after a beam search."""


@torch.no_grad()
def write(
    model: EEGVLM,
    processor: Processor,
    questions: Sequence[Question],
    pixel_values: torch.Tensor,
    high_level_features: torch.Tensor | None,
    decoding: Decoding,
) -> Iterator[Written]:
    """Let the model write an answer to each question of a batch; yield rows as soon as they leave the batch.

    Parameters
    ----------
    model, processor : EEGVLM, Processor
        What is asked, and the template to ask by.
    questions : sequence of Question
        The batch.
    pixel_values : float [B, 3, S, S]
        A picture per question, on the model's device.
    high_level_features : float [B, 1, 1024] or None
        A feature per question; None if the fusion needs none.
    decoding : Decoding
        How words are chosen.
    """
    tokenizer = processor.tokenizer
    keys = [(q.text, len(q.images)) for q in questions]
    encoded = {key: processor.encode_prompt(*key) for key in set(keys)}
    prompts = [encoded[key] for key in keys]
    input_ids = pad(prompts, tokenizer.pad_token_id, "left").to(model.device)
    mask = pad([[1] * len(p) for p in prompts], 0, "left").to(model.device)
    embeds = model.embed(input_ids, pixel_values, high_level_features)
    n, end = decoding.max_new_tokens, tokenizer.eos_token_id
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
        yield Written(range(len(tokens)), replies_of(tokens, processor, decoding), None)
        return
    choose = chooser(decoding, [q.sample_id for q in questions])
    for ended, answers, cache in decode(model, embeds, mask, choose, n, end):
        n_read = cache.get_seq_length() - mask.shape[1]
        rows = ended.tolist()
        read = [
            [*prompts[row], *answer]
            for row, answer in zip(rows, answers[:, :n_read].tolist(), strict=True)
        ]
        yield Written(rows, replies_of(answers, processor, decoding), Cached(cache, read))


def replies_of(tokens: torch.Tensor, processor: AnyProcessor, decoding: Decoding) -> list[Reply]:
    """Return replies of new tokens int64 ``[B, T]``; those without an end that fill the space are truncated."""
    texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    full = tokens.shape[1] == decoding.max_new_tokens
    endless = ((tokens != processor.end_token_id).all(dim=1) & full).tolist()
    return [Reply(text.strip(), truncated=e) for text, e in zip(texts, endless, strict=True)]


def decoded_ahead(
    load: Callable[[Question], Any], questions: Iterable[Question], ahead: int
) -> Generator[Any, None, None]:
    """Yield the pixels of each question's picture; threads decode up to `ahead` more.

    Raises
    ------
    EegToolError
        If a picture cannot be read, when its turn comes.
    """
    pool = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")
    waiting: deque[Future[Any]] = deque()
    try:
        for question in questions:
            waiting.append(pool.submit(load, question))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
