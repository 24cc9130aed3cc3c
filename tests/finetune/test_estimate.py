from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.linear import zero3_linear_wrap
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from eegtool.core.errors import EegToolError
from eegtool.core.workspace import Workspace, write_json
from eegtool.finetune import estimate
from eegtool.finetune.estimate import Size
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.plan import Plan
from eegtool.finetune.planning import make_plan
from eegtool.model.adapters import add_lora
from eegtool.model.checkpoints import find_base, load_base
from eegtool.model.eegvlm import EEGVLM, patches
from eegtool.model.families.llava import LlavaBase
from eegtool.model.loading import quiet

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
    text = config.to_json_string(use_diff=False)
    parts = {part: counts for part, *counts in parts_of(text, 128)}
    assert parts["vision tower"] == [0, 303_507_456]
    assert parts["projector"] == [1024 * 5120 + 5120 + 5120 * 5120 + 5120] * 2
    trained, total = parts["language model (LoRA)"]
    # Seven linear layers in each of 40: r (in + out) each.
    lora = 40 * 128 * (4 * 2 * 5120 + 3 * (5120 + 13824))
    assert trained == lora
    llama = 2 * 32064 * 5120 + 40 * (4 * 5120**2 + 3 * 5120 * 13824 + 2 * 5120) + 5120
    assert total == llama + lora


@pytest.mark.parametrize("use_dora", [False, True])
def test_parameters_are_those_of_the_model_that_is_trained(
    plan: Plan, tiny: Path, use_dora: bool
) -> None:
    model, _ = load_base(plan.base_model, fusion="add", version="v1", dtype=torch.float32)
    made = add_lora(model, r=4, alpha=8, dropout=0.0, use_dora=use_dora)
    parts = estimate.count_parameters(empty(model.config), r=4, use_dora=use_dora)
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
    return Size(parts, samples=10_000, tokens=1200, labels=8, **shape_of(config))


def empty(config: LlavaConfig) -> EEGVLM:
    with torch.device("meta"):
        return EEGVLM(config)


@cache
def tensors_of(text: str) -> tuple[int, ...]:
    """Return how large the parameters are, by the configuration as JSON; of 13B it takes a second."""
    config = LlavaConfig.from_dict(json.loads(text))
    return tuple(parameter.numel() for parameter in empty(config).parameters())


@cache
def parts_of(text: str, r: int) -> Any:
    return estimate.count_parameters(empty(LlavaConfig.from_dict(json.loads(text))), r=r)


def shape_of(config: LlavaConfig) -> dict[str, Any]:
    return {
        "text": config.text_config,
        "projected": patches(config),
        "visual_tokens": 1152,
        "tensors": tensors_of(config.to_json_string(use_diff=False)),
    }


def test_memory_follows_the_zero_paper(config: LlavaConfig, recipe: Plan) -> None:
    size = size_of(config)
    buffers = 2 * 2 * 5120**2
    every = estimate.activations(size, recipe) + buffers
    sharded = estimate.activations(size, recipe, zero3=True) + buffers
    one = estimate.memory(size, recipe, 1, 1)
    eight = estimate.memory(size, recipe, 8, 4)
    weights, states = 2 * size.parameters, 14 * size.trained
    gathered = 2 * (GB + 500_000_000)  # and LoRA, which stays whole
    assert one["zero2"].allocated == weights + states + every
    assert one["zero3"].allocated == weights + states + sharded  # nobody to share with
    assert eight["zero2"].allocated == weights + states / 8 + every
    assert eight["zero3"].allocated == (weights + states) / 8 + gathered + sharded
    assert one["zero3_offload"].allocated == eight["zero3_offload"].allocated == gathered + sharded
    assert eight["zero2"].host == 0
    # 32 bits for what is trained, its gradient, Adam; and autocast's copy in 16 bits
    alone = 2 * (size.parameters - size.trained) + (4 + 4 + 8 + 2) * size.trained
    assert one["none"].allocated == alone + estimate.activations(size, recipe, mixed=True)
    assert "none" not in eight
    assert one["zero2"].gpu == one["zero2"].allocated + estimate._CUDA


def test_the_update_is_the_peak_where_activations_are_small(
    config: LlavaConfig, recipe: Plan
) -> None:
    size = replace(size_of(config), tokens=1)
    needs = estimate.memory(size, with_arguments(recipe, per_device_train_batch_size=1), 1, 1)
    states = 2 * size.parameters + (12 + 8) * size.trained
    assert needs["zero2"].allocated == states + 2 * 2 * 5120**2


