"""A workspace that went through the five commands as a user would run them, on short simulated nights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eegtool.cli import app
from eegtool.core.workspace import Workspace
from eegtool.simulate.twins import load_twin, write_night

TRAIN_NIGHTS = ("SC4001E0", "SC4012E0", "SC4021E0", "SC4041E0")
EVAL_NIGHTS = ("SC4051E0", "SC4061E0")
EPOCHS_PER_STAGE = 30

EXTRACT = ["--backbone", "test_resnet", "--train-epochs", "16"]  # timm's smallest
PREPARE = ["--style", "spectrogram", "--size", "64", "--eval-subjects", "SC405,SC406"]
LORA = ["--model-name-or-path", "tiny", "--lora-r", "16", "--lora-alpha", "32"]
LORA += ["--learning-rate", "2e-3", "--lora-dropout", "0"]
FINETUNE = [*LORA, "--max-steps", "60", "--deepspeed", "zero2"]


@dataclass(frozen=True)
class Walk:
    """The workspace, and how to continue in it."""

    root: Path

    def eegvlm(self, *arguments: str, code: int = 0, workspace: Path | None = None) -> str:
        """Run a command in this process, where torch is loaded already, and return what it printed.

        It must end with `code`.
        """
        command = (*arguments, "--workspace", str(workspace or self.root))
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done.output


@pytest.fixture(scope="session")
def walk(tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> Walk:
    """Simulate, prepare, extract, finetune, evaluate and report once for all tests."""
    root = tmp_path_factory.mktemp("walk")
    recordings = root / "recordings"
    for name in TRAIN_NIGHTS + EVAL_NIGHTS:
        write_night(load_twin(name).condensed(EPOCHS_PER_STAGE), recordings, seed=7)
    workspace = Workspace(root / "workspace")
    adapter, walk = str(workspace.checkpoints / "real"), Walk(workspace.root)
    walk.eegvlm("prepare", str(recordings), *PREPARE)
    walk.eegvlm("extract", *EXTRACT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(warm_python))
        walk.eegvlm("finetune", *FINETUNE, "--output-dir", adapter)
    walk.eegvlm("evaluate", "--model-path", adapter)
    walk.eegvlm("report")
    return walk
