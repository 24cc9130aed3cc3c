"""How fast evaluate is, against a loop that asks one question at a time, as ratios measured in one run.

reference   A batch of one: read the picture, look at it, write the answer greedily to its last token, with a
            KV cache. What the reference does besides is not counted: CLIP on the placeholder picture, all N
            features through the projector and their file read for every question, up to 2,048 tokens.
generation  Our batches, the same questions, pictures and number of tokens; on a CPU in float32 the texts must
            be the same ones.
score       The probabilities of the five stages out of one forward, against the reference that writes an
            answer with reasons (`--template cot`), and against one that writes a label.
memory      Largest memory of a fresh process of `eegvlm evaluate` that answered few questions, and ten times as
            many.

The rivals take turns on the same model; each ratio is the median of the rounds. Reading and preparing the
pictures counts everywhere. The head has no say about the end of an answer (its row is 0), so that all answers
have the length that is asked for.

On a CPU the model is `tiny`, and seconds are CPU time of one thread. On a GPU it is LLaVA-1.5-13B, built on the
device from its config with random weights, in bfloat16; it speaks with the tokens of `tiny`.

    python scripts/bench/evaluate.py --json
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finetune import llava_15
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import GenerationConfig

from eegtool.core.records import Epoch, Question, write_questions
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, write_json
from eegtool.evaluate.decode import Decoding
from eegtool.evaluate.generate import write
from eegtool.evaluate.score import encode_choice, probabilities, stage_log_likelihoods
from eegtool.extract.features import FeatureTable, Sidecar, load_features, write_features
from eegtool.model.adapters import Contract, add_lora, write_adapter
from eegtool.model.checkpoints import base_sha256, find_base, load_base
from eegtool.model.eegvlm import EEGVLM, FUSIONS, patches
from eegtool.model.processor import PixelSpec, Processor
from eegtool.prepare.questions import QUESTION_TEMPLATES, question

LABEL_TOKENS = QUESTION_TEMPLATES["stage"].max_new_tokens
# 330 characters of measured reasons are about 100 tokens of Vicuna's, and 220 of the tiny model's own.
COT_TOKENS = 100
GOALS = {
    "generation_vs_reference": (">=", 8.0 if torch.cuda.is_available() else 5.0),
    "score_vs_reference": (">=", 20.0),
    "memory_growth": ("<=", 1.05),
}


# --- what is asked ----------------------------------------------------------------------------------


def write_workspace(workspace: Workspace, n: int, size: int) -> list[Question]:
    """Write questions with pictures of noise and features, and return the questions."""
    rng = np.random.default_rng(0)
    questions = []
    for i in range(n):
        epoch = Epoch(
            sample_id=f"S01E0-{i:04d}",
            cohort="simulated",
            recording="S01E0",
            subject="S01",
            night=1,
            epoch_index=i,
            onset_s=30.0 * i,
            stage=STAGES[i % 5],
            split="eval",
            image=f"{i:04d}.png",
        )
        path = workspace.images("eval") / epoch.image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8)).save(path)
        questions.append(question(epoch, QUESTION_TEMPLATES["stage"]))
    write_questions(workspace.questions, questions)
    write_json(workspace.prepare_stamp, {"protocol": {}})
    rows = rng.standard_normal((n, 1, 1024)).astype(np.float32)
    ids = tuple(q.sample_id for q in questions)
    write_features(workspace.features("eval"), rows, Sidecar(ids, "resnet18", "", ""))
    return questions


def load_model(base: str) -> tuple[EEGVLM, Processor]:
    """Return the model, on its device, and the processor."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model, processor = load_base(find_base("tiny"), fusion="add", version="v1", dtype=dtype)
    if base != "tiny":
        torch.manual_seed(0)
        config = llava_15(base)
        config.image_token_index = model.config.image_token_id
        with torch.device(device):
            model = EEGVLM._from_config(config, dtype=dtype)
        model.generation_config = GenerationConfig()
        spec = processor.pixel_spec
        processor = Processor(
            processor.tokenizer,
            processor.template,
            PixelSpec(config.vision_config.image_size, spec.mean, spec.std),
            FUSIONS["add"].lengths(patches(config)),
        )
    model.lm_head.weight.data[processor.tokenizer.eos_token_id] = 0
    return model.to(device).eval(), processor


