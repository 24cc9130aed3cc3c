"""Ways of asking 13B: modes, batches, and LoRA in three precisions."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from commands import PartError
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from scene import Scene

from eegtool.core.records import Question
from eegtool.core.workspace import Workspace
from eegtool.evaluate.task import questions_of
from eegtool.extract.features import load_features
from eegtool.inference.loaded import LoadedModel
from eegtool.model.adapters import inner, load_adapter, merge_lora
from eegtool.model.answer_form import AnswerForm
from eegtool.model.eegvlm import EEGVLM
from eegtool.model.loading import best_dtype
from eegtool.model.processor import Pixels, Processor

ROUNDS = 2  # the first of which only warms up


@dataclass(slots=True)
class Asked:
    """The model, and a batch to ask it about."""

    loaded: PeftModel | EEGVLM
    processor: Processor
    answers: AnswerForm
    questions: list[Question]
    pixels: list[Pixels]
    rows: np.ndarray
    reference: np.ndarray | None = None
    """Log-likelihoods of the first way that was measured."""

    def set_precision(self, precision: str) -> None:
        """Give LoRA float32, the precision of the base, or add it to the weights: in this order."""
        if precision == "merged":
            if isinstance(self.loaded, PeftModel):
                self.loaded = merge_lora(self.loaded)
            return
        if not isinstance(self.loaded, PeftModel):
            raise PartError("LoRA is merged already")
        dtype = torch.float32 if precision == "float32" else inner(self.loaded).dtype
        for layer in self.loaded.modules():
            if isinstance(layer, LoraLayer):
                layer.lora_A.to(dtype)
                layer.lora_B.to(dtype)


@cache
def asked_of(scene: Scene) -> Asked:
    """Load the model that was trained, and the largest batch."""
    trained = [scene.trained(f"13b-{name}") for name in ("zero2", "zero3", "small")]
    folder = next((f for f in trained if (f / "eegvlm.json").exists()), None)
    if folder is None:
        raise PartError("no training of 13B has left an adapter")
    cuda = torch.cuda.is_available()
    loaded, processor, contract = load_adapter(
        folder,
        base=None,
        dtype=best_dtype() if cuda else torch.bfloat16,
        device=torch.device("cuda" if cuda else "cpu"),
    )
    inner(loaded).drop_unread_layers()
    workspace = Workspace(scene.workspace)
    questions, _ = questions_of(workspace.questions)
    table = load_features(workspace.features("eval"), [q.sample_id for q in questions])
    batch = max(scene.scale.ask_batches)
    questions = (questions * batch)[:batch]
    images = workspace.images("eval")
    pixels = [processor.pixels(images / q.images[0]) for q in questions]
    rows = np.stack([table[q.sample_id] for q in questions])
    answers = AnswerForm.from_contract(contract.answers)
    return Asked(loaded, processor, answers, questions, pixels, rows)


def load(scene: Scene) -> dict[str, Any]:
    began = time.perf_counter()
    model = inner(asked_of(scene).loaded)
    return {"load_s": time.perf_counter() - began, "dtype": str(model.dtype)}


@torch.inference_mode()
def measure(scene: Scene, precision: str, mode: str, size: int) -> dict[str, Any]:
    """Return milliseconds per question, peak memory, and how far the scores are from the first ones."""
    asked = asked_of(scene)
    asked.set_precision(precision)
    model = LoadedModel(inner(asked.loaded), asked.processor, asked.answers)
    n = scene.scale.ask_batches[size]
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        replies = model.reply(asked.questions[:n], asked.pixels[:n], asked.rows[:n], mode)
        times.append(time.perf_counter() - began)
    figures = {"batch": n, "ms_per_question": 1e3 * statistics.median(times[1:]) / n}
    if cuda:
        figures["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    if mode != "generate":
        scores = np.stack([reply.log_likelihood for reply in replies])
        if asked.reference is None:
            asked.reference = scores
        known = min(n, len(asked.reference))
        apart = scores[:known] - asked.reference[:known]
        figures["largest_difference"] = float(np.abs(apart).max())
    return figures
