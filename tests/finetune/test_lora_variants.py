"""DoRA, rsLoRA and LoRA+: what they start from, how they learn, and that what is saved is what was learnt."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from typer.testing import CliRunner

from eegtool.cli import app
from eegtool.core.errors import EegToolError
from eegtool.core.workspace import Workspace
from eegtool.finetune import saving, step, train
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.plan import Plan
from eegtool.finetune.planning import make_plan
from eegtool.finetune.trainer import EegTrainer
from eegtool.model.adapters import add_lora, load_adapter
from eegtool.model.checkpoints import load_base
from tests.finetune.conftest import Planner
from tests.finetune.test_precision import (
    losses,
    needs_compiler,
    plan_for,
    resumed,
    train_in_turn,
)
from tests.model.test_adapters import logits_of

ALL: dict[str, Any] = {"use_dora": True, "use_rslora": True, "loraplus_lr_ratio": 4.0}
N_LAYERS = 3 * 7
"""Linear layers of the tiny language model."""
ALONE: list[dict[str, Any]] = [{name: value} for name, value in ALL.items()]


def layers(model: torch.nn.Module) -> list[LoraLayer]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def test_flags_are_peft_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """As peft and LLaVA spell them, or with dashes."""
    found: list[FinetuneSettings] = []
    monkeypatch.setattr(step, "run", found.append)
    command = ["finetune", "--model-name-or-path", "tiny"]
    flags = ["--use_dora", "True", "--use-rslora", "--loraplus_lr_ratio=4"]
    for words in ([*command, *flags], command):
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    asked, plain = found
    assert asked == replace(plain, **ALL)
    assert plain == FinetuneSettings("tiny")
    done = CliRunner().invoke(app, [*command, "--loraplus-lr-ratio", "0.5"])
    assert done.exit_code == 2
    assert len(found) == 2


def test_flags_reach_the_plan(workspace: Workspace, tmp_path: Path) -> None:
    settings = FinetuneSettings("tiny", workspace=workspace.root, deepspeed="none")
    plain = make_plan(settings, tmp_path / "run")
    assert (plain.use_dora, plain.use_rslora, plain.loraplus_lr_ratio) == (False, False, 1.0)
    plan = make_plan(replace(settings, **ALL), tmp_path / "run")
    assert plan == replace(plain, **ALL)


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
def test_dora_starts_from_the_base_model(tiny: Path, base: torch.dtype) -> None:
    """Lengths in 32 bits are those of the weights, not those that 16 bits would round."""
    model, _ = load_base(tiny, fusion="add", version="v1", dtype=base)
    made = add_lora(model, r=4, alpha=8, dropout=0.1, use_dora=True, dtype=torch.float32)
    found = layers(made)
    assert len(found) == N_LAYERS
    for layer in found:
        length = layer.lora_magnitude_vector["default"].weight
        assert length.requires_grad
        assert length.dtype == torch.float32
        weight = layer.get_base_layer().weight
        assert torch.equal(length, torch.linalg.norm(weight.float(), dim=1))
    if base == torch.float32:
        plain, _ = load_base(tiny, fusion="add", version="v1", dtype=base)
        assert (logits_of(made.eval()) - logits_of(plain.eval())).abs().max() < 1e-5


@pytest.mark.parametrize(("use_rslora", "scale"), [(False, 8 / 4), (True, 8 / math.sqrt(4))])
def test_rslora_scales_by_the_root_of_the_rank(tiny: Path, use_rslora: bool, scale: float) -> None:
    model, _ = load_base(tiny, fusion="add", version="v1", dtype=torch.float32)
    made = add_lora(model, r=4, alpha=8, dropout=0.0, use_rslora=use_rslora)
    assert {layer.scaling["default"] for layer in layers(made)} == {scale}


@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_rates_of_the_parameters(
    plan_of: Planner, monkeypatch: pytest.MonkeyPatch, ratio: float
) -> None:
    """LoRA at 0.01, its second matrices and DoRA's lengths at `ratio` times that, the projector at 0.001."""
    seen: dict[str, float] = {}
    counts: list[int] = []

    def look(self: EegTrainer, *args: Any, **kwargs: Any) -> Any:
        optimizer = self.create_optimizer()
        names = {id(p): name for name, p in self.model.named_parameters()}
        counts.append(len(optimizer.param_groups))
        for group in optimizer.param_groups:
            assert group["weight_decay"] == 0.1
            seen.update((names[id(p)], group["lr"]) for p in group["params"])
        raise InterruptedError

    monkeypatch.setattr(EegTrainer, "resume", look)
    with pytest.raises(InterruptedError):
        train.run(plan_of(use_dora=True, loraplus_lr_ratio=ratio, weight_decay=0.1))
    assert counts == [2 if ratio == 1 else 3]
    expected = {
        "lora_A": 0.01,
        "lora_B": 0.01 * ratio,
        "lora_magnitude_vector": 0.01 * ratio,
        "multi_modal_projector": 0.001,
    }
    assert len(seen) == 3 * N_LAYERS + 4
    for name, rate in seen.items():
        (kind,) = (kind for kind in expected if kind in name)
        assert rate == expected[kind], name


