"""The launcher: which DeepSpeed settings, how many ranks, and the command that starts them."""

from __future__ import annotations

import os
import shlex
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
    compiler = shlex.split(os.environ.get("CXX", "c++"))  # may be "ccache g++"
    return bool(compiler) and shutil.which(compiler[0]) is not None


def command(plan: Path, ranks: int, *, use_deepspeed: bool) -> list[str]:
    """Return the command that starts all ranks on this machine."""
    module = "eegtool.finetune.train"
    if not use_deepspeed:
        return [sys.executable, "-m", module, str(plan)]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "error"]
    if (
        not torch.cuda.is_available()
    ):  # the environment names GPUs, and --num_gpus would overrule it
        launcher += ["--num_gpus", str(ranks)]
    return [*launcher, "--master_port", str(_free_port()), "--module", module, str(plan)]


def count_ranks(num_gpus: int, *, use_deepspeed: bool) -> int:
    """Return how many ranks to start: as asked, else one per GPU, else one."""
    if not use_deepspeed:
        if num_gpus > 1:
            raise EegToolError("--num-gpus above 1 needs DeepSpeed.", "Leave out --deepspeed none.")
        return 1
    available = torch.cuda.device_count()
    if available and num_gpus > available:
        raise EegToolError(
            f"--num-gpus {num_gpus}: this machine has {available}.", "Ask for fewer."
        )
    return num_gpus or available or 1


def environment(ranks: int) -> dict[str, str]:
    """Return the environment of the ranks: which GPUs they use; on a CPU, how they share its cores."""
    environment = dict(os.environ)
    if torch.cuda.is_available():
        gpus = environment.get("CUDA_VISIBLE_DEVICES") or ",".join(
            map(str, range(torch.cuda.device_count()))
        )
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus.split(",")[:ranks])
    else:
        environment["DS_ACCELERATOR"] = "cpu"
        threads = max(1, (os.cpu_count() or 1) // ranks)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        if sys.prefix != sys.base_prefix and os.access(sys.prefix, os.W_OK):
            # Two environments that share a folder would build DeepSpeed's extension anew in turns.
            environment.setdefault("TORCH_EXTENSIONS_DIR", f"{sys.prefix}/torch_extensions")
    return environment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
