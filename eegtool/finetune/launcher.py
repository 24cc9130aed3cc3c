"""The launcher: which DeepSpeed settings, how many ranks, and the command that starts them."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from rich.markup import escape

import eegtool
from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.workspace import read_json

PRESETS: Final = ("zero2", "zero3", "zero3_offload")
NO_DEEPSPEED: Final = "none"
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where DeepSpeed puts it
_PASSED_ON: Final = (
    *("WANDB_", "TENSORBOARD_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_"),
    *("EEGVLM_", "TORCH_", "PYTORCH_", "NCCL_", "OMP_", "CXX"),
)
"""Variables whose names begin with these reach every rank by the plan."""
_SECRET: Final = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)S?(_|$)")
"""Of variables that do not: the plan is a file that others may read."""


def deepspeed_settings(name_or_path: str) -> Path | None:
    """Return the path of a DeepSpeed settings file, given by preset name or path; None for ``none``.

    Raises
    ------
    EegToolError
        If it is neither.
    """
    if name_or_path == NO_DEEPSPEED:
        return None
    path = Path(name_or_path)
    if name_or_path in PRESETS:
        path = _preset(name_or_path)
    elif path.stem in PRESETS and path.suffix == ".json" and not path.exists():
        # The recipe's ./scripts/zero3.json, typed in another folder.
        console.print(f"  {escape(name_or_path)} is not there; taken: preset '{path.stem}'.")
        path = _preset(path.stem)
    if not path.is_file():
        listed = ", ".join(f"'{p}'" for p in (*PRESETS, NO_DEEPSPEED))
        raise EegToolError(
            f"--deepspeed {name_or_path}: no such file.", f"Give a JSON file or one of {listed}."
        )
    read_json(path)
    return path.resolve()


def _preset(name: str) -> Path:
    package = Path(eegtool.__file__).parent
    candidates = (
        package / "finetune" / "presets" / f"{name}.json",  # installed package
        package.parent / "scripts" / f"{name}.json",  # source tree
    )
    return next(p for p in candidates if p.is_file())


def check_deepspeed(path: Path, arguments: Mapping[str, Any], ranks: int) -> int:
    """Refuse a DeepSpeed file that clashes with the flags; return the stage of its ZeRO.

    What the file says must be what the flags say, or ``"auto"``, or not be there at all.

    Raises
    ------
    EegToolError
        Naming every clash.
    """
    file = read_json(path)
    batch = arguments["per_device_train_batch_size"]
    steps = arguments["gradient_accumulation_steps"]
    flags: dict[tuple[str, ...], tuple[str, Any]] = {
        ("train_micro_batch_size_per_gpu",): ("--per-device-train-batch-size", batch),
        ("gradient_accumulation_steps",): ("--gradient-accumulation-steps", steps),
        ("train_batch_size",): ("batch × accumulation × ranks", batch * steps * ranks),
        ("gradient_clipping",): ("--max-grad-norm", arguments.get("max_grad_norm", 1.0)),
        ("bf16", "enabled"): ("this training's bf16", arguments["bf16"]),
        ("fp16", "enabled"): ("this training's fp16", arguments["fp16"]),
    }
    clashes = []
    for keys, (flag, value) in flags.items():
        said: Any = file
        for key in keys:
            said = said.get(key, "auto") if isinstance(said, dict) else "auto"
        if said not in ("auto", value):
            clashes.append(f"{'.'.join(keys)} {said} and {flag} {value}")
    if clashes:
        raise EegToolError(
            f"{path} clashes with the flags: {'; '.join(clashes)}.",
            'Write "auto" in the file, or give the flag its value.',
        )
    for section, loses in (
        ("optimizer", "--mm-projector-lr"),
        ("scheduler", "--lr-scheduler-type"),
    ):
        if section in file:
            raise EegToolError(
                f"{path} has an '{section}' of its own, which would overrule {loses}.",
                f"Take its '{section}' out, or give the name of a preset: {', '.join(PRESETS)}.",
            )
    zero = file.get("zero_optimization")
    if not isinstance(zero, dict) or zero.get("stage") not in (0, 1, 2, 3):
        said = (
            f"stage {zero['stage']}" if isinstance(zero, dict) and "stage" in zero else "no stage"
        )
        raise EegToolError(
            f"{path} names {said} under 'zero_optimization'.",
            f"Stages are 0 to 3; or give the name of a preset: {', '.join(PRESETS)}.",
        )
    return int(zero["stage"])


def filled(config: Mapping[str, Any], lora_r: int, widest: int) -> dict[str, Any]:
    """Return DeepSpeed's settings with what depends on the model where they say ``"auto"``.

    Parameters
    ----------
    config : dict
        The file of the settings.
    lora_r : int
        Rank of LoRA.
    widest : int
        Inputs or outputs of the widest layer that has LoRA.

    Returns
    -------
    dict
        ``stage3_param_persistence_threshold`` is the size of the largest LoRA matrix: what is trained
        stays whole on every rank, as its gradient does, and is not gathered twice a step.
        transformers would take ten times the hidden size, and 13B's LoRA of rank 128 is larger.
    """
    zero = dict(config["zero_optimization"])
    threshold = "stage3_param_persistence_threshold"
    if zero.get(threshold) == "auto":
        zero[threshold] = lora_r * widest
    return {**config, "zero_optimization": zero}


def check_compiler(config: Mapping[str, Any], *, gpu: bool) -> None:
    """Refuse DeepSpeed without a C++ compiler where it builds an extension: on a CPU, and for offload.

    Raises
    ------
    EegToolError
        If there is none on this machine.
    """
    zero = config["zero_optimization"]
    offloads = (zero.get("offload_optimizer") or {}).get("device", "none") != "none"
    if has_cpp_compiler() or (gpu and not offloads):
        return
    what = "Adam on the CPU, for offload," if gpu else "a small extension on a CPU"
    raise EegToolError(
        f"DeepSpeed builds {what} and there is no C++ compiler on {socket.gethostname()}.",
        "Install one (Debian: apt install g++), or train with "
        + ("--deepspeed zero3." if gpu else "--deepspeed none."),
    )


def has_cpp_compiler() -> bool:
    """Say whether DeepSpeed will find a C++ compiler."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))  # may be "ccache g++"
    return bool(compiler) and shutil.which(compiler[0]) is not None


