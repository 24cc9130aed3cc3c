"""What is logged, by the trackers themselves: started as a user would, offline, and read again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eegtool.cli import app
from eegtool.core.workspace import Workspace
from eegtool.finetune import planning, train
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.plan import Plan
from eegtool.finetune.planning import make_plan
from tests.finetune.conftest import run_ranks

STEPS = 3
FINETUNE = ["finetune", "--model-name-or-path", "tiny", "--deepspeed", "none", "--lora-r", "4"]
FINETUNE += [
    "--max-steps",
    str(STEPS),
    "--per-device-train-batch-size",
    "2",
    "--logging-steps",
    "1",
    *("--eval-strategy", "steps", "--eval-steps", "2"),
]


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        find_spec(package) is None,
        reason=f"{package} is not installed (pip install 'eegvlm[track]')",
    )


def logged(workspace: Workspace, tracker: str, home: Path) -> tuple[list[float], list[float]]:
    """Train with a tracker, away from this user's settings, and return the losses and κ we logged ourselves."""
    command = [*FINETUNE, "--report-to", tracker, "--workspace", str(workspace.root)]
    ours = ("WANDB_", "TENSORBOARD_", "NETRC")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(ours):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(home)
        done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert ("logged offline" in done.output) == (tracker == "wandb")
    log = json.loads((workspace.checkpoints / "eegvlm" / "training_log.json").read_text())["log"]
    found = [row["loss"] for row in log if "loss" in row]
    assert len(found) == STEPS
    return found, [row["eval_kappa"] for row in log if "eval_kappa" in row]


@needs("wandb")
def test_wandb_logs_offline(workspace: Workspace, tmp_path: Path) -> None:
    """Nobody is logged in here, so WANDB_MODE=offline is chosen, and said."""
    expected, kappas = logged(workspace, "wandb", tmp_path)
    (run,) = workspace.root.rglob("offline-run-*/run-*.wandb")
    history = wandb_history(run)
    validations = [row for row in history if "eval/kappa" in row]
    assert [row["eval/kappa"] for row in validations] == pytest.approx(kappas)
    assert [row["train/global_step"] for row in validations] == [2, 3]
    rows = [row for row in history if "train/loss" in row]
    assert [row["train/loss"] for row in rows] == pytest.approx(expected)
    assert [row["train/global_step"] for row in rows] == [1, 2, 3]
    assert list(tmp_path.glob("wandb*")) == []  # where it was started, nothing is left


@pytest.fixture
def settings(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> FinetuneSettings:
    """Return those of three steps that are logged one by one, offline."""
    for name in os.environ:
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    how: dict[str, Any] = {"deepspeed": "none", "lora_r": 4, "max_steps": STEPS, "logging_steps": 1}
    how |= {"per_device_train_batch_size": 2, "report_to": "wandb"}
    return FinetuneSettings("tiny", workspace=workspace.root, **how)


def stopped_at_once(plan: Plan) -> Plan:
    """Return a plan that is stopped after its first step, which it logs and saves."""
    stop = Path(f"{plan.output_dir}.stop")
    stop.touch()
    return replace(plan, stop_file=str(stop))


@needs("wandb")
@pytest.mark.usefixtures("warm")
def test_a_resumed_training_goes_on_in_the_same_run(
    settings: FinetuneSettings, tmp_path: Path
) -> None:
    """As one run in two parts, which `wandb sync` uploads in their order."""
    out = tmp_path / "run"
    first = make_plan(settings, out)
    Path(first.environment["WANDB_DIR"]).mkdir(parents=True)
    run_ranks(stopped_at_once(first), 1, use_deepspeed=False)
    plan = make_plan(replace(settings, resume=True), out)
    run_ranks(plan, 1, use_deepspeed=False)
    parts = sorted(Path(plan.environment["WANDB_DIR"]).rglob("offline-run-*/run-*.wandb"))
    assert [path.name for path in parts] == [f"run-{first.environment['WANDB_RUN_ID']}.wandb"] * 2
    found = [
        [row["train/global_step"] for row in wandb_history(path) if "train/loss" in row]
        for path in parts
    ]
    assert found == [[1], [2, 3]]


@needs("wandb")
def test_a_run_belongs_to_its_training(
    settings: FinetuneSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def environment(out: Path, **change: Any) -> dict[str, str]:
        return make_plan(replace(settings, **change), out).environment

    out = tmp_path / "run"
    first = make_plan(settings, out)
    assert first.environment["WANDB_RESUME"] == "allow"
    ids = {environment(tmp_path / name)["WANDB_RUN_ID"] for name in ("a", "b", "run")}
    assert len(ids | {first.environment["WANDB_RUN_ID"]}) == 4
    assert "WANDB_RUN_ID" not in environment(out, report_to="none")
    first.write(out / "plan.json")  # of a training that was killed before its first checkpoint
    assert environment(out, resume=True)["WANDB_RUN_ID"] != first.environment["WANDB_RUN_ID"]
    quiet = stopped_at_once(first)
    train.run(replace(quiet, arguments=quiet.arguments | {"report_to": "none"}))
    assert environment(out, resume=True)["WANDB_RUN_ID"] == first.environment["WANDB_RUN_ID"]
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert environment(out, resume=True)["WANDB_RUN_ID"] == "mine"


def wandb_history(path: Path) -> list[dict[str, Any]]:
    """Return the logged rows of an offline run, read in a program of its own.

    A head of 7 bytes, then LevelDB's log: blocks of 32 KiB, in which each piece of a record has a checksum
    (4 bytes), its length (2) and its kind (1: whole or last of a record are 1 and 4).
    """
    code = """
import json, sys
from pathlib import Path
from wandb.proto import wandb_internal_pb2

data, at, pieces = Path(sys.argv[1]).read_bytes(), 7, b""
assert data.startswith(b":W&B")
while at + 7 <= len(data):
    if 32768 - at % 32768 < 7:  # the rest of a block is empty
        at += 32768 - at % 32768
        continue
    length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
    pieces += data[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4):
        record = wandb_internal_pb2.Record.FromString(pieces)
        pieces = b""
        items = record.history.item
        print(json.dumps({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs("tensorboard")
@pytest.mark.filterwarnings("ignore")  # of tensorboard's reader
def test_tensorboard_logs(workspace: Workspace, tmp_path: Path) -> None:
    expected, kappas = logged(workspace, "tensorboard", tmp_path)
    reader: Any = import_module("tensorboard.backend.event_processing.event_accumulator")
    (events,) = workspace.checkpoints.rglob("events.out.tfevents.*")
    accumulator = reader.EventAccumulator(str(events))
    accumulator.Reload()
    found = accumulator.Scalars("train/loss")
    assert [event.step for event in found] == [1, 2, 3]
    assert [event.value for event in found] == pytest.approx(expected, abs=1e-4)
    found = accumulator.Scalars("eval/kappa")
    assert [event.step for event in found] == [2, 3]
    assert [event.value for event in found] == pytest.approx(kappas, abs=1e-4)


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard"])
def test_a_missing_package_is_one_line_that_names_the_extra(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.setattr(planning, "find_spec", lambda name: None if name == tracker else object())
    command = [*FINETUNE, "--report-to", tracker, "--workspace", str(workspace.root)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        f"error: --report-to {tracker} is not installed.",
        "pip install 'eegvlm[track]'",
    ]
    assert not workspace.checkpoints.exists()


def test_the_extra_installs_the_trackers() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    packages = {line.split(">=")[0] for line in project["optional-dependencies"]["track"]}
    assert {"tensorboard", "wandb"} <= packages
