"""doctor: what is installed, what this machine has, and what works here; to be pasted into a bug report.

Whatever may be broken is asked in a process of its own, so that a package that fails to import, or
takes the whole process with it, is a line of the answer. Nothing that tells who or where one is gets
into it: no environment, no names of user or machine, no paths.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from eegtool import __version__
from eegtool.core.console import console
from eegtool.options import DoctorSettings

COMMANDS: Final = {
    "prepare": ("eegtool.prepare.step", "mne", "scipy", "yasa"),
    "extract": ("eegtool.extract.step", "torch", "timm", "sklearn"),
    "finetune": ("eegtool.finetune.step", "torch", "transformers", "peft", "accelerate"),
    "evaluate": ("eegtool.evaluate.step", "torch", "transformers", "peft"),
    "report": ("eegtool.report.step", "sklearn", "yasa", "jinja2"),
    "stage": ("eegtool.stage.step", "mne", "torch", "timm", "transformers", "peft", "yasa"),
    "export": ("eegtool.finetune.export", "torch", "transformers", "peft", "huggingface_hub"),
    "inspect": ("eegtool.prepare.inspection", "mne"),
    "ask": ("eegtool.evaluate.ask", "torch", "timm", "transformers", "peft"),
    "doctor": ("eegtool.doctor",),
    "demo": ("eegtool.demo", "edfio", "mne", "torch", "timm", "transformers", "peft", "yasa"),
}
"""Modules that must be importable for each command: its own, and packages it imports later."""

_MODULE_OF: Final = {
    "pillow": "PIL",
    "pytest-xdist": "xdist",
    "protobuf": "google.protobuf",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}
"""Packages that are imported by another name."""

_PATIENCE_S: Final = 300.0
_MARK: Final = "\0eegvlm "  # before a line of the probe: libraries print, too

_PROBE: Final = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
mark, path, names, machine = json.loads(sys.argv[1])
sys.path[:] = path
def say(name, value):
    print(mark + json.dumps([name, value]), flush=True)
for name in names:
    say(name, None)
    try:
        importlib.import_module(name)
        say(name, "")
    except BaseException as error:
        first = next(iter(str(error).strip().splitlines()), "")
        say(name, f"{type(error).__name__}: {first}")
if machine:
    from eegtool.doctor import look_at_machine
    for name, value in look_at_machine():
        say(name, value)
"""


@dataclass(frozen=True, slots=True)
class Package:
    """A package that eegvlm wants."""

    name: str
    wanted: str
    """Versions, as pyproject.toml writes them; empty for any."""
    extra: str
    """Name of the extra that wants it; empty if eegvlm always does."""
    version: str
    """That is installed; empty if it is not."""
    fits: bool | None
    """Whether the version is a wanted one; None where that cannot be said."""
    problem: str = ""
    """What happens when it is imported; empty if all is well."""


def run(settings: DoctorSettings) -> None:
    """Print what there is; whatever is broken is part of the answer."""
    console.stderr = settings.json
    if settings.model:
        from eegtool.finetune.summary import summary

        found, show = summary(settings.model), _show_model
    else:
        with console.status("Looking at packages and hardware ..."):
            found, show = clean(examine(settings)), _show
    if settings.json:
        print(json.dumps(found, ensure_ascii=False))
        return
    show(found)


def examine(settings: DoctorSettings) -> dict[str, Any]:
    """Return all there is to say, as JSON; `clean` must follow."""
    wanted = list(packages())
    names = {p.name: _MODULE_OF.get(p.name, p.name.replace("-", "_")) for p in wanted}
    # An extra that is not installed is no fault: only what is there is tried.
    modules = [names[p.name] for p in wanted if p.version or not p.extra]
    own = [module for needed in COMMANDS.values() for module in needed]
    imported, machine = probe(list(dict.fromkeys([*modules, *own])))
    return {
        "eegvlm": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": system(),
        "packages": [_as_row(p, imported.get(names[p.name], "")) for p in wanted],
        "machine": machine,
        "disk_free_gb": disk(settings.workspace),
        "works": works(imported, machine),
    }


def packages() -> Iterator[Package]:
    """Yield the packages that pyproject.toml names, or, where it is not at hand, the installed metadata."""
    for line, extra in _requirements():
        name = re.match(r"[\w.-]+", line)
        if name is None or name[0] == "eegvlm":
            continue
        wanted = line[name.end() :].split(";")[0].strip()
        try:
            version = metadata.version(name[0])
        except Exception:  # damaged metadata is as good as none
            version = ""
        yield Package(name[0], wanted, extra, version, _fits(version, wanted))


