"""A real training that is killed and stopped again and again, and ends as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from eegtool.cli import app
from eegtool.core.workspace import Workspace, read_json
from eegtool.finetune import train
from eegtool.finetune.plan import Plan
from eegtool.finetune.saving import last_whole, step_of
from tests.finetune.conftest import run_ranks
from tests.warm import children

OPTIONS = (
    *(
        "--model-name-or-path",
        "tiny",
        "--lora-r",
        "4",
        "--lora-alpha",
        "8",
        "--lora-dropout",
        "0.1",
    ),
    *("--per-device-train-batch-size", "4", "--learning-rate", "1e-3", "--logging-steps", "1"),
)


def command(out: Path, workspace: Workspace, *options: str) -> list[str]:
    where = ("--workspace", str(workspace.root), "--output-dir", str(out))
    return ["finetune", *OPTIONS, *options, *where]


class Training:
    """``eegvlm finetune`` in a process of its own."""

    def __init__(self, out: Path, workspace: Workspace, *options: str) -> None:
        self.out = out
        self.process = subprocess.Popen(
            [sys.executable, "-m", "eegtool", *command(out, workspace, *options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        )

    def wait_for(self, step: int) -> None:
        """Wait until the checkpoint of a step is whole, and the next step has begun."""
        while not (self.out / f"checkpoint-{step}" / "whole.json").exists():
            assert self.process.poll() is None, self.end()[1]
            time.sleep(0.01)
        time.sleep(0.05)

    def rank(self) -> int:
        """Return the process that trains, where there is one rank and no launcher between."""
        (rank,) = children(self.process.pid)
        return rank

    def end(self) -> tuple[int, str]:
        """Return exit code and output."""
        output, _ = self.process.communicate()
        return self.process.returncode, output


def reached(out: Path) -> int:
    last = last_whole(out)
    assert last is not None
    return step_of(last)


def kill(training: Training, step: int) -> None:
    """As the kernel does when memory has run out: the rank is gone in the middle of a step."""
    training.wait_for(step)
    os.kill(training.rank(), signal.SIGKILL)
    code, output = training.end()
    assert code == 1, output
    assert f"--resume continues after step {reached(training.out)}" in output


def terminate(training: Training, step: int, stop: int = signal.SIGTERM) -> None:
    training.wait_for(step)
    training.process.send_signal(stop)
    code, output = training.end()
    assert code == 128 + stop, output
    assert f"Stopped after step {reached(training.out)}; continue with --resume" in output


def interrupt(training: Training, step: int) -> None:
    terminate(training, step, signal.SIGINT)


def train_uninterrupted(plan: Plan) -> None:
    """Run the ranks of a plan from beginning to end, without the command around them."""
    arguments = plan.arguments | {"output_dir": plan.output_dir}
    plan = replace(plan, arguments=arguments, resume=False, stop_file="")
    if plan.zero_stage:
        run_ranks(plan, 2, use_deepspeed=True)
    else:
        train.run(plan)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("options", "steps", "ends"),
    [
        (("--deepspeed", "none"), 40, (kill, terminate)),
        (("--deepspeed", "zero3", "--num-gpus", "2"), 10, (interrupt,)),
    ],
    ids=["one rank", "two ZeRO-3 ranks"],
)
def test_it_goes_on_as_if_nothing_had_been(
    workspace: Workspace,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    steps: int,
    ends: Sequence[Callable[[Training, int], None]],
) -> None:
    out, whole = tmp_path / "resumed", tmp_path / "whole"
    every = steps // 5
    options = (*options, "--max-steps", str(steps), "--save-steps", str(every))
    done = [0]
    for number, end in enumerate(ends, start=1):
        resume = ("--resume",) if done[-1] else ()
        end(Training(out, workspace, *options, *resume), every * number)
        done.append(reached(out))
        assert not (out / "eegvlm.json").exists()
    assert done == sorted(set(done))
    last = CliRunner().invoke(
        app, command(out, workspace, *options, "--resume"), catch_exceptions=False
    )
    assert last.exit_code == 0, last.output
    said = capfd.readouterr()  # of the ranks
    assert f"Continuing after step {done[-1]}" in said.out
    assert "Warning" not in said.err
    train_uninterrupted(replace(Plan.read(out / "plan.json"), output_dir=str(whole)))
    logs = [read_json(path / "training_log.json")["log"] for path in (out, whole)]
    found, expected = ([row["loss"] for row in log if "loss" in row] for log in logs)
    assert len(expected) == steps
    assert found == pytest.approx(expected, abs=1e-6)
    for name in ("adapter_model.safetensors", "projector.safetensors"):
        one, other = load_file(out / name), load_file(whole / name)
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[k], other[k], atol=1e-6) for k in one)
