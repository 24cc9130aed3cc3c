"""How many questions fit into the free memory of a GPU at the same time, and when they did not."""

from __future__ import annotations

from typing import Final

import torch
from transformers import PreTrainedConfig

from eegtool.core.stages import STAGES
from eegtool.model.checkpoints import Network
from eegtool.model.families.fused import FusedModel

LARGEST_BATCH: Final = 64
_SHARE: Final = 0.9
"""Of the free memory that is counted on; the rest is for fragments and what a batch takes as a whole."""
_MULTIPLE: Final = 8
_REPEATED: Final = 1 + len(STAGES)
"""Times that `FusedModel.score` keeps the keys and values of a question."""
_PACKED: Final = 32
"""Tokens of five packed answers, generously."""


def first_batch_size(
    model: Network, *, n_tokens: int, n_new_tokens: int, n_beams: int, writes: bool, scores: bool
) -> int:
    """Return where ``--batch-size auto`` begins: on a CPU with `LARGEST_BATCH`.

    On a GPU as many as fit (see `bytes_per_question`; each beam takes as much as a question), from 8 on a multiple
    of 8. LLaVA-1.5-13B in bfloat16 has 27 GB of an 80 GB card, and an answer takes 1.2 GB while it is written: 32.
    The model must be on its device, or its weights are taken for free memory.
    """
    if model.device.type != "cuda":
        return LARGEST_BATCH
    torch.cuda.empty_cache()  # what PyTorch holds of an earlier model is free
    free, _ = torch.cuda.mem_get_info(model.device)
    per_question = bytes_per_question(
        model.config.get_text_config(),
        model.dtype,
        n_tokens=n_tokens,
        n_new_tokens=n_new_tokens,
        kept=_REPEATED if scores and isinstance(model, FusedModel) else int(writes),
        scores=scores,
    )
    n = min(int(_SHARE * free) // (n_beams * per_question), LARGEST_BATCH)
    return max(1, n - n % _MULTIPLE if n > _MULTIPLE else n)


def bytes_per_question(
    text: PreTrainedConfig,
    dtype: torch.dtype,
    *,
    n_tokens: int,
    n_new_tokens: int,
    kept: int,
    scores: bool,
) -> int:
    """Estimate the memory that a question takes, beside the weights, while it is asked.

    With e the bytes of a number, T tokens of the longest prompt, visual ones included, N of the answer, L layers,
    D and I the widths of the states and of the MLP, H heads of width d for keys and values, V words::

        keys and values   e · 2 L (T + N) H d          times `kept`: written answers need them, repeats often
        a layer           e · T (6 D + 5 I)            one at a time, without gradients
        logits            8 · V, 32 times if scored    in float32, before and after the softmax

    Of a layer there are, at the same time, its input, the states it is added to and their norm in float32; and of
    the MLP both halves, the sum of base and LoRA and what it is made of. The vision tower runs before and
    needs less.
    """
    heads = text.num_key_value_heads * (
        getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    )
    cache = 2 * text.num_hidden_layers * (n_tokens + n_new_tokens) * heads * kept
    layer = n_tokens * (6 * text.hidden_size + 5 * text.intermediate_size)
    logits = 8 * text.vocab_size * (_PACKED if scores else 1)
    return int(dtype.itemsize * (cache + layer) + logits)


def is_out_of_memory(error: Exception) -> bool:
    """Tell running out of memory from other faults; on a CPU, PyTorch has no exception of its own."""
    said = ("not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(words in str(error) for words in said)
