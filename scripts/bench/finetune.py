"""How fast a training step of finetune is, against a step that does the reference's work.

reference   CLIP sees each picture and its placeholder, the same pixels twice; all N features of the
            fine-tune side go through the projector, of which the batch needs B; the head computes logits
            for every token. Features stay on the device: reading the file at every step is not counted.
add         Ours, the same loss: one look, B features, logits where there are labels.
token       Ours, with one token for the feature instead of a second block of picture tokens.

A step is forward, backward and AdamW on the same model with LoRA, the same pictures and texts; the three
take turns, and the fastest step of each counts. Before, `reference` and `add` must agree on the loss.

On a CPU the model is `tiny`, seconds are CPU time of one thread, and memory is the peak of a fresh process.
On a GPU it is LLaVA-1.5-13B, built on the device from its config with random weights, in bfloat16 with
gradient checkpointing.

MFU: floating point operations that the step needs, per second, over the peak of the GPU (dense bfloat16,
from the vendor's data sheets; --peak-tflops for others). Needed are, after Chowdhery et al. 2022 (PaLM,
arXiv 2204.02311, appendix B), per weight and token 2 forward, 2 backward through the activations and 2 for
the gradient of the weight; so 4 for the frozen language model (PaLM trains all and counts 6), 6 for LoRA and
projector, 2 for the tower; attention 12 D T per layer and token, of which the causal mask leaves half; the
head where there are labels. What is done twice, by checkpointing or by the reference, does not count as
needed; HFU counts it.

    python scripts/bench/finetune.py --json
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from eegtool.model.adapters import add_lora
from eegtool.model.checkpoints import find_base, load_base
from eegtool.model.eegvlm import EEGVLM, FUSIONS, patches

WAYS = ("reference", "add", "token")
IGNORED = -100
DEMO_ROWS = 5239  # epochs of the fine-tune side of `eegvlm demo`
DROPOUT = 0.05
SKIPPED = 1  # first step of a way, in which memory is still sought

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
    """What is measured."""

    base: str
    batch: int
    rows: int
    """Features of the fine-tune side."""
    text_tokens: int
    """Of a prompt, visual tokens not counted."""
    answer_tokens: int
    """Tokens that carry a label."""
    lora_r: int
    gradient_checkpointing: bool
    steps: int
    rounds: int

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32


def llava_15(size: str) -> LlavaConfig:
    """Return the configuration of LLaVA-1.5 on Vicuna, with CLIP ViT-L/14 at 336 pixels."""
    language = {
        "7b": {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        "13b": {
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
        },
    }
    tower = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(**language[size], vocab_size=32064, max_position_embeddings=4096)
    return LlavaConfig(vision_config=tower, text_config=text, image_token_index=32000)


class Scene:
    """The model with LoRA, a batch for each way, and its optimizer."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        torch.manual_seed(0)
        if setup.base == "tiny":
            model, _ = load_base(find_base("tiny"), fusion="add", version="v1", dtype=setup.dtype)
            model.to(setup.device)
        else:
            with torch.device(setup.device):
                model = EEGVLM._from_config(llava_15(setup.base), dtype=setup.dtype)
        model.config.text_config.use_cache = False
        self.peft_model = add_lora(model, r=setup.lora_r, alpha=2 * setup.lora_r, dropout=DROPOUT)
        # As DeepSpeed does: what is trained has the precision of the rest, and a copy in float32.
        self.peft_model.to(setup.device, setup.dtype)
        if setup.gradient_checkpointing:
            renamed = getattr(model, "activation_checkpointing_enable", None)
            (renamed or model.gradient_checkpointing_enable)({"use_reentrant": False})
        self.peft_model.train()
        self.model: EEGVLM = model
        self.trained = [p for p in self.peft_model.parameters() if p.requires_grad]
        self.masters = [p.detach().float().clone() for p in self.trained]
        self.optimizer = torch.optim.AdamW(self.masters, lr=1e-5, weight_decay=0.0, fused=True)
        size = model.config.vision_config.image_size
        like = {"device": setup.device, "dtype": setup.dtype}
        self.pixels = torch.randn(setup.batch, 3, size, size, **like)
        self.features = torch.randn(setup.rows, 1, 1024, **like)
        self.chosen = torch.randperm(setup.rows)[: setup.batch].to(setup.device)

    def text(self, way: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids and labels ``[B, T]``: text, the visual tokens, text, the answer."""
        setup, image = self.setup, self.model.config.image_token_id
        n_visual = sum(FUSIONS["add" if way == "reference" else way].lengths(self.patches))
        generator = torch.Generator().manual_seed(0)
        texts = torch.randint(
            5, 200, (setup.batch, setup.text_tokens + setup.answer_tokens), generator=generator
        )
        texts[texts == image] = 5
        visual = torch.full((setup.batch, n_visual), image)
        begin = setup.text_tokens // 2
        ids = torch.cat([texts[:, :begin], visual, texts[:, begin:]], dim=1)
        labels = torch.full_like(ids, IGNORED)
        labels[:, -setup.answer_tokens :] = ids[:, -setup.answer_tokens :]
        return ids.to(setup.device), labels.to(setup.device)

    @property
    def patches(self) -> int:
        return patches(self.model.config)

    def loss(self, way: str) -> torch.Tensor:
        ids, labels = self.text(way)
        if way == "reference":
            return self._reference_loss(ids, labels)
        self.model.fusion = way
        found: torch.Tensor = self.peft_model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=self.pixels,
            high_level_features=self.features[self.chosen],
            labels=labels,
        ).loss
        return found

    def _reference_loss(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        parts = self.model.model
        twice = self.pixels.repeat_interleave(2, dim=0)  # [Image1, Image1] of each sample
        with torch.no_grad():
            states = parts.vision_tower(twice, output_hidden_states=True).hidden_states
        low = parts.multi_modal_projector(states[-2][:, 1:])
        high = parts.multi_modal_projector(self.features)  # all N
        first = low[0::2]  # what is made of the placeholder is used by nobody
        visual = torch.cat([first, first + high[self.chosen]], dim=1)
        is_image = ids == self.model.config.image_token_id
        text = self.model.get_input_embeddings()(ids.masked_fill(is_image, 0))
        embeds = text.masked_scatter(is_image.unsqueeze(-1), visual)
        mask = torch.ones_like(ids)
        states = parts.language_model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        logits = self.model.lm_head(states).float()
        return cross_entropy(
            logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)
        )

    def step(self, way: str) -> None:
        self.loss(way).backward()
        for master, parameter in zip(self.masters, self.trained, strict=True):
            master.grad = parameter.grad.float() if parameter.grad is not None else None
            parameter.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_copy_(self.trained, self.masters)

    def check(self) -> None:
        """Refuse to compare ways that do not compute the same."""
        self.peft_model.eval()
        with torch.no_grad():
            reference, ours = float(self.loss("reference")), float(self.loss("add"))
        self.peft_model.train()
        tolerance = 1e-4 if self.setup.dtype == torch.float32 else 0.02
        if not abs(reference - ours) <= tolerance * abs(reference):
            raise SystemExit(f"the ways differ: loss {reference} of the reference, {ours} of ours")

    def flops(self, way: str) -> tuple[float, float]:
        """Return the operations of a step in TFLOP: those needed, and those done (see above)."""
        setup, text = self.setup, self.model.config.text_config
        n_tokens = self.text(way)[0].shape[1]
        lora = sum(p.numel() for n, p in self.peft_model.named_parameters() if "lora_" in n)
        frozen = _weights(self.model.model.language_model) - lora
        attention = text.num_hidden_layers * text.hidden_size * n_tokens**2
        forward = 2 * (frozen + lora) * n_tokens + 2 * attention
        head = 4 * text.hidden_size * text.vocab_size
        projector = 6 * _weights(self.model.model.multi_modal_projector)
        n_layers = self.model.config.vision_config.num_hidden_layers
        needed = (4 * frozen + 6 * lora) * n_tokens + 6 * attention
        needed += self._looking(n_layers - 1) + head * setup.answer_tokens
        needed += projector * (self.patches + 1)  # the patches of a sample, and its feature
        done = needed + forward * setup.gradient_checkpointing
        done += self._looking(n_layers) - self._looking(n_layers - 1)  # runs, though -2 is taken
        if way == "reference":
            done += self._looking(n_layers) + head * (n_tokens - setup.answer_tokens)
            done += projector * (setup.rows / setup.batch - 1 + self.patches)
        return needed * setup.batch / 1e12, done * setup.batch / 1e12

    def _looking(self, n_layers: int) -> float:
        """Return the operations of so many layers of the tower on one picture."""
        tower, width = self.model.model.vision_tower, self.model.config.vision_config.hidden_size
        seen = self.patches + 1
        drawn = sum(m.weight.numel() for m in tower.modules() if isinstance(m, torch.nn.Conv2d))
        layers = 2 * _weights(tower.encoder.layers[:n_layers]) * seen
        return layers + 4 * n_layers * width * seen**2 + 2 * drawn * self.patches


def _weights(modules: torch.nn.Module) -> int:
    """Count the weights of the linear layers: those that tokens are multiplied with."""
    linear = [m for m in modules.modules() if isinstance(m, torch.nn.Linear)]
    return sum(m.weight.numel() for m in linear)


def _now() -> float:
    """Return seconds: on a CPU those that this process computed, whatever else the machine does."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@contextmanager
def one_thread() -> Any:
    """Let CPU time be seconds: of one thread they are the same, however busy the machine is."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _peak_of_process(setup: Setup, way: str) -> float:
    """Return the peak memory in MiB of this, a fresh, process after a few steps."""
    scene = Scene(setup)
    with one_thread():
        for _ in range(2):
            scene.step(way)
    # VmHWM is of this program alone; getrusage would also count its parent, this bench.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(setup: Setup, ways: tuple[str, ...] = WAYS) -> dict[str, dict[str, float]]:
    """Measure the fastest step of each way, in turns.

    Returns
    -------
    dict
        By way: seconds, samples and tokens per second, peak memory in MiB, TFLOP needed and done.
    """
    cuda = setup.device.type == "cuda"
    scene = Scene(setup)
    scene.check()
    best = dict.fromkeys(ways, float("inf"))
    peak = dict.fromkeys(ways, 0.0)
    with one_thread():
        for _ in range(setup.rounds):
            for way in ways:
                if cuda:
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                for i in range(SKIPPED + setup.steps):
                    began = _now()
                    scene.step(way)
                    if i >= SKIPPED:
                        best[way] = min(best[way], _now() - began)
                if cuda:
                    peak[way] = torch.cuda.max_memory_allocated() / 2**20
    figures = {}
    for way in ways:
        if not cuda:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                peak[way] = pool.submit(_peak_of_process, setup, way).result()
        n_tokens = scene.text(way)[0].numel()
        needed, done = scene.flops(way)
        figures[way] = {
            "seconds": best[way],
            "samples_per_s": setup.batch / best[way],
            "tokens_per_s": n_tokens / best[way],
            "peak_mib": peak[way],
            "tflop_needed": needed,
            "tflop_done": done,
        }
    return figures


def peak_tflops(asked: float) -> float:
    """Return the peak of this GPU in TFLOP/s; 0 where none is known, so that there is no MFU."""
    if asked or not torch.cuda.is_available():
        return asked if torch.cuda.is_available() else 0.0
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAKS.items() if part in name), 0.0)


def show(setup: Setup, figures: dict[str, dict[str, float]], goals: dict[str, Any]) -> None:
    cuda = setup.device.type == "cuda"
    where = torch.cuda.get_device_name() if cuda else "one CPU thread"
    table = Table(
        title=f"{setup.base} on {where}, batch {setup.batch}, LoRA r {setup.lora_r}, "
        f"{setup.rows:,} features{', gradient checkpointing' * setup.gradient_checkpointing}"
    )
    table.add_column("step")
    for name in ("samples/s", "tokens/s", "vs reference", "MFU", "HFU", "peak MiB", "TFLOP done"):
        table.add_column(name, justify="right")
    for way, row in figures.items():
        mfu = [f"{row[name]:.3f}" if name in row else "-" for name in ("mfu", "hfu")]
        table.add_row(
            way,
            f"{row['samples_per_s']:.2f}",
            f"{row['tokens_per_s']:,.0f}",
            f"{row['vs_reference']:.2f}" if "vs_reference" in row else "-",
            *mfu,
            f"{row['peak_mib']:,.0f}",
            f"{row['tflop_done']:.3g}",
        )
    Console(width=120).print(table)
    for name, (value, goal) in goals.items():
        print(
            f"{name}: {value:.3f} (goal >= {goal}) {'reached' if value >= goal else 'NOT reached'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--only", choices=WAYS, nargs="+", default=WAYS)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--base", choices=("tiny", "7b", "13b"), default="13b" if cuda else "tiny")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--rows", type=int, default=DEMO_ROWS, help="features of the fine-tune side"
    )
    parser.add_argument("--text-tokens", type=int, default=40, help="of a prompt, without pictures")
    parser.add_argument("--answer-tokens", type=int, default=3, help="of an answer, with its end")
    parser.add_argument("--lora-r", type=int, default=128 if cuda else 16)
    parser.add_argument(
        "--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=cuda
    )
    parser.add_argument("--steps", type=int, default=3, help="of each way in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the GPU, for MFU")
    options = parser.parse_args()
    setup = Setup(**{name: getattr(options, name) for name in Setup.__dataclass_fields__})
    figures = measure(setup, tuple(options.only))
    peak = peak_tflops(options.peak_tflops)
    for row in figures.values():
        if peak:
            row["mfu"] = row["tflop_needed"] / row["seconds"] / peak
            row["hfu"] = row["tflop_done"] / row["seconds"] / peak
        if "reference" in figures:
            row["vs_reference"] = figures["reference"]["seconds"] / row["seconds"]
    goals = {}
    if {"reference", "add"} <= figures.keys():
        goals["add_vs_reference"] = (figures["add"]["vs_reference"], 1.5 if cuda else 1.3)
    if peak and "add" in figures:
        goals["mfu"] = (figures["add"]["mfu"], 0.5)
    show(setup, figures, goals)
    if options.json:
        told = {way: {k: round(v, 4) for k, v in row.items()} for way, row in figures.items()}
        reached = {name: round(value, 4) for name, (value, _) in goals.items()}
        device = torch.cuda.get_device_name() if cuda else "cpu"
        print(json.dumps({"device": device, "base": setup.base, **told, **reached}))


if __name__ == "__main__":
    main()
