"""What is made while other parts run."""

from __future__ import annotations

from typing import Any

from commands import SkipError
from scene import Scene


def write_base(scene: Scene) -> dict[str, Any]:
    """Write the random base that stands for 13B."""
    import random_base

    random_base.write_size(scene.base, scene.scale.base)
    files = list(scene.base.glob("*.safetensors"))
    return {"gb": sum(file.stat().st_size for file in files) / 1e9, "files": len(files)}


def build_cpu_adam(scene: Scene) -> dict[str, Any]:
    """Let DeepSpeed compile what offload needs, where all ranks will find it."""
    if scene.rehearsal:
        raise SkipError("there is no GPU to offload from")
    from deepspeed.ops.op_builder import CPUAdamBuilder

    CPUAdamBuilder().load(verbose=False)
    return {}
