"""Keys and values of the tokens that the model has read.

They have their last size from the start, where transformers' own cache is copied at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


@dataclass(frozen=True, slots=True)
class Cached:
    """Tokens of a batch that the model has read, and their keys and values."""

    cache: Cache
    tokens: Sequence[Sequence[int]]
    """Of each row; its last one is in the last column of the cache."""


def preallocated(language: Any, size: int) -> Cache:
    """Return an empty cache of a language model, with space for so many tokens."""
    return Cache(layers=[_Layer(size) for _ in range(language.config.num_hidden_layers)])


def frozen(cache: Cache) -> Cache:
    """Return a cache that further tokens see, and that keeps none of them."""
    return Cache(layers=[layer.frozen() for layer in cache.layers])


def split(cache: Cache, leaving: torch.Tensor, staying: torch.Tensor) -> Cache:
    """Take rows out of a cache and return them, frozen: layer by layer, lest memory holds all twice."""
    layers = []
    for layer in cache.layers:
        layers.append(layer.frozen(leaving))
        layer.batch_select_indices(staying)
    return Cache(layers=layers)


class _Layer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a layer, of a size that never changes: where it is full, tokens are seen and not kept."""

    def __init__(self, size: int, *filled: torch.Tensor) -> None:
        super().__init__()
        self._size = size
        self._filled = size if filled else 0
        self.is_initialized = bool(filled)
        if filled:
            self.keys, self.values = filled

    @property
    def filled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the tokens that were read."""
        return self.keys[:, :, : self._filled], self.values[:, :, : self._filled]

    def frozen(self, rows: Any = slice(None)) -> _Layer:
        """Return a layer of some rows, full of what was read."""
        return _Layer(self._filled, *(part[rows] for part in self.filled))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            shape = (*key_states.shape[:2], self._size, key_states.shape[3])
            self.keys, self.values = key_states.new_empty(shape), value_states.new_empty(shape)
            self.is_initialized = True
        begin, end = self._filled, self._filled + key_states.shape[2]
        if end > self._size:
            keys, values = self.filled
            return torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)
        self._filled = end
        self.keys[:, :, begin:end], self.values[:, :, begin:end] = key_states, value_states
        return self.filled

    def get_seq_length(self) -> int:
        return self._filled
