"""The launcher: which DeepSpeed settings, how many ranks, and the command that starts them."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Final

import torch

import eegtool
from eegtool.core.errors import EegToolError
from eegtool.core.workspace import read_json

PRESETS: Final = ("zero2", "zero3", "zero3_offload")
NO_DEEPSPEED: Final = "none"


def deepspeed_settings(name_or_path: str) -> str | None:
    """Return the path of a DeepSpeed settings file, given by preset name or path; None for ``none``.

    Raises
    ------
    EegToolError
        If it is neither, or DeepSpeed cannot build its CPU extension here.
    """
    if name_or_path == NO_DEEPSPEED:
        return None
    path = Path(name_or_path)
    if name_or_path in PRESETS:
        package = Path(eegtool.__file__).parent
        candidates = (
            package / "finetune" / "presets" / f"{name_or_path}.json",  # installed package
            package.parent / "scripts" / f"{name_or_path}.json",  # source tree
        )
        path = next(p for p in candidates if p.is_file())
    if not path.is_file():
        listed = ", ".join(f"'{p}'" for p in (*PRESETS, NO_DEEPSPEED))
        raise EegToolError(
            f"--deepspeed {name_or_path}: no such file.", f"Give a JSON file or one of {listed}."
        )
    read_json(path)
    if not has_cpp_compiler() and not torch.cuda.is_available():
        raise EegToolError(
            "DeepSpeed builds a small extension on a CPU and there is no C++ compiler here.",
            "Install one (Debian: apt install g++), or train with --deepspeed none.",
        )
    return str(path.resolve())


def has_cpp_compiler() -> bool:
    """Say whether DeepSpeed will find a C++ compiler."""
    return shutil.which(os.environ.get("CXX", "c++")) is not None


def command(plan: Path, ranks: int, *, use_deepspeed: bool) -> list[str]:
    """Return the command that starts all ranks on this machine."""
    module = "eegtool.finetune.train"
    if not use_deepspeed:
        if ranks > 1:
            raise EegToolError("--num-gpus above 1 needs DeepSpeed.", "Leave out --deepspeed none.")
        return [sys.executable, "-m", module, str(plan)]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "error"]
    launcher += ["--num_gpus", str(ranks), "--master_port", str(_free_port())]
    return [*launcher, "--module", module, str(plan)]


def count_ranks(num_gpus: int) -> int:
    """Return how many ranks to start: as asked, else one per GPU, else one."""
    available = torch.cuda.device_count()
    if available and num_gpus > available:
        raise EegToolError(
            f"--num-gpus {num_gpus}: this machine has {available}.", "Ask for fewer."
        )
    return num_gpus or available or 1


def environment(ranks: int) -> dict[str, str]:
    """Return the environment of the ranks: on a CPU they share its cores."""
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["DS_ACCELERATOR"] = "cpu"
        threads = max(1, (os.cpu_count() or 1) // ranks)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
