"""Logits of our model, held against a plain LLaMA on embeddings put together here by the paper's formula.

The reference side is transformers' `LlamaForCausalLM` and `CLIPVisionModel` with the same weights, read
from the same file, and the lines below; none of our code is in it. X_low = P(V), X_high = P(V) + P(r), where
P is linear, GELU, linear; V the tower's last layer but one without the class token; r the feature of that
very epoch. LoRA is multiplied out into the weights: W + α/r · B A. It sees one sample at a time, so that no
padding and no neighbour can matter. Our side is what training runs: files, join by id, dataset, collator,
model. Started by DeepSpeed's launcher, this file is also a rank (see `rank`).
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy, gelu, linear
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from eegtool.core.records import read_conversations
from eegtool.extract.features import Sidecar, load_features, write_features
from eegtool.finetune.data import FinetuneDataset, collate
from eegtool.model.adapters import add_lora
from eegtool.model.checkpoints import find_base, load_base, load_processor

TOLERANCE = 1e-4
PATCHES = 16
LORA_R, LORA_ALPHA = 4, 12
QUESTIONS = (
    "Which sleep stage does this 30-second EEG epoch show?",
    "Stage?",
    "Which sleep stage does this epoch show? Answer with one of W, N1, N2, N3 or REM.",
)
ANSWERS = ("N2", "The EEG shows slow waves, so it is N3", "REM", "W")
N = 7  # a last batch is short whenever there are 2, 3, 4 or 5 in a batch


@dataclass(frozen=True)
class Case:
    """A base model and a few samples on disk."""

    root: Path

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.root / "eeg_ft.json").read_text())
        return rows


def drawn(name: str, *shape: int) -> torch.Tensor:
    """Draw numbers that depend on nothing but a name."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def lora_weight(layer: str, which: str, *shape: int) -> torch.Tensor:
    return 0.05 * drawn(f"{layer}.lora_{which}", *shape)


