"""Words about a batch of questions, token by token: each the likeliest, drawn, or of the best of several beams.

Rows are left-padded, so that each answers as it would alone, and whatever is drawn is drawn from
random numbers of its own: no answer depends on its neighbours. The cache of LLaVA-1.5 is allocated for the
whole answer at once, and rows that have come to their end leave the batch; other families generate by their
own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import LogitsProcessor
from transformers.cache_utils import Cache

from eegtool.core.records import Question
from eegtool.inference.cache import Cached, frozen, preallocated, split
from eegtool.model.checkpoints import AnyProcessor, Network
from eegtool.model.eegvlm import EEGVLM
from eegtool.model.families.chat import FamilyProcessor
from eegtool.model.families.fused import as_argument
from eegtool.model.processor import Pixels, joined, pad

Choose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits ``[n, vocabulary]`` and the numbers of their questions ``[n]`` → the next token of each."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How words are chosen: the likeliest, a beam search, or drawn (temperature above 0)."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    num_beams: int = 1
    seed: int = 42

    def __str__(self) -> str:
        if self.temperature:
            return f"temperature {self.temperature:g}, top_p {self.top_p:g}, seed {self.seed}"
        return "greedy" if self.num_beams == 1 else f"{self.num_beams} beams"


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
    """What the model has read by then; None where its own code has generated."""


@torch.no_grad()
def write(
    network: Network,
    processor: AnyProcessor,
    questions: Sequence[Question],
    pixels: Sequence[Pixels],
    features: torch.Tensor | None,
    decoding: Decoding,
) -> Iterator[Written]:
    """Let the model write an answer to each question of a batch; yield rows as soon as they leave the batch.

    Parameters
    ----------
    network, processor : EEGVLM or FusedModel, Processor or FamilyProcessor
        What is asked, and the template to ask by.
    questions : sequence of Question
        The batch.
    pixels : sequence of dict of str to Tensor
        A picture per question (see `Processor.pixels`).
    features : float [B, 1, 1024] or None
        A high-level feature per question, on the model's device; None if the fusion needs none.
    decoding : Decoding
        How words are chosen.
    """
    keys = [(q.text, len(q.images)) for q in questions]
    encoded = {key: processor.encode_prompt(*key) for key in set(keys)}
    prompts = [encoded[key] for key in keys]
    choose = chooser(decoding, [q.sample_id for q in questions])
    end, inputs = processor.end_token_id, inputs_of(network, processor, prompts, pixels)
    if isinstance(processor, FamilyProcessor):
        inputs |= {"high_level_features": features, "suppress_tokens": [processor.image_token_id]}
        inputs["logits_processor"] = [_Chosen(choose)] if decoding.temperature else []
    else:
        embeds = network.embed(inputs.pop("input_ids"), inputs.pop("pixel_values"), features)
        inputs["inputs_embeds"] = embeds
    if decoding.num_beams > 1 or isinstance(processor, FamilyProcessor):
        tokens = network.generate(
            **inputs,
            max_new_tokens=decoding.max_new_tokens,
            num_beams=decoding.num_beams,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )
        new = tokens[:, inputs["input_ids"].shape[1] :] if "input_ids" in inputs else tokens
        yield Written(range(len(new)), _replies(new, processor, decoding), None)
        return
    mask = inputs["attention_mask"]
    for ended, answers, cache in decode(
        network, embeds, mask, choose, decoding.max_new_tokens, end
    ):
        n_read = cache.get_seq_length() - mask.shape[1]
        rows = ended.tolist()
        read = [
            [*prompts[row], *answer]
            for row, answer in zip(rows, answers[:, :n_read].tolist(), strict=True)
        ]
        yield Written(rows, _replies(answers, processor, decoding), Cached(cache, read))


def inputs_of(
    network: Network,
    processor: AnyProcessor,
    prompts: Sequence[Sequence[int]],
    pixels: Sequence[Pixels],
) -> dict[str, Any]:
    """Return prompts, padded on the left, and pictures as a network takes them, on its device."""
    if isinstance(processor, FamilyProcessor):
        inputs = processor.inputs(prompts, pixels)
    else:
        inputs = {
            "input_ids": pad(prompts, processor.tokenizer.pad_token_id, "left"),
            "attention_mask": pad([[1] * len(p) for p in prompts], 0, "left"),
            **joined(pixels),
        }
    return {name: value.to(network.device) for name, value in inputs.items()}


def _replies(tokens: torch.Tensor, processor: AnyProcessor, decoding: Decoding) -> list[Reply]:
    """Return replies of new tokens int64 ``[B, T]``; those without an end that fill the space are truncated."""
    texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    full = tokens.shape[1] == decoding.max_new_tokens
    endless = ((tokens != processor.end_token_id).all(dim=1) & full).tolist()
    return [Reply(text.strip(), truncated=e) for text, e in zip(texts, endless, strict=True)]


def chooser(decoding: Decoding, sample_ids: Sequence[str]) -> Choose:
    """Return how the next token is chosen, where there are no beams: the likeliest, or drawn.

    The likeliest token once Gumbel noise is added to the logits is a draw from their softmax
    (Gumbel 1954). The noise comes from seed and sample id, and from the CPU: an answer is the same
    in any batch, order or process, and on any device.
    """
    sources = [np.random.default_rng([decoding.seed, *i.encode()]) for i in sample_ids]

    def draw(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        warm = logits.float().cpu() / decoding.temperature
        shares, order = warm.softmax(-1).sort(dim=-1, descending=True)
        enough = shares.cumsum(-1) - shares >= decoding.top_p  # what stands before it suffices
        enough[:, 0] = False
        warm[torch.zeros_like(enough).scatter(1, order, enough)] = -torch.inf
        noise = np.stack([sources[row].gumbel(size=warm.shape[1]) for row in rows.tolist()])
        return (warm + torch.from_numpy(noise)).argmax(-1).to(logits.device)

    return draw if decoding.temperature else lambda logits, rows: logits.argmax(dim=-1)


class _Chosen(LogitsProcessor):  # type: ignore[misc]
    """Leaves of the next tokens only the one that `Choose` takes."""

    def __init__(self, choose: Choose) -> None:
        self._choose = choose

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        rows = torch.arange(len(scores), device=scores.device)
        chosen = self._choose(scores, rows)[:, None]
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


@torch.no_grad()
def decode(
    model: EEGVLM,
    embeds: torch.Tensor,
    mask: torch.Tensor,
    choose: Choose,
    max_new_tokens: int,
    eos_token_id: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, Cache]]:
    """Let the model continue the prompts of a batch.

    Parameters
    ----------
    embeds : float [B, T, D]
        Prompts, padded on the left (see `EEGVLM.embed`).
    mask : int64 [B, T]
        0 where they are padded.
    choose : callable
        How the next token is chosen.
    max_new_tokens, eos_token_id : int
        Space for an answer, and the token that ends it.

    Yields
    ------
    rows : int64 [n]
        Those that leave the batch.
    answers : int64 [n, max_new_tokens]
        Their new tokens; behind the end of an answer there are end tokens.
    cache : Cache
        What the model has read of them: the prompts and all tokens but those chosen last.
    """
    n, width = mask.shape
    language = model.model.language_model
    cache = preallocated(language, width + max_new_tokens - 1)
    argument = as_argument(language, cache)
    padded = not bool(mask.all())  # where nothing is, attention needs no mask and has faster ways
    seen = torch.cat([mask, mask.new_ones(n, max_new_tokens)], dim=1) if padded else None
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    rows = torch.arange(n, device=mask.device)
    going = torch.ones_like(rows, dtype=torch.bool)
    answers = torch.full((n, max_new_tokens), eos_token_id, device=mask.device)
    for step in range(max_new_tokens):
        states = language(
            inputs_embeds=embeds,
            attention_mask=None if seen is None else seen[:, : width + step],
            position_ids=positions,
            use_cache=True,
            **argument,
        ).last_hidden_state
        tokens = choose(model.lm_head(states[:, -1]), rows).where(going, eos_token_id)
        answers[rows, step] = tokens
        going = (tokens != eos_token_id) & (step + 1 < max_new_tokens)
        n_going = int(going.sum())
        if not n_going:
            yield rows, answers[rows], frozen(cache)
            return
        positions = positions[:, -1:] + 1
        if 2 * n_going <= len(rows):  # not at once: the cache is copied without those that ended
            kept, ended = going.nonzero()[:, 0], (~going).nonzero()[:, 0]
            yield rows[ended], answers[rows[ended]], split(cache, ended, kept)
            rows, tokens, positions, going = (t[kept] for t in (rows, tokens, positions, going))
            seen = None if seen is None else seen[kept]
        embeds = model.get_input_embeddings()(tokens)[:, None]
