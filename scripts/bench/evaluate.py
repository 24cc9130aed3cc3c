"""How fast evaluate is, against loops that ask one question at a time, as ratios measured in one run.

reference   The loop of the reference (EEG-VLM's model_vqa), one question after the other: the whole features
            file is read for each, CLIP looks at the picture and at its placeholder, the same pixels, in one
            call of two, all N features go through the projector, and transformers' `generate` writes the
            answer with a KV cache. The goals are measured against it.
lean        The same loop without what the reference does in vain: one look through the layers that are
            read, one feature, nothing read. Nobody asks so; it shows what batches and our decoding gain by
            themselves.
generation  Our batches: the same questions, pictures and number of tokens. On a CPU in float32 all three
            must write the same texts.
score       The probabilities of the five stages out of one forward, against the loops that write an answer
            with reasons, and against those that write a label.
sharing     Words and probabilities (`--mode both`) against probabilities alone, on one layer as wide as those of
            LLaVA-1.5-13B, with its 1,152 visual tokens and labels of 8 tokens: the prompt is run once for both.
memory      Largest memory of a fresh process of `eegvlm evaluate` that answered few questions, and ten times
            as many.

No rival is slower than it need be: the reference draws its words and stops after 2,048 tokens at the latest;
here both loops take the likeliest one, in float32 on a CPU, and stop where the answer ends. The answer with
reasons has as many tokens as `--template cot --rationale measured` has on average: the texts are made here,
from a simulated night, and counted with the tokens of the model that is asked.

The rivals take turns on the same model; each ratio is the median of the rounds. Reading and preparing the
pictures counts everywhere. The head has no say about the end of an answer (its row is 0), so that all answers
have the length that is asked for.

On a CPU the model is `tiny`, and seconds are CPU time of one thread. On a GPU it is LLaVA-1.5-13B, built on the
device from its config with random weights, in bfloat16; it is asked in the tokens of `tiny`, and its answers
are as long as Vicuna's would be.

    python scripts/bench/evaluate.py --json
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import copy
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
from gpu.random_base import llava_15
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import GenerationConfig

from eegtool.core.options import AnswerMode
from eegtool.core.probabilities import Scaling
from eegtool.core.records import Epoch, Question, write_questions
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, write_json
from eegtool.extract.features import FeatureTable, Sidecar, load_features, write_features
from eegtool.inference.loaded import LoadedModel
from eegtool.inference.writing import Reply
from eegtool.model.adapters import Contract, add_lora, write_adapter
from eegtool.model.answer_form import AnswerForm
from eegtool.model.checkpoints import base_sha256, find_base, load_base
from eegtool.model.eegvlm import EEGVLM, FUSIONS, patches
from eegtool.model.processor import Pixels, PixelSpec, Processor
from eegtool.prepare.questions import QUESTION_TEMPLATES, RATIONALES, question
from eegtool.reasons.facts import measure
from eegtool.recordings.signals import band_pass
from eegtool.simulate.twins import load_twin, simulate_signal
from eegtool.simulate.waveforms import SFREQ_HZ

LABEL_TOKENS = AnswerForm().max_new_tokens
# English of measured reasons, with its many numbers, in Vicuna's tokens; its tokenizer is not at hand here.
VICUNA_CHARACTERS = 3.3
FEATURES = 1000  # of the evaluation side: a night
GOALS = {
    "generation_vs_reference_reasons": (">=", 8.0 if torch.cuda.is_available() else 5.0),
    "score_vs_reference_reasons": (">=", 20.0),
    "both_vs_score": ("<=", 1.15),
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


def load_model(base: str, layers: int | None = None) -> tuple[EEGVLM, Processor]:
    """Return the model, on its device, and the processor; of random weights perhaps a few layers only."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model, processor = load_base(find_base("tiny"), fusion="add", version="v1", dtype=dtype)
    if base != "tiny":
        torch.manual_seed(0)
        config = llava_15(base)
        config.image_token_index = model.config.image_token_id
        if layers:
            config.text_config.num_hidden_layers = layers
            config.vision_config.num_hidden_layers = layers + 1  # the last one is not read
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


def reasons_tokens(base: str, processor: Processor) -> int:
    """Return how many tokens an answer with measured reasons has on average, its end included."""
    night = load_twin("SC4001E0").condensed(12)
    signal = band_pass(simulate_signal(night, seed=1)[0], SFREQ_HZ, 0.3, 35.0)
    onsets_s = [30.0 * i for i in range(night.n_epochs)]
    facts = measure(signal, SFREQ_HZ, onsets_s)
    texts = [
        RATIONALES["measured"](stage, f) for stage, f in zip(night.stages(), facts, strict=True)
    ]
    if base != "tiny":
        return round(statistics.mean(map(len, texts)) / VICUNA_CHARACTERS) + 1
    prompt = len(processor.encode_prompt("?", 2))
    return round(
        statistics.mean(len(processor.encode("?", 2, t).input_ids) - prompt for t in texts)
    )


