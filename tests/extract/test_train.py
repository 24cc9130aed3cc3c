from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from eegtool.core.workspace import Workspace
from eegtool.extract import train
from eegtool.extract.augment import Augmentation
from eegtool.extract.plan import TrainPlan, TrainResult
from eegtool.extract.weights import load_module


def plan_of(
    workspace: Workspace, out: Path, train_subjects: tuple[str, ...] = ("S01",)
) -> TrainPlan:
    return TrainPlan(
        epochs=str(workspace.epochs),
        train_subjects=train_subjects,
        val_subjects=("S02",),
        folder=str(workspace.images("ft")),
        images_sha256="ab",
        protocol=workspace.protocol(),
        out=str(out),
        backbone="test_resnet",
        train_epochs=2,
        batch_size=4,
        augmentation=asdict(Augmentation()),
    )


def test_two_ranks_leave_one_module(workspace: Workspace, tmp_path: Path) -> None:
    """Two processes on the CPU, started by torchrun as on several GPUs."""
    plan = plan_of(workspace, tmp_path / "out")
    plan.write(tmp_path / "plan.json")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ranks = ["--nproc-per-node", "2", "-m", "eegtool.extract.train", str(tmp_path / "plan.json")]
    done = subprocess.run(
        [*launcher, *ranks],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Training") == 1
    module, card = load_module(tmp_path / "out")
    result = TrainResult.of_card(card)
    assert (result.ranks, len(result.history)) == (2, 2)
    assert (result.n_train, result.n_val) == (10, 10)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "card.json",
        "log.csv",
        "model.safetensors",
    ]
    assert all(value.isfinite().all() for value in module.state_dict().values())


def test_a_rank_says_what_is_wrong_and_ends_with_1(
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan_of(workspace, tmp_path / "out", train_subjects=("S[9]",)).write(tmp_path / "plan.json")
    monkeypatch.setattr(sys, "argv", ["train", str(tmp_path / "plan.json")])
    with pytest.raises(SystemExit, match="1"):
        train.main()
    assert "error: " in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
