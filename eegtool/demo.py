"""The embedded default: simulate a few nights, then run the five commands as a user would type them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Final

from rich.markup import escape
from rich.text import Text

from eegtool.core.console import console, progress
from eegtool.core.errors import EegToolError
from eegtool.core.workspace import Workspace, write_json
from eegtool.finetune.launcher import has_cpp_compiler
from eegtool.options import DemoSettings
from eegtool.simulate.twins import available_nights, simulate_cohort

_MARKER: Final = "demo.json"
_EVAL_SUBJECTS: Final = "SC405,SC406"
_PICTURE_SIZE: Final = 64  # the native size of the tiny model's vision tower
_WAKE_AROUND_SLEEP_MIN: Final = 60.0  # simulated; prepare trims it to its 30 minutes


def run(settings: DemoSettings) -> None:
    """Make `settings.out` a workspace with simulated nights and everything the five steps write.

    With ``--nights-only``, no more than the nights.

    Raises
    ------
    EegToolError
        If the folder holds something else, or a command failed.
    """
    began = time.monotonic()
    _clear(settings.out)
    recordings = settings.out / "recordings"
    names = available_nights()
    console.print(
        f"Simulating {len(names)} nights: spectral twins of real Sleep-EDF nights, one per subject. "
        "The recordings are [bold]simulated[/], the stage sequences are the real ones."
    )
    with progress("nights") as bar:
        task = bar.add_task("Simulating", total=len(names), note="")
        for path in simulate_cohort(
            recordings, names, settings.seed, margin_min=_WAKE_AROUND_SLEEP_MIN
        ):
            bar.update(task, advance=1, note=path.name)
    if settings.nights_only:
        console.print(f"Simulated recordings: [bold]{escape(str(recordings))}[/]", soft_wrap=True)
        return
    for command in commands(settings, recordings, can_use_deepspeed()):
        console.print(Text(f"\n{typed(command, console.width)}", "bold cyan"), soft_wrap=True)
        code = subprocess.run([sys.executable, "-m", "eegtool", *command], check=False).returncode
        if code != 0:
            raise EegToolError(f"`eegvlm {command[0]}` ended with exit code {code}.")
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    page = Workspace(settings.out).report / "report.html"
    console.print(
        f"\nDone in {minutes} min {seconds} s, on simulated recordings. Open [bold]{page}[/] in a browser."
    )


def commands(settings: DemoSettings, recordings: Path, use_deepspeed: bool) -> list[list[str]]:
    """Return the five commands of the demo."""
    workspace = ["--workspace", str(settings.out)]
    seed = ["--seed", str(settings.seed)]
    picture = ["--style", "spectrogram", "--size", str(_PICTURE_SIZE)]
    split = ["--eval-subjects", _EVAL_SUBJECTS]
    jobs = ["--jobs", str(min(os.cpu_count() or 1, len(available_nights())))]
    adapter = str(Workspace(settings.out).checkpoints / Path(settings.model).name)
    # The tiny model starts untrained: a higher learning rate and a smaller rank than for 13B.
    lora = ["--lora-r", "16", "--lora-alpha", "32", "--learning-rate", "2e-3"]
    lora += ["--max-steps", "100", "--deepspeed", "zero2" if use_deepspeed else "none"]
    held_out = ["--eval-strategy", "steps", "--eval-steps", "100", "--eval-limit", "200"]
    base = ["--model-name-or-path", settings.model, "--output-dir", adapter]
    features = ["--features", settings.features] if settings.features != "real" else []
    return [
        ["prepare", str(recordings), *workspace, *picture, *split, *jobs, *seed],
        ["extract", *workspace, "--train-epochs", "4", "--context", "10", *seed],
        ["finetune", *workspace, *base, *lora, *held_out, "--calibrate", *features, *seed],
        ["evaluate", *workspace, "--model-path", adapter, "--mode", "score", *features, *seed],
        ["report", *workspace],
    ]


def typed(command: list[str], width: int) -> str:
    """Return a command as one would type it, broken into lines that a shell still reads as one."""
    lines = textwrap.wrap(
        f"$ eegvlm {shlex.join(command)}",
        width - 2,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return " \\\n".join(lines)


def can_use_deepspeed() -> bool:
    """Say whether DeepSpeed can build its CPU extension here, and tell the user if it cannot."""
    if has_cpp_compiler():
        return True
    console.print(
        "[yellow]There is no C++ compiler here, which DeepSpeed needs on a CPU: "
        "the demo trains without DeepSpeed.[/]"
    )
    return False


def _clear(out: Path) -> None:
    """Begin from scratch, but only in an empty folder or in that of an earlier demo."""
    if out.exists() and any(out.iterdir()):
        if not (out / _MARKER).exists():
            raise EegToolError(
                f"{out} is not empty and is not the folder of an earlier demo.",
                "Choose another one with --out.",
            )
        shutil.rmtree(out)
    write_json(out / _MARKER, {"what": "folder of `eegvlm demo`: simulated recordings"})
