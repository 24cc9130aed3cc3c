"""Plans of short trainings on the tiny model, as the parent would write them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eegtool.core.workspace import Workspace

if TYPE_CHECKING:
    from eegtool.finetune.plan import Plan

Planner = Callable[..., "Plan"]


@pytest.fixture
def plan_of(workspace: Workspace, tiny: Path, tmp_path: Path) -> Planner:
    """Return what makes plans: fields of the plan, or arguments of the Trainer, by name."""
    from eegtool.finetune.plan import Plan
    from eegtool.model.checkpoints import base_sha256

    plan = Plan(
        base="tiny",
        base_folder=str(tiny),
        output_dir="",
        data_path=str(workspace.conversations),
        image_folder=str(workspace.images("ft")),
        features_file=str(workspace.features("ft")),
        features="real",
        fusion="add",
        version="v1",
        model_max_length=4096,
        lora_r=4,
        lora_alpha=8,
        lora_dropout=0.05,
        mm_projector_lr=1e-3,
        gradient_checkpointing=False,
        trained_share=0.1,
        protocol={"style": "spectrogram", "size": 64},
        base_sha256=base_sha256(tiny),
        arguments={
            "max_steps": 1,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "seed": 42,
            "bf16": False,
            "fp16": False,
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "label_names": ["labels"],
        },
    )

    def plan_of(name: str = "run", **change: Any) -> Plan:
        out = str(tmp_path / name)
        arguments = plan.arguments | {"output_dir": out}
        fields = {k: v for k, v in change.items() if hasattr(plan, k)}
        arguments |= {k: v for k, v in change.items() if k not in fields}
        return replace(plan, output_dir=out, arguments=arguments, **fields)

    return plan_of


def run_ranks(plan: Plan, ranks: int, *, use_deepspeed: bool, code: int = 0) -> str:
    """Train as the launcher does, in `ranks` processes, and return what they printed."""
    from eegtool.finetune import launcher

    path = Path(plan.output_dir) / "plan.json"
    plan.write(path)
    port = launcher.free_port()
    command = launcher.command(path, ranks, use_deepspeed=use_deepspeed, port=port)
    if not use_deepspeed and ranks > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [sys.executable, *torchrun, "-m", "eegtool.finetune.rank", str(path)]
    own = launcher.rank_environment(ranks)
    environment = launcher.environment(own, gpu=False) | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    launcher.remove_shared_memory(port)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr
