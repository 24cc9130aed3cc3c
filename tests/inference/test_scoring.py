"""Scores out of one forward, held against teacher forcing: each answer alone, behind its own prompt."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eegtool.core.probabilities import Scaling
from eegtool.core.stages import STAGES
from eegtool.inference.cache import Cached, frozen, preallocated
from eegtool.inference.scoring import (
    Choice,
    behind_reasons,
    encode_choice,
    stage_log_likelihoods,
)
from eegtool.model import tiny as tiny_model
from eegtool.model.adapters import inner, load_adapter
from eegtool.model.eegvlm import EEGVLM
from eegtool.model.families.fused import as_argument
from eegtool.model.processor import Processor, pad
from eegtool.reasons.words import conclusion, define

N = 8
LEAD = "The stage is "
CLOSE = 1e-4


@dataclass(frozen=True)
class Asked:
    """Questions of different length, pictures and features, and what brute force says of them."""

    processor: Processor
    choices: list[Choice]
    pixels: torch.Tensor
    features: torch.Tensor
    expected: np.ndarray


def brute_force(
    model: EEGVLM, choice: Choice, pixels: torch.Tensor, features: torch.Tensor | None
) -> list[float]:
    """Score each answer by a pass of its own over one unpadded row."""
    means = []
    for answer in choice.answers:
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([choice.prompt + answer]),
                pixel_values=pixels[None],
                high_level_features=None if features is None else features[None],
            ).logits
        log_probabilities = logits[0, len(choice.prompt) - 1 : -1].float().log_softmax(-1)
        means.append(float(log_probabilities[range(len(answer)), answer].mean()))
    return means


@pytest.fixture(scope="module")
def loaded(adapter_model: Path) -> tuple[Any, Any]:
    peft_model, processor, _ = load_adapter(adapter_model, base=None, dtype=torch.float32)
    return inner(peft_model), processor


@pytest.fixture(scope="module")
def model(loaded: tuple[EEGVLM, Processor]) -> EEGVLM:
    return loaded[0]


@pytest.fixture(scope="module")
def processor(loaded: tuple[EEGVLM, Processor]) -> Processor:
    return loaded[1]


def like_vicuna(processor: Processor) -> Processor:
    """Return one whose tokenizer, as Vicuna's, has a token for REM, but spells N1, N2 and N3 in several."""
    words = [word for word in tiny_model._WORDS if word not in ("N1", "N2", "N3")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "_WORDS", words)
        tokenizer = tiny_model.build_tokenizer()
    for name in ("pad_token_id", "eos_token_id"):
        assert getattr(tokenizer, name) == getattr(processor.tokenizer, name)
    return replace(processor, tokenizer=tokenizer)


def questions(processor: Processor, form: str) -> list[Choice]:
    """Ask for bare labels, or for conclusions behind reasons of different length."""
    text = "Which sleep stage does this 30 second EEG epoch show?"
    if form == "stage":
        return [
            encode_choice(processor, text + " In short?" * (5 * i % 7), 2, STAGES) for i in range(N)
        ]
    written = [define(STAGES[i % 5])[: 40 * (1 + i % 4)] for i in range(N)]
    answers = [conclusion(stage) for stage in STAGES]
    return [
        encode_choice(processor, text, 2, behind_reasons(reasons, answers, LEAD))
        for reasons in written
    ]


@pytest.fixture(scope="module", params=["stage", "vicuna", "cot"])
def asked(request: pytest.FixtureRequest, model: EEGVLM, processor: Processor) -> Asked:
    if request.param != "stage":
        processor = like_vicuna(processor)
    choices = questions(processor, "cot" if request.param == "cot" else "stage")
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(N, 3, 64, 64, generator=generator)
    features = torch.randn(N, 1, 1024, generator=generator)
    expected = [brute_force(model, *row) for row in zip(choices, pixels, features, strict=True)]
    return Asked(processor, choices, pixels, features, np.array(expected))


def scored(model: EEGVLM, asked: Asked, size: int, n: int = N) -> np.ndarray:
    """Score the first `n` questions in batches of `size`."""
    parts = [
        stage_log_likelihoods(
            model,
            asked.processor,
            asked.choices[start : start + size],
            asked.pixels[start : start + size],
            asked.features[start : start + size],
        )
        for start in range(0, n, size)
    ]
    return np.concatenate(parts)


@pytest.fixture
def attention(request: pytest.FixtureRequest, model: EEGVLM) -> Any:
    config = model.model.language_model.config
    before = config._attn_implementation
    config._attn_implementation = request.param
    yield request.param
    assert config._attn_implementation == request.param
    config._attn_implementation = before


