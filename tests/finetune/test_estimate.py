from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from eegtool.core.errors import EegToolError
from eegtool.core.settings import FinetuneSettings
from eegtool.core.workspace import Workspace
from eegtool.finetune import estimate
from eegtool.finetune.estimate import Size
from eegtool.finetune.plan import Plan
from eegtool.finetune.step import make_plan
from eegtool.model.adapters import add_lora
from eegtool.model.checkpoints import load_base

GB = 1e9


@pytest.fixture
def plan(workspace: Workspace, tmp_path: Path) -> Plan:
    settings = FinetuneSettings("tiny", workspace=workspace.root, deepspeed="none", lora_r=4)
    return make_plan(settings, tmp_path / "run")


def with_arguments(plan: Plan, **arguments: Any) -> Plan:
    return replace(plan, arguments=plan.arguments | arguments)


@pytest.fixture
def config() -> LlavaConfig:
    """The shape of LLaVA-1.5-13B."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=32064,
            hidden_size=5120,
            intermediate_size=13824,
            num_hidden_layers=40,
            num_attention_heads=40,
            num_key_value_heads=40,
        ),
    )


@pytest.fixture
def recipe(plan: Plan) -> Plan:
    """The recipe's plan: LoRA of rank 128, batches of 16, checkpointing, bf16."""
    recipe = replace(plan, lora_r=128, gradient_checkpointing=True, zero_stage=3)
    return with_arguments(recipe, bf16=True, per_device_train_batch_size=16)


def test_parameters_of_13b_are_counted_without_its_weights(
    config: LlavaConfig, recipe: Plan
) -> None:
    parts = {part: counts for part, *counts in estimate.count_parameters(config, recipe)}
    assert parts["vision tower"] == [0, 303_507_456]
    assert parts["projector"] == [1024 * 5120 + 5120 + 5120 * 5120 + 5120] * 2
    trained, total = parts["language model (LoRA)"]
    # Seven linear layers in each of 40: r (in + out) each.
    lora = 40 * 128 * (4 * 2 * 5120 + 3 * (5120 + 13824))
    assert trained == lora
    llama = 2 * 32064 * 5120 + 40 * (4 * 5120**2 + 3 * 5120 * 13824 + 2 * 5120) + 5120
    assert total == llama + lora


def test_parameters_are_those_of_the_model_that_is_trained(plan: Plan, tiny: Path) -> None:
    model, _ = load_base(plan.base_model, fusion="add", version="v1", dtype=torch.float32)
    made = add_lora(model, r=4, alpha=8, dropout=0.0)
    parts = estimate.count_parameters(model.config, plan)
    trained = sum(p.numel() for p in made.parameters() if p.requires_grad)
    assert sum(counts[1] for counts in parts) == trained
    assert sum(counts[2] for counts in parts) == sum(p.numel() for p in made.parameters())


@pytest.mark.parametrize(
    ("arguments", "samples", "ranks", "expected"),
    [
        ({}, 20, 1, 4),  # two passes of two batches of 16
        ({}, 33, 1, 6),
        ({}, 33, 2, 4),
        ({"gradient_accumulation_steps": 2}, 33, 1, 4),
        ({"num_train_epochs": 0.5}, 64, 1, 2),
        ({"num_train_epochs": 0.1}, 16, 1, 1),
        ({"max_steps": 7}, 20, 4, 7),
        ({"dataloader_drop_last": True}, 33, 1, 4),
    ],
)
def test_steps(
    plan: Plan, arguments: dict[str, Any], samples: int, ranks: int, expected: int
) -> None:
    assert estimate.steps(with_arguments(plan, **arguments), samples, ranks) == expected


def size_of(config: LlavaConfig, trained: int = 500_000_000) -> Size:
    parts = (
        ("vision tower", 0, 300_000_000),
        ("projector", 30_000_000, 30_000_000),
        ("language model (LoRA)", trained, 13_000_000_000 + trained),
    )
    return Size(parts, samples=10_000, tokens=1200, labels=8, config=config)


