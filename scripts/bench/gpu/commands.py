"""Every command with the tiny model, as it is typed; in one process, as the command line runs them."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from scene import Scene

TRAIN_NIGHTS = ("SC4001E0", "SC4012E0")
EVAL_NIGHT = "SC4051E0"
TOLERANCE = 0.05  # of a loss, over the first ten steps
COMPARED = 10
ON_CPU = "float32"


class PartError(Exception):
    """A part did not do what it must."""


class SkipError(Exception):
    """A part cannot be run on this machine."""


def eegvlm(*words: object, code: int = 0) -> str:
    """Run a command in this process and return what it printed; what its ranks print goes to the log.

    Raises
    ------
    PartError
        If it does not end with `code`.
    """
    from typer.testing import CliRunner

    from eegtool.cli import app

    done = CliRunner().invoke(app, [str(word) for word in words])
    print(done.output, flush=True)
    if done.exit_code != code:
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        raise PartError(f"eegvlm {words[0]} ended with exit code {done.exit_code}")
    return done.output


# --- nights and features ----------------------------------------------------------------------------


def prepare(scene: Scene) -> dict[str, Any]:
    from eegtool.simulate.twins import load_twin, write_night

    for name in (*TRAIN_NIGHTS, EVAL_NIGHT):
        write_night(load_twin(name).condensed(scene.scale.epochs_per_stage), scene.recordings, 7)
    words = ("--size", scene.scale.picture, "--style", "spectrogram", "--eval-subjects", "SC405")
    eegvlm("prepare", scene.recordings, *words, "--workspace", scene.workspace)
    return {}


def extract(scene: Scene) -> dict[str, Any]:
    epochs = scene.scale.extract_epochs
    words = ("--backbone", "test_resnet", "--train-epochs", epochs)
    eegvlm("extract", *words, "--workspace", scene.workspace)
    return {}


# --- finetune ---------------------------------------------------------------------------------------


def finetune(scene: Scene, mode: str) -> dict[str, Any]:
    """Train in bfloat16; in a rehearsal only the first mode starts a launcher."""
    words = words_of(scene, mode, scene.scale.steps)
    with launched(scene, really=mode == "zero2"):
        eegvlm(*words, "--deepspeed", mode, "--bf16", True, "--save-strategy", "no")
    return speed(scene.trained(mode))


def finetune_on_cpu(scene: Scene) -> dict[str, Any]:
    """Train what the others are held against."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.init()  # this process keeps its GPU; only the rank has none
    words = words_of(scene, ON_CPU, scene.scale.steps)
    with launched(scene), patch.dict(os.environ, CUDA_VISIBLE_DEVICES=""):
        eegvlm(*words, "--deepspeed", "none", "--bf16", False, "--save-strategy", "no")
    return speed(scene.trained(ON_CPU))


def stop(scene: Scene) -> dict[str, Any]:
    """Send SIGTERM when there is a checkpoint."""
    out = scene.trained("resumed")
    ended = threading.Event()
    sender = threading.Thread(target=_terminate_after, args=(out, ended))
    sender.start()
    try:
        _train_stopped(scene, code=128 + signal.SIGTERM)
    finally:
        ended.set()
        sender.join()
    return {}


def _terminate_after(out: Path, ended: threading.Event) -> None:
    """Stop this process once there is a checkpoint, but not when the training has ended."""
    while not ended.wait(0.01):
        if list(out.glob("checkpoint-*/whole.json")):
            os.kill(os.getpid(), signal.SIGTERM)
            return


def resume(scene: Scene) -> dict[str, Any]:
    _train_stopped(scene, "--resume")
    return speed(scene.trained("resumed"))