def command(
    plan: Path, ranks: int, *, use_deepspeed: bool, port: int = 0, hosts: Hosts | None = None
) -> list[str]:
    """Return the command that starts all ranks: those of this machine, or of all `hosts`.

    `port` is that at which they meet (`free_port`).
    """
    module = "eegtool.finetune.rank"
    if not use_deepspeed:
        return [sys.executable, "-m", module, str(plan)]
    if hosts is not None:
        launcher = [sys.executable, "-m", "deepspeed.launcher.runner"]
        launcher += ["--hostfile", str(hosts.file), "--num_gpus", str(hosts.ranks_each)]
    else:
        # What the runner starts on each machine. On this one it would only import DeepSpeed, too, five
        # seconds long, and take names of GPUs for numbers.
        world = json.dumps({"localhost": list(range(ranks))}).encode()
        launcher = [sys.executable, "-u", "-m", "deepspeed.launcher.launch"]
        launcher += ["--world_info", base64.urlsafe_b64encode(world).decode()]
        launcher += ["--master_addr", "127.0.0.1"]
    launcher += ["--log_level", "error", "--master_port", str(port)]
    return [*launcher, "--module", module, str(plan)]


@dataclass(frozen=True, slots=True)
class Hosts:
    """The machines of a training over several of them."""

    file: Path
    names: tuple[str, ...]
    ranks_each: int

    @property
    def ranks(self) -> int:
        """Ranks of all machines together."""
        return self.ranks_each * len(self.names)