def _requirements() -> list[tuple[str, str]]:
    own = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if own.is_file():
        project = tomllib.loads(own.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        return [(line, "") for line in project["dependencies"]] + [
            (line, extra) for extra, lines in extras.items() for line in lines
        ]
    try:
        lines = metadata.requires("eegvlm") or []
    except metadata.PackageNotFoundError:
        return []
    extra_of = {line: re.search(r"extra\s*==\s*['\"]([\w-]+)", line) for line in lines}
    return [(line, found[1] if found else "") for line, found in extra_of.items()]


def _fits(version: str, wanted: str) -> bool | None:
    if not version or not wanted:
        return None if wanted else bool(version)
    try:
        from packaging.specifiers import SpecifierSet

        return SpecifierSet(wanted).contains(version, prereleases=True)
    except Exception:  # not installed, or a version that is none
        return None


def probe(
    modules: Sequence[str], *, machine: bool = True, patience_s: float = _PATIENCE_S
) -> tuple[dict[str, str], dict[str, Any]]:
    """Import modules, and look at the hardware, in processes of their own.

    Returns
    -------
    imported : dict of str to str
        What went wrong with each module; empty if nothing.
    machine : dict
        What `look_at_machine` says; ``problem`` where it could not.
    """
    imported: dict[str, str] = {}
    left, found = list(modules), {}
    while True:
        lines, code = _try(left, machine, patience_s)
        at = ""
        for name, value in lines:
            if name in left:
                at = name if value is None else ""
                imported[name] = value or ""
            else:
                found[name] = value
        if code == 0:
            return imported, found
        if not at:  # all could be imported; the hardware could not be looked at
            return imported, found | {"problem": f"the process ended with {code}"}
        imported[at] = f"took the process with it ({code})"
        left = left[left.index(at) + 1 :]


def _try(modules: list[str], machine: bool, patience_s: float) -> tuple[list[Any], int | str]:
    request = json.dumps([_MARK, sys.path, modules, machine])
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, request],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=patience_s,
            check=False,
        )
        out, code = done.stdout, f"exit code {done.returncode}" if done.returncode else 0
    except subprocess.TimeoutExpired as error:
        out, code = error.stdout or b"", f"no answer within {patience_s:g} s"
    lines = out.decode(errors="replace").splitlines()
    return [json.loads(x.partition(_MARK)[2]) for x in lines if _MARK in x], code


def look_at_machine() -> Iterator[tuple[str, Any]]:
    """Yield what torch and DeepSpeed find here; runs in the process of `probe`."""
    import torch

    yield "cuda", torch.version.cuda
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    yield "gpus", [{"name": g.name, "memory_gb": round(g.total_memory / 1e9, 1)} for g in gpus]
    if gpus:
        yield "bf16", torch.cuda.is_bf16_supported(including_emulation=False)
    from eegtool.model.loading import best_dtype, choose_attention

    yield "precision", str(best_dtype()).removeprefix("torch.")
    yield "attention", choose_attention("auto", best_dtype())
    from eegtool.finetune.launcher import has_cpp_compiler

    yield "cpp_compiler", has_cpp_compiler()
    from deepspeed.ops.op_builder import CPUAdamBuilder, FusedAdamBuilder

    builder = FusedAdamBuilder if gpus else CPUAdamBuilder
    yield "deepspeed_op", f"{builder.NAME}: {'yes' if builder().is_compatible() else 'no'}"


def system() -> dict[str, Any]:
    """Return operating system, processor and memory."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = platform.platform(terse=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "os": f"{name}, {platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _line_of("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": cores,
        "memory_gb": _gb(_line_of("/proc/meminfo", "MemTotal")),
        "memory_free_gb": _gb(_line_of("/proc/meminfo", "MemAvailable")),
        "driver": _driver(),
    }


def _line_of(path: str, key: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((x.partition(":")[2].strip() for x in lines if x.startswith(key)), "")


def _gb(kib: str) -> float | None:
    return round(int(kib.split()[0]) * 1024 / 1e9, 1) if kib else None


def _driver() -> str:
    """Return the version of NVIDIA's driver; empty where there is none."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter(done.stdout.split()), "") if done.returncode == 0 else ""


