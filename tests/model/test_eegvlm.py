"""The fusion, held against embeddings that are put together here from its formula.

X_low = P(V) and X_high = P(V) + P(r) on every patch, with P the projector, V the features of the
tower's last layer but one without the class token, and r the high-level feature of the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration

from eegtool.model.checkpoints import load_base
from eegtool.model.eegvlm import EEGVLM, FUSIONS

PATCHES = 16


@dataclass(frozen=True)
class Batch:
    """Samples as lists of token ids, each image one token of `image`, and their tensors."""

    texts: list[list[int]]
    image: int
    pixels: torch.Tensor
    features: torch.Tensor

    def ids(self, fusion: str, pad_left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return padded token ids with expanded images, and their mask."""
        lengths = {"add": (PATCHES, PATCHES), "token": (PATCHES, 1), "none": (PATCHES, 0)}[fusion]
        rows = []
        for text in self.texts:
            blocks = iter(lengths)
            rows.append([i for t in text for i in [t] * (next(blocks) if t == self.image else 1)])
        width = max(map(len, rows))
        ids, mask = torch.zeros(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width)
        for i, row in enumerate(rows):
            here = slice(width - len(row), width) if pad_left else slice(0, len(row))
            ids[i, here], mask[i, here] = torch.tensor(row), 1
        return ids, mask.long()


def batch_of(n: int, image: int, seed: int = 0) -> Batch:
    """Draw samples of different length: text, image, text, image, text."""
    generator = torch.Generator().manual_seed(seed)

    def text(length: int) -> list[int]:
        return torch.randint(5, 200, (length,), generator=generator).tolist()

    return Batch(
        [[1, *text(2 + i), image, *text(1), image, *text(4 + 3 * i)] for i in range(n)],
        image,
        torch.randn(n, 3, 64, 64, generator=generator),
        torch.randn(n, 1, 1024, generator=generator),
    )


@pytest.fixture(scope="module")
def plain(tiny: Path) -> Any:
    """transformers' own LLaVA with the same weights."""
    return LlavaForConditionalGeneration.from_pretrained(tiny).eval()


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> EEGVLM:
    model, _ = load_base(tiny, fusion="add", version="v1", dtype=torch.float32)
    return model.eval()


@pytest.fixture
def model(loaded: EEGVLM) -> EEGVLM:
    loaded.fusion = "add"
    loaded.zero_grad()
    return loaded


def expected_logits(plain: Any, batch: Batch, fusion: str) -> list[torch.Tensor]:
    """Logits of each sample alone, by the formula."""
    parts = plain.model
    logits = []
    for text, pixels, r in zip(batch.texts, batch.pixels, batch.features, strict=True):
        hidden = parts.vision_tower(pixels[None], output_hidden_states=True).hidden_states
        low = parts.multi_modal_projector(hidden[-2][0, 1:])  # [16, D]
        high = parts.multi_modal_projector(r)  # [1, D]
        blocks = {
            "add": [low, low + high.expand(PATCHES, -1)],
            "token": [low, high],
            "none": [low, low[:0]],
        }[fusion]
        embed = parts.language_model.embed_tokens
        pieces = []
        for token in text:
            is_image = token == batch.image
            pieces.append(blocks.pop(0) if is_image else embed(torch.tensor([token])))
        states = parts.language_model(inputs_embeds=torch.cat(pieces)[None]).last_hidden_state
        logits.append(plain.lm_head(states)[0])
    return logits