def test_memory_follows_the_zero_paper(config: LlavaConfig, recipe: Plan) -> None:
    size = size_of(config)
    every = estimate.activations(size, recipe) + estimate._CUDA
    one = estimate.memory(size, recipe, 1, 1)
    eight = estimate.memory(size, recipe, 8, 4)
    weights, states = 2 * size.parameters, 14 * size.trained
    assert one["zero2"].gpu == weights + states + every
    assert one["zero3"].gpu == one["zero2"].gpu  # one rank has nobody to share with
    assert eight["zero2"].gpu == weights + states / 8 + every
    assert eight["zero3"].gpu == (weights + states) / 8 + 2 * GB + every
    assert eight["zero3_offload"].gpu == 2 * GB + every
    assert eight["zero3_offload"].host == (weights + states) / 2  # four of eight ranks
    assert eight["zero2"].host == 0


def test_what_saves_memory_saves_memory(config: LlavaConfig, recipe: Plan) -> None:
    size = size_of(config)

    def gpu(plan: Plan) -> float:
        return estimate.memory(size, plan, 1, 1)["zero2"].gpu

    assert gpu(replace(recipe, gradient_checkpointing=False)) > gpu(recipe) + 40 * GB
    # 13 billion parameters at half a byte instead of two, but for the embeddings of both ends
    saved = gpu(recipe) - gpu(replace(recipe, bits=4))
    assert saved == pytest.approx((2 - 4.127 / 8) * (13e9 - 2 * 32064 * 5120))
    assert gpu(with_arguments(recipe, bf16=False)) > gpu(recipe) + 26 * GB
    assert gpu(with_arguments(recipe, per_device_train_batch_size=1)) < gpu(recipe) - 10 * GB


def test_a_layer_keeps_what_the_formula_says(tiny: Path) -> None:
    """Count what autograd really keeps for the way back, per layer and token."""
    from eegtool.model.checkpoints import find_base

    model, _ = load_base(find_base("tiny"), fusion="add", version="v1", dtype=torch.float32)
    add_lora(model, r=1, alpha=1, dropout=0.1)
    text = model.config.text_config
    tokens = 256
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # or its address would be used again
        return tensor

    alive: list[torch.Tensor] = []
    embedded = torch.randn(1, tokens, text.hidden_size, requires_grad=True)
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model.language_model(inputs_embeds=embedded)
    measured = sum(kept.values()) / tokens / text.num_hidden_layers
    formula = estimate.layer_bytes(text.hidden_size, text.intermediate_size, width=4)
    assert 0.85 * formula < measured <= formula  # too much memory is the safe side


def test_a_checkpoint_holds_adapter_and_optimizer(config: LlavaConfig, recipe: Plan) -> None:
    size = size_of(config)
    tau = size.trained
    assert estimate.checkpoint_bytes(size, recipe) == (4 + 2 + 12) * tau
    assert estimate.checkpoint_bytes(size, replace(recipe, zero_stage=0)) == (4 + 8) * tau
    adapter_only = with_arguments(recipe, save_strategy="no")
    assert estimate.checkpoint_bytes(size, adapter_only) == 4 * tau


def test_a_full_disk_is_refused_before_training(
    config: LlavaConfig, recipe: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    asked: list[Path] = []
    plan = replace(recipe, output_dir=str(tmp_path / "not" / "yet" / "there"))
    need = 2 * estimate.checkpoint_bytes(size_of(config), plan)

    def disk_of(free: int) -> None:
        def disk_usage(path: Path) -> Any:
            asked.append(path)
            return usage(1, 1, free)

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)

    disk_of(need)
    assert estimate.check_disk(size_of(config), plan) == need
    assert asked == [tmp_path]
    disk_of(need - 1)
    with pytest.raises(EegToolError, match=r"GiB free; two checkpoints need about 17\.8 GiB"):
        estimate.check_disk(size_of(config), plan)


@pytest.mark.parametrize(("n", "text"), [(3 * 2**29, "1.5 GiB"), (2**19, "0.5 MiB")])
def test_bytes_are_read_well(n: int, text: str) -> None:
    assert estimate.gib(n) == text