@pytest.mark.parametrize(
    ("preset", "ranks", "batch", "checkpointing", "expected"),
    [
        ("zero2", 1, 16, True, 49.5),
        ("zero2", 4, 16, True, 44.7),
        ("zero3", 1, 16, True, 50.0),
        ("zero3", 4, 16, True, 26.9),
        ("zero2", 1, 2, False, 61.8),
        ("zero2", 1, 4, False, 88.7),
    ],
)
def test_13b_needs_what_it_needs(
    config: LlavaConfig,
    recipe: Plan,
    preset: str,
    ranks: int,
    batch: int,
    checkpointing: bool,
    expected: float,
) -> None:
    plan = replace(recipe, gradient_checkpointing=checkpointing)
    plan = with_arguments(plan, per_device_train_batch_size=batch)
    parts = parts_of(config.to_json_string(use_diff=False), plan.lora_r)
    size = Size(parts, samples=10_000, tokens=1195, labels=8, **shape_of(config))
    need = estimate.memory(size, plan, ranks, ranks)[preset]
    assert need.gpu / 2**30 == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("ranks", [1, 4])
def test_pinned_memory_comes_in_powers_of_two(
    config: LlavaConfig, recipe: Plan, ranks: int
) -> None:
    """Matrices of 13B take 64 and 256 MiB, not 50 and 135, however many ranks share them."""
    size = size_of(config)
    host = estimate.memory(size, recipe, ranks, ranks)["zero3_offload"].host
    layers = 40 * (4 * 64 + 3 * 256) * 2**20
    embeddings = 2 * 512 * 2**20
    tower = 2 * 303_507_456
    # 500 million of LoRA, 30 of the projector: flat 16-bit copies and gradients; gradients of 32 bits
    trained = 3 * (1024 + 64) * 2**20 + (2048 + 128) * 2**20 + 12 * size.trained
    assert host == pytest.approx(layers + embeddings + tower + trained, rel=0.01)
    plainly = 2 * size.parameters + 14 * size.trained
    assert 1.5 < host / plainly < 1.7


