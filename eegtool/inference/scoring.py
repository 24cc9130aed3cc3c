"""Log-likelihoods of the five stage answers, out of one forward pass.

Prompt and picture, more than a thousand tokens, are the same for all five. They are run once, and the
answers are packed behind them::

    tokens     pad pad prompt ... cue   W    N  1    N  2    N  3    REM
    positions    0   0      0 ...   9  10   10 11   10 11   10 11     10

Each answer sees the prompt and itself, and its positions begin behind the prompt: it is scored as if
it stood there alone. The last token of an answer, its end, is only predicted, never read.

Where the model has read a prompt before, to write an answer, its keys and values are in a cache: the packed
tokens see those of its columns that hold the beginning of this prompt, and only the rest of it is run.
Without a cache all of the prompt is that rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

import numpy as np
import torch
from torch.nn.functional import log_softmax

from eegtool.core.forms import IMAGE_TOKEN
from eegtool.inference.cache import Cached
from eegtool.model.answer_form import conclusion_start
from eegtool.model.checkpoints import AnyProcessor
from eegtool.model.eegvlm import EEGVLM
from eegtool.model.families.fused import as_argument, in_float32
from eegtool.model.processor import Processor, pad

_PROMPT: Final = 0
_PADDING: Final = -1
"""Parts of a packed row; the answers are numbered from 1."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Token ids of one question and of the answers among which it is to be decided."""

    prompt: tuple[int, ...]
    """With all that the answers have in common at their beginning."""
    answers: tuple[tuple[int, ...], ...]
    """What is left of each answer, its end token included."""


def encode_choice(
    processor: AnyProcessor,
    question: str,
    n_images: int,
    answers: Sequence[str],
    *,
    is_whole: bool = True,
) -> Choice:
    """Tokenise a question and its answers as in training; their end is part of them where they are whole.

    What all answers begin with, such as the reasons and "The stage is", belongs to the prompt: it
    decides nothing, and its share in the mean would be another for every length of an answer.

    Raises
    ------
    EegToolError
        If an answer merges with the end of the prompt (see `Processor.encode`).
    """
    rows = [processor.encode(question, n_images, answer).input_ids for answer in answers]
    if not is_whole:
        rows = [row[:-1] for row in rows]
    n_shared = _n_common(*rows)
    return Choice(rows[0][:n_shared], tuple(row[n_shared:] for row in rows))


def behind_reasons(text: str, answers: Sequence[str], lead: str) -> list[str]:
    """Put every answer behind the reasons that the model wrote.

    Parameters
    ----------
    text : str
        What it wrote: reasons and a conclusion, or, cut short, reasons only.
    answers : sequence of str
        Whole conclusions, such as "The stage is N2.".
    lead : str
        The words with which a conclusion begins; the last of them in `text` ends the reasons. Empty:
        they end before the sentence that names the stage.
    """
    reasons = text[: conclusion_start(text, lead)]
    reasons = reasons.replace(IMAGE_TOKEN, "").strip()  # it would be taken for a picture
    return [f"{reasons} {answer}" if reasons else answer for answer in answers]


@torch.no_grad()  # not inference_mode: weights that ZeRO-3 gathers in it could not be trained any more
def stage_log_likelihoods(
    model: EEGVLM,
    processor: Processor,
    choices: Sequence[Choice],
    pixel_values: torch.Tensor,
    high_level_features: torch.Tensor | None,
    cached: Cached | None = None,
) -> np.ndarray:
    """Score the answers of a batch of questions.

    Parameters
    ----------
    model, processor : EEGVLM, Processor
        In any precision; logits and softmax are computed in float32.
    choices : sequence of Choice
        The batch; prompts may differ in length, the number of answers is the same for all.
    pixel_values : float [B, 3, S, S]
        One picture per question.
    high_level_features : float [B, 1, 1024] or None
        One feature per question; None only for the fusion ``none``.
    cached : Cached, optional
        What the model has read of these rows, pictures and features included: it is not run again.

    Returns
    -------
    float64 [B, answers]
        Mean log-likelihood of an answer's tokens, its end token included: not the longest answer
        is the least likely one.
    """
    device, language = model.device, model.model.language_model
    ids, parts, positions, last = _pack(choices, cached, processor.tokenizer.pad_token_id)
    ids = ids.to(device)
    how: dict[str, Any] = {"use_cache": False}
    if cached is None:
        features = None if high_level_features is None else high_level_features.to(device)
        embeds = model.embed(ids, pixel_values.to(device), features)
    else:
        if bool((ids == model.config.image_token_id).any()):
            raise RuntimeError("The cache does not hold the pictures of these prompts.")
        embeds = model.get_input_embeddings()(ids)
        how = {"use_cache": True, **as_argument(language, cached.cache)}
    with _attention_with_mask(model):
        states = language(
            inputs_embeds=embeds,
            attention_mask=_mask(parts.to(device), ids.shape[1], embeds.dtype),
            position_ids=positions.to(device),
            **how,
        ).last_hidden_state
    with in_float32(model.lm_head):
        logits = model.lm_head(states[:, last:])
    return _means(log_softmax(logits, dim=-1), choices)