@pytest.mark.parametrize("change", [*ALONE, ALL], ids=[*ALL, "all"])
def test_a_training_is_resumed_saved_merged_and_asked(
    plan_of: Planner, change: dict[str, Any]
) -> None:
    how = {"max_steps": 4, "lora_dropout": 0.1, **change}
    whole = plan_for(plan_of, "none", "whole", **how)
    plain = plan_for(plan_of, "none", "plain", max_steps=4, lora_dropout=0.1)
    stopped, again = resumed(plan_of, "none", **how)
    for plan in (whole, plain, stopped, again):
        train.run(plan)
    assert losses(whole)[-1] < losses(whole)[0] - 0.1
    assert losses(whole)[1:] != losses(plain)[1:]
    assert losses(again) == losses(whole)
    out = Path(whole.output_dir)
    saved = load_file(out / "adapter_model.safetensors")
    restored = load_file(Path(again.output_dir) / "adapter_model.safetensors")
    assert all(torch.equal(restored[name], tensor) for name, tensor in saved.items())
    kinds = {name.split(".")[-1 if name.endswith("vector") else -2] for name in saved}
    assert kinds == {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if whole.use_dora else set())
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["use_dora"], config["use_rslora"]) == (whole.use_dora, whole.use_rslora)
    beside, merged = (
        load_adapter(out, base=None, dtype=torch.float32, merge=merge)[0] for merge in (False, True)
    )
    expected = logits_of(beside)
    assert (logits_of(merged) - expected).abs().max() < 1e-4
    base, _ = load_base(whole.base_model, fusion="add", version="v1", dtype=torch.float32)
    assert (logits_of(base.eval()) - expected).abs().max() > 1e-2
    checkpoint = saving.last_whole(Path(again.output_dir))
    assert checkpoint is not None
    trained = saving.read_trained(checkpoint, train.build_model(again, train.arguments(again))[0])
    assert len(trained) == len(saved) + 4


@pytest.fixture
def dora(plan_of: Planner) -> Path:
    """The folder of a short training of DoRA."""
    plan = plan_of("dora", use_dora=True)
    train.run(plan)
    return Path(plan.output_dir)


def test_merging_dora_rounds_once(dora: Path, tiny: Path) -> None:
    """By DoRA's equation 5, in 32 bits; then to the 16 that are asked for."""
    merged = load_adapter(dora, base=None, dtype=torch.bfloat16, merge=True)[0].state_dict()
    base, _ = load_base(tiny, fusion="add", version="v1", dtype=torch.bfloat16)
    weights = load_file(dora / "adapter_model.safetensors")
    names = [name for name in weights if name.endswith("lora_A.weight")]
    for name in names:
        product = weights[name.replace("lora_A", "lora_B")] @ weights[name] * (8 / 4)
        own = name.removeprefix("base_model.model.").replace("lora_A.", "")
        changed = base.state_dict()[own].float() + product
        length = weights[name.replace("lora_A.weight", "lora_magnitude_vector")]
        expected = changed / torch.linalg.norm(changed, dim=1, keepdim=True) * length[:, None]
        wrong = (merged[own] != expected.to(torch.bfloat16)).float().mean()
        assert wrong < 1e-3, name  # the order of two products in 32 bits
    assert len(names) == N_LAYERS


def test_lengths_that_the_configuration_denies_are_refused(dora: Path) -> None:
    path = dora / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": False}))
    with pytest.raises(EegToolError, match="lora_magnitude_vector"):
        load_adapter(dora, base=None, dtype=torch.float32)


def test_lengths_that_are_missing_are_refused(plan_of: Planner) -> None:
    plan = plan_of("plain")
    train.run(plan)
    path = Path(plan.output_dir) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(EegToolError, match="lora_magnitude_vector"):
        load_adapter(path.parent, base=None, dtype=torch.float32)


@needs_compiler
@pytest.mark.usefixtures("warm")
def test_under_deepspeed(plan_of: Planner, tmp_path: Path) -> None:
    """All three at once, on two ranks that share each batch; ZeRO-3 frees each weight after its use."""
    change = {"bf16": True, "max_steps": 4, "per_device_train_batch_size": 2, **ALL}
    zero2 = plan_for(plan_of, "zero2", "whole", **change)
    stopped, again = resumed(plan_of, "zero2", **change)
    zero3 = nothing_kept(plan_for(plan_of, "zero3", "whole", **change))
    train_in_turn([zero2, stopped, again, zero3], 2, tmp_path)
    expected = losses(zero2)
    assert expected[-1] < expected[0] - 0.5
    assert losses(again) == pytest.approx(expected, abs=1e-6)
    assert losses(zero3) == pytest.approx(expected, abs=0.01)
    for plan in (zero2, again, zero3):
        assert load_adapter(Path(plan.output_dir), base=None, dtype=torch.bfloat16)


def nothing_kept(plan: Plan) -> Plan:
    """Let ZeRO-3 keep no gathered weight, as it would keep few of a large model."""
    config = plan.arguments["deepspeed"]
    zero = config["zero_optimization"] | {
        "stage3_max_live_parameters": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_prefetch_bucket_size": 0,
    }
    del zero["leaf_module"]
    arguments = plan.arguments | {"deepspeed": config | {"zero_optimization": zero}}
    return replace(plan, arguments=arguments)
