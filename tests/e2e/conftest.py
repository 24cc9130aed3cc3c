"""A workspace that went through the five commands as a user would run them, on short simulated nights."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eegtool.cli import app
from eegtool.core.workspace import Workspace
from eegtool.prepare.simulate import load_twin, write_night

TRAIN_NIGHTS = ("SC4001E0", "SC4012E0", "SC4021E0", "SC4041E0")
EVAL_NIGHTS = ("SC4051E0", "SC4061E0")
EPOCHS_PER_STAGE = 30

PREPARE = ["--style", "spectrogram", "--size", "64", "--eval-subjects", "SC405,SC406"]
LORA = ["--model-name-or-path", "tiny", "--lora-r", "16", "--lora-alpha", "32"]
LORA += ["--learning-rate", "2e-3", "--lora-dropout", "0"]
FINETUNE = [*LORA, "--max-steps", "100", "--deepspeed", "zero2"]


@dataclass(frozen=True)
class Walk:
    """The workspace, and how to go on in it."""

    root: Path

    def eegvlm(self, *arguments: str, code: int = 0, workspace: Path | None = None) -> str:
        """Run a command in this process, where torch is loaded already, and return what it printed.

        It must end with `code`.
        """
        command = (*arguments, "--workspace", str(workspace or self.root))
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done.output


def as_typed(*arguments: str) -> None:
    """Run a command as a user does, in a process of its own."""
    command = [sys.executable, "-m", "eegtool", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Simulate, prepare, extract, finetune, evaluate and report once for all tests."""
    root = tmp_path_factory.mktemp("walk")
    recordings = root / "recordings"
    for name in TRAIN_NIGHTS + EVAL_NIGHTS:
        write_night(load_twin(name).condensed(EPOCHS_PER_STAGE), recordings, seed=7)
    workspace = Workspace(root / "workspace")
    adapter, here = str(workspace.checkpoints / "real"), ("--workspace", str(workspace.root))
    as_typed("prepare", str(recordings), *here, *PREPARE)
    as_typed("extract", *here, "--train-epochs", "6")
    as_typed("finetune", *here, *FINETUNE, "--output-dir", adapter)
    as_typed("evaluate", *here, "--model-path", adapter)
    as_typed("report", *here)
    return Walk(workspace.root)