@pytest.fixture(scope="module")
def case(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Write them: every sample has a picture, feature, question length and answer length of its own."""
    case = Case(tmp_path_factory.mktemp("parity"))
    shutil.copytree(tiny, case.base)
    weights = load_file(case.base / "model.safetensors")
    # Made strong, so that an error anywhere moves the logits (see `test_other_formulas_...`).
    weights["model.vision_tower.embeddings.patch_embedding.weight"] *= 50
    for name in weights:
        if "multi_modal_projector" in name or "lm_head" in name:
            weights[name] = weights[name] * 4 + 0.05 * drawn(name, *weights[name].shape)
    save_file(weights, case.base / "model.safetensors", {"format": "pt"})
    rows: list[dict[str, Any]] = []
    for i in range(N):
        name = f"S{i % 2}E0-{i:04d}"
        picture = np.random.default_rng(i).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(picture).save(case.root / f"{name}.png")
        said = [
            {"from": "human", "value": f"<image>\n<image>\n{QUESTIONS[i % len(QUESTIONS)]}"},
            {"from": "gpt", "value": ANSWERS[i % len(ANSWERS)]},
        ]
        rows.append({"id": name, "image": [f"{name}.png"] * 2, "conversations": said})
    (case.root / "eeg_ft.json").write_text(json.dumps(rows))
    # The rows of the features file stand in another order than the samples.
    ids = [row["id"] for row in rows[3:] + rows[:3]]
    features = torch.stack([drawn(sample_id, 1, 1024) for sample_id in ids]).numpy()
    sidecar = Sidecar(tuple(ids), "resnet18", "", "")
    write_features(case.root / "train_high_level_features.npy", features, sidecar)
    return case


# --- the reference: transformers, and the formula ---


class Reference:
    """A plain LLaMA, a plain CLIP and a projector of two layers."""

    def __init__(self, base: Path) -> None:
        weights = load_file(base / "model.safetensors")
        config = json.loads((base / "config.json").read_text())
        self.llama = LlamaForCausalLM(LlamaConfig(**config["text_config"])).eval()
        own = {
            name.replace("model.language_model.", "model."): weight
            for name, weight in weights.items()
            if name.startswith(("model.language_model.", "lm_head."))
        }
        self.llama.load_state_dict(own)
        for name, layer in self.llama.model.layers.named_modules():
            if isinstance(layer, torch.nn.Linear):
                a = lora_weight(f"layers.{name}", "A", LORA_R, layer.in_features)
                b = lora_weight(f"layers.{name}", "B", layer.out_features, LORA_R)
                layer.weight.data += LORA_ALPHA / LORA_R * b @ a
        self.clip = CLIPVisionModel(CLIPVisionConfig(**config["vision_config"])).eval()
        tower = "model.vision_tower."
        self.clip.load_state_dict(
            {k.removeprefix(tower): v for k, v in weights.items() if k.startswith(tower)}
        )
        projector = "model.multi_modal_projector."
        self.projector = [
            weights[f"{projector}{name}"]
            for name in ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias")
        ]
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        told = json.loads((base / "preprocessor_config.json").read_text())
        self.mean, self.std = np.array(told["image_mean"]), np.array(told["image_std"])

    def project(self, x: torch.Tensor) -> torch.Tensor:
        w1, b1, w2, b2 = self.projector
        return linear(gelu(linear(x, w1, b1)), w2, b2)

    def patch_features(self, picture: Path) -> torch.Tensor:
        pixels = (np.asarray(Image.open(picture)) / 255 - self.mean) / self.std
        images = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
        return self.clip(images, output_hidden_states=True).hidden_states[-2][0, 1:]

    def blocks(self, v: torch.Tensor, r: torch.Tensor, formula: str) -> list[torch.Tensor]:
        """Return what stands in the place of the first and of the second image."""
        low, high = self.project(v), self.project(r)
        return {
            "add": [low, low + high.expand(PATCHES, -1)],
            "token": [low, high],
            "none": [low, low[:0]],
            # Formulas that are wrong, to see that they would be noticed:
            "both": [low + high, low + high],
            "swapped": [low + high, low],
            "first patch only": [low, torch.cat([low[:1] + high, low[1:]])],
            "added before P": [low, self.project(v + r)],
            "no feature": [low, low],
        }[formula]

    @torch.no_grad()
    def logits(self, row: dict[str, Any], folder: Path, formula: str, r_of: str = "") -> Any:
        """Return the logits of one sample, ``[T, vocabulary]``, and the length of its answer."""
        v = self.patch_features(folder / row["image"][0])
        r = drawn(r_of or row["id"], 1, 1024)
        human, gpt = (turn["value"] for turn in row["conversations"])
        ids = self.tokenizer(
            f"This is a VQA task. Question: {human} The answer is: {gpt}"
        ).input_ids
        ids = [*ids, self.tokenizer.eos_token_id]
        blocks = iter(self.blocks(v, r, formula))
        image = self.tokenizer.convert_tokens_to_ids("<image>")
        assert ids.count(image) == 2
        embed = self.llama.get_input_embeddings()
        pieces = [next(blocks) if i == image else embed(torch.tensor([i])) for i in ids]
        logits = self.llama(inputs_embeds=torch.cat(pieces)[None]).logits[0]
        answer = [*self.tokenizer(f" {gpt}").input_ids[1:], self.tokenizer.eos_token_id]
        assert ids[-len(answer) :] == answer
        return logits, answer


@pytest.fixture(scope="module")
def reference(case: Case) -> Reference:
    return Reference(case.base)


@pytest.fixture(scope="module")
def expected(case: Case, reference: Reference) -> Any:
    """Return by fusion what is right for each sample; made once."""
    return cache(lambda fusion: [reference.logits(row, case.root, fusion) for row in case.rows])


# --- ours ---


def our_model(case: Case, fusion: str) -> tuple[Any, Any]:
    """Load the base, with LoRA whose weights are the drawn ones, as a rank of the training does."""
    model, processor = load_base(
        find_base(str(case.base)), fusion=fusion, version="v1", dtype=torch.float32
    )
    peft_model = add_lora(model, r=LORA_R, alpha=LORA_ALPHA, dropout=0.05)
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name:
            layer, which = name.split("language_model.")[1].split(".lora_")
            parameter.data.copy_(lora_weight(layer, which[0], *parameter.shape))
    return peft_model.eval(), processor


def our_dataset(case: Case, processor: Any) -> FinetuneDataset:
    rows = read_conversations(case.root / "eeg_ft.json")
    table = load_features(
        case.root / "train_high_level_features.npy", [row.sample_id for row in rows]
    )
    return FinetuneDataset(rows, case.root, table, processor, 4096)


@pytest.fixture(scope="module")
def loaded(case: Case) -> tuple[Any, Any]:
    return our_model(case, "add")


@pytest.fixture
def ours(loaded: tuple[Any, Any], case: Case, request: pytest.FixtureRequest) -> Any:
    """Return model and dataset for the fusion of the test."""
    fusion = request.param
    model, _ = loaded
    model.get_base_model().fusion = fusion
    return model, our_dataset(case, processor_for(case, fusion))


def processor_for(case: Case, fusion: str) -> Any:
    return load_processor(find_base(str(case.base)), fusion=fusion, version="v1")


def batches(
    dataset: FinetuneDataset, order: Sequence[int], size: int
) -> Iterator[tuple[Sequence[int], dict[str, torch.Tensor]]]:
    for start in range(0, len(order), size):
        here = order[start : start + size]
        items = [dataset[i] for i in here]
        batch = collate(items, dataset.processor)
        lengths = torch.tensor([len(item["input_ids"]) for item in items])
        columns = torch.arange(batch["input_ids"].shape[1])
        yield here, batch | {"attention_mask": (columns < lengths[:, None]).long()}


def padded(batch: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    """Pad as asked: the collator's on the right, as much on the left, or more than is needed."""
    text = {k: v for k, v in batch.items() if v.ndim == 2}
    if how == "left":
        empty = (batch["attention_mask"] == 0).sum(dim=1).tolist()
        moved = {
            k: torch.stack([row.roll(n) for row, n in zip(v, empty, strict=True)])
            for k, v in text.items()
        }
        return batch | moved
    if how == "more":
        fill = {"input_ids": 3, "labels": -100, "attention_mask": 0}
        return batch | {
            k: torch.nn.functional.pad(v, (0, 9), value=fill[k]) for k, v in text.items()
        }
    return batch


def furthest(
    logits: torch.Tensor, mask: torch.Tensor, here: Sequence[int], right: Sequence[Any]
) -> float:
    """Return how far any logit is from the reference, padding left out."""
    worst = 0.0
    for i, row, own in zip(here, logits, mask.bool(), strict=True):
        expected_logits, _ = right[i]
        assert row[own].shape == expected_logits.shape
        worst = max(worst, float((row[own] - expected_logits).abs().max()))
    return worst


ORDERS = {"file": range(N), "reversed": range(N)[::-1], "shuffled": (4, 0, 6, 2, 5, 1, 3)}


@pytest.mark.parametrize("padding", ["right", "left", "more"])
@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("size", [1, 2, 3, 4, N])
@pytest.mark.parametrize("ours", ["add"], indirect=True)
@torch.no_grad()
def test_add(ours: Any, expected: Any, size: int, order: str, padding: str) -> None:
    model, dataset = ours
    seen: list[int] = []
    for here, batch in batches(dataset, ORDERS[order], size):
        batch = padded(batch, padding)
        mask = batch["attention_mask"]
        if padding != "left":  # as in training
            del batch["attention_mask"]
        del batch["labels"]
        assert furthest(model(**batch).logits, mask, here, expected("add")) < TOLERANCE
        seen += here
    assert sorted(seen) == list(range(N))


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("size", [1, 3, N])
@pytest.mark.parametrize("ours", ["token", "none"], indirect=True)
@torch.no_grad()
def test_token_and_none(ours: Any, expected: Any, size: int, padding: str) -> None:
    model, dataset = ours
    fusion = model.get_base_model().fusion
    for here, batch in batches(dataset, ORDERS["shuffled"], size):
        batch = padded(batch, padding)
        mask = batch["attention_mask"]
        if padding != "left":  # as in training
            del batch["attention_mask"]
        del batch["labels"]
        assert furthest(model(**batch).logits, mask, here, expected(fusion)) < TOLERANCE


@pytest.mark.parametrize("size", [2, 3, N])
@pytest.mark.parametrize("ours", ["add", "token", "none"], indirect=True)
@torch.no_grad()
def test_the_loss_is_that_of_the_answers(ours: Any, expected: Any, size: int) -> None:
    """Mean cross-entropy of the answers' tokens and the end, over the whole batch."""
    model, dataset = ours
    right = expected(model.get_base_model().fusion)
    for here, batch in batches(dataset, ORDERS["shuffled"], size):
        logits = torch.cat([right[i][0][-len(right[i][1]) - 1 : -1] for i in here])
        labels = torch.tensor([token for i in here for token in right[i][1]])
        loss = float(model(**batch).loss)
        assert loss == pytest.approx(float(cross_entropy(logits, labels)), abs=TOLERANCE)


WRONG = ["both", "swapped", "first patch only", "added before P", "no feature", "token"]


@pytest.mark.parametrize("formula", [*WRONG, "of the neighbour"])
@torch.no_grad()
def test_other_formulas_are_far_away(
    case: Case, reference: Reference, expected: Any, formula: str
) -> None:
    """The tolerance means something: any of these is a hundred times further away."""
    answer = len(expected("add")[1][1])
    neighbour = case.rows[2]["id"] if formula == "of the neighbour" else ""
    other, _ = reference.logits(
        case.rows[1], case.root, formula if not neighbour else "add", neighbour
    )
    right = expected("add")[1][0]
    assert (other[-answer:] - right[-answer:]).abs().max() > 100 * TOLERANCE


# --- ours, through ZeRO-3 with two ranks ---


ZERO3 = {
    "train_micro_batch_size_per_gpu": 2,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}
SHARES = ((4, 0, 6, 2), (5, 1, 3))  # of the two ranks: the last batch of the second is short


@torch.no_grad()
def rank(root: Path) -> None:
    """Run as one rank of two: load, shard, and write the logits of its share."""
    import deepspeed
    from transformers.integrations import HfDeepSpeedConfig

    deepspeed.init_distributed()
    config = HfDeepSpeedConfig(
        ZERO3
    )  # as TrainingArguments does; must live while the base is loaded
    case = Case(root)
    model, processor = our_model(case, "add")
    assert all(hasattr(p, "ds_id") for n, p in model.named_parameters() if "lora_" not in n)
    engine, *_ = deepspeed.initialize(model=model, config=config.config)
    assert all(p.ds_tensor.numel() < p.ds_numel for p in engine.parameters() if p.ds_numel > 1)
    engine.eval()
    number = torch.distributed.get_rank()
    found = {}
    for here, batch in batches(our_dataset(case, processor), SHARES[number], 2):
        del batch["labels"]
        logits = engine(**batch).logits
        for i, row, mask in zip(here, logits, batch["attention_mask"].bool(), strict=True):
            found[str(i)] = row[mask].contiguous()
    save_file(found, root / f"rank{number}.safetensors")
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.usefixtures("warm")
def test_two_ranks_of_zero3(case: Case, expected: Any) -> None:
    from eegtool.finetune import launcher

    if not launcher.has_cpp_compiler():
        pytest.skip("DeepSpeed needs a C++ compiler on a CPU")
    # Of our launcher only the environment: that there is no GPU.
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2"]
    port = free_port()
    command += ["--master_port", str(port), __file__, str(case.root)]
    environment = launcher.environment({}, gpu=False) | {
        "PYTHONPATH": str(Path(__file__).parents[2])
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    launcher.remove_shared_memory(port)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, torch.Tensor] = {}
    for number, share in enumerate(SHARES):
        part = load_file(case.root / f"rank{number}.safetensors")
        assert sorted(part) == sorted(map(str, share))
        found |= part
    assert len(found) == N
    for i, (logits, _) in enumerate(expected("add")):
        assert found[str(i)].shape == logits.shape
        assert (found[str(i)] - logits).abs().max() < TOLERANCE


if __name__ == "__main__":
    rank(Path(sys.argv[-1]))