@dataclass(frozen=True, slots=True)
class Scene:
    """The model and the questions about which all rivals ask it."""

    model: EEGVLM
    processor: Processor
    questions: list[Question]
    images: Path
    features: FeatureTable

    def inputs(self, asked: Sequence[Question]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pictures and features of some questions."""
        spec = self.processor.pixel_spec
        pixels = np.stack([spec.pixels(self.images / q.images[0]) for q in asked])
        rows = np.stack([self.features[q.sample_id] for q in asked])
        device = self.model.device
        return torch.from_numpy(pixels).to(device), torch.from_numpy(rows).to(device)

    @torch.inference_mode()
    def reference(self, asked: Sequence[Question], n_tokens: int) -> list[str]:
        """Answer one question at a time."""
        texts, tokenizer = [], self.processor.tokenizer
        for q in asked:
            prompt = self.processor.encode_prompt(q.text, len(q.images))
            ids = torch.tensor([prompt], device=self.model.device)
            new = self.model.generate(
                inputs_embeds=self.model.embed(ids, *self.inputs([q])),
                attention_mask=torch.ones_like(ids),
                max_new_tokens=n_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
            if new.shape[1] != n_tokens:
                raise SystemExit(f"An answer has {new.shape[1]} tokens, not {n_tokens}.")
            texts.append(tokenizer.decode(new[0], skip_special_tokens=True).strip())
        return texts

    def generation(self, asked: Sequence[Question], n_tokens: int) -> list[str]:
        decoding = Decoding(max_new_tokens=n_tokens)
        return write(self.model, self.processor, asked, *self.inputs(asked), decoding)

    def score(self, asked: Sequence[Question]) -> np.ndarray:
        choice = encode_choice(self.processor, asked[0].text, 2, STAGES)  # all ask the same
        log_likelihood = stage_log_likelihoods(
            self.model, self.processor, [choice] * len(asked), *self.inputs(asked)
        )
        return probabilities(log_likelihood)


# --- speed ------------------------------------------------------------------------------------------


def now() -> float:
    """Return seconds: on a CPU those that this process computed, whatever else the machine does."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def speed(base: str, folder: Path, batch: int, n_alone: int, n_rounds: int) -> dict[str, float]:
    """Return seconds per question and ratios."""
    torch.set_num_threads(1)
    model, processor = load_model(base)
    workspace = Workspace(folder / "speed")
    asked = write_workspace(workspace, batch, processor.pixel_spec.size)
    features = load_features(workspace.features("eval"), [q.sample_id for q in asked])
    scene = Scene(model, processor, asked, workspace.images("eval"), features)
    alone = asked[:n_alone]
    if base == "tiny" and scene.reference(alone, 20) != scene.generation(asked, 20)[:n_alone]:
        raise SystemExit("The rivals write different texts.")

    def seconds(ask: Callable[..., Any], asked: list[Question], *n_tokens: int) -> float:
        began = now()
        ask(asked, *n_tokens)
        return (now() - began) / len(asked)

    ways: dict[str, tuple[Any, ...]] = {
        "reference_label": (scene.reference, alone, LABEL_TOKENS),
        "generation_label": (scene.generation, asked, LABEL_TOKENS),
        "score": (scene.score, asked),
        "reference_cot": (scene.reference, alone, COT_TOKENS),
        "generation_cot": (scene.generation, asked, COT_TOKENS),
    }
    for ask, some, *_ in ways.values():
        ask(some, *[2] * (ask != scene.score))  # what is done once is done now
    rounds = [{name: seconds(*way) for name, way in ways.items()} for _ in range(n_rounds)]

    def ratio(rival: str, ours: str) -> float:
        return statistics.median(r[rival] / r[ours] for r in rounds)

    return {f"{name}_s": statistics.median(r[name] for r in rounds) for name in ways} | {
        "generation_vs_reference": ratio("reference_cot", "generation_cot"),
        "generation_vs_reference_label": ratio("reference_label", "generation_label"),
        "score_vs_reference": ratio("reference_cot", "score"),
        "score_vs_reference_label": ratio("reference_label", "score"),
    }


# --- memory -----------------------------------------------------------------------------------------


# VmHWM is of this program alone; getrusage would also count its parent, this bench.
PEAK = """
import sys
from pathlib import Path
from eegtool.cli import main
try:
    main()
except SystemExit as end:
    if end.code:
        raise
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def write_model(folder: Path) -> None:
    """Write an adapter of the tiny model that is as if trained."""
    base = find_base("tiny")
    model, processor = load_base(base, fusion="add", version="v1", dtype=torch.float32)
    adapted = add_lora(model, r=16, alpha=32, dropout=0.0)
    state = {name: p.detach() for name, p in adapted.named_parameters() if p.requires_grad}
    contract = Contract(
        base="tiny",
        base_sha256=base_sha256(base),
        fusion="add",
        version="v1",
        pixel_spec=processor.pixel_spec,
        features_weights_sha256="",
        features="real",
    )
    write_adapter(folder, adapted, state, contract, check_learnt=False)


def memory(folder: Path, n: int) -> dict[str, float]:
    """Return the peak memory in MiB for `n` questions and for a tenth of them."""
    write_model(folder / "adapter")
    peaks = []
    for n_questions in (n // 10, n):
        workspace = Workspace(folder / f"memory_{n_questions}")
        write_workspace(workspace, n_questions, 64)
        words = ["evaluate", "--model-path", folder / "adapter", "--workspace", workspace.root]
        words += ["--batch-size", 32, "--max-new-tokens", 2]
        command = [sys.executable, "-c", PEAK, *map(str, words)]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    return {"peak_mb_few": peaks[0], "peak_mb": peaks[1], "memory_growth": peaks[1] / peaks[0]}


# --- table ------------------------------------------------------------------------------------------


def reached(key: str, value: float) -> str:
    sign, goal = GOALS[key]
    good = value >= goal if sign == ">=" else value <= goal
    return f"{sign} {goal:g} {'reached' if good else 'NOT reached'}"


def show(figures: dict[str, float], base: str, batch: int, n: int) -> None:
    console = Console(width=110)
    if "score_s" in figures:
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else "one CPU thread"
        table = Table(title=f"{base} on {where}, batches of {batch} against one question at a time")
        for name in ("answer", "tokens", "reference", "eegvlm", "times as fast", "goal"):
            table.add_column(name, justify="left" if name == "answer" else "right")
        for name, n_tokens, rival, ours, key in (
            ("label", LABEL_TOKENS, "reference_label", "generation_label", "_label"),
            ("with reasons", COT_TOKENS, "reference_cot", "generation_cot", ""),
            ("score, against label", LABEL_TOKENS, "reference_label", "score", "_label"),
            ("score, against reasons", COT_TOKENS, "reference_cot", "score", ""),
        ):
            key = f"{'score' if ours == 'score' else 'generation'}_vs_reference{key}"
            times = [f"{1e3 * figures[f'{way}_s']:.2f} ms" for way in (rival, ours)]
            goal = reached(key, figures[key]) if key in GOALS else ""
            table.add_row(name, str(n_tokens), *times, f"{figures[key]:.1f}", goal)
        console.print(table)
    if "peak_mb" in figures:
        print(
            f"Peak memory: {figures['peak_mb_few']:.0f} MiB for {n // 10:,} questions, "
            f"{figures['peak_mb']:.0f} MiB for {n:,}: {figures['memory_growth']:.3f} times as much "
            f"({reached('memory_growth', figures['memory_growth'])})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    parts = ("speed", "memory")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts)
    parser.add_argument("--base", choices=("tiny", "7b", "13b"), default="13b" if cuda else "tiny")
    parser.add_argument("--batch", type=int, default=32 if cuda else 64)
    parser.add_argument("--alone", type=int, default=4, help="questions of the reference per round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts")
    parser.add_argument("--questions", type=int, default=2000, help="for memory; and a tenth")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        if "speed" in options.only:
            figures |= speed(options.base, Path(name), options.batch, options.alone, options.rounds)
        if "memory" in options.only:
            figures |= memory(Path(name), options.questions)
    show(figures, options.base, options.batch, options.questions)
    if options.json:
        device = torch.cuda.get_device_name() if cuda else "cpu"
        rounded = {key: round(value, 5) for key, value in figures.items()}
        print(json.dumps({"device": device, "base": options.base, **rounded}))


if __name__ == "__main__":
    main()