def _pack(
    choices: Sequence[Choice], cached: Cached | None, pad_token_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Put the rest of the prompts, padded on the left, before what is read of their answers, padded on the right.

    Return token ids ``[B, T]``, parts ``[B, C + T]`` with the columns of the cache first (`_PADDING`, `_PROMPT` or
    the number of the answer), positions ``[B, T]``, and the last column of the prompts: its states predict the
    first token of every answer.
    """
    read = cached.tokens if cached else [()] * len(choices)
    n_read = [_n_common(tokens, c.prompt[:-1]) for tokens, c in zip(read, choices, strict=True)]
    rests = [choice.prompt[n:] for choice, n in zip(choices, n_read, strict=True)]
    seen = torch.full((len(choices), cached.cache.get_seq_length() if cached else 0), _PADDING)
    for row, tokens, n in zip(seen, read, n_read, strict=True):
        begin = len(row) - len(tokens)
        row[begin : begin + n] = _PROMPT
    # Of each token that is read of an answer: the answer's number, its place there, its id.
    shown = [
        [(n, i, a[i]) for n, a in enumerate(choice.answers, start=1) for i in range(len(a) - 1)]
        for choice in choices
    ]

    def columns(left: Sequence[Sequence[int]], right: list[list[int]], value: int) -> torch.Tensor:
        return torch.cat([pad(left, value, "left"), pad(right, value, "right")], dim=1)

    ids = columns(rests, [[token for *_, token in row] for row in shown], pad_token_id)
    numbers = [[n for n, *_ in row] for row in shown]
    parts = columns([[_PROMPT] * len(rest) for rest in rests], numbers, _PADDING)
    behind = [[len(c.prompt) + i for _, i, _ in row] for c, row in zip(choices, shown, strict=True)]
    places = [range(n, len(c.prompt)) for n, c in zip(n_read, choices, strict=True)]
    last = max(map(len, rests)) - 1
    return ids, torch.cat([seen, parts], dim=1), columns(places, behind, 0), last


def _n_common(*rows: Sequence[int]) -> int:
    """Count the tokens that all begin with."""
    columns = zip(*rows, strict=False)
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, columns))


def _mask(parts: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to the attention scores of the last `width` columns.

    Float ``[B, 1, width, columns]``; B is 1 if all rows are alike.
    """
    if bool((parts == parts[:1]).all()):
        parts = parts[:1]
    n_cached = parts.shape[1] - width
    asking, seen = parts[:, n_cached:, None], parts[:, None, :]
    visible = ((seen == _PROMPT) | (seen == asking)) & (seen != _PADDING)
    visible = visible.tril(n_cached)
    # Padding sees itself, lest its softmax is over nothing.
    visible.diagonal(n_cached, dim1=1, dim2=2).fill_(True)
    hidden = torch.zeros(visible.shape, dtype=dtype, device=parts.device)
    return hidden.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


@contextmanager
def _attention_with_mask(model: EEGVLM) -> Iterator[None]:
    """Let the language model use SDPA where it has an attention, such as flash, that takes no mask."""
    config = model.model.language_model.config
    chosen = config._attn_implementation
    if chosen not in ("sdpa", "eager"):
        config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = chosen


def _means(log_probabilities: torch.Tensor, choices: Sequence[Choice]) -> np.ndarray:
    """Average over the tokens of each answer; float ``[B, 1 + packed tokens, vocabulary]`` → ``[B, answers]``."""
    rows: list[int] = []
    columns: list[int] = []
    tokens: list[int] = []
    owners: list[int] = []
    n_answers = len(choices[0].answers)
    for row, choice in enumerate(choices):
        begin = 1
        for number, answer in enumerate(choice.answers):
            rows += [row] * len(answer)
            columns += [0, *range(begin, begin + len(answer) - 1)]
            tokens += answer
            owners += [row * n_answers + number] * len(answer)
            begin += len(answer) - 1
    found = log_probabilities[rows, columns, tokens].double().cpu().numpy()
    means = np.bincount(owners, weights=found) / np.bincount(owners)
    return means.reshape(len(choices), n_answers)