def _train_stopped(scene: Scene, *more: str, code: int = 0) -> None:
    steps = scene.scale.stopped_steps
    words = words_of(scene, "resumed", steps)
    saving = ("--save-strategy", "steps", "--save-steps", steps // 10)
    how = ("--deepspeed", "zero2", "--bf16", True, "--gradient-checkpointing")
    with launched(scene):
        eegvlm(*words, *how, *saving, *more, code=code)


def words_of(scene: Scene, name: str, steps: int) -> list[object]:
    """Return the command; without dropout and schedule, so that the losses of all trainings are the same."""
    words = ["finetune", "--model-name-or-path", "tiny", "--workspace", scene.workspace]
    words += ["--output-dir", scene.trained(name), "--max-steps", steps, "--num-gpus", "1"]
    words += ["--lora-r", "16", "--lora-alpha", "32", "--lora-dropout", "0", "--logging-steps", "1"]
    words += ["--per-device-train-batch-size", "4", "--learning-rate", "1e-3"]
    return [*words, "--lr-scheduler-type", "constant", "--warmup-ratio", "0"]


def losses(scene: Scene, name: str) -> dict[str, Any]:
    """Hold the losses of a training against those of float32 on the CPU."""
    found, expected = (_losses(scene.trained(n))[:COMPARED] for n in (name, ON_CPU))
    if len(found) < COMPARED or len(expected) < COMPARED:
        raise PartError(f"{len(found)} and {len(expected)} losses of {COMPARED}")
    largest = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    if not largest < TOLERANCE:
        raise PartError(f"losses differ by up to {largest:.3f}: {found} and {expected}")
    return {"largest_difference": largest, "first": found[0], "last": found[-1]}


def _losses(out: Path) -> list[float]:
    from eegtool.core.workspace import read_json

    return [row["loss"] for row in read_json(out / "training_log.json")["log"] if "loss" in row]


def speed(out: Path) -> dict[str, Any]:
    """Return seconds, waiting, tokens and memory of a training's steps."""
    import finetune as bench

    return bench.trained(out)


@contextmanager
def launched(scene: Scene, *, really: bool = False) -> Iterator[None]:
    """Let the launcher start ranks; in a rehearsal this process is the rank, unless `really`."""
    if really or not scene.rehearsal:
        yield
        return
    with patch("eegtool.finetune.step.launch", _train_here):
        yield


def _train_here(command: list[str], environment: dict[str, str], **_: Any) -> int:
    from accelerate.state import AcceleratorState

    from eegtool.finetune import launcher, train
    from eegtool.finetune.plan import Plan

    plan = Plan.read(Path(command[-1]))
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
    port = launcher.free_port()
    ranks |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks |= {"DS_ACCELERATOR": "cpu", "CROSS_RANK": "0", "CROSS_SIZE": "1"}
    with patch.dict(os.environ, plan.environment | (ranks if plan.zero_stage else {})):
        try:
            train.run(plan)
        finally:
            gc.collect()  # transformers knows of ZeRO-3 as long as the last training's arguments live
            AcceleratorState._reset_state(reset_partial_state=True)
            launcher.remove_shared_memory(port)
    return 0


# --- asking -----------------------------------------------------------------------------------------


def evaluate(scene: Scene, mode: str) -> dict[str, Any]:
    words = ("--mode", mode, "--answers-file", scene.answers(mode))
    model = ("--model-path", scene.trained("zero2"))
    eegvlm("evaluate", *model, *words, "--workspace", scene.workspace)
    return {}


def export(scene: Scene) -> dict[str, Any]:
    eegvlm("export", "--model-path", scene.trained("zero2"), "--out", scene.work / "merged")
    return {}


def ask(scene: Scene) -> dict[str, Any]:
    picture = next(scene.workspace.glob("eeg_images_eval/**/*.png"))
    model = ("--model-path", scene.trained("zero2"))
    eegvlm("ask", picture, *model, "--workspace", scene.workspace)
    return {}


def stage(scene: Scene) -> dict[str, Any]:
    recording = scene.recordings / f"{EVAL_NIGHT}-PSG.edf"
    words = ("--model-path", scene.trained("zero2"), "--out", scene.work / "staged")
    eegvlm("stage", recording, *words)
    return {}


def report(scene: Scene) -> dict[str, Any]:
    eegvlm("report", "--workspace", scene.workspace, "--answers-file", scene.answers("both"))
    return {}
