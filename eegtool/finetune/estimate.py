"""How large a training will be: parameters, steps, memory per GPU, disk. No weights are read.

Parameters are counted on a model without storage (PyTorch's ``meta`` device) into which LoRA is put
as the ranks put it. Memory is an estimate from two sources:

* States (ZeRO: Rajbhandari et al. 2020, arXiv 1910.02054, section 3.1 and figure 1). Φ parameters of
  which τ are trained, w bytes each (2 in 16 bits), R ranks. Mixed-precision Adam keeps 12 bytes per
  trained parameter (32-bit copy, momentum, variance) beside its gradient:

  - ZeRO-2: wΦ + (w + 12)τ / R
  - ZeRO-3: (wΦ + (w + 12)τ) / R, and up to `_LIVE` gathered parameters
  - offload: the gathered parameters; the rest is in the memory of the host
  - bits 4: linear layers of the language model have 4.127 bits per parameter, doubly quantised
    (QLoRA: Dettmers et al. 2023, arXiv 2305.14314, section 3).

* Activations, counted as Korthikanti et al. 2022 (arXiv 2205.05198, section 4) do for GPT, here for a
  layer of LLaMA with LoRA on all seven linear layers and an attention that stores no scores (SDPA,
  flash): per token h(14 + 18w) + f(5w + 1) bytes, with h the hidden and f the inner width: two norms
  in 32 bits (8h + 4wh); input of each LoRA after its dropout, and the mask (six of h, one of f);
  queries, keys, values and their rotation (7wh), the attention's output (wh); gate, its SiLU, up and
  product (4wf). All layers keep that, or with checkpointing one of them, and each its input (wh).

The vision tower runs without gradient: one layer of it at a time. Logits are there only where there
are labels. `_CUDA` is what CUDA itself and fragments take: an assumption.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import LlavaConfig

from eegtool.core.errors import EegToolError
from eegtool.finetune.plan import Plan
from eegtool.model.adapters import add_lora, trained_table
from eegtool.model.checkpoints import quiet
from eegtool.model.eegvlm import EEGVLM, patches

_LIVE: Final = 1_000_000_000
"""Parameters that ZeRO-3 holds in full at a time (``stage3_max_live_parameters`` of the presets)."""
_CUDA: Final = 1.5 * 2**30
_ADAM: Final = 12
"""Bytes per trained parameter: copy in 32 bits, momentum, variance."""
_NF4: Final = 4.127 / 8
_SPARE: Final = 2
"""How many checkpoints must fit: the old one goes only when the new one is whole."""


@dataclass(frozen=True, slots=True)
class Size:
    """What a training trains and how long its samples are."""

    parts: tuple[tuple[str, int, int], ...]
    """Part of the model, its trained parameters, all its parameters."""
    samples: int
    tokens: int
    """Tokens of the longest sample."""
    labels: int
    """Trained tokens of that sample."""
    config: LlavaConfig

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return sum(trained for _, trained, _ in self.parts)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(total for _, _, total in self.parts)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one way to run."""

    gpu: float
    """On each GPU."""
    host: float
    """In the memory of each machine, beside what the processes need themselves."""


def count_parameters(config: LlavaConfig, plan: Plan) -> tuple[tuple[str, int, int], ...]:
    """Return trained and all parameters by part, with LoRA as the ranks put it in."""
    with torch.device("meta"), quiet():
        model = EEGVLM(config)
        model.requires_grad_(False)
        model = add_lora(model, r=plan.lora_r, alpha=plan.lora_alpha, dropout=plan.lora_dropout)
    return tuple(trained_table(model))


def steps(plan: Plan, samples: int, ranks: int) -> int:
    """Return how many updates transformers' Trainer will make."""
    arguments = plan.arguments
    if arguments["max_steps"] > 0:
        return int(arguments["max_steps"])
    cut = math.floor if arguments.get("dataloader_drop_last") else math.ceil
    batches = math.ceil(cut(samples / arguments["per_device_train_batch_size"]) / ranks)
    per_pass = math.ceil(batches / arguments["gradient_accumulation_steps"])
    return math.ceil(max(1, per_pass) * arguments["num_train_epochs"])


def memory(size: Size, plan: Plan, ranks: int, ranks_per_host: int) -> dict[str, Memory]:
    """Return the memory that each way to shard needs, by the name of its preset."""
    width = _width(plan)
    weights = width * size.parameters
    if plan.bits == 4:
        language = next(total - trained for part, trained, total in size.parts if "LoRA" in part)
        text = size.config.text_config
        linear = language - (2 - text.tie_word_embeddings) * text.vocab_size * text.hidden_size
        weights -= (width - _NF4) * linear
    states = (width + _ADAM) * size.trained
    live = width * min(_LIVE, size.parameters)
    every = activations(size, plan) + _CUDA
    return {
        "zero2": Memory(weights + states / ranks + every, 0),
        "zero3": Memory((weights + states) / ranks + (live if ranks > 1 else 0) + every, 0),
        "zero3_offload": Memory(live + every, (weights + states) / ranks * ranks_per_host),
    }


def activations(size: Size, plan: Plan) -> float:
    """Return the bytes that one step's activations need at their peak."""
    width, text, vision = _width(plan), size.config.text_config, size.config.vision_config
    batch = plan.arguments["per_device_train_batch_size"]
    tokens = batch * size.tokens
    layer = tokens * layer_bytes(text.hidden_size, text.intermediate_size, width)
    inputs = tokens * text.hidden_size * width * text.num_hidden_layers
    layers = inputs + layer if plan.gradient_checkpointing else layer * text.num_hidden_layers
    logits = batch * size.labels * text.vocab_size * 4 * 3  # themselves, their softmax, gradient
    tower = batch * (patches(size.config) + 1) * width
    tower *= 8 * vision.hidden_size + 2 * vision.intermediate_size
    return layers + logits + tower


def layer_bytes(hidden: int, inner: int, width: int) -> int:
    """Return the bytes per token that one layer of the language model keeps for the way back."""
    return hidden * (14 + 18 * width) + inner * (5 * width + 1)


def checkpoint_bytes(size: Size, plan: Plan) -> int:
    """Return the size of one checkpoint: adapter in 32 bits, optimizer, with DeepSpeed a copy more."""
    if plan.arguments["save_strategy"] == "no":
        return 4 * size.trained
    states = _ADAM + _width(plan) if plan.zero_stage else 8
    return (4 + states) * size.trained


def check_disk(size: Size, plan: Plan) -> int:
    """Refuse a disk on which the checkpoints will not fit; return its free bytes.

    Raises
    ------
    EegToolError
        If there is not room for two: the old one goes only when the new one is whole.
    """
    place = Path(plan.output_dir)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    need = _SPARE * checkpoint_bytes(size, plan)
    if free < need:
        raise EegToolError(
            f"The disk of --output-dir {plan.output_dir} has {gib(free)} free; two checkpoints need "
            f"about {gib(need)}.",
            "Make room, choose another --output-dir, or lower --lora-r.",
        )
    return free


def gib(n: float) -> str:
    """Return bytes as GiB or MiB."""
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.1f} MiB"


def _width(plan: Plan) -> int:
    sixteen: Any = plan.arguments["bf16"] or plan.arguments["fp16"]
    return 2 if sixteen else 4
