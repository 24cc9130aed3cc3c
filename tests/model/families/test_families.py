"""Each family's small model under the fusion, held against the family's own forward on its own processor's inputs."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch.nn.functional import cross_entropy, gelu
from transformers import AutoModelForImageTextToText, BlipConfig, LlamaConfig

from eegtool.core.errors import EegToolError
from eegtool.core.forms import CHAT
from eegtool.model.checkpoints import load_processor
from eegtool.model.eegvlm import FUSIONS
from eegtool.model.families import FAMILIES, FamilyBase, family_of, find_family
from eegtool.model.families.chat import FamilyProcessor
from eegtool.model.families.fused import FusedModel, lora_targets, outside_decoder
from eegtool.model.loading import quiet
from eegtool.model.processor import IGNORED
from tests.model.families.tiny import SIDE, TINY, UNTRIED, WIDTH, Tiny, build, tokenizer_of

QUESTIONS = (
    "Which stage?",
    "Which sleep stage does this 30 second EEG epoch show?",
    "W or N1",
    "?",
)
ANSWERS = ("W", "N1", "N2 or N3", "REM sleep, with rapid eye movement", "en")  # as in <|im_end|>


def load_family(base: FamilyBase, *, fusion: str, dtype: torch.dtype) -> Any:
    """Load a model without its processor."""
    return base.load(image_token_id=base.config.image_token_id, fusion=fusion, dtype=dtype)


@dataclass
class Small:
    """A family's small model, without the fusion and with every one."""

    tiny: Tiny
    base: FamilyBase
    plain: Any
    models: dict[str, tuple[FusedModel, FamilyProcessor]]

    def of(self, fusion: str) -> tuple[Any, FamilyProcessor]:
        if fusion not in self.models:
            model: Any = load_family(self.base, fusion=fusion, dtype=torch.float32).eval()
            self.models[fusion] = (
                model,
                load_processor(self.base, version=CHAT, fusion=fusion, side=SIDE),
            )
        return self.models[fusion]

    def trained(self, fusion: str) -> tuple[Any, FamilyProcessor]:
        """Return it with a projector that is not zero."""
        model, processor = self.of(fusion)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(3)
            for parameter in model.feature_projector.parameters():
                parameter.normal_(std=0.2)
        return model, processor


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Such small models are twice as fast by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Small]:
    """Return what makes the small model of a family, once for all tests."""

    @cache
    def make(name: str) -> Small:
        base = find_family(build(name, tmp_path_factory.mktemp(name)))
        plain = AutoModelForImageTextToText.from_pretrained(base.folder).eval()
        return Small((TINY | UNTRIED)[name], base, plain, {})

    return make


@pytest.fixture(params=[*TINY, *UNTRIED])
def small(request: pytest.FixtureRequest, made: Callable[[str], Small]) -> Small:
    return made(request.param)


def under(*fusions: str) -> pytest.MarkDecorator:
    """Ask each small model under these fusions, if it has them.

    One whose image tokens do not stand in a row has no fusion 'token'
    (see `test_a_block_that_is_no_row_of_tokens_cannot_be_shortened`).
    """
    cases = [
        (name, fusion)
        for name in [*TINY, *UNTRIED]
        for fusion in fusions
        if (name, fusion) != ("mistral3", "token")
    ]
    return pytest.mark.parametrize(("small", "fusion"), cases, indirect=["small"])