@pytest.mark.parametrize("pad_left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("fusion", list(FUSIONS))
@torch.no_grad()
def test_logits_are_those_of_the_formula(
    model: EEGVLM, plain: Any, fusion: str, n: int, pad_left: bool
) -> None:
    batch = batch_of(n, model.config.image_token_id, seed=n)
    ids, mask = batch.ids(fusion, pad_left)
    model.fusion = fusion
    found = model(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=batch.pixels,
        high_level_features=batch.features,
    ).logits
    for i, expected in enumerate(expected_logits(plain, batch, fusion)):
        own = found[i][mask[i].bool()]
        assert own.shape == expected.shape
        assert (own - expected).abs().max() < 1e-5


@torch.no_grad()
def test_without_features_it_is_transformers_llava(model: EEGVLM, plain: Any) -> None:
    batch = batch_of(3, model.config.image_token_id)
    ids, mask = batch.ids("none", pad_left=True)
    model.fusion = "none"
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": batch.pixels}
    assert torch.allclose(model(**inputs).logits, plain(**inputs).logits, atol=1e-5)
    del inputs["pixel_values"]
    inputs["input_ids"] = ids.where(ids != batch.image, 7)
    assert torch.equal(model(**inputs).logits, plain(**inputs).logits)


@pytest.mark.parametrize("fusion", list(FUSIONS))
@torch.no_grad()
def test_what_is_seen_matters(model: EEGVLM, fusion: str) -> None:
    batch, other = (batch_of(1, model.config.image_token_id, seed) for seed in (0, 1))
    ids, _ = batch.ids(fusion, pad_left=False)
    model.fusion = fusion

    def last(pixels: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids, pixel_values=pixels, high_level_features=features).logits
        return logits[0, -1]

    before = last(batch.pixels, batch.features)
    assert (last(other.pixels, batch.features) - before).abs().max() > 1e-3
    felt = (last(batch.pixels, other.features) - before).abs().max() > 1e-3
    assert bool(felt) is FUSIONS[fusion].needs_features


def test_the_projector_learns_and_the_tower_does_not(model: EEGVLM) -> None:
    batch = batch_of(2, model.config.image_token_id)
    ids, mask = batch.ids("add", pad_left=False)
    features = batch.features.requires_grad_()
    model(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=batch.pixels,
        high_level_features=features,
        labels=ids,
    ).loss.backward()
    assert all(p.requires_grad for p in model.model.vision_tower.parameters())
    assert all(p.grad is None for p in model.model.vision_tower.parameters())
    assert all(p.grad.abs().max() > 0 for p in model.model.multi_modal_projector.parameters())
    assert features.grad is not None
    assert (features.grad.abs().amax(dim=(1, 2)) > 0).all()


@torch.no_grad()
def test_the_tower_runs_once_per_picture(model: EEGVLM) -> None:
    batch = batch_of(3, model.config.image_token_id)
    ids, _ = batch.ids("add", pad_left=False)
    seen: list[int] = []
    hook = model.model.vision_tower.register_forward_hook(
        lambda module, inputs, output: seen.append(len(output.last_hidden_state))
    )
    model.embed(ids, batch.pixels, batch.features)
    hook.remove()
    assert seen == [3]


def labelled(batch: Batch, ids: torch.Tensor) -> torch.Tensor:
    """Return labels for three tokens of the first sample and one of the second."""
    labels = torch.full_like(ids, -100)
    labels[0, 37:40], labels[1, 43] = ids[0, 37:40], ids[1, 43]
    return labels


@pytest.mark.parametrize("num_items", [None, 10])
def test_loss_is_the_cross_entropy_of_the_labelled_tokens(
    model: EEGVLM, num_items: int | None
) -> None:
    """It and its gradients are those of logits of all tokens; and it has no such logits."""
    batch = batch_of(2, model.config.image_token_id)
    ids, mask = batch.ids("add", pad_left=False)
    labels = labelled(batch, ids)
    inputs = {"pixel_values": batch.pixels, "high_level_features": batch.features}
    inputs |= {"input_ids": ids, "attention_mask": mask}
    logits = model(**inputs).logits
    logits = torch.cat([logits[0, 36:39], logits[1, 42:43]])
    targets = torch.cat([labels[0, 37:40], labels[1, 43:44]])
    expected = cross_entropy(logits, targets, reduction="sum") / (num_items or 4)
    expected.backward()
    weight = model.lm_head.weight
    gradient, weight.grad = weight.grad.clone(), None

    rows: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda m, i, out: rows.append(len(out)))
    out = model(**inputs, labels=labels, num_items_in_batch=num_items)
    hook.remove()
    assert rows == [4]
    assert out.logits is None
    assert torch.allclose(out.loss, expected, atol=1e-6)
    out.loss.backward()
    assert torch.allclose(weight.grad, gradient, atol=1e-6)

    weights = torch.zeros(labels.shape)
    weights[0, 37], weights[1, 43] = 3.0, 0.5
    weighted = model(
        **inputs, labels=labels, label_weights=weights, num_items_in_batch=num_items
    ).loss
    each = cross_entropy(logits, targets, reduction="none")
    assert torch.allclose(weighted, (3 * each[0] + each[3] / 2) / (num_items or 4), atol=1e-6)