def test_there_is_something_to_compare(asked: Asked) -> None:
    """Prompts of different length, answers of several tokens, scores far further apart than `CLOSE`."""
    assert len({len(choice.prompt) for choice in asked.choices}) >= 4
    lengths = {tuple(map(len, choice.answers)) for choice in asked.choices}
    by_tokenizer = [{(2,) * 5}, {(2, 4, 4, 4, 2)}, {(3, 5, 5, 5, 3)}]
    assert lengths in by_tokenizer
    assert asked.expected.std(axis=0).min() > 0.01
    assert asked.expected.std(axis=1).min() > 0.01


@pytest.mark.parametrize("attention", ["sdpa", "eager"], indirect=True)
@pytest.mark.parametrize("size", [1, 3, N])
@pytest.mark.usefixtures("attention")
def test_one_forward_is_five_teacher_forced_passes(model: EEGVLM, asked: Asked, size: int) -> None:
    found = scored(model, asked, size)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, asked.expected, atol=CLOSE, rtol=0)
    np.testing.assert_allclose(
        Scaling().probabilities(found), Scaling().probabilities(asked.expected), atol=CLOSE, rtol=0
    )


def read(model: EEGVLM, asked: Asked, size: int, cut: int, junk: int) -> Cached:
    """Run the prompts of a batch less `cut` tokens, and tokens that do not belong to them, into a cache."""
    choices = asked.choices[:size]
    tokens = [[*c.prompt[: len(c.prompt) - cut], *[7] * junk] for c in choices]
    mask = pad([[1] * len(row) for row in tokens], 0, "left")
    language = model.model.language_model
    cache = preallocated(language, mask.shape[1])
    with torch.inference_mode():
        ids = pad(tokens, 0, "left")
        language(
            inputs_embeds=model.embed(ids, asked.pixels[:size], asked.features[:size]),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            **as_argument(language, cache),
        )
    return Cached(frozen(cache), tokens)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash_attention_2"], indirect=True)
@pytest.mark.parametrize(("cut", "junk"), [(0, 0), (1, 0), (5, 4)])
@pytest.mark.parametrize("size", [1, 5])
def test_what_was_read_before_is_not_read_again(
    model: EEGVLM, asked: Asked, size: int, cut: int, junk: int, attention: str
) -> None:
    """Only what the cache has of a prompt counts, whatever stands in its columns beside."""
    config = model.model.language_model.config
    config._attn_implementation = "eager" if attention == "eager" else "sdpa"
    cached = read(model, asked, size, cut, junk)
    config._attn_implementation = attention
    n_tokens = cached.cache.get_seq_length()
    nothing = torch.full((size, 3, 64, 64), torch.nan)  # is not looked at
    choices = asked.choices[:size]
    found = [
        stage_log_likelihoods(model, asked.processor, choices, nothing, None, cached)
        for _ in range(2)
    ]
    np.testing.assert_allclose(found[0], asked.expected[:size], atol=CLOSE, rtol=0)
    np.testing.assert_array_equal(found[0], found[1])
    assert cached.cache.get_seq_length() == n_tokens


def test_a_cache_of_another_prompt_is_of_no_use(model: EEGVLM, asked: Asked) -> None:
    cached = read(model, asked, 1, 0, 0)
    other = replace(cached, tokens=[[9, *cached.tokens[0][1:]]])
    with pytest.raises(RuntimeError, match="does not hold the pictures"):
        stage_log_likelihoods(
            model, asked.processor, asked.choices[:1], asked.pixels[:1], None, other
        )


@pytest.mark.parametrize("attention", ["flash_attention_2"], indirect=True)
@pytest.mark.usefixtures("attention")
def test_flash_attention_takes_no_mask(model: EEGVLM, asked: Asked) -> None:
    """It is not asked to: it runs on no CPU either, and would say so."""
    np.testing.assert_allclose(scored(model, asked, N), asked.expected, atol=CLOSE, rtol=0)


def test_an_answer_does_not_see_the_others(model: EEGVLM, asked: Asked) -> None:
    order = [3, 0, 4]
    fewer = [
        replace(choice, answers=tuple(choice.answers[i] for i in order)) for choice in asked.choices
    ]
    found = scored(model, replace(asked, choices=fewer), N)
    np.testing.assert_allclose(found, asked.expected[:, order], atol=CLOSE, rtol=0)


def test_rows_may_have_answers_of_different_length(model: EEGVLM, asked: Asked) -> None:
    """Nobody asks so, but padding behind the answers must not be read either."""
    word = asked.choices[0].answers[1][:-1]
    longer = [
        replace(c, answers=(*c.answers[:4], word * (1 + i % 3) + c.answers[4]))
        for i, c in enumerate(asked.choices[:4])
    ]
    rows = zip(longer, asked.pixels, asked.features, strict=False)
    expected = [brute_force(model, *row) for row in rows]
    found = scored(model, replace(asked, choices=longer), 4, n=4)
    np.testing.assert_allclose(found, expected, atol=CLOSE, rtol=0)


