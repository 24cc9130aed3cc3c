"""How fast a step of `eegvlm finetune` is, against the language model alone.

eegvlm      The command as it is typed: DeepSpeed's launcher, the Trainer, the loader, real padding. Seconds,
            waiting and tokens of each step are those of its training_log.json; the median of the steps
            after the first two counts.
bare        Forward and backward of the same LLaMA in a process of its own, on as many tokens, in the same
            precision and with the same checkpointing. Its weights are frozen and its input requires a
            gradient: no LoRA, no tower, no head, no optimizer.

Where the base is small the two take turns, and each ratio is the median of the rounds.

MFU: floating point operations that the step needs, per second, over the peak of the GPU (dense bfloat16,
from the vendor's data sheets). Needed are, after Chowdhery et al. 2022 (PaLM, arXiv 2204.02311, appendix B),
per weight and token 2 forward, 2 backward through the activations and 2 for the gradient of the weight; so
4 for the frozen language model (PaLM trains all and counts 6), 6 for LoRA and projector, 2 for the tower;
attention 12 D T per layer and token, of which the causal mask leaves half; the head where there are labels.
What checkpointing does twice is done, but not needed. Its goal holds without it.

    python scripts/bench/finetune.py --json
    python scripts/bench/finetune.py --base FOLDER --batch 2 --no-checkpointing
    python scripts/bench/finetune.py --trained checkpoints/eegvlm      # a training that was made before
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from eegtool.core.records import Epoch, write_conversations
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, read_json, write_json
from eegtool.extract.features import Sidecar, write_features
from eegtool.prepare.questions import QUESTION_TEMPLATES, conversation

SKIPPED = 2  # first steps, in which memory is still sought
GOALS = {"step": 0.85, "mfu": 0.45}
PICTURE_SIZE = 336

# Peak of dense bfloat16 in TFLOP/s (V100 and T4: float16), by the name of the GPU; the first fitting name
# counts. Data sheets of NVIDIA.
PEAKS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A6000": 155.0,
    "RTX 4090": 165.0,
    "V100": 125.0,
    "T4": 65.0,
}


@dataclass(frozen=True, slots=True)
class Setup:
    """What is trained."""

    base: str
    deepspeed: str
    batch: int
    steps: int
    fusion: str
    checkpointing: bool
    liger: bool
    bf16: bool
    lora_r: int
    samples: int

    def command(self, workspace: Path, out: Path) -> list[str]:
        """Return the words after ``eegvlm``."""
        words = {
            "model-name-or-path": self.base,
            "workspace": workspace,
            "output-dir": out,
            "deepspeed": self.deepspeed,
            "num-gpus": int(self.deepspeed != "none"),
            "per-device-train-batch-size": self.batch,
            "max-steps": self.steps,
            "fusion": self.fusion,
            "lora-r": self.lora_r,
            "lora-alpha": 2 * self.lora_r,
            "bf16": self.bf16,
            "logging-steps": 1,
            "save-strategy": "no",
        }
        given = [str(word) for name, value in words.items() for word in (f"--{name}", value)]
        given += ["--gradient-checkpointing"] * self.checkpointing
        return ["finetune", *given, *["--use_liger_kernel", "True"] * self.liger]


def write_workspace(workspace: Workspace, n: int) -> None:
    """Write samples with pictures of noise and features."""
    rng = np.random.default_rng(0)
    template = QUESTION_TEMPLATES["stage"]
    samples = []
    for i in range(n):
        epoch = Epoch(
            sample_id=f"S01E0-{i:04d}",
            cohort="simulated",
            recording="S01E0",
            subject="S01",
            night=1,
            epoch_index=i,
            onset_s=30.0 * i,
            stage=STAGES[i % len(STAGES)],
            split="ft",
            image=f"{i:04d}.png",
        )
        path = workspace.images("ft") / epoch.image
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 256, (PICTURE_SIZE, PICTURE_SIZE), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        samples.append(conversation(epoch, template))
    write_conversations(workspace.conversations, samples)
    write_json(workspace.prepare_stamp, {"protocol": {}})
    rows = rng.standard_normal((n, 1, 1024)).astype(np.float32)
    ids = tuple(sample.sample_id for sample in samples)
    write_features(workspace.features("ft"), rows, Sidecar(ids, "resnet18", "", ""))


# --- eegvlm -----------------------------------------------------------------------------------------


def train(setup: Setup, workspace: Path, out: Path) -> None:
    """Run the command."""
    run([sys.executable, "-m", "eegtool", *setup.command(workspace, out)])


def run(command: list[str]) -> str:
    """Run a program and return its last line; its output is shown where it fails."""
    one_thread = {} if torch.cuda.is_available() else {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | one_thread)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout.strip().rpartition("\n")[2]


def trained(out: Path) -> dict[str, float]:
    """Return what a training says of its steps: seconds, seconds of waiting, tokens, memory.

    Tokens are those of a step with its padding; memory is the peak of the rank, on its GPU where it has
    one.
    """
    log = read_json(out / "training_log.json")
    steps = [row for row in log["log"] if "loss" in row][SKIPPED:]
    if not steps:
        raise SystemExit(f"{out} has no more than {SKIPPED} logged steps.")
    names = ("seconds", "data_seconds", "tokens")
    figures = {name: statistics.median(row[name] for row in steps) for name in names}
    peak = log["peak_memory"]
    return figures | {"peak_gib": peak.get("allocated_bytes", peak["host_bytes"]) / 2**30}


# --- bare -------------------------------------------------------------------------------------------


def bare(out: Path) -> dict[str, float]:
    """Measure the language model alone, as a training in `out` ran it.

    Returns
    -------
    dict
        Seconds of forward and backward, its peak memory, and TFLOP of the training's step, needed and
        done.
    """
    from transformers import LlamaModel

    from eegtool.finetune.plan import Plan
    from eegtool.model.loading import choose_attention

    plan = Plan.read(out / "plan.json")
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    dtype = torch.bfloat16 if plan.arguments["bf16"] else torch.float32
    config = plan.base_model.config
    text = config.text_config
    text.use_cache = False
    text._attn_implementation = choose_attention(plan.attention, dtype)
    torch.manual_seed(0)
    with device:
        model = LlamaModel._from_config(text, dtype=dtype)
    model.requires_grad_(False)
    model.train()
    if plan.gradient_checkpointing:
        # The name of this changes between releases of transformers.
        renamed = getattr(model, "activation_checkpointing_enable", None)
        (renamed or model.gradient_checkpointing_enable)({"use_reentrant": False})
    batch = plan.arguments["per_device_train_batch_size"]
    n_tokens = round(trained(out)["tokens"] / batch)
    embeds = torch.randn(batch, n_tokens, text.hidden_size, dtype=dtype, device=device)
    upstream = torch.randn_like(embeds)
    embeds.requires_grad_(True)
    times = []
    for _ in range(plan.arguments["max_steps"]):
        embeds.grad = None
        began = now()
        model(inputs_embeds=embeds).last_hidden_state.backward(upstream)
        times.append(now() - began)
    needed, done = operations(config, plan, n_tokens)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    return {
        "bare_seconds": statistics.median(times[SKIPPED:]),
        "bare_peak_gib": peak,
        "tflop_needed": batch * needed / 1e12,
        "tflop_done": batch * done / 1e12,
    }


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def operations(config: Any, plan: Any, n_tokens: int) -> tuple[float, float]:
    """Return the operations of a step on one sample: those needed, and those done (see above)."""
    text, vision = config.text_config, config.vision_config
    hidden, inner, n_layers = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    keys = hidden * text.num_key_value_heads // text.num_attention_heads
    linears = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden)]
    linears += [(hidden, inner), (hidden, inner), (inner, hidden)]
    frozen = n_layers * sum(a * b for a, b in linears)
    lora = n_layers * sum(plan.lora_r * (a + b) for a, b in linears)
    attention = n_layers * hidden * n_tokens**2
    forward = 2 * (frozen + lora) * n_tokens + 2 * attention

    n_patches = (vision.image_size // vision.patch_size) ** 2
    width, seen = vision.hidden_size, n_patches + 1
    layer = 2 * (4 * width**2 + 2 * width * vision.intermediate_size) * seen + 4 * width * seen**2
    patching = 2 * 3 * vision.patch_size**2 * width * n_patches
    projector = 6 * (width + hidden) * hidden * (n_patches + 1)  # the patches, and the feature
    head = 4 * hidden * text.vocab_size * round(plan.trained_share * n_tokens)

    needed = (4 * frozen + 6 * lora) * n_tokens + 6 * attention + head + projector
    needed += (vision.num_hidden_layers - 1) * layer + patching
    done = needed + forward * plan.gradient_checkpointing
    return needed, done + layer  # the last layer of the tower runs, though -2 is taken


# --- both -------------------------------------------------------------------------------------------


def compare(out: Path) -> dict[str, float]:
    """Measure the bare rival of a training in a process of its own, and return the figures of both."""
    rival = run([sys.executable, str(Path(__file__)), "--bare", str(out)])
    return with_ratios(trained(out) | json.loads(rival))


def with_ratios(figures: dict[str, float]) -> dict[str, float]:
    """Return the figures with the ratios that count; no MFU where no peak is known."""
    figures["step"] = figures["bare_seconds"] / figures["seconds"]
    if peak := peak_tflops():
        figures["mfu"] = figures["tflop_needed"] / figures["seconds"] / peak
        figures["hfu"] = figures["tflop_done"] / figures["seconds"] / peak
    return figures


def measure(setup: Setup, rounds: int) -> dict[str, float]:
    """Train and compare in turns; return the median of each figure."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_workspace(Workspace(folder / "workspace"), setup.samples)
        for number in range(rounds):
            out = folder / f"trained-{number}"
            train(setup, folder / "workspace", out)
            found.append(compare(out))
    return {key: statistics.median(figures[key] for figures in found) for key in found[0]}


