from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.workspace import Workspace
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.plan import Plan, differences
from eegtool.finetune.planning import make_plan


@pytest.fixture
def plan(workspace: Workspace, tmp_path: Path) -> Plan:
    settings = FinetuneSettings("tiny", workspace=workspace.root, deepspeed="none")
    return make_plan(settings, tmp_path / "run")


def changed(plan: Plan, **change: Any) -> Plan:
    """Change fields, or arguments where the name is none of a field."""
    fields = {k: v for k, v in change.items() if k in Plan.__dataclass_fields__}
    rest = {k: v for k, v in change.items() if k not in fields}
    return replace(plan, **{"arguments": plan.arguments | rest} | fields)


def test_every_rank_reads_what_the_parent_wrote(plan: Plan, tmp_path: Path) -> None:
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["fingerprint"] == plan.fingerprint


def test_it_knows_its_base(plan: Plan, tiny: Path) -> None:
    assert plan.base_model.folder == tiny
    assert plan.base_model.vision_tower is None
    apart = replace(plan, vision_tower="/clip").base_model
    assert apart.vision_tower == Path("/clip")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"learning_rate": 1.0},
        {"num_train_epochs": 9.0},
        {"max_steps": 3},
        {"per_device_train_batch_size": 2},
        {"gradient_accumulation_steps": 2},
        {"max_grad_norm": 0.5},
        {"bf16": True},
        {"lora_r": 1},
        {"mm_projector_lr": 1.0},
        {"fusion": "token"},
        {"features": "zero"},
        {"version": "llava_v1"},
        {"bits": 4},
        {"zero_stage": 3},
        {"group_by_length": True},
        {"use_dora": True},
        {"use_rslora": True},
        {"loraplus_lr_ratio": 16.0},
        {"base_sha256": "0"},
        {"data_sha256": "0"},
        {"features_sha256": "0"},
        {"protocol": {"style": "waveform"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_the_outcome_is_in_the_fingerprint(plan: Plan, change: dict[str, Any]) -> None:
    other = changed(plan, **change)
    assert other.fingerprint != plan.fingerprint
    told = differences(asdict(plan), asdict(other))
    assert len(told) == 1
    assert next(iter(change)).removesuffix("_sha256") in told[0]


@pytest.mark.parametrize(
    "change",
    [
        {"output_dir": "/elsewhere"},
        {"base": "other", "base_folder": "/elsewhere"},
        {"data_path": "/x", "image_folder": "/y", "features_file": "/z", "stop_file": "/s"},
        {"resume": True},
        {"attention": "eager", "gradient_checkpointing": True},
        {"trained_share": 0.9},
        {"answers": {"lead": "Thus "}},
        {"save_steps": 1, "save_strategy": "no", "save_total_limit": 9},
        {"logging_steps": 1, "report_to": "wandb", "run_name": "x"},
        {"dataloader_num_workers": 4},
        {"deepspeed": "/moved/zero2.json"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_how_it_runs_is_not(plan: Plan, change: dict[str, Any]) -> None:
    other = changed(plan, **change)
    assert other != plan
    assert other.fingerprint == plan.fingerprint
    assert not differences(asdict(plan), asdict(other))


def test_differences_name_old_and_new(plan: Plan) -> None:
    other = changed(plan, seed=1, data_sha256="0")
    assert differences(asdict(plan), asdict(other)) == ["data", "seed 42 and 1"]


def test_a_plan_from_a_file_is_the_same_training(plan: Plan) -> None:
    """JSON makes lists of tuples and text of whole numbers' keys."""
    read = json.loads(json.dumps(asdict(plan)))
    assert not differences(read, asdict(plan))


def test_a_plan_of_another_version_is_refused(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(asdict(plan) | {"colour": "red"}))
    with pytest.raises(EegToolError, match="no plan of this version"):
        Plan.read(tmp_path / "plan.json")