def write_configs(folder: Path, config: LlavaConfig) -> dict[str, LlavaBase]:
    """Write what both layouts of 13B say about themselves, without any weights."""
    config.save_pretrained(folder / "hf")
    config.vision_config.save_pretrained(folder / "clip")
    own = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_select_layer": -2,
        "mm_hidden_size": 1024,
    }
    own |= {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch"}
    text = config.text_config.to_dict() | {"vocab_size": 32000} | own
    write_json(folder / "llava" / "config.json", text)
    llava = LlavaBase(folder / "llava", folder / "clip")
    return {"hf": LlavaBase(folder / "hf"), "llava": llava}


@pytest.mark.parametrize(
    ("layout", "parameters"), [("hf", 13_351_494_656), ("llava", 13_350_839_296)]
)
def test_both_layouts_have_as_many_parameters(
    config: LlavaConfig, recipe: Plan, tmp_path: Path, layout: str, parameters: int
) -> None:
    read = write_configs(tmp_path, config)[layout].config
    with torch.device("meta"), quiet():
        base = [parameter.numel() for parameter in EEGVLM(read).parameters()]
    assert (len(base), sum(base)) == (758, parameters)
    parts = estimate.count_parameters(empty(read), r=128)
    lora = parts[-1][1]
    assert sum(total for _, _, total in parts) == parameters + lora


def test_what_fits_a_gpu(config: LlavaConfig, recipe: Plan) -> None:
    size = size_of(config)
    needs = estimate.memory(size, recipe, 1, 1)
    zero2 = needs["zero2"].gpu
    assert estimate.verdict(needs["zero2"], zero2) == "fits"
    assert estimate.verdict(needs["zero2"], zero2 - 3.1 * 2**30) == "does not fit: 3.1 GiB too much"

    def remedies(gib: float, **fields: Any) -> list[str]:
        return estimate.remedies(size, replace(recipe, **fields), 1, gib * 2**30)

    assert remedies(80, gradient_checkpointing=False) == [
        "--gradient-checkpointing True (zero2)",
        "--per-device-train-batch-size 4 (zero3_offload)",
    ]
    assert remedies(30, bits=4) == ["--per-device-train-batch-size 14 (zero2)", "2 GPUs (zero2)"]
    assert remedies(5.5) == ["--per-device-train-batch-size 1 (zero3_offload)"]
    assert remedies(20, bits=4, gradient_checkpointing=False) == [
        "--gradient-checkpointing True --per-device-train-batch-size 1 --bits 4 (zero2)"
    ]
    assert remedies(4) == []
    packed = estimate.memory(size, replace(recipe, bits=4), 1, 1)
    assert set(packed) == {"zero2", "none"}  # ZeRO-3 cannot shard packed weights


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


def as_on_a_gpu(dropout: torch.nn.Dropout, x: torch.Tensor) -> torch.Tensor:
    """Drop out as GPUs do, with a mask of one byte; a CPU's mask is as wide as its input."""
    return torch.native_dropout(x, dropout.p, dropout.training)[0]


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("zero3", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_keeps_what_the_formula_says(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, zero3: bool, use_dora: bool
) -> None:
    """Count what autograd really keeps for the way back, per layer and token."""
    monkeypatch.setattr(torch.nn.Dropout, "forward", as_on_a_gpu)
    model, _ = load_base(find_base("tiny"), fusion="add", version="v1", dtype=dtype)
    add_lora(model, r=4, alpha=1, dropout=0.1, use_dora=use_dora, dtype=dtype)
    if zero3:
        monkeypatch.setattr(torch.nn.functional, "linear", zero3_linear_wrap)
    text = model.config.text_config
    text.use_cache = False
    # What DoRA keeps of its matrices, for a moment, does not grow with the tokens.
    fewer, more = (kept_bytes(model, tokens, dtype) for tokens in (256, 512))
    angles = 2 * text.hidden_size // text.num_attention_heads * dtype.itemsize
    last_norm = 4 * (text.hidden_size + 1)
    measured = ((more - fewer) / 256 - angles - last_norm) / text.num_hidden_layers
    formula = estimate.layer_bytes(
        text, rank=4, width=dtype.itemsize, zero3=zero3, use_dora=use_dora
    )
    assert measured == pytest.approx(formula, rel=0.005)


def kept_bytes(model: EEGVLM, tokens: int, dtype: torch.dtype) -> int:
    """Count what autograd keeps for the way back through the language model."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # or its address would be used again
        return tensor

    alive: list[torch.Tensor] = []
    hidden = model.config.text_config.hidden_size
    embedded = torch.randn(1, tokens, hidden, dtype=dtype, requires_grad=True)
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model.language_model(inputs_embeds=embedded)
    return sum(kept.values())


def test_dora_needs_more(config: LlavaConfig, recipe: Plan) -> None:
    dora = replace(recipe, use_dora=True)
    plain = parts_of(config.to_json_string(use_diff=False), 128)
    with_lengths = estimate.count_parameters(empty(config), r=128, use_dora=True)
    rows = 40 * (5 * 5120 + 2 * 13824)  # a length for each row of seven layers
    assert with_lengths[-1][1] - plain[-1][1] == rows
    size = size_of(config)
    more = estimate.activations(size, dora) - estimate.activations(size, recipe)
    one_layer = 16 * size.tokens * 4 * (5 * 5120 + 2 * 13824)
    assert more == one_layer + 2 * (3 * 5120 * 13824 + 13824**2)


def test_a_checkpoint_holds_adapter_and_optimizer(config: LlavaConfig, recipe: Plan) -> None:
    size = size_of(config)
    tau = size.trained
    alone = replace(recipe, zero_stage=0)  # without DeepSpeed all that is trained has 32 bits
    assert estimate.checkpoint_bytes(size, recipe) == (2 + 2 + 12) * tau
    assert estimate.checkpoint_bytes(size, alone) == (4 + 8) * tau
    for plan, width in ((recipe, 2), (alone, 4), (with_arguments(recipe, bf16=False), 4)):
        adapter_only = with_arguments(plan, save_strategy="no")
        assert estimate.checkpoint_bytes(size, adapter_only) == width * tau


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
    with pytest.raises(EegToolError, match=r"GiB free; two checkpoints need about 15\.8 GiB"):
        estimate.check_disk(size_of(config), plan)


@pytest.mark.parametrize(("n", "text"), [(3 * 2**29, "1.5 GiB"), (2**19, "0.5 MiB")])
def test_bytes_are_read_well(n: int, text: str) -> None:
    assert estimate.gib(n) == text