def read_hosts(path: Path, num_gpus: int) -> Hosts:
    """Read DeepSpeed's file of hosts: ``worker-1 slots=8`` per line.

    Parameters
    ----------
    path : Path
        The file.
    num_gpus : int
        Ranks on each machine; 0: as many as the smallest of them has slots.

    Raises
    ------
    EegToolError
        If a line is none, a host stands twice, there are not that many slots, or there is no way
        to start programs on other machines here.
    """
    slots: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise EegToolError(f"--hostfile {path} does not exist.", "Give the right path.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = re.fullmatch(r"\s*(\S+)\s+slots=(\d+)\s*(#.*)?", line)
        if found is None or int(found[2]) < 1:
            raise EegToolError(
                f"--hostfile {path}, line {number}: '{line.strip()}' is no 'host slots=GPUS'.",
                "Write one machine a line, such as 'worker-1 slots=8'.",
            )
        if found[1] in slots:
            raise EegToolError(
                f"--hostfile {path}, line {number}: '{found[1]}' stands there twice."
            )
        slots[found[1]] = int(found[2])
    if not slots:
        raise EegToolError(f"--hostfile {path} names no machine.", "Write one a line.")
    least = min(slots, key=lambda host: slots[host])
    if num_gpus > slots[least]:
        raise EegToolError(
            f"--num-gpus {num_gpus}: '{least}' of {path} has {slots[least]}.", "Ask for fewer."
        )
    if len(slots) > 1 and shutil.which("pdsh") is None:
        raise EegToolError(
            "DeepSpeed starts ranks on other machines with pdsh, which is not installed.",
            "Install it (Debian: apt install pdsh) and see that ssh needs no password.",
        )
    return Hosts(path.resolve(), tuple(slots), num_gpus or slots[least])


def check_is_here(hosts: Hosts) -> None:
    """Refuse a file that names one machine, and not this one: DeepSpeed would train here all the same."""
    here = {"localhost", "127.0.0.1", socket.gethostname(), socket.gethostname().split(".")[0]}
    if hosts.names[0] not in here:
        raise EegToolError(
            f"--hostfile {hosts.file} names one machine, '{hosts.names[0]}', and it is not this one.",
            "Start eegvlm there, without --hostfile.",
        )


def count_ranks(num_gpus: int, *, use_deepspeed: bool) -> int:
    """Return how many ranks to start on this machine: as asked, else one per GPU, else one."""
    if not use_deepspeed:
        if num_gpus > 1:
            raise EegToolError("--num-gpus above 1 needs DeepSpeed.", "Leave out --deepspeed none.")
        return 1
    available = torch.cuda.device_count()
    # Two ranks on one core are slow, but show that it works.
    limit = available or max(os.cpu_count() or 1, 2)
    if num_gpus > limit:
        raise EegToolError(
            f"--num-gpus {num_gpus}: this machine has {available} GPUs"
            + ("." if available else f" and {os.cpu_count()} cores."),
            f"Ask for at most {limit}.",
        )
    return num_gpus or available or 1


def rank_environment(ranks: int, *, elsewhere: bool = False) -> dict[str, str]:
    """Return the variables that every rank sets for itself, on whichever machine it is.

    Parameters
    ----------
    ranks : int
        Ranks on each machine.
    elsewhere : bool
        Whether there are other machines, whose GPUs have names of their own.
    """
    chosen = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_PASSED_ON) and not _SECRET.search(name)
    }
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus is not None and not elsewhere:  # numbers, UUIDs, names of MIG instances, or none at all
        chosen["CUDA_VISIBLE_DEVICES"] = ",".join(gpus.split(",")[:ranks])
    prefix = sys.prefix
    if prefix != sys.base_prefix and os.access(prefix, os.W_OK):
        # Two environments that share a folder would build DeepSpeed's extension again in turns.
        chosen.setdefault("TORCH_EXTENSIONS_DIR", f"{prefix}/torch_extensions")
    return chosen


def environment(of_ranks: Mapping[str, str], *, gpu: bool) -> dict[str, str]:
    """Return the environment of the launcher itself, which counts GPUs and names none.

    DeepSpeed's launcher reads names of GPUs as numbers; the ranks set them again.

    Parameters
    ----------
    of_ranks : dict of str to str
        See `rank_environment`.
    gpu : bool
        Whether the launcher will run on a machine that has GPUs.
    """
    environment = {**os.environ, **of_ranks}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    if not gpu:
        environment["DS_ACCELERATOR"] = "cpu"
    return environment


def remove_shared_memory(port: int) -> None:
    """Remove what DeepSpeed's ranks on a CPU leave in shared memory: 69 MB each, kept until the machine restarts."""
    for left in _SHARED_MEMORY.glob(f"deepspeed_allreduce_buffer_*_{port}_*"):
        left.unlink(missing_ok=True)


def free_port() -> int:
    """Return a port at which the ranks can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
