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
    return Cache(layers=[_Preallocated(size) for _ in range(language.config.num_hidden_layers)])


def frozen(cache: Cache) -> Cache:
    """Return a cache that further tokens see, and that keeps none of them."""
    return Cache(layers=[_Frozen(*layer.filled) for layer in cache.layers])


def split(cache: Cache, leaving: torch.Tensor, staying: torch.Tensor) -> Cache:
    """Take rows out of a cache and return them, frozen: layer by layer, lest memory holds all twice."""
    layers = []
    for layer in cache.layers:
        layers.append(_Frozen(*(part[leaving] for part in layer.filled)))
        layer.batch_select_indices(staying)
    return Cache(layers=layers)


class _Preallocated(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a layer, in tensors that have their last size from the start."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.is_initialized = False
        self._size = size
        self._filled = 0

    @property
    def filled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the tokens that were read."""
        return self.keys[:, :, : self._filled], self.values[:, :, : self._filled]

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
        return self.filled

    def get_seq_length(self) -> int:
        return self._filled


class _Frozen(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a layer to which none are added."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([self.keys, key_states], 2), torch.cat([self.values, value_states], 2)
