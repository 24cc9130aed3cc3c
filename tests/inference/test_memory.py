from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from eegtool.inference.memory import bytes_per_question, first_batch_size

GB = 10**9
PROMPT = 1195
"""Tokens of a question about two blocks of 576 visual ones."""


def llava_13b(**change: Any) -> LlavaConfig:
    shape = {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "vocab_size": 32064,
    }
    return LlavaConfig(text_config=LlamaConfig(**shape | change), vision_config=CLIPVisionConfig())


def needed(writes: bool = True, dtype: torch.dtype = torch.bfloat16, **change: Any) -> int:
    return bytes_per_question(
        llava_13b(**change).text_config,
        dtype,
        n_tokens=PROMPT,
        n_new_tokens=8,
        kept=int(writes),
        scores=True,
    )


def test_keys_and_values_are_most_of_what_an_answer_takes() -> None:
    """13B keeps 2 · 40 layers · 5120 numbers of 2 bytes, 0.8 MB, of every token."""
    cache = 819_200 * (PROMPT + 8)
    assert needed(writes=True) - needed(writes=False) == cache
    assert 0.98 * GB < cache < 0.99 * GB
    assert 0.2 * GB < needed(writes=False) < 0.3 * GB
    few_heads = needed(writes=True, num_key_value_heads=8) - needed(writes=False)
    assert few_heads == cache // 5
    assert needed(dtype=torch.float32) > 1.9 * needed()


@pytest.mark.parametrize(
    ("free_gb", "writes", "n_beams", "expected"),
    [
        (80 - 27, True, 1, 32),  # 13B on an 80 GB card
        (80 - 27, False, 1, 64),  # more would fit: the cap
        (80 - 27, True, 3, 8),
        (40 - 27, True, 1, 8),
        (40 - 27, False, 1, 40),
        (32 - 27, True, 1, 3),
        (28 - 27, True, 1, 1),  # too little is tried, too
        (0, True, 1, 1),
    ],
)
def test_what_is_free_says_how_many_questions_fit(
    monkeypatch: pytest.MonkeyPatch, free_gb: int, writes: bool, n_beams: int, expected: int
) -> None:
    """Free memory as it is after the model was loaded, what PyTorch keeps in reserve included; on a CPU all fit."""
    looked: list[Any] = []

    def look(where: torch.device) -> tuple[int, int]:
        looked.append(where)
        return free_gb * GB, 80 * GB

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: looked.append("emptied"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", look)
    size = {"n_tokens": PROMPT, "n_new_tokens": 8, "n_beams": n_beams}
    found = {}
    for device in ("cpu", "cuda"):
        where = torch.device(device)
        model: Any = SimpleNamespace(device=where, config=llava_13b(), dtype=torch.bfloat16)
        found[device] = first_batch_size(model, **size, writes=writes, scores=True)
    assert found == {"cpu": 64, "cuda": expected}
    assert looked == ["emptied", torch.device("cuda")]
