from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from eegtool.core import ranks
from eegtool.core.records import read_epochs
from eegtool.core.workspace import Workspace, write_json
from eegtool.extract.features import load_features
from eegtool.extract.plan import TrainPlan, TrainResult
from eegtool.extract.weights import load_module
from eegtool.pictures.augmentation import Augmentation


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
        augmentation=Augmentation(),
    )


@pytest.mark.usefixtures("warm")
def test_torchrun_starts_the_command_itself(stored: Workspace) -> None:
    """As on several nodes; here both ranks are on the CPU of one."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = ["-m", "eegtool", "extract", "--workspace", str(stored.root)]
    command += ["--backbone", "test_resnet", "--train-epochs", "2", "--batch-size", "4"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for once in ("Training test_resnet", "The vision module alone, on", "alone is "):
        assert done.stdout.count(once) == 1
    module, card = load_module(stored.vision_module)
    result = TrainResult.of_card(card)
    assert (result.ranks, len(result.history)) == (2, 2)
    assert (result.n_train, result.n_val) == (10, 10)
    assert all(value.isfinite().all() for value in module.state_dict().values())
    assert sorted(path.name for path in stored.vision_module.iterdir()) == [
        "card.json",
        "eval_stages.csv",
        "log.csv",
        "model.safetensors",
        "run.json",
    ]
    for split in ("ft", "eval"):
        ids = tuple(e.sample_id for e in read_epochs(stored.epochs) if e.split == split)
        table = load_features(stored.features(split), ids)
        assert table.weights_sha256 == card["weights_sha256"]


def test_a_rank_says_what_is_wrong_and_ends_with_1(
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "plan.json"
    write_json(path, asdict(plan_of(workspace, tmp_path / "out", train_subjects=("S[9]",))))
    for name, number in (("RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, number)
    function = "eegtool.extract.training:train_as_rank"
    monkeypatch.setattr(sys, "argv", ["ranks", "rank", function, str(path)])
    with pytest.raises(SystemExit, match="1"):
        ranks.main()
    assert "error: " in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
