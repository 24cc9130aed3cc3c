"""How fast extract is, as ratios measured in one run.

export      Feature export (decoding included) against timm's bare forward on one ready float batch of the
            same size, with as many torch threads: no decoding, no normalisation, no widening, no file.
training    A step of transformers' Trainer as extract sets it up, against a bare PyTorch loop on the same
            module; pictures in memory. CPU time, which other programs do not lengthen.
memory      Largest memory of a process that exports N pictures, and 4 N.

The rivals take turns; what counts is the median over all rounds of what the one reaches of the other
within a round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy

from eegtool.core.records import Epoch
from eegtool.core.stages import STAGES
from eegtool.extract.data import Pictures
from eegtool.extract.export import export
from eegtool.extract.features import Sidecar, write_sidecar
from eegtool.extract.module import VisionModule
from eegtool.extract.plan import TrainPlan
from eegtool.extract.trainer import Monitor, StageTrainer, arguments, class_weights

SKIPPED = 2  # first steps of a round, in which memory is still sought


class InMemory(Pictures):
    """Pictures that need no decoding."""

    def __init__(self, n: int, size: int) -> None:
        epochs = [
            Epoch(f"E{i}", "bench", "R", "S", 1, i, 30.0 * i, STAGES[i % 5], "ft", f"{i}.png")
            for i in range(n)
        ]
        super().__init__(epochs, Path())
        generator = torch.Generator().manual_seed(0)
        shape = (n, 3, size, size)
        self.tensors = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[torch.Tensor, int]:
        i = index[0] if isinstance(index, tuple) else index
        return self.tensors[i], i % 5


class Stopwatch(Monitor):
    """Takes the time at the end of each step, and writes nothing."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(_now())

    def on_log(self, *_: Any, **__: Any) -> None:
        pass


def _now() -> float:
    """Return seconds: on a CPU those that this process computed, whatever else the machine does."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def _median_step(times: list[float]) -> float:
    return float(np.median(np.diff(times[SKIPPED:])))


def _bare(module: VisionModule, data: InMemory, batch: int, plan: TrainPlan) -> float:
    device = next(module.parameters()).device
    cuda = device.type == "cuda"
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
    )
    weights = class_weights(data.epochs).to(device)
    labels = torch.arange(len(data)) % 5
    module.train()
    times = []
    for start in range(0, len(data), batch):
        pictures = data.tensors[start : start + batch].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            _, logits = module(pictures)
        stages = labels[start : start + batch].to(device)
        loss = cross_entropy(logits.float(), stages, weight=weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if cuda:
            torch.cuda.synchronize()
        times.append(_now())
    return _median_step(times)


def _ours(module: VisionModule, data: InMemory, plan: TrainPlan) -> float:
    args = arguments(plan, len(data), with_validation=False)
    args.save_strategy = args.save_strategy.__class__("no")
    watch = Stopwatch(plan)
    StageTrainer(plan, module, args, (data, InMemory(0, 8)), watch).train()
    return _median_step(watch.times)


def training_step(
    backbone: str = "resnet18",
    *,
    size: int = 64,
    batch: int = 32,
    style: str = "spectrogram",
    steps: int = 8,
    rounds: int = 9,
) -> dict[str, float]:
    """Measure the steps of each way, in turns, on the same module and pictures in memory.

    Returns
    -------
    dict
        Images/s of ``bare`` and ``trainer``, and what the second reaches of the first: ``ratio``;
        medians over the rounds.
    """
    data = InMemory(steps * batch, size)
    module = VisionModule(backbone, size=size)
    if torch.cuda.is_available():
        module.cuda()
    with tempfile.TemporaryDirectory() as out:
        common: dict[str, Any] = {
            "epochs": "",
            "train_subjects": ("S",),
            "val_subjects": (),
            "folder": "",
            "images_sha256": "",
            "protocol": {"style": style, "size": size},
            "out": out,
            "train_epochs": 1,
            "batch_size": batch,
        }
        plain = TrainPlan(**common)
        steps_s = np.array(
            [(_bare(module, data, batch, plain), _ours(module, data, plain)) for _ in range(rounds)]
        )
    names, speeds = ("bare", "trainer"), (batch / np.median(steps_s, 0)).round(1).tolist()
    figures = dict(zip(names, speeds, strict=True))
    figures["ratio"] = round(float(np.median(steps_s[:, 0] / steps_s[:, 1])), 3)
    return figures


@dataclass(frozen=True, slots=True)
class ExportBench:
    """Median images per second of both, and the median of what a round of export reached of its rival's."""

    bare: float
    export: float
    share: float


