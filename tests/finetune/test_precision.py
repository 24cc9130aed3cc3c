"""The recipe's ``--bf16 True`` in every mode: it trains, saves, resumes, and learns what float32 learns."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from eegtool.core.errors import EegToolError
from eegtool.core.records import read_answers, read_conversations
from eegtool.core.workspace import Workspace, read_json, write_json
from eegtool.evaluate import step as evaluate
from eegtool.evaluate.options import EvaluateSettings
from eegtool.extract.features import load_features
from eegtool.finetune import launcher, train
from eegtool.finetune.data import FinetuneDataset, collate
from eegtool.finetune.plan import Plan
from eegtool.finetune.trainer import check_precision
from tests.finetune.conftest import Planner

STEPS = 10
MODES = ("zero2", "zero3", "zero3_offload")
needs_compiler = pytest.mark.skipif(
    not launcher.has_cpp_compiler(), reason="DeepSpeed needs one on a CPU"
)


def plan_for(plan_of: Planner, mode: str, name: str, **change: Any) -> Plan:
    """Return a plan of ten steps: `name` says what it is for, `mode` how it is sharded."""
    change = {
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "lora_dropout": 0.0,
        "save_strategy": "steps",
        "save_steps": 50_000,
    } | change
    if mode != "none":
        path = launcher.deepspeed_settings(mode)
        assert path is not None
        change["deepspeed"] = launcher.filled(read_json(path), 4, 512)
    return plan_of(f"{mode}-{name}", **change)


def train_in_turn(plans: list[Plan], ranks: int, tmp_path: Path) -> None:
    """Train plans one after the other in the same ranks of the real launcher."""
    for number, plan in enumerate(plans):
        plan.write(tmp_path / f"{number}.json")
    file = tmp_path / "plans.json"
    paths = [str(tmp_path / f"{number}.json") for number in range(len(plans))]
    own = launcher.rank_environment(ranks)
    write_json(file, {"environment": own, "plans": paths})
    port = launcher.free_port()
    words = launcher.command(file, ranks, use_deepspeed=True, port=port)
    command = ["tests.finetune.in_turn" if w == "eegtool.finetune.rank" else w for w in words]
    environment = launcher.environment(own, gpu=False) | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=root, check=False
    )
    launcher.remove_shared_memory(port)
    assert done.returncode == 0, done.stdout + done.stderr


def resumed(plan_of: Planner, mode: str, **change: Any) -> Iterator[Plan]:
    """Yield a training that is stopped after its first step, and the same one that continues."""
    plan = plan_for(plan_of, mode, "resumed", **change)
    stop = Path(f"{plan.output_dir}.stop")
    stop.touch()
    yield replace(plan, stop_file=str(stop))
    yield replace(plan, resume=True)


def losses(plan: Plan) -> list[float]:
    log = read_json(Path(plan.output_dir) / "training_log.json")["log"]
    return [row["loss"] for row in log if "loss" in row]


def check(plans: dict[str, Plan], dtype: torch.dtype) -> None:
    """Compare a training in bfloat16 with those in float32 and in two parts, and look at its weights."""
    found = losses(plans["bf16"])
    assert len(found) == STEPS
    assert found[-1] < found[0] - 0.3
    assert losses(plans["resumed"]) == pytest.approx(found, abs=1e-6)
    if "fp32" in plans:
        assert losses(plans["fp32"]) == pytest.approx(found, abs=0.05)
        assert losses(plans["fp32"]) != found
    for file in ("adapter_model.safetensors", "projector.safetensors"):
        weights = load_file(Path(plans["bf16"].output_dir) / file)
        assert {tensor.dtype for tensor in weights.values()} == {dtype}
        again = load_file(Path(plans["resumed"].output_dir) / file)
        assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


def check_log(plan: Plan) -> None:
    log = read_json(Path(plan.output_dir) / "training_log.json")
    for row in log["log"][:STEPS]:
        assert 0 < row["data_seconds"] < row["seconds"]
        assert row["tokens"] % 4 == 0  # four samples of a length, padding included
    assert log["peak_memory"]["host_bytes"] > 100 * 2**20


def test_without_deepspeed(plan_of: Planner) -> None:
    """What is trained is in float32 and autocast computes: nobody keeps a copy in 32 bits."""
    plans = {
        "bf16": plan_for(plan_of, "none", "bf16", bf16=True),
        "fp32": plan_for(plan_of, "none", "fp32"),
    }
    stopped, plans["resumed"] = resumed(plan_of, "none", bf16=True)
    for plan in (plans["bf16"], plans["fp32"], stopped, plans["resumed"]):
        train.run(plan)
    check(plans, torch.float32)
    check_log(plans["bf16"])


@needs_compiler
@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("ranks", [1, 2])
def test_under_deepspeed(
    plan_of: Planner, tmp_path: Path, workspace: Workspace, ranks: int
) -> None:
    """One rank against float32; two with checkpointing, each batch shared."""
    plans: dict[str, dict[str, Plan]] = {}
    order: list[Plan] = []
    change = {"per_device_train_batch_size": 4 // ranks, "gradient_checkpointing": ranks > 1}
    for mode in MODES:
        own = {"bf16": plan_for(plan_of, mode, "bf16", bf16=True, **change)}
        if ranks == 1:
            own["fp32"] = plan_for(plan_of, mode, "fp32", **change)
        stopped, own["resumed"] = resumed(plan_of, mode, bf16=True, **change)
        order += [own["bf16"], stopped, own["resumed"], *([own["fp32"]] if ranks == 1 else [])]
        plans[mode] = own
    train_in_turn(order, ranks, tmp_path)
    for own in plans.values():
        check(own, torch.bfloat16)
    first, *others = (losses(own["bf16"]) for own in plans.values())
    for other in others:  # sharding decides nothing
        assert other == pytest.approx(first, abs=0.01)
    asked = EvaluateSettings(
        model_path=Path(plans["zero3"]["bf16"].output_dir),
        workspace=workspace.root,
        mode="both",
        dtype="bfloat16",
    )
    evaluate.run(asked)
    answers = read_answers(workspace.answers)
    assert len(answers) == 10
    assert {answer.metadata["dtype"] for answer in answers} == {"bfloat16"}
    for answer in answers:
        assert sum(answer.metadata["stage_probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_rounded_positions_are_refused(plan_of: Planner) -> None:
    """As DeepSpeed rounded them before 0.19.2."""
    plan = plan_for(plan_of, "none", "rounded", bf16=True)
    args = train.arguments(plan)
    model, _ = train.build_model(plan, args)
    check_precision(model, args)
    rotary = model.get_base_model().model.language_model.rotary_emb
    rotary.inv_freq = rotary.inv_freq.bfloat16()
    with pytest.raises(EegToolError, match=r"1 tensors .*rotary_emb\.inv_freq in bfloat16"):
        check_precision(model, args)


def test_trained_weights_of_another_precision_are_refused(plan_of: Planner) -> None:
    plan = plan_for(plan_of, "none", "half", bf16=True)
    args = train.arguments(plan)
    model, _ = train.build_model(plan, args)
    model.get_base_model().model.multi_modal_projector.bfloat16()
    with pytest.raises(EegToolError, match=r"4 tensors .*projector.* in bfloat16"):
        check_precision(model, args)


def test_a_mask_would_change_nothing(plan_of: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding lies on the right, where causal attention never looks."""
    plan = plan_for(plan_of, "none", "mask")
    args = TrainingArguments(plan.output_dir, use_cpu=True, seed=3)
    model, processor = train.build_model(plan, args)
    rows = read_conversations(Path(plan.data_path))
    table = load_features(Path(plan.features_file), [row.sample_id for row in rows])
    rows = [replace(row, answer=row.answer + ", deep" * i) for i, row in enumerate(rows[:3])]
    dataset = FinetuneDataset(rows, Path(plan.image_folder), table, processor, 4096)
    batch = collate([dataset[i] for i in range(3)], processor)
    lengths = torch.tensor(dataset.lengths())
    mask = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
    assert (mask == 0).any()
    with torch.no_grad():
        bare, masked = (float(model(**batch, **m).loss) for m in ({}, {"attention_mask": mask}))
    assert bare == pytest.approx(masked, abs=1e-5)
