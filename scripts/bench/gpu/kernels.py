"""What the machine itself can do: matrix products, copies, attention with and without a mask."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from scene import Scene
from torch.nn.functional import scaled_dot_product_attention

ROUNDS = 10
PACKAGES = ("torch", "transformers", "peft", "deepspeed", "accelerate", "timm", "mne")


def ceilings(scene: Scene) -> dict[str, Any]:
    """Return what is installed, and the speed of a large product and of a copy."""
    device = _device()
    n = scene.scale.matmul
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device=device) for _ in range(2))
    source = torch.empty(scene.scale.copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {
        "tflops": 2 * n**3 / seconds(lambda: a @ b) / 1e12,
        "copy_gb_per_s": 2 * source.nbytes / seconds(lambda: target.copy_(source)) / 1e9,
        "card": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def attention(scene: Scene) -> dict[str, Any]:
    """Return seconds of forward and backward with a mask and without, and their ratio."""
    batch, heads, tokens, width = scene.scale.attention
    device = _device()
    drawn = [
        torch.randn(batch, heads, tokens, width, dtype=torch.bfloat16, device=device)
        for _ in range(4)
    ]
    inputs, upstream = [x.requires_grad_(True) for x in drawn[:3]], drawn[3]
    mask = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
    mask = mask.expand(batch, 1, tokens, tokens)

    def both_ways(**how: Any) -> None:
        torch.autograd.grad(scaled_dot_product_attention(*inputs, **how), inputs, upstream)

    masked = seconds(lambda: both_ways(attn_mask=mask))
    causal = seconds(lambda: both_ways(is_causal=True))
    return {"masked_s": masked, "causal_s": causal, "ratio": masked / causal}


def seconds(run: Callable[[], object]) -> float:
    """Return the median seconds of a call; the first calls, in which kernels are sought, do not count."""
    times = []
    for i in range(3 + ROUNDS):
        began = now()
        run()
        if i >= 3:
            times.append(now() - began)
    return statistics.median(times)


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
