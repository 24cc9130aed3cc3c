"""Options of the commands that have no room: doctor and demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from eegtool.core.options import FILES, Features, Json, Seed


@dataclass(frozen=True, slots=True)
class DoctorSettings:
    """Say what is installed, what this machine has, and what works here."""

    workspace: Annotated[
        Path,
        Option("--workspace", "-w", help="Whose disk to look at.", rich_help_panel=FILES),
    ] = Path("sleep_data")
    model: Annotated[
        str,
        Option(
            help="Say instead what this base model or adapter is: its family, image tokens, what is trained.",
            show_default="none",
            rich_help_panel=FILES,
        ),
    ] = ""
    json: Json = False


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """Simulate a few nights and run all five commands on them, offline, in minutes."""

    out: Annotated[
        Path,
        Option(help="Folder of the demo's workspace.", rich_help_panel=FILES),
    ] = Path("demo_data")
    nights_only: Annotated[
        bool,
        Option(
            "--nights-only",
            help="Only simulate the nights, into OUT/recordings, to try the commands on.",
            rich_help_panel=FILES,
        ),
    ] = False
    model: Annotated[
        str,
        Option(
            help="Base model to train instead of 'tiny': a folder or a name on the hub.",
            rich_help_panel=FILES,
        ),
    ] = "tiny"
    features: Features = "real"
    seed: Seed = 42