def test_the_prompt_is_run_once(model: EEGVLM, asked: Asked) -> None:
    shapes: list[tuple[int, ...]] = []
    looks: list[int] = []
    language, tower = model.model.language_model, model.model.vision_tower
    hooks = [
        language.register_forward_pre_hook(
            lambda _, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])),
            with_kwargs=True,
        ),
        tower.register_forward_pre_hook(lambda _, args: looks.append(len(args[0]))),
    ]
    scored(model, asked, N)
    for hook in hooks:
        hook.remove()
    longest = max(len(choice.prompt) for choice in asked.choices)
    packed = sum(len(answer) - 1 for answer in asked.choices[0].answers)
    assert shapes == [(N, longest + packed)]
    assert looks == [N]


def test_picture_and_feature_are_read(model: EEGVLM, asked: Asked) -> None:
    other = scored(model, replace(asked, features=asked.features.flip(0)), N)
    assert np.abs(other - asked.expected).max(axis=1).min() > CLOSE
    other = scored(model, replace(asked, pixels=asked.pixels.flip(0)), N)
    assert np.abs(other - asked.expected).max(axis=1).min() > CLOSE


def test_a_fusion_without_features(
    model: EEGVLM, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "fusion", "none")
    image = model.config.image_token_id
    # One block of 16 tokens in place of two.
    choices = [
        replace(c, prompt=tuple(t for i, t in enumerate(c.prompt) if t != image or i % 2))
        for c in asked.choices[:3]
    ]
    blocks = {sum(token == image for token in choice.prompt) for choice in choices}
    assert blocks == {16}
    pixels = asked.pixels[:3]
    found = stage_log_likelihoods(model, asked.processor, choices, pixels, None)
    expected = [brute_force(model, c, p, None) for c, p in zip(choices, pixels, strict=True)]
    np.testing.assert_allclose(found, expected, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_scored_in_32(model: EEGVLM, asked: Asked, dtype: torch.dtype) -> None:
    found = scored(copy.deepcopy(model).to(dtype), asked, 4, n=4)
    assert np.isfinite(found).all()
    # Near what 32 bits say, and on no grid: log-probabilities in 16 bits would be rounded to it.
    assert np.abs(found - asked.expected[:4]).mean() < 0.15
    first = torch.from_numpy(found.ravel())
    assert (first.to(dtype).double() != first).all()


def test_tokens_are_those_of_the_training(asked: Asked) -> None:
    processor, text = asked.processor, "What stage does this show?"
    reasons = "Delta dominates, about 90 µV."
    for answers in (STAGES, [f"{reasons} {conclusion(stage)}" for stage in STAGES]):
        choice = encode_choice(processor, text, 2, answers)
        for answer, tail in zip(answers, choice.answers, strict=True):
            assert choice.prompt + tail == processor.encode(text, 2, answer).input_ids
            assert tail[-1] == processor.tokenizer.eos_token_id
        assert len({tail[0] for tail in choice.answers}) > 1
        shown = processor.tokenizer.decode(choice.prompt)
        assert shown.endswith("The answer is:" if answers is STAGES else f"{reasons} The stage is")


CONCLUSIONS = [conclusion(stage) for stage in STAGES]
WRITTEN: dict[str, str] = {
    "No rhythm stands out. The stage is N1.": "No rhythm stands out.",
    "The stage is not N3. The stage is W.": "The stage is not N3.",
    "No rhythm stands out. The st": "No rhythm stands out. The st",
    "  Delta dominates.\n": "Delta dominates.",
    "The stage is N3.": "",
    "": "",
    "A picture <image> of it. The stage is W.": "A picture  of it.",
}


@pytest.mark.parametrize(("text", "reasons"), WRITTEN.items())
def test_the_conclusion_is_put_behind_the_reasons(text: str, reasons: str) -> None:
    found = behind_reasons(text, CONCLUSIONS, LEAD)
    assert found == [f"{reasons} {c}".strip() for c in CONCLUSIONS]


def test_any_text_can_be_scored(asked: Asked, model: EEGVLM) -> None:
    """Whatever a model writes, its reasons are tokens that can be read."""
    for text in WRITTEN:
        choice = encode_choice(
            asked.processor, "Which?", 2, behind_reasons(text, CONCLUSIONS, LEAD)
        )
        found = stage_log_likelihoods(
            model, asked.processor, [choice], asked.pixels[:1], asked.features[:1]
        )
        assert np.isfinite(found).all()
