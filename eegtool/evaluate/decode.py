"""Answers of a batch, token by token: each token the likeliest one, or drawn.

Keys and values get room for the whole answer at once, where transformers' own cache is copied at each
step, and rows that have come to their end leave the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicLayer

from eegtool.model.eegvlm import EEGVLM

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


def chooser(decoding: Decoding, sample_ids: Sequence[str]) -> Choose:
    """Return how the next token is chosen; a beam search is another matter."""
    return Draw(decoding, sample_ids) if decoding.temperature else likeliest


def likeliest(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Choose the token with the largest logit."""
    return logits.argmax(dim=-1)


class Draw:
    """Draws the next token of each row from random numbers of its own.

    The likeliest token once Gumbel noise is added to the logits is a draw from their softmax
    (Gumbel 1954). The noise comes from seed and sample id, and from the CPU: an answer is the same
    in any batch, order or process, and on any device.
    """

    def __init__(self, decoding: Decoding, sample_ids: Sequence[str]) -> None:
        self._temperature, self._top_p = decoding.temperature, decoding.top_p
        self._sources = [np.random.default_rng([decoding.seed, *i.encode()]) for i in sample_ids]

    def __call__(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Draw; see `Choose`."""
        warm = logits.float().cpu() / self._temperature
        told, order = warm.softmax(-1).sort(dim=-1, descending=True)
        enough = told.cumsum(-1) - told >= self._top_p  # what stands before it suffices
        enough[:, 0] = False
        warm[torch.zeros_like(enough).scatter(1, order, enough)] = -torch.inf
        sources = [self._sources[row] for row in rows.tolist()]
        noise = np.stack([source.gumbel(size=warm.shape[1]) for source in sources])
        return (warm + torch.from_numpy(noise)).argmax(-1).to(logits.device)


@torch.inference_mode()
def decode(
    model: EEGVLM,
    embeds: torch.Tensor,
    mask: torch.Tensor,
    choose: Choose,
    max_new_tokens: int,
    eos_token_id: int,
) -> torch.Tensor:
    """Let the model go on with the prompts of a batch.

    Parameters
    ----------
    model : EEGVLM
        The model.
    embeds : float [B, T, D]
        Prompts, padded on the left (see `EEGVLM.embed`).
    mask : int64 [B, T]
        0 where they are padded.
    choose : callable
        How the next token is chosen.
    max_new_tokens : int
        Room for an answer.
    eos_token_id : int
        The token that ends it.

    Returns
    -------
    int64 [B, max_new_tokens]
        New tokens; behind the end of an answer there are end tokens.
    """
    n, width = mask.shape
    language = model.model.language_model
    cache = _room(language, width + max_new_tokens - 1)
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
            **cache,
        ).last_hidden_state
        tokens = choose(model.lm_head(states[:, -1]), rows).where(going, eos_token_id)
        answers[rows, step] = tokens
        going = tokens != eos_token_id
        n_going = int(going.sum())
        if not n_going:
            break
        positions = positions[:, -1:] + 1
        if 2 * n_going <= len(rows):  # not at once: the cache is copied without those that ended
            kept = going.nonzero()[:, 0]
            for held in cache.values():
                held.batch_select_indices(kept)
            rows, tokens, positions, going = (t[kept] for t in (rows, tokens, positions, going))
            seen = None if seen is None else seen[kept]
        embeds = model.get_input_embeddings()(tokens)[:, None]
    return answers


def _room(language: Any, size: int) -> dict[str, Cache]:
    """Return a cache of so many tokens, under the name by which this transformers takes it."""
    # The older name still works but warns; unknown ones are swallowed by its **kwargs.
    known = inspect.signature(language.forward).parameters
    cache = Cache(layers=[_Room(size) for _ in range(language.config.num_hidden_layers)])
    return {"cache" if "cache" in known else "past_key_values": cache}


class _Room(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a layer, in tensors that have their last size from the start."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.is_initialized = False
        self._size = size
        self._filled = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            shape = (*key_states.shape[:2], self._size, key_states.shape[3])
            self.keys, self.values = key_states.new_empty(shape), value_states.new_empty(shape)
            self.is_initialized = True
        begin, self._filled = self._filled, self._filled + key_states.shape[2]
        self.keys[:, :, begin : self._filled] = key_states
        self.values[:, :, begin : self._filled] = value_states
        return self.keys[:, :, : self._filled], self.values[:, :, : self._filled]

    def get_seq_length(self) -> int:
        return self._filled