def test_a_batch_without_labels_costs_nothing_and_runs_the_same_modules(model: EEGVLM) -> None:
    """Under ZeRO-3 ranks wait for each other in every module; fillers of a last batch have no labels."""
    batch = batch_of(1, model.config.image_token_id)
    ids, _ = batch.ids("add", pad_left=False)
    called: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda m, i, out: called.append(len(out)))
    loss = model(
        input_ids=ids,
        pixel_values=batch.pixels,
        high_level_features=batch.features,
        labels=torch.full_like(ids, -100),
    ).loss
    hook.remove()
    assert called == [0]
    assert loss.item() == 0
    loss.backward()
    assert all(not p.grad.any() for p in model.model.multi_modal_projector.parameters())


@torch.no_grad()
def test_the_loss_is_computed_in_32_bits(tiny: Path) -> None:
    model, _ = load_base(tiny, fusion="add", version="v1", dtype=torch.bfloat16)
    batch = batch_of(2, model.config.image_token_id)
    ids, _ = batch.ids("add", pad_left=False)
    inputs = {"pixel_values": batch.pixels, "high_level_features": batch.features}
    assert model(input_ids=ids, labels=labelled(batch, ids), **inputs).loss.dtype == torch.float32


@torch.no_grad()
def test_the_image_token_may_lie_beyond_the_embedding_table(model: EEGVLM) -> None:
    """The original LLaVA adds it to the tokenizer only."""
    batch = batch_of(2, model.config.image_token_id)
    ids, _ = batch.ids("add", pad_left=False)
    expected = model.embed(ids, batch.pixels, batch.features)
    beyond = model.get_input_embeddings().num_embeddings + 7
    ids = ids.where(ids != batch.image, beyond)
    before = model.config.image_token_id
    model.config.image_token_id = beyond
    try:
        assert torch.equal(model.embed(ids, batch.pixels, batch.features), expected)
    finally:
        model.config.image_token_id = before


@pytest.mark.parametrize("change", ["one too few", "one too many", "moved to another sample"])
def test_another_number_of_image_tokens_is_refused(model: EEGVLM, change: str) -> None:
    batch = batch_of(2, model.config.image_token_id)
    ids, _ = batch.ids("add", pad_left=False)
    if change != "one too many":
        first = int((ids[0] == batch.image).nonzero()[0])
        ids[0, first] = 7
    if change != "one too few":
        ids[1, 0] = batch.image
    with pytest.raises(ValueError, match=r"image tokens for 32 visual tokens"):
        model.embed(ids, batch.pixels, batch.features)


@pytest.mark.parametrize("fusion", ["add", "token"])
def test_features_must_be_given_where_they_are_used(model: EEGVLM, fusion: str) -> None:
    batch = batch_of(1, model.config.image_token_id)
    model.fusion = fusion
    ids, _ = batch.ids(fusion, pad_left=False)
    with pytest.raises(ValueError, match=f"fusion '{fusion}' needs high-level features"):
        model.embed(ids, batch.pixels, None)