def disk(workspace: Path) -> dict[str, float | None]:
    """Return how much room there is, in GB, by what it is for."""
    cache = Path(os.environ.get("HF_HOME") or os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    places = {
        "workspace": workspace,
        "cache": cache.expanduser(),
        "temporary files": Path(tempfile.gettempdir()),
    }
    return {name: _free_gb(path) for name, path in places.items()}


def _free_gb(path: Path) -> float | None:
    there = next((p for p in (path.absolute(), *path.absolute().parents) if p.exists()), None)
    try:
        return round(shutil.disk_usage(there).free / 1e9, 1) if there else None
    except OSError:
        return None


def works(imported: Mapping[str, str], machine: Mapping[str, Any]) -> dict[str, str]:
    """Say of each command whether it works here: ``"yes"``, ``"yes, ..."`` or ``"no: ..."``."""
    found = {}
    for command, needed in COMMANDS.items():
        broken = [f"{m}: {imported[m]}" for m in needed if imported.get(m)]
        found[command] = f"no: {broken[-1]}" if broken else "yes"
    deepspeed = imported.get("deepspeed", "")
    if not deepspeed and not machine.get("gpus") and machine.get("cpp_compiler") is False:
        deepspeed = "there is no C++ compiler, with which it builds its CPU extension"
    for command in ("finetune", "demo"):
        if deepspeed and found[command] == "yes":
            how = " (--deepspeed none)" if command == "finetune" else ""
            found[command] = f"yes, without DeepSpeed{how}: {deepspeed}"
    return found


def clean(value: Any) -> Any:
    """Take out of all texts what tells who and where one is: paths, names of user and machine."""
    if isinstance(value, Mapping):
        return {key: clean(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    if not isinstance(value, str):
        return value
    # Of a path, only its last part says something about the fault.
    value = re.sub(
        r"(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\:'\"()]+)+[/\\]([^\s/\\:'\"()]+)", r"…/\1", value
    )
    for name, instead in ((_user(), "USER"), (socket.gethostname(), "HOST")):
        if len(name) > 2:
            value = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", instead, value)
    return value


def _user() -> str:
    try:
        return getpass.getuser()
    except Exception:  # a user without a name, in a container
        return ""


def _as_row(package: Package, problem: str) -> dict[str, Any]:
    return {
        "name": package.name,
        "version": package.version,
        "wanted": package.wanted,
        "extra": package.extra,
        "fits": package.fits,
        "problem": problem if package.version or not package.extra else "",
    }


def _show(found: Mapping[str, Any]) -> None:
    there, machine = found["system"], found["machine"]
    gpus = ", ".join(f"{g['name']} ({g['memory_gb']} GB)" for g in machine.get("gpus", []))
    facts = {
        "eegvlm": f"{found['eegvlm']}, {found['python']}",
        "system": there["os"],
        "processor": f"{there['cpu']}, {there['cores']} cores",
        "memory": f"{there['memory_gb']} GB, {there['memory_free_gb']} GB free",
        "GPU": f"{gpus}; driver {there['driver'] or '?'}, CUDA {machine.get('cuda')}, "
        f"bf16 {'yes' if machine.get('bf16') else 'no'}"
        if gpus
        else f"none (torch is built for {'CUDA ' + machine['cuda'] if machine.get('cuda') else 'CPU'})",
        "would choose": f"precision {machine.get('precision', '?')}, attention {machine.get('attention', '?')}",
        "DeepSpeed": f"op {machine.get('deepspeed_op', '?')}; C++ compiler "
        f"{'yes' if machine.get('cpp_compiler') else 'no'}",
        "disk free": ", ".join(f"{name} {gb} GB" for name, gb in found["disk_free_gb"].items()),
    } | ({"fault": machine["problem"]} if machine.get("problem") else {})
    table = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        table.add_row(Text(name, "bold"), Text(fact))
    console.print(table, "")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("package", "version", "wanted", ""):
        table.add_column(name)
    for row in found["packages"]:
        extra = f"[{row['extra']}]" if row["extra"] else ""
        table.add_row(*map(Text, (row["name"], row["version"] or "–", row["wanted"], extra)))
    console.print(table, "")
    for row in found["packages"]:
        if verdict := _verdict(row):
            console.print(Text(f"{row['name']}: {verdict}", "red"), soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    for command, answer in found["works"].items():
        style = "green" if answer == "yes" else "red" if answer.startswith("no") else "yellow"
        table.add_row(Text(command, "bold"), Text(answer, style))
    console.print(table)


def _show_model(found: Mapping[str, Any]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, fact in found.items():
        many = isinstance(fact, Mapping)
        lines = [f"{n:>15,}  {part}" for part, n in fact.items()] if many else [str(fact)]
        table.add_row(Text(name, "bold"), Text("\n".join(lines)))
    console.print(table)


def _verdict(row: Mapping[str, Any]) -> str:
    if not row["version"]:
        return "" if row["extra"] else "missing"
    if row["problem"]:
        return f"cannot be imported: {row['problem']}"
    return f"not {row['wanted']}" if row["fits"] is False else ""
