"""Answers of a batch, token by token: each token the likeliest one, or drawn.

The cache is allocated for the whole answer at once, and rows that have come to their end leave the
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers.cache_utils import Cache

from eegtool.inference.cache import frozen, preallocated, split
from eegtool.model.eegvlm import EEGVLM
from eegtool.model.families.fused import as_argument

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
        shares, order = warm.softmax(-1).sort(dim=-1, descending=True)
        enough = shares.cumsum(-1) - shares >= self._top_p  # what stands before it suffices
        enough[:, 0] = False
        warm[torch.zeros_like(enough).scatter(1, order, enough)] = -torch.inf
        sources = [self._sources[row] for row in rows.tolist()]
        noise = np.stack([source.gumbel(size=warm.shape[1]) for source in sources])
        return (warm + torch.from_numpy(noise)).argmax(-1).to(logits.device)


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
