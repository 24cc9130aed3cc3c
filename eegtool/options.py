"""Options of the commands that have no room: doctor and demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eegtool.core.options import FILES, Features, Json, Seed


@dataclass(frozen=True, slots=True)
class DoctorSettings:
    """Say what is installed, what this machine has, and what works here."""

    workspace: Path = FILES(Path("sleep_data"), "Whose disk to look at.", "--workspace", "-w")
    model: str = FILES(
        "",
        "Say instead what this base model or adapter is: its family, image tokens, what is trained.",
        shown="none",
    )
    json: Json = False


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """Simulate a few nights and run all five commands on them, offline, in minutes."""

    out: Path = FILES(Path("demo_data"), "Folder of the demo's workspace.")
    nights_only: bool = FILES(
        False, "Only simulate the nights, into OUT/recordings, to try the commands on."
    )
    model: str = FILES(
        "tiny", "Base model to train instead of 'tiny': a folder or a name on the hub."
    )
    features: Features = "real"
    seed: Seed = 42