def apart(pixels: np.ndarray) -> list[Pixels]:
    """Return each picture of float32 ``[B, 3, S, S]`` by itself."""
    return [{"pixel_values": torch.from_numpy(picture)[None]} for picture in pixels]


@dataclass(frozen=True, slots=True)
class Scene:
    """The model and the questions about which all rivals ask it."""

    model: EEGVLM
    whole_tower: Any
    """The tower with the layers that are never read, through which the reference's pictures go."""
    processor: Processor
    workspace: Workspace
    features: FeatureTable

    def pixels(self, asked: Sequence[Question]) -> np.ndarray:
        """Read the pictures of some questions."""
        spec, folder = self.processor.pixel_spec, self.workspace.images("eval")
        return np.stack([spec.pixels(folder / q.images[0]) for q in asked])

    def rows(self, asked: Sequence[Question]) -> np.ndarray:
        """Return the features of some questions."""
        return np.stack([self.features[q.sample_id] for q in asked])

    def reference_embeds(self, ids: torch.Tensor, asked: Question) -> torch.Tensor:
        """Put text, picture and feature together as the reference does."""
        model, device = self.model, self.model.device
        pair = torch.from_numpy(self.pixels([asked])).to(device, model.dtype).expand(2, -1, -1, -1)
        states = self.whole_tower(pair, output_hidden_states=True).hidden_states[-2]
        low = model.model.multi_modal_projector(states[:, 1:])
        every = torch.from_numpy(np.load(self.workspace.features("eval"))).to(device, model.dtype)
        high = model.model.multi_modal_projector(every)
        row = self.features.row_of[asked.sample_id]
        visual = FUSIONS[model.fusion].fuse(low[:1], high[row : row + 1])
        is_image = ids == model.config.image_token_id
        text = model.get_input_embeddings()(ids.masked_fill(is_image, 0))
        return text.masked_scatter(is_image.unsqueeze(-1), visual)

    def lean_embeds(self, ids: torch.Tensor, asked: Question) -> torch.Tensor:
        """Put them together with nothing done in vain."""
        both = (
            torch.from_numpy(v).to(self.model.device)
            for v in (self.pixels([asked]), self.rows([asked]))
        )
        return self.model.embed(ids, *both)

    def reference(self, asked: Sequence[Question], n_tokens: int) -> list[str]:
        return self.one_by_one(self.reference_embeds, asked, n_tokens)

    def lean(self, asked: Sequence[Question], n_tokens: int) -> list[str]:
        return self.one_by_one(self.lean_embeds, asked, n_tokens)

    @torch.inference_mode()
    def one_by_one(
        self,
        embeds: Callable[[torch.Tensor, Question], torch.Tensor],
        asked: Sequence[Question],
        n_tokens: int,
    ) -> list[str]:
        """Answer one question at a time."""
        texts, tokenizer = [], self.processor.tokenizer
        for q in asked:
            prompt = self.processor.encode_prompt(q.text, len(q.images))
            ids = torch.tensor([prompt], device=self.model.device)
            new = self.model.generate(
                inputs_embeds=embeds(ids, q),
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
        """Answer a batch."""
        return [reply.text for reply in self.ask(asked, "generate", n_tokens)]

    def score(self, asked: Sequence[Question]) -> np.ndarray:
        """Return probabilities of the stages for a batch."""
        replies = self.ask(asked, "score", 1)
        return Scaling().probabilities(np.stack([reply.log_likelihood for reply in replies]))

    def ask(self, asked: Sequence[Question], mode: AnswerMode, n_tokens: int) -> list[Reply]:
        model = LoadedModel(self.model, self.processor, AnswerForm(max_new_tokens=n_tokens))
        return model.reply(asked, apart(self.pixels(asked)), self.rows(asked), mode)


# --- speed ------------------------------------------------------------------------------------------


def now() -> float:
    """Return seconds: on a CPU those that this process computed, whatever else the machine does."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


LOOPS = ("reference", "lean")
MODES: tuple[AnswerMode, ...] = ("score", "both")


def speed(base: str, folder: Path, batch: int, n_alone: int, n_rounds: int) -> dict[str, float]:
    """Return seconds per question and ratios."""
    torch.set_num_threads(1)
    model, processor = load_model(base)
    workspace = Workspace(folder / "speed")
    questions = write_workspace(workspace, FEATURES, processor.pixel_spec.size)
    features = load_features(workspace.features("eval"), [q.sample_id for q in questions])
    whole_tower = copy.deepcopy(model.model.vision_tower)
    model.drop_unread_layers()  # as `eegvlm evaluate` does
    scene = Scene(model, whole_tower, processor, workspace, features)
    asked = questions[-batch:]
    alone = asked[:n_alone]
    if base == "tiny":
        texts = [way(alone, 20) for way in (scene.reference, scene.lean, scene.generation)]
        if not texts[0] == texts[1] == texts[2]:
            raise SystemExit(f"The rivals write different texts: {texts}.")
    n_reasons = reasons_tokens(base, processor)

    def seconds(ask: Callable[..., Any], asked: list[Question], *n_tokens: int) -> float:
        began = now()
        ask(asked, *n_tokens)
        return (now() - began) / len(asked)

    ways: dict[str, tuple[Any, ...]] = {"score": (scene.score, asked)}
    for form, n in (("label", LABEL_TOKENS), ("reasons", n_reasons)):
        for loop in LOOPS:
            ways[f"{loop}_{form}"] = (getattr(scene, loop), alone, n)
        ways[f"generation_{form}"] = (scene.generation, asked, n)
    for ask, some, *n_tokens in ways.values():
        ask(some, *(min(n, 2) for n in n_tokens))  # what is done once is done now
    rounds = [{name: seconds(*way) for name, way in ways.items()} for _ in range(n_rounds)]
    figures = {f"{name}_s": statistics.median(r[name] for r in rounds) for name in ways}
    figures["reasons_tokens"] = n_reasons
    for loop in LOOPS:
        for form in ("label", "reasons"):
            for ours, way in (("generation", f"generation_{form}"), ("score", "score")):
                times = statistics.median(r[f"{loop}_{form}"] / r[way] for r in rounds)
                figures[f"{ours}_vs_{loop}_{form}"] = times
    return figures


def sharing(folder: Path, batch: int, n_rounds: int) -> dict[str, float]:
    """Return how much longer words and probabilities take than probabilities alone."""
    torch.set_num_threads(1)
    model, processor = load_model("13b", layers=1)
    model.drop_unread_layers()
    workspace = Workspace(folder / "sharing")
    asked = write_workspace(workspace, batch, processor.pixel_spec.size)
    features = load_features(workspace.features("eval"), [q.sample_id for q in asked])
    scene = Scene(model, None, processor, workspace, features)
    scene.ask(asked[:1], "score", 1)  # what is done once is done now
    ratios, seconds = [], []
    for _ in range(n_rounds):
        times = {}
        for mode in MODES:
            began = now()
            scene.ask(asked, mode, LABEL_TOKENS)
            times[mode] = now() - began
        ratios.append(times["both"] / times["score"])
        seconds.append(times["score"] / batch)
    figures = {
        "wide_score_s": statistics.median(seconds),
        "both_vs_score": statistics.median(ratios),
    }
    return figures | {"prompt_tokens": len(processor.encode_prompt(asked[0].text, 2))}


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
        for name in (
            "eegvlm",
            "the loop writes",
            "tokens",
            "against",
            "loop",
            "eegvlm ",
            "times",
            "goal",
        ):
            table.add_column(name, justify="left" if name in ("eegvlm", "against") else "right")
        lengths = {"label": LABEL_TOKENS, "reasons": int(figures["reasons_tokens"])}
        for ours in ("generation", "score"):
            for form, n_tokens in lengths.items():
                for loop in LOOPS:
                    key = f"{ours}_vs_{loop}_{form}"
                    way = "score" if ours == "score" else f"generation_{form}"
                    times = [f"{1e3 * figures[f'{w}_s']:.2f} ms" for w in (f"{loop}_{form}", way)]
                    goal = reached(key, figures[key]) if key in GOALS else ""
                    ratio = f"{figures[key]:.1f}"
                    table.add_row(ours, form, str(n_tokens), loop, *times, ratio, goal)
        console.print(table)
    if "both_vs_score" in figures:
        print(
            f"Both words and probabilities: {figures['both_vs_score']:.3f} times as long as probabilities "
            f"({1e3 * figures['wide_score_s']:,.0f} ms a question of {figures['prompt_tokens']:,.0f} tokens, "
            f"one layer of 13B; {reached('both_vs_score', figures['both_vs_score'])})"
        )
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
    parts = ("speed", "sharing", "memory")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts)
    parser.add_argument("--base", choices=("tiny", "7b", "13b"), default="13b" if cuda else "tiny")
    parser.add_argument("--batch", type=int, default=32 if cuda else 64)
    parser.add_argument("--wide-batch", type=int, default=32 if cuda else 2, help="for sharing")
    parser.add_argument("--alone", type=int, default=4, help="questions of the reference per round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts")
    parser.add_argument("--questions", type=int, default=2000, help="for memory; and a tenth")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        if "speed" in options.only:
            figures |= speed(options.base, Path(name), options.batch, options.alone, options.rounds)
        if "sharing" in options.only:
            figures |= sharing(Path(name), options.wide_batch, options.rounds)
        if "memory" in options.only:
            figures |= memory(Path(name), options.questions)
    show(figures, options.base, options.batch, options.questions)
    if options.json:
        device = torch.cuda.get_device_name() if cuda else "cpu"
        rounded = {key: round(value, 5) for key, value in figures.items()}
        print(json.dumps({"device": device, "base": options.base, **rounded}))


if __name__ == "__main__":
    main()
