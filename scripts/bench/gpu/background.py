"""What is made while other parts run."""

from __future__ import annotations

from typing import Any

import random_base
import torch
from commands import SkipError
from scene import Scene
from transformers import LlavaConfig

from eegtool.model import tiny


def write_base(scene: Scene) -> dict[str, Any]:
    """Write the random base that stands for 13B."""
    like, size = tiny.folder(), scene.scale.base
    config = LlavaConfig.from_pretrained(like)
    if size != "tiny":
        config = random_base.llava_15(size, config.image_token_id)
    random_base.write(scene.base, config, like)
    files = list(scene.base.glob("*.safetensors"))
    return {"gb": sum(file.stat().st_size for file in files) / 1e9, "files": len(files)}


def build_cpu_adam(scene: Scene) -> dict[str, Any]:
    """Let DeepSpeed compile what offload needs, where all ranks will find it."""
    if not torch.cuda.is_available():
        raise SkipError("there is no GPU to offload from")
    from deepspeed.ops.op_builder import CPUAdamBuilder

    CPUAdamBuilder().load(verbose=False)
    return {}
