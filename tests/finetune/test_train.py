"""A few steps on the tiny model, in this process and without DeepSpeed."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eegtool.core.errors import EegToolError
from eegtool.core.workspace import Workspace
from eegtool.extract.features import FeatureTable
from eegtool.finetune import train, trainer
from eegtool.finetune.plan import Plan
from eegtool.model.adapters import load_adapter, write_adapter
from eegtool.model.checkpoints import load_base
from eegtool.model.eegvlm import EEGVLM
from tests.finetune.conftest import Planner


@pytest.fixture
def base(tiny: Path) -> dict[str, torch.Tensor]:
    model, _ = load_base(tiny, fusion="add", version="v1", dtype=torch.float32)
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


def trained(plan: Plan) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Train, and return LoRA and projector."""
    train.run(plan)
    folder = Path(plan.output_dir)
    return load_file(folder / "adapter_model.safetensors"), load_file(
        folder / "projector.safetensors"
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_step_moves_lora_and_projector_and_nothing_else(
    plan_of: Planner,
    base: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    checkpointing: bool,
) -> None:
    saved: list[Any] = []

    def keep(folder: Path, model: Any, *others: Any) -> None:
        saved.append(model)
        write_adapter(folder, model, *others)

    monkeypatch.setattr(train, "write_adapter", keep)
    lora, projector = trained(plan_of(gradient_checkpointing=checkpointing))

    up = [name for name in lora if "lora_B" in name]
    assert len(up) == 21
    assert all(lora[name].abs().max() > 0 for name in up)
    for name, weight in projector.items():
        assert 0 < (weight - base[name]).abs().max() <= 1.01e-3  # Adam's first step is its rate
    after = {
        name.replace(".base_layer", ""): weight
        for name, weight in saved[0].get_base_model().state_dict().items()
        if "lora_" not in name and "projector" not in name
    }
    missing = base.keys() - projector.keys() - after.keys()
    assert all(re.search(r"vision_tower.*\.layers\.", name) for name in missing)  # never read
    assert all(torch.equal(weight, base[name]) for name, weight in after.items())
    language = saved[0].get_base_model().model.language_model
    assert language.layers[0].gradient_checkpointing is checkpointing
    assert language.config.use_cache is False


def test_checkpointing_trains_the_same(plan_of: Planner) -> None:
    one, other = (
        trained(plan_of(str(on), gradient_checkpointing=on, lora_dropout=0.0, max_steps=2))
        for on in (False, True)
    )
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_small_steps_are_not_lost_in_16_bits(
    plan_of: Planner, base: dict[str, torch.Tensor]
) -> None:
    """The learning rate of the recipe is below what bfloat16 can add to most weights."""
    lora, projector = trained(plan_of(mm_projector_lr=2e-5, bf16=True))
    name = "model.multi_modal_projector.linear_1.weight"
    moved = projector[name] != base[name].bfloat16().float()
    assert moved.float().mean() > 0.9
    assert all(weight.dtype == torch.float32 for weight in [*lora.values(), *projector.values()])


def test_the_projector_has_its_own_learning_rate(
    plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[dict[str, Any]] = []
    create = trainer.EegTrainer.create_optimizer

    def look(self: Any, model: Any = None) -> Any:
        optimizer = create(self, model)
        names = {id(p): n for n, p in self.model.named_parameters()}
        groups[:] = [
            {
                "lr": g["lr"],
                "decay": g["weight_decay"],
                "names": [names[id(p)] for p in g["params"]],
            }
            for g in optimizer.param_groups
        ]
        return optimizer

    monkeypatch.setattr(trainer.EegTrainer, "create_optimizer", look)
    train.run(plan_of(learning_rate=3e-3, mm_projector_lr=4e-5, weight_decay=0.1))
    lora, projector = groups
    assert (lora["lr"], projector["lr"]) == (3e-3, 4e-5)
    assert (lora["decay"], projector["decay"]) == (0.1, 0.1)
    assert all("lora_" in name for name in lora["names"])
    assert len(lora["names"]) == 42
    assert all("multi_modal_projector" in name for name in projector["names"])
    assert len(projector["names"]) == 4


@pytest.mark.parametrize("source", ["real", "zero"])
def test_the_feature_of_each_epoch_reaches_the_model(
    plan_of: Planner, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """The Trainer shuffles, and drops columns that it does not know."""
    asked: list[str] = []
    seen: list[np.ndarray] = []
    get, embed = FeatureTable.__getitem__, EEGVLM.embed

    def remember(self: FeatureTable, sample_id: str) -> np.ndarray:
        asked.append(sample_id)
        return get(self, sample_id)

    def look(self: EEGVLM, ids: Any, pixels: Any, features: Any) -> Any:
        seen.extend(features.numpy())
        return embed(self, ids, pixels, features)

    monkeypatch.setattr(FeatureTable, "__getitem__", remember)
    monkeypatch.setattr(EEGVLM, "embed", look)
    train.run(plan_of(max_steps=2, features=source))
    ids = json.loads(workspace.features("ft").with_suffix(".json").read_text())["sample_ids"]
    rows = np.load(workspace.features("ft"))
    assert len(seen) == 8
    assert asked[:8] != ids[:8]
    for sample_id, row in zip(asked, seen, strict=False):
        expected = rows[ids.index(sample_id)] if source == "real" else np.zeros((1, 1024))
        np.testing.assert_array_equal(row, expected)


def test_the_adapter_is_loaded_with_its_contract(plan_of: Planner) -> None:
    answers = {"stages": {"W": "Wake"}, "lead": "", "max_new_tokens": 9}
    plan = plan_of(fusion="token", version="llava_v1", features="shuffled", answers=answers)
    train.run(plan)
    _, processor, contract = load_adapter(Path(plan.output_dir), base=None, dtype=torch.float32)
    assert (contract.base, contract.fusion, contract.version) == ("tiny", "token", "llava_v1")
    assert (contract.features, contract.features_weights_sha256) == ("shuffled", "ab" * 32)
    assert contract.protocol == plan.protocol
    assert contract.answers == answers
    assert processor.n_image_tokens == 16 + 1
    log = json.loads((Path(plan.output_dir) / "training_log.json").read_text())
    assert log["metrics"]["train_loss"] > 0


def test_plain_llava_is_trained_without_features(plan_of: Planner, workspace: Workspace) -> None:
    workspace.features("ft").unlink()
    plan = plan_of(fusion="none")
    train.run(plan)
    *_, contract = load_adapter(Path(plan.output_dir), base=None, dtype=torch.float32)
    assert contract.features_weights_sha256 == ""


def test_same_seed_same_adapter(plan_of: Planner) -> None:
    first, again, other = (
        trained(plan_of(name, seed=seed))[0] for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_terminal_shows_progress_and_no_noise(
    plan_of: Planner, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(max_steps=2, logging_steps=1)
    capfd.readouterr()
    train.run(plan)
    out, err = capfd.readouterr()
    assert err == ""
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    table = {line[:21].strip(): line[21:].split()[0] for line in lines[:3]}
    assert table == {
        "vision tower": "0",
        "projector": "328,192",
        "language model (LoRA)": "52,224",
    }
    assert lines[3] == "10.0% of the tokens carry the answer."
    assert lines[-1].startswith("Fine-tuning")
    assert "2 of 2 steps" in lines[-1]
    assert re.search(r"loss \d\.\d{3}, \S+ samples/s", lines[-1])
    assert "{" not in out  # transformers prints its logs as Python


def test_an_error_of_a_rank_is_told_in_full(
    plan_of: Planner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Square brackets are words of messages here, not of a markup language."""

    def fail(plan: Plan) -> None:
        raise EegToolError(f"{plan.fusion} holds [b] and [/b]", "Fix it.")

    plan_of().write(tmp_path / "plan.json")
    monkeypatch.setattr(train, "run", fail)
    monkeypatch.setattr(sys, "argv", ["train", "--local_rank=0", str(tmp_path / "plan.json")])
    with pytest.raises(SystemExit) as caught:
        train.main()
    assert caught.value.code == 1
    assert capsys.readouterr().out.splitlines() == ["error: add holds [b] and [/b]", "Fix it."]


def test_liger_replaces_no_forward_of_ours(
    plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own LLaVA would compute another loss: only norms, rotation and SwiGLU of the LLaMA are taken."""
    given: dict[str, Any] = {}
    package = ModuleType("liger_kernel.transformers")
    package.apply_liger_kernel_to_llama = lambda **options: given.update(options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    plan = plan_of(use_liger_kernel=True)
    args = train.arguments(plan)
    assert not args.use_liger_kernel  # the Trainer would apply it by itself
    model, _ = train.build_model(plan, args)
    language = model.get_base_model().model.language_model
    assert given.pop("model") is language
    taken = {name for name, on in given.items() if on}
    assert taken == {"rope", "rms_norm", "swiglu"}
    assert {"cross_entropy", "fused_linear_cross_entropy"} <= given.keys()


@pytest.mark.parametrize(
    ("gpu", "cores", "asked", "workers"),
    [
        (True, 16, None, 4),
        (True, 2, None, 1),
        (False, 16, None, 1),
        (True, 16, 0, 1),
        (False, 2, 3, 3),
    ],
)
def test_pictures_are_decoded_beside_a_gpu(
    plan_of: Planner,
    monkeypatch: pytest.MonkeyPatch,
    gpu: bool,
    cores: int,
    asked: int | None,
    workers: int,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(train, "TrainingArguments", lambda **chosen: SimpleNamespace(**chosen))
    change = {} if asked is None else {"dataloader_num_workers": asked}
    plan = plan_of(tf32=True, **change)
    assert train.count_threads(plan) == workers
    args = train.arguments(plan)
    assert args.dataloader_num_workers == 0  # no process is forked from one that has threads
    assert args.use_cpu is not gpu
    assert hasattr(args, "tf32") is gpu


def test_training_continues_from_an_adapter(plan_of: Planner) -> None:
    lora, projector = trained(plan_of("first"))
    still = {"continue_from": plan_of("first").output_dir, "learning_rate": 0.0}
    same_lora, same_projector = trained(plan_of("still", **still, mm_projector_lr=0.0))
    for before, after in ((lora, same_lora), (projector, same_projector)):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    further, _ = trained(plan_of("further", continue_from=still["continue_from"]))
    assert any(not torch.equal(lora[name], further[name]) for name in lora)


def test_an_adapter_of_another_rank_is_no_start(plan_of: Planner) -> None:
    trained(plan_of("first"))
    other = plan_of("other", continue_from=plan_of("first").output_dir, lora_r=2)
    with pytest.raises(EegToolError, match="does not fit the model"):
        trained(other)