def png(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def features(n: int, seed: int = 7) -> torch.Tensor:
    return torch.randn(n, 1, 1024, generator=torch.Generator().manual_seed(seed))


def ours(processor: FamilyProcessor, n: int, side: str = "left") -> dict[str, torch.Tensor]:
    rows = [processor.encode_prompt(question, 2) for question in QUESTIONS[:n]]
    return processor.inputs(rows, [processor.pixels(png(i)) for i in range(n)], side)


def theirs(processor: FamilyProcessor, n: int) -> dict[str, Any]:
    """Return what transformers itself makes of the same conversations: every block with its picture."""
    conversations = [
        [
            {
                "role": "user",
                "content": [
                    *[{"type": "image", "image": Image.open(io.BytesIO(png(i)))}]
                    * processor.n_blocks,
                    {"type": "text", "text": question},
                ],
            }
        ]
        for i, question in enumerate(QUESTIONS[:n])
    ]
    made = processor.hub.apply_chat_template(
        conversations,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left", **processor.family.whole},
    )
    return dict(made)


def hand_made(small: Small, model: Any, inputs: dict[str, Any], r: torch.Tensor) -> dict[str, Any]:
    """Put features into transformers' own inputs by the formula, block by block."""
    fusion, n = model.fusion, len(r)
    taken = "pixel_values image_grid_thw pixel_attention_mask image_sizes batch_num_images".split()
    pictures = {k: inputs[k] for k in taken if k in inputs}
    with torch.no_grad():
        encoded = small.plain.model.get_image_features(**pictures, return_dict=True)
    pooled = encoded.pooler_output
    joined = torch.cat([p.reshape(-1, WIDTH) for p in pooled])
    blocks = list(joined.view(2 * n, small.tiny.tokens, WIDTH))
    q = model.feature_projector
    h = gelu(r[:, 0] @ q[0].weight.T + q[0].bias) @ q[2].weight.T + q[2].bias
    deep = [list(layer) for layer in getattr(encoded, "deepstack_features", None) or []]
    for i in range(n):
        if fusion == "add":
            blocks[2 * i + 1] = blocks[2 * i + 1] + h[i]
        else:
            blocks[2 * i + 1] = h[i : i + 1]
            for layer in deep:
                layer[2 * i + 1] = torch.zeros(1, WIDTH)
    listed = isinstance(pooled, list | tuple)
    encoded.pooler_output = blocks if listed else torch.cat(blocks).view(n, -1, WIDTH)
    if deep:
        encoded.deepstack_features = deep
    kept = {k: v for k, v in inputs.items() if k not in taken}
    if "image_grid_thw" in inputs:
        grid = inputs["image_grid_thw"].clone()
        if fusion == "token":
            grid[1::2] = torch.tensor([1, 2, 2])
        kept["image_grid_thw"] = grid
    return kept | {"mm_encoder_outputs": {"image": encoded}}


def shortened(inputs: dict[str, Any], image_token_id: int) -> dict[str, Any]:
    """Leave one image token of every second block of transformers' own inputs."""
    kept = []
    for row in inputs["input_ids"].tolist():
        images = [column for column, token in enumerate(row) if token == image_token_id]
        dropped = set(images[len(images) // 2 + 1 :])
        kept.append([column for column in range(len(row)) if column not in dropped])
    assert len({len(columns) for columns in kept}) == 1
    text = {k for k, v in inputs.items() if v.shape[:2] == inputs["input_ids"].shape}
    return {
        k: torch.stack([row[c] for row, c in zip(v, kept, strict=True)]) if k in text else v
        for k, v in inputs.items()
    }


def close(found: Any, expected: Any, mask: torch.Tensor, atol: float = 1e-4) -> None:
    rows = mask.bool()
    torch.testing.assert_close(found[rows], expected[rows], atol=atol, rtol=0)


# --- inputs ---------------------------------------------------------------------------------------


@under("add", "none")
def test_tokens_are_those_of_the_familys_own_processor(small: Small, fusion: str) -> None:
    _, processor = small.of(fusion)
    found, expected = ours(processor, 3), theirs(processor, 3)
    texts = {k for k, v in expected.items() if v.shape[:2] == expected["input_ids"].shape}
    assert {"input_ids", "attention_mask"} <= texts <= found.keys()
    for name in texts:
        assert torch.equal(found[name], expected[name]), name
    expected_tokens = (
        2 * small.tiny.tokens if fusion == "add" else small.tiny.alone or small.tiny.tokens
    )
    assert processor.n_image_tokens == expected_tokens


@under(*FUSIONS)
def test_only_the_answer_and_its_end_are_labelled(small: Small, fusion: str) -> None:
    _, processor = small.of(fusion)
    tiny = small.tiny
    asked = processor.encode_prompt(QUESTIONS[1], 2)
    for answer in ANSWERS:
        encoded = processor.encode(QUESTIONS[1], 2, answer)
        labelled = [label for label in encoded.labels if label != IGNORED]
        assert encoded.input_ids[: len(asked)] == asked
        assert encoded.labels == (IGNORED,) * len(asked) + encoded.input_ids[len(asked) :]
        assert processor.tokenizer.decode(labelled).strip() == answer + tiny.end
        assert processor.count_tokens(answer) == len(labelled)
        messages = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
        said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        cue, text = (
            processor.hub.apply_chat_template(m, tokenize=False, add_generation_prompt=cued)
            for m, cued in ((messages, True), ([*messages, said], False))
        )
        # LLaVA-OneVision's template writes another cue than it asks with.
        assert text.startswith(cue) == (small.base.family.name != "llava_onevision")
        if text.startswith(cue):
            assert text[len(cue) :].startswith(processor.tokenizer.decode(labelled))


def test_a_conversation_reads_as_the_chat_template_writes_it(small: Small) -> None:
    _, processor = small.of("none")
    tiny = small.tiny
    encoded = processor.encode(
        "Which?", 2, "N2", [("Why?", "spindle"), ("And?", "no")], "Be brief."
    )
    labelled = [label for label in encoded.labels if label != IGNORED]
    said = processor.tokenizer.decode(labelled).split(tiny.end)
    assert [part.strip() for part in said] == ["N2", "spindle", "no", ""]
    turns = [("system", "Be brief.")] if tiny.template.count("role") else []
    turns += [("user", "Which?"), ("assistant", "N2"), ("user", "Why?"), ("assistant", "spindle")]
    turns += [("user", "And?"), ("assistant", "no")]
    messages = [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in turns]
    messages[1]["content"].insert(0, {"type": "image"})  # type: ignore[attr-defined]
    text = processor.hub.apply_chat_template(messages, tokenize=False)
    whole = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    if small.base.family.name in (
        "qwen3_vl",
        "qwen2_5_vl",
        "internvl",
    ):  # pictures are tokens alone
        beside = {processor.image_token_id, *_marks(processor)}
        found = [i for i in encoded.input_ids if i not in beside]
        assert found == [i for i in whole if i not in beside][: len(found)]


def _marks(processor: FamilyProcessor) -> set[int]:
    return set(processor.tokenizer.convert_tokens_to_ids(["<img>", "</img>"]))


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize(("side", "tokens"), [(64, 16), (128, 64), (100, 36)])
def test_larger_pictures_have_more_tokens(
    name: str, side: int, tokens: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = find_family(build(name, tmp_path_factory.mktemp(name)))
    processor = load_processor(base, version=CHAT, fusion="add", side=side)
    assert processor.n_image_tokens == 2 * tokens


def test_a_picture_that_is_not_square_is_padded_not_cropped(small: Small) -> None:
    model, processor = small.of("none")
    rows = [processor.encode_prompt(QUESTIONS[0], 2)]
    wide = processor.inputs(rows, [processor.pixels(png(0, (SIDE, SIDE // 2)))])
    assert torch.isfinite(model(**wide).logits).all()


# --- forward --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
@under("add", "token")
@torch.no_grad()
def test_logits_are_those_of_the_familys_forward_on_hand_made_features(
    small: Small, fusion: str, n: int
) -> None:
    model, processor = small.trained(fusion)
    r = features(n)
    inputs = theirs(processor, n)
    if fusion == "token":
        inputs = shortened(inputs, processor.image_token_id)
    expected = small.plain(**hand_made(small, model, inputs, r)).logits
    found = model(**ours(processor, n), high_level_features=r).logits
    close(found, expected, inputs["attention_mask"])


@torch.no_grad()
def test_without_features_it_is_the_plain_model(small: Small) -> None:
    model, processor = small.of("none")
    inputs = theirs(processor, 3)
    close(
        model(**ours(processor, 3)).logits,
        small.plain(**inputs).logits,
        inputs["attention_mask"],
        atol=1e-5,
    )


@torch.no_grad()
def test_before_training_it_is_the_plain_model_shown_the_picture_twice(small: Small) -> None:
    fresh: Any = load_family(small.base, fusion="add", dtype=torch.float32).eval()
    _, processor = small.of("add")
    assert not fresh.feature_projector[2].weight.any()
    assert not fresh.feature_projector[2].bias.any()
    first = fresh.feature_projector[0].weight
    assert first.std() == pytest.approx(1024**-0.5, rel=0.05)
    again: Any = load_family(small.base, fusion="token", dtype=torch.float32)
    assert torch.equal(first, again.feature_projector[0].weight)
    inputs = theirs(processor, 2)
    found = fresh(**ours(processor, 2), high_level_features=features(2)).logits
    close(found, small.plain(**inputs).logits, inputs["attention_mask"])


@under("add", "token")
@torch.no_grad()
def test_the_feature_reaches_the_answer(small: Small, fusion: str) -> None:
    model, processor = small.trained(fusion)
    rows = [processor.encode_prompt(QUESTIONS[0], 2)] * 2
    inputs = processor.inputs(rows, [processor.pixels(png(0))] * 2)
    same = model(**inputs, high_level_features=features(1).repeat(2, 1, 1)).logits[:, -1]
    other = model(**inputs, high_level_features=features(2)).logits[:, -1]
    torch.testing.assert_close(same[0], same[1])
    assert (other[0] - other[1]).abs().max() > 1e-2


@torch.no_grad()
def test_text_alone_is_read_as_the_family_reads_it(small: Small) -> None:
    model, processor = small.of("add")
    tokens = processor.tokenizer(
        ["This is text", "and more text"], return_tensors="pt", padding=True
    )
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    more = {"token_type_ids": torch.zeros_like(ids)} if small.base.family.name == "gemma3" else {}
    found = model(input_ids=ids, attention_mask=mask, **more).logits
    close(found, small.plain(input_ids=ids, attention_mask=mask, **more).logits, mask, atol=1e-6)


def test_one_picture_runs_through_the_tower_once(small: Small) -> None:
    model, processor = small.trained("add")
    seen: list[int] = []
    tower = next(m for name, m in model.named_modules() if name in TOWERS)
    hook = tower.register_forward_hook(
        lambda _, args, kwargs, out: seen.append(1), with_kwargs=True
    )
    inputs = ours(processor, 2)
    model(**inputs, high_level_features=features(2))
    hook.remove()
    assert seen == [1]
    pixels = theirs(processor, 2)["pixel_values"]
    assert inputs["pixel_values"].numel() * 2 == pixels.numel()


TOWERS = ("model.visual", "model.vision_tower", "model.vision_model")


# --- loss and training ----------------------------------------------------------------------------


def labelled(processor: FamilyProcessor, answers: Sequence[str]) -> dict[str, torch.Tensor]:
    pairs = [processor.encode(q, 2, a) for q, a in zip(QUESTIONS, answers, strict=False)]
    pictures = [processor.pixels(png(i)) for i in range(len(pairs))]
    batch = processor.inputs([p.input_ids for p in pairs], pictures, "right")
    width = batch["input_ids"].shape[1]
    rows = [list(p.labels) + [IGNORED] * (width - len(p.labels)) for p in pairs]
    return batch | {"labels": torch.tensor(rows)}


@torch.no_grad()
def test_the_loss_is_that_of_the_labelled_tokens(small: Small) -> None:
    model, processor = small.trained("add")
    batch = labelled(processor, ANSWERS[:3])
    r = features(3)
    labels = batch.pop("labels")
    logits = model(**batch, high_level_features=r).logits
    expected = cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="sum")
    n = int((labels != IGNORED).sum())
    found = model(**batch, labels=labels, high_level_features=r).loss
    torch.testing.assert_close(found, expected / n)
    shared = model(**batch, labels=labels, high_level_features=r, num_items_in_batch=4 * n).loss
    torch.testing.assert_close(shared, expected / n / 4)
    weights = torch.linspace(0, 2, labels.numel()).reshape(labels.shape)
    each = cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    weighted = model(**batch, labels=labels, label_weights=weights, high_level_features=r).loss
    torch.testing.assert_close(weighted, (each * weights[:, 1:]).sum() / n)
    nothing = model(**batch, labels=torch.full_like(labels, IGNORED), high_level_features=r).loss
    assert float(nothing) == 0


@torch.no_grad()
def test_padding_on_the_right_without_a_mask_changes_nothing(small: Small) -> None:
    model, processor = small.trained("add")
    r = features(3)
    right = ours(processor, 3, "right")
    assert "attention_mask" not in right
    left = ours(processor, 3)
    mask = left["attention_mask"].bool()
    found = model(**right, high_level_features=r).logits
    expected = model(**left, high_level_features=r).logits
    for i, row in enumerate(mask):
        n = int(row.sum())
        torch.testing.assert_close(found[i, :n], expected[i, row], atol=1e-4, rtol=0)


def test_lora_learns_with_checkpointing_and_leaves_tower_and_connector_alone(small: Small) -> None:
    model: Any = load_family(small.base, fusion="add", dtype=torch.float32)
    _, processor = small.of("add")
    targets = lora_targets(model)
    decoder = model.get_decoder()
    inside = {id(m) for m in decoder.modules()}
    assert len(targets) == 2 * 7  # q, k, v, o, gate, up, down of two layers
    assert all(id(model.get_submodule(name)) in inside for name in targets)
    with quiet():
        peft: Any = get_peft_model(model, LoraConfig(r=2, target_modules=targets))
    for parameter in model.feature_projector.parameters():
        parameter.requires_grad_(True)
    renamed = getattr(model, "activation_checkpointing_enable", None)
    (renamed or model.gradient_checkpointing_enable)({"use_reentrant": False})
    peft.train()
    trained = {n: p for n, p in peft.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(targets) + 4
    batch = labelled(processor, ANSWERS[:2]) | {"high_level_features": features(2)}
    optimizer = torch.optim.Adam(trained.values(), lr=2e-2)
    losses = []
    for _ in range(6):
        loss = peft(**batch).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.5
    assert all(p.grad is not None for p in trained.values())
    assert model.feature_projector[2].weight.any()
    assert {n for n, p in peft.named_parameters() if p.grad is not None} == trained.keys()


def test_all_but_the_language_model_stays_out_of_quantisation(small: Small) -> None:
    model, _ = small.of("add")
    kept = outside_decoder(model)
    assert {"lm_head", "feature_projector"} < set(kept)
    assert any(name in TOWERS for name in kept)
    decoder = set(model.get_decoder().modules())
    beside = {module for name in kept for module in model.get_submodule(name).modules()}
    linear = {module for module in model.modules() if isinstance(module, torch.nn.Linear)}
    assert not decoder & beside
    assert linear <= decoder | beside


def test_what_is_trained_is_found_again(small: Small, tmp_path: Path) -> None:
    model, _ = small.trained("add")
    model.save_pretrained(tmp_path)
    saved = find_family(tmp_path)
    assert saved.config.architectures == small.base.config.architectures
    again: Any = load_family(saved, fusion="add", dtype=torch.float32).eval()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


# --- answers --------------------------------------------------------------------------------------


def naive_score(
    model: Any, processor: FamilyProcessor, i: int, r: torch.Tensor, answers: Any
) -> Any:
    """Run a prompt with each of its answers, alone."""
    prompt = processor.encode_prompt(QUESTIONS[i], 2)
    scores = []
    for answer in answers:
        inputs = processor.inputs([(*prompt, *answer)], [processor.pixels(png(i))])
        logits = model(**inputs, high_level_features=r).logits[0].log_softmax(-1)
        told = [logits[len(prompt) - 1 + k, token] for k, token in enumerate(answer)]
        scores.append(float(torch.stack(told).mean()))
    return scores


@pytest.mark.parametrize("n", [1, 3])
@under(*FUSIONS)
@torch.no_grad()
def test_scores_are_those_of_single_answers(small: Small, fusion: str, n: int) -> None:
    model, processor = small.of(fusion) if fusion == "none" else small.trained(fusion)
    r = features(n)
    answers = []
    for question in QUESTIONS[:n]:
        begin = len(processor.encode_prompt(question, 2))
        answers.append([processor.encode(question, 2, a).input_ids[begin:] for a in ANSWERS])
    found = model.score(ours(processor, n), None if fusion == "none" else r, answers)
    expected = [naive_score(model, processor, i, r[i : i + 1], answers[i]) for i in range(n)]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-4)
    one = model.score(
        ours(processor, n),
        None if fusion == "none" else r,
        [[a[:1] for a in some] for some in answers],
    )
    assert one.shape == (n, len(ANSWERS))


@torch.no_grad()
def test_scores_of_16_bits_come_from_logits_of_32(small: Small) -> None:
    model: Any = load_family(small.base, fusion="none", dtype=torch.bfloat16).eval()
    _, processor = small.of("none")
    begin = len(processor.encode_prompt(QUESTIONS[0], 2))
    answers = [[processor.encode(QUESTIONS[0], 2, a).input_ids[begin:] for a in ANSWERS]]
    found = model.score(ours(processor, 1), None, answers)
    exact = small.of("none")[0].score(ours(processor, 1), None, answers)
    np.testing.assert_allclose(found, exact, atol=0.3)
    inputs = model.fuse(ours(processor, 1)["input_ids"], None, ours(processor, 1))
    states = model.base_model(**inputs).last_hidden_state[0, -1].float()
    told = (model.lm_head.weight.float() @ states).log_softmax(-1)[:20]
    steps = model.score(ours(processor, 1), None, [[[i] for i in range(20)]])[0]
    np.testing.assert_allclose(steps, told.numpy(), atol=1e-4)
    assert not model.lm_head._forward_hooks


@under("add", "none")
@torch.no_grad()
def test_words_do_not_depend_on_the_batch(small: Small, fusion: str) -> None:
    model, processor = small.of(fusion) if fusion == "none" else small.trained(fusion)
    r = features(4)
    how: dict[str, Any] = {
        "max_new_tokens": 6,
        "do_sample": False,
        "eos_token_id": processor.end_token_id,
    }
    how |= {"pad_token_id": processor.pad_token_id, "suppress_tokens": [processor.image_token_id]}
    inputs = ours(processor, 4)
    together = model.generate(**inputs, high_level_features=r, **how)[
        :, inputs["input_ids"].shape[1] :
    ]
    for i in range(4):
        prompt = list(processor.encode_prompt(QUESTIONS[i], 2))
        pictures = [processor.pixels(png(i))]
        single = processor.inputs([prompt], pictures)
        alone = model.generate(**single, high_level_features=r[i : i + 1], **how)[0, len(prompt) :]
        ids: list[int] = []
        while len(ids) < 6 and (not ids or ids[-1] != processor.end_token_id):
            whole = processor.inputs([prompt + ids], pictures)
            logits = model(**whole, high_level_features=r[i : i + 1]).logits
            logits[..., processor.image_token_id] = -torch.inf
            ids.append(int(logits[0, -1].argmax()))
        assert alone.tolist() == ids
        assert together[i, : len(ids)].tolist() == ids


# --- what is refused ------------------------------------------------------------------------------


def test_a_wrong_number_of_image_tokens_is_refused(small: Small) -> None:
    model, processor = small.of("add")
    inputs = ours(processor, 1)
    inputs["input_ids"][inputs["input_ids"] == processor.image_token_id] = 5
    with pytest.raises(
        ValueError, match=rf"\[0\] image tokens for {small.tiny.tokens} visual tokens"
    ):
        model(**inputs, high_level_features=features(1))
    with pytest.raises(ValueError, match="needs high-level features"):
        model(**ours(processor, 1))
    with pytest.raises(EegToolError, match="3 images; 2 are needed"):
        processor.encode_prompt("?", 3)


def test_a_block_that_is_no_row_of_tokens_cannot_be_shortened(tmp_path: Path) -> None:
    base = find_family(build("mistral3", tmp_path))
    with pytest.raises(EegToolError, match="'token' cannot be used with this mistral3 model"):
        load_processor(base, version=CHAT, fusion="token", side=SIDE)


def test_named_families_are_tested_and_others_say_that_they_are_not() -> None:
    assert FAMILIES.keys() == TINY.keys()
    for name, tiny in (TINY | UNTRIED).items():
        family = family_of(tiny.config(tokenizer_of(tiny)))
        assert (family.name, family.is_tested) == (name, name in TINY)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LlamaConfig(), "A 'llama' model is not a vision-language model"),
        (
            BlipConfig(),
            "A 'blip' model cannot be fused with features: it has no mm_encoder_outputs",
        ),
    ],
)
def test_a_model_that_cannot_be_fused_is_refused(config: Any, message: str) -> None:
    with pytest.raises(EegToolError, match=message):
        family_of(config)


def _without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def _without_processor(folder: Path) -> None:
    (folder / "processor_config.json").unlink()


def _another_processor(folder: Path) -> None:
    other = build("qwen2_5_vl", folder / "other")
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(other / name, folder / name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_template, "chat template of this smolvlm model cannot be used"),
        (_without_processor, "cannot be loaded|is not that of its smolvlm model"),
        (_another_processor, "The processor in .* is not that of its smolvlm model"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = build("smolvlm", tmp_path / "model")
    damage(folder)
    with pytest.raises(EegToolError, match=message):
        load_processor(find_family(folder), version=CHAT, fusion="add", side=SIDE)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    folder = build("smolvlm", tmp_path)
    config = (folder / "config.json").read_text()
    assert '"num_hidden_layers": 2' in config
    (folder / "config.json").write_text(
        config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    with pytest.raises(EegToolError, match=r"does not fit the model: .* weights missing"):
        load_family(find_family(folder), fusion="add", dtype=torch.float32)
