"""Trainings of 13B, with random weights, on the pictures of the tiny workspace."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import finetune as bench
import torch
from commands import SkipError, eegvlm, launched
from scene import Scene


def train(
    scene: Scene,
    name: str,
    mode: str,
    batch: int = 0,
    checkpointing: bool = True,
    liger: bool = False,
) -> dict[str, Any]:
    """Train a few steps with the command; return what they took, and the memory that was estimated."""
    if liger and not (torch.cuda.is_available() and find_spec("liger_kernel")):
        raise SkipError("liger-kernel is not installed, or there is no GPU")
    scale = scene.scale
    setup = bench.Setup(
        base=str(scene.base),
        deepspeed=mode,
        batch=batch or scale.large_batch,
        steps=scale.large_steps,
        fusion="add",
        checkpointing=checkpointing,
        liger=liger,
        bf16=True,
        lora_r=16 if scene.rehearsal else 128,
        samples=0,
    )
    out = scene.trained(f"13b-{name}")
    with launched(scene):
        eegvlm(*setup.command(scene.workspace, out))
    figures = bench.trained(out)
    figures["samples_per_s"] = setup.batch / figures["seconds"]
    return figures | {"estimated_gib": estimated_gib(out, mode)}


def estimated_gib(out: Path, mode: str) -> float:
    """Return what a dry run says of the memory that PyTorch allocates on the GPU."""
    from eegtool.finetune import estimate
    from eegtool.finetune.plan import Plan
    from eegtool.finetune.step import _size

    plan = Plan.read(out / "plan.json")
    return estimate.memory(_size(plan), plan, 1, 1)[mode].allocated / 2**30


def compare(scene: Scene, name: str) -> dict[str, Any]:
    """Hold a training against the bare language model, which has a process of its own on a GPU."""
    out = scene.trained(f"13b-{name}")
    if scene.rehearsal:
        return bench.with_ratios(bench.trained(out) | bench.bare(out))
    return bench.compare(out)
