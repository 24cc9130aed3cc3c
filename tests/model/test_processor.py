from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from eegtool.core.errors import EegToolError
from eegtool.model.eegvlm import FUSIONS
from eegtool.model.processor import (
    IGNORED,
    TEMPLATES,
    PixelSpec,
    Processor,
    pad,
    picture_of,
)
from eegtool.model.tiny import build_tokenizer

QUESTION = "Which sleep stage does this 30-second EEG epoch show?"
ANSWERS = [
    "N2",
    "The answer is: N2",
    "Slow waves. The answer is: N3 ",
    " The answer is: ",
    "ASSISTANT: W",
    "75 µV 睡眠 🛌",
    "two  blanks,\na line\t and the end\n",
    "<b>N1</b> {stage} %s",
]
SPEC = PixelSpec(32, (0.5, 0.25, 0.75), (0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(params=list(TEMPLATES))
def processor(request: pytest.FixtureRequest, tokenizer: Any) -> Processor:
    return Processor(tokenizer, TEMPLATES[request.param], SPEC, (16, 16))


def test_templates_are_changed_on_purpose_only() -> None:
    asked = {name: template.prompt("Which stage?", 2) for name, template in TEMPLATES.items()}
    assert asked == {
        "v1": "This is a VQA task. Question: <image>\n<image>\nWhich stage? The answer is:",
        "llava_v1": "A chat between a curious user and an artificial intelligence assistant. The "
        "assistant gives helpful, detailed, and polite answers to the user's questions. "
        "USER: <image>\n<image>\nWhich stage? ASSISTANT:",
    }


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_answer_and_the_end_are_trained_and_nothing_else(
    processor: Processor, answer: str
) -> None:
    encoded = processor.encode(QUESTION, 2, answer)
    trained = [label for label in encoded.labels if label != IGNORED]
    assert processor.tokenizer.decode(trained) == f" {answer}</s>"
    assert encoded.input_ids[-len(trained) :] == tuple(trained)
    assert encoded.labels[: -len(trained)] == (IGNORED,) * (len(encoded.input_ids) - len(trained))


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_prompt_of_evaluation_is_the_beginning_of_training(
    processor: Processor, answer: str
) -> None:
    encoded, prompt = processor.encode(QUESTION, 2, answer), processor.encode_prompt(QUESTION, 2)
    assert encoded.input_ids[: len(prompt)] == prompt
    assert encoded.labels[len(prompt)] != IGNORED


@pytest.mark.parametrize(
    ("fusion", "lengths"), [("add", (16, 16)), ("token", (16, 1)), ("none", (16, 0))]
)
def test_each_image_stands_for_the_tokens_of_its_block(
    tokenizer: Any, fusion: str, lengths: tuple[int, int]
) -> None:
    assert FUSIONS[fusion].lengths(16) == lengths
    processor = Processor(tokenizer, TEMPLATES["v1"], SPEC, lengths)
    text = tokenizer.decode(processor.encode_prompt(QUESTION, 2))
    first, second = ("<image>" * n for n in lengths)
    assert f"Question: {first}\n{second}\n{QUESTION} The answer is:" in text
    assert text.count("<image>") == sum(lengths)


@pytest.mark.parametrize(("question", "n_images"), [("", 1), ("", 3), ("", 0), ("<image>", 2)])
def test_other_numbers_of_images_are_refused(
    processor: Processor, question: str, n_images: int
) -> None:
    with pytest.raises(EegToolError, match=f"has {n_images} images and its text"):
        processor.encode_prompt(question, n_images)


def own_tokenizer(alphabet: str, **parts: Any) -> Any:
    """A tokenizer of single characters, and of what `parts` adds."""
    special = ["<unk>", "</s>", "<image>"]
    merges = parts.get("merges", [])
    tokens = [*special, *sorted(set(alphabet)), *("".join(merge) for merge in merges)]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    tokenizer.add_special_tokens(special)
    if "post_processor" in parts:
        tokenizer.post_processor = parts["post_processor"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="<unk>"
    )


def test_an_answer_that_merges_with_the_prompt_is_refused() -> None:
    """The model would be asked with other tokens than it was trained on."""
    prompt = TEMPLATES["v1"].prompt("", 2)
    merging = own_tokenizer(prompt + "N2", merges=[(":", " ")])
    processor = Processor(merging, TEMPLATES["v1"], SPEC, (1, 1))
    with pytest.raises(EegToolError, match="answer 'N2' merges with the end of the prompt"):
        processor.encode("", 2, "N2")


def test_a_tokenizer_that_ends_every_text_is_stopped() -> None:
    closing = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = own_tokenizer(TEMPLATES["v1"].prompt("", 2) + "N2", post_processor=closing)
    processor = Processor(tokenizer, TEMPLATES["v1"], SPEC, (1, 1))
    assert processor.encode("", 2, "N2").input_ids.count(1) == 1
    assert 1 not in processor.encode_prompt("", 2)


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


def normalised(pixels: np.ndarray) -> np.ndarray:
    """Pixels as the tower wants them, channel by channel."""
    out = np.empty((3, *pixels.shape[:2]), np.float32)
    for c in range(3):
        out[c] = (pixels[..., c] / 255 - SPEC.mean[c]) / SPEC.std[c]
    return out


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_picture_of_the_towers_size_is_not_resampled(tmp_path: Path) -> None:
    pixels = noise(32, 32)
    found = SPEC.pixels(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, normalised(pixels), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(10, 32), (32, 10)])
def test_a_picture_that_is_not_square_is_padded_and_not_cropped(
    tmp_path: Path, height: int, width: int
) -> None:
    pixels = noise(height, width)
    found = SPEC.pixels(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    top, left = (32 - height) // 2, (32 - width) // 2
    inside = (slice(None), slice(top, top + height), slice(left, left + width))
    np.testing.assert_allclose(found[inside], normalised(pixels), atol=1e-6)
    found[inside] = 0
    assert np.abs(found).max() < 0.02  # the mean colour, as near as 8 bits come


@pytest.mark.parametrize("side", [16, 64, 100])
def test_a_picture_of_another_size_is_resampled(tmp_path: Path, side: int) -> None:
    pixels = np.full((side, side, 3), 40, np.uint8)
    pixels[:, side // 2 :] = 200
    found = SPEC.pixels(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert found.shape == (3, 32, 32)
    dark, bright = normalised(pixels)[:, :1, [0, -1]].transpose(2, 0, 1)[..., None]
    assert np.abs(found[:, :, :12] - dark).max() < 0.02  # 8 bits
    assert np.abs(found[:, :, 20:] - bright).max() < 0.02


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_any_kind_of_picture_becomes_three_colours(tmp_path: Path, mode: str) -> None:
    grey = np.repeat(noise(32, 32)[..., :1], 3, axis=2)
    found = SPEC.pixels(saved(tmp_path / "a.png", Image.fromarray(grey).convert("L").convert(mode)))
    np.testing.assert_allclose(found, normalised(grey), atol=1e-6)


def test_missing_or_broken_pictures_are_errors_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(EegToolError, match=r"a\.png does not exist"):
        SPEC.pixels(path)
    saved(path, Image.fromarray(noise(32, 32)))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(EegToolError, match=r"a\.png cannot be read"):
        SPEC.pixels(path)
    path.write_text("no picture")
    with pytest.raises(EegToolError, match=r"a\.png cannot be read"):
        SPEC.pixels(path)


@pytest.mark.parametrize(
    ("side", "expected"),
    [("left", [[7, 7, 1], [2, 3, 4]]), ("right", [[1, 7, 7], [2, 3, 4]])],
)
def test_pad(side: str, expected: list[list[int]]) -> None:
    padded = pad([(1,), (2, 3, 4)], 7, side)
    assert padded.tolist() == expected
    assert str(padded.dtype) == "torch.int64"


def test_a_row_has_one_picture_twice() -> None:
    assert picture_of("e1", ("a.png", "a.png")) == "a.png"


@pytest.mark.parametrize("images", [(), ("a.png",), ("a.png", "b.png"), ("a.png",) * 3])
def test_other_rows_are_refused(images: tuple[str, ...]) -> None:
    with pytest.raises(EegToolError, match=r"'e1' are .*not one picture twice"):
        picture_of("e1", images)