def peak_tflops() -> float:
    """Return the peak of this GPU in TFLOP/s; 0 where none is known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((peak for part, peak in PEAKS.items() if part in name), 0.0)


def show(title: str, figures: dict[str, float], checkpointing: bool) -> None:
    table = Table(title=title)
    for name in ("step", "seconds", "waiting", "tokens", "tokens/s", "MFU", "HFU", "peak GiB"):
        table.add_column(name, justify="left" if name == "step" else "right")
    shares = [f"{figures[name]:.3f}" if name in figures else "-" for name in ("mfu", "hfu")]
    tokens = figures["tokens"]
    for name, prefix, more in (
        ("eegvlm", "", (f"{figures['data_seconds']:.3f}", shares)),
        ("bare", "bare_", ("-", ["-", "-"])),
    ):
        seconds, peak = figures[f"{prefix}seconds"], figures[f"{prefix}peak_gib"]
        speed = f"{tokens / seconds:,.0f}"
        memory = f"{peak:.2f}" if peak else "-"
        table.add_row(name, f"{seconds:.3f}", more[0], f"{tokens:,.0f}", speed, *more[1], memory)
    Console(width=110).print(table)
    print(
        f"TFLOP of a step: {figures['tflop_needed']:.4g} needed, {figures['tflop_done']:.4g} done"
    )
    for name, goal in GOALS.items():
        if name in figures and not (name == "mfu" and checkpointing):
            reached = "reached" if figures[name] >= goal else "NOT reached"
            print(f"{name}: {figures[name]:.3f} (goal of 13B >= {goal}) {reached}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    switch = argparse.BooleanOptionalAction
    cuda = torch.cuda.is_available()
    parser.add_argument("--base", default="tiny", help="'tiny', or the folder of a LLaVA-1.5")
    parser.add_argument("--deepspeed", default="zero2", help="zero2, zero3, zero3_offload or none")
    parser.add_argument("--batch", type=int, default=16 if cuda else 8)
    parser.add_argument("--steps", type=int, default=12, help=f"the first {SKIPPED} do not count")
    parser.add_argument("--fusion", default="add")
    parser.add_argument("--checkpointing", action=switch, default=True)
    parser.add_argument("--liger", action="store_true", help="Liger's kernels (GPU)")
    parser.add_argument("--bf16", action=switch, default=cuda)
    parser.add_argument("--lora-r", type=int, help="default: 128; tiny: 16")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, help="default: 1; tiny: 3")
    parser.add_argument("--trained", type=Path, help="compare this training, and make none")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(bare(options.bare)))
        return
    small = options.base == "tiny"
    options.lora_r = options.lora_r or (16 if small else 128)
    where = torch.cuda.get_device_name() if cuda else "one CPU thread"
    if options.trained:
        figures, setup = compare(options.trained), read_setup(options.trained)
    else:
        setup = Setup(**{name: getattr(options, name) for name in Setup.__dataclass_fields__})
        figures = measure(setup, options.rounds or (3 if small else 1))
    title = (
        f"{setup.base} on {where}, {setup.deepspeed}, batch {setup.batch}, LoRA r {setup.lora_r}"
    )
    title += f", {'bfloat16' if setup.bf16 else 'float32'}, {setup.fusion}"
    title += ", checkpointing" * setup.checkpointing + ", Liger" * setup.liger
    show(title, figures, setup.checkpointing)
    if options.json:
        rounded = {name: round(value, 5) for name, value in figures.items()}
        print(json.dumps({"device": where, "base": setup.base, **rounded}))


def read_setup(out: Path) -> Setup:
    """Return what a training in `out` was started with."""
    plan = read_json(out / "plan.json")
    arguments = plan["arguments"]
    return Setup(
        base=plan["base"],
        deepspeed=f"ZeRO {plan['zero_stage']}" if plan["zero_stage"] else "no DeepSpeed",
        batch=arguments["per_device_train_batch_size"],
        steps=arguments["max_steps"],
        fusion=plan["fusion"],
        checkpointing=plan["gradient_checkpointing"],
        liger=bool(arguments.get("use_liger_kernel")),
        bf16=arguments["bf16"],
        lora_r=plan["lora_r"],
        samples=0,
    )


if __name__ == "__main__":
    main()
