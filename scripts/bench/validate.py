"""What a validation inside a training costs, against `evaluate`'s own loop, as a ratio measured in one run.

validation  `EegTrainer.evaluate` between two steps of a training, with all that belongs to it: pictures are
            decoded, epochs scored, figures counted and logged.
evaluate    The same epochs scored by the checkpoint of that step, loaded as `eegvlm evaluate` loads it, in the
            loop in which it asks.

Both take turns in the same process; the ratio is the median of the rounds. They must find the same κ. On a CPU
seconds are CPU time, whatever else the machine does; on a GPU, time.

    python scripts/bench/validate.py --json
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from eegtool.core.records import Epoch, write_conversations, write_epochs
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, write_json
from eegtool.extract.features import Sidecar, write_features
from eegtool.finetune import saving, train
from eegtool.finetune.options import FinetuneSettings
from eegtool.finetune.planning import make_plan
from eegtool.finetune.trainer import EegTrainer
from eegtool.finetune.validation import figures
from eegtool.inference.loaded import LoadedModel
from eegtool.prepare.questions import QUESTION_TEMPLATES, conversation

GOAL = 1.15
SIZE = 64


def write_workspace(workspace: Workspace, n: int) -> None:
    """Write two subjects of `n` epochs each, whose pictures are noise."""
    rng = np.random.default_rng(0)
    epochs = []
    for subject in ("S01", "S02"):
        for i in range(n):
            name = f"{subject}E0-{i:04d}"
            stage = STAGES[i % 5]
            where = ("simulated", f"{subject}E0", subject, 1, i, 30.0 * i)
            epochs.append(Epoch(name, *where, stage, "ft", f"{name}.png"))
            path = workspace.images("ft") / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)).save(path)
    write_epochs(workspace.epochs, epochs)
    asked = QUESTION_TEMPLATES["stage"]
    write_conversations(workspace.conversations, [conversation(e, asked) for e in epochs])
    write_json(workspace.prepare_stamp, {"protocol": {}})
    rows = rng.standard_normal((2 * n, 1, 1024)).astype(np.float32)
    ids = tuple(epoch.sample_id for epoch in epochs)
    write_features(workspace.features("ft"), rows, Sidecar(ids, "resnet18", "", ""))


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that some work takes, and what it comes to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    began = clock()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - began, found


class Timed(EegTrainer):
    """A trainer that validates several times, in turns with `evaluate`'s loop."""

    rounds = 5
    measured: dict[str, float]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        saving.save_checkpoint(self, self.plan, self.contract)
        folder = saving.at_step(Path(self.plan.output_dir), self.state.global_step)
        loaded = LoadedModel.load(folder, dtype=str(self.validator.loaded.network.dtype)[6:])
        times: list[tuple[float, float]] = []
        for _ in range(self.rounds + 1):  # what is done once is done in the first
            ours, metrics = seconds(super().evaluate)
            others, kappa = seconds(lambda: self.asked(loaded))
            if abs(metrics["eval_kappa"] - kappa) > 5e-4:
                raise SystemExit(
                    f"κ is {metrics['eval_kappa']} in the training, and {kappa} asked."
                )
            times.append((ours, others))
        Timed.measured = {
            "validation_s": statistics.median(one for one, _ in times[1:]),
            "evaluate_s": statistics.median(other for _, other in times[1:]),
            "ratio": statistics.median(one / other for one, other in times[1:]),
        }
        return metrics

    def asked(self, loaded: LoadedModel) -> float:
        """Ask as `evaluate` does, and return κ."""
        v = self.validator
        batches = loaded.replies(v.questions, v.pixels_of, v.feature_of)
        told = {
            q.sample_id: r.log_likelihood
            for batch in batches
            for q, r in zip(batch.questions, batch.replies, strict=True)
        }
        scores = np.array([told[q.sample_id] for q in v.questions])
        return figures(scores, [q.category for q in v.questions])["kappa"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    Timed.rounds = options.rounds
    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace(Path(name) / "workspace")
        write_workspace(workspace, options.epochs)
        settings = FinetuneSettings(
            options.base, workspace=workspace.root, lora_r=16, lora_alpha=32, deepspeed="none"
        )
        settings = replace(settings, max_steps=1, eval_strategy="steps", eval_steps=1)
        train.EegTrainer = Timed
        train.run(make_plan(settings, Path(name) / "run"))
    measured, ratio = Timed.measured, Timed.measured["ratio"]
    print(
        f"{options.epochs} epochs: {measured['validation_s']:.2f} s in a training, "
        f"{measured['evaluate_s']:.2f} s by evaluate's loop: {ratio:.3f} times as long "
        f"(<= {GOAL} {'reached' if ratio <= GOAL else 'NOT reached'})"
    )
    if options.json:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        print(json.dumps({"device": device, "base": options.base, **measured}))


if __name__ == "__main__":
    main()