def draw(folder: Path, n: int, size: int) -> list[Epoch]:
    """Write `n` palette PNGs that compress about as a spectrogram does, and return their epochs."""
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, 768).astype(np.uint8).tobytes()
    coarse = rng.normal(size=(16, size // 8 + 2, size // 8 + 2))
    epochs = []
    for i in range(n):
        if i < 16:
            image = Image.fromarray(coarse[i].astype(np.float32)).resize((size, size))
            field = np.asarray(image) * 40 + 128 + rng.normal(scale=4, size=(size, size))
            picture = Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))
            picture.putpalette(palette)
            picture.save(folder / f"{i}.png")
        else:  # another name for the same bytes: drawing is not what is measured
            (folder / f"{i}.png").hardlink_to(folder / f"{i % 16}.png")
        epochs.append(Epoch(f"e{i}", "bench", "r", "S", 1, i, 30.0 * i, "W", "ft", f"{i}.png"))
    return epochs


def bench_export(
    epochs: list[Epoch],
    folder: Path,
    *,
    backbone: str = "resnet18",
    size: int = 64,
    batch_size: int = 64,
    workers: int = 2,
    repeats: int = 11,
    run: Callable[..., object] | None = None,
) -> ExportBench:
    """Measure both, in turns; `run` replaces the export for comparison."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = VisionModule(backbone, size=size).to(device).eval()
    bare = timm.create_model(backbone, num_classes=0).to(device).eval()
    ready = torch.randn(batch_size, 3, size, size, device=device)
    ready = ready.contiguous(memory_format=torch.channels_last)
    if device.type == "cpu":
        bare = bare.to(memory_format=torch.channels_last)

    def forward() -> None:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
        ):
            for _ in range(0, len(epochs), batch_size):
                bare(ready)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def exporting() -> None:
        with tempfile.TemporaryDirectory() as out:
            (run or export)(
                module,
                epochs,
                folder,
                Path(out) / "rows.npy",
                batch_size=batch_size,
                workers=workers,
                device=device,
            )

    speeds = np.empty((repeats, 2))
    for turn in speeds:
        for i, work in enumerate((forward, exporting)):
            start = time.perf_counter()
            work()
            turn[i] = len(epochs) / (time.perf_counter() - start)
    bare_speed, export_speed = np.median(speeds, 0).tolist()
    return ExportBench(bare_speed, export_speed, float(np.median(speeds[:, 1] / speeds[:, 0])))


def _peak(n: int, size: int, backbone: str) -> float:
    """Return the peak memory of a fresh process that exports `n` pictures, in MiB."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp:
        epochs = draw(Path(tmp), n, size)
        out = Path(tmp) / "rows.npy"
        done = export(
            VisionModule(backbone, size=size),
            epochs,
            Path(tmp),
            out,
            batch_size=64,
            device=torch.device("cpu"),
        )
        write_sidecar(out, Sidecar(tuple(e.sample_id for e in epochs), "", "", done.images_sha256))
    # VmHWM is of this program alone; getrusage would also count its parent, this bench.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def peak_memory(n: int, size: int = 64, backbone: str = "resnet18") -> dict[int, float]:
    """Return the peak memory in MiB of exporting `n` and 4 `n` pictures, each in a fresh process."""
    found = {}
    for count in (n, 4 * n):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found[count] = pool.submit(_peak, count, size, backbone).result()
    return found


GOALS = {
    "export_vs_bare_forward": (">=", 0.85),
    "training_vs_bare_loop": (">=", 0.85),
    "peak_mb_vs_quarter": ("<=", 1.05),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("export", "training", "memory")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures")
    parser.add_argument("--pictures", type=int, default=2048, help="for export and memory")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    if "export" in options.only:
        with tempfile.TemporaryDirectory() as tmp:
            epochs = draw(Path(tmp), options.pictures, options.size)
            found = bench_export(epochs, Path(tmp), backbone=options.backbone, size=options.size)
        figures |= {"export_images_per_s": found.export, "export_vs_bare_forward": found.share}
    if "training" in options.only:
        step = training_step(options.backbone, size=options.size)
        figures |= {
            "training_images_per_s": step["trainer"],
            "training_vs_bare_loop": step["ratio"],
        }
    if "memory" in options.only:
        few, many = peak_memory(options.pictures, options.size, options.backbone).values()
        figures |= {"peak_mb": many, "peak_mb_vs_quarter": many / few}
    table = Table(title=f"{options.backbone}, {options.size} × {options.size} pixels")
    for name in ("figure", "measured", "goal", ""):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for key, value in figures.items():
        sign, goal = GOALS.get(key, ("", 0.0))
        met = value >= goal if sign == ">=" else value <= goal
        verdict = ("met" if met else "MISSED") if sign else ""
        table.add_row(key, f"{value:.4g}", f"{sign} {goal}" if sign else "", verdict)
    Console().print(table)
    if options.json:
        print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
