"""From picture to pixels and from text to tokens and labels, the same in training and in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from PIL import Image

from eegtool.core.errors import EegToolError
from eegtool.core.forms import IMAGE_TOKEN
from eegtool.core.pictures import read_rgb
from eegtool.core.workspace import write_json

IGNORED: Final = -100
"""Label of tokens that are not trained (PyTorch's cross-entropy default)."""

Pixels = dict[str, torch.Tensor]
"""One picture as the input of a tower, with whatever belongs to it; batches join each tensor along axis 0."""


@dataclass(frozen=True, slots=True)
class ConversationTemplate:
    """How question and answer are wrapped; stored in the checkpoint."""

    system: str
    user: str
    assistant: str

    def prompt(self, question: str, n_images: int, system: str = "") -> str:
        """Return the text up to and including the cue for the answer; `system` may replace the template's."""
        images = f"{IMAGE_TOKEN}\n" * n_images
        return f"{system or self.system} {self.turn(images + question)}"

    def turn(self, question: str) -> str:
        """Return what stands between the end of an answer and the next one."""
        return f"{self.user}: {question} {self.assistant}:"


TEMPLATES: Final[dict[str, ConversationTemplate]] = {
    # The template of the EEG-VLM recipe, and LLaVA-1.5's own (Vicuna).
    "v1": ConversationTemplate("This is a VQA task.", "Question", "The answer is"),
    "llava_v1": ConversationTemplate(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        "USER",
        "ASSISTANT",
    ),
}


def squared(image: Image.Image, size: int, mean: Sequence[float]) -> Image.Image:
    """Return a picture as a square of `size` pixels a side: padded with the mean colour, never cropped."""
    side = max(image.size)
    if image.size != (side, side):
        square = Image.new("RGB", (side, side), tuple(round(255 * m) for m in mean))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    if side != size:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return image


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """How a picture becomes the tower's input; stored in the checkpoint."""

    size: int
    """Side of the tower's input in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def pixels(self, picture: Path | bytes | Image.Image) -> np.ndarray:
        """Read one picture, a file of any kind or what is in it, as float32 ``[3, size, size]``.

        A picture that is not square is padded with the mean colour, never cropped; one of another
        size is resampled.

        Raises
        ------
        EegToolError
            If the picture is missing or cannot be read.
        """
        image = read_rgb(picture, "Check --image-folder, or prepare again.")
        image = squared(image, self.size, self.mean)
        scaled = np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)
        mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        return (scaled - mean) / std


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of one sample; `labels` is `IGNORED` except for the answer."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Processor:
    """Everything between the rows of a file and the tensors of the model."""

    tokenizer: Any
    """A fast tokenizer of transformers, with ``<image>`` as a special token."""
    template: ConversationTemplate
    pixel_spec: PixelSpec
    image_tokens: tuple[int, int]
    """Visual tokens of the first and of the second ``<image>`` (see `Fusion.lengths`)."""

    @property
    def pad_token_id(self) -> int:
        """A token to pad with: it is masked, so any will do."""
        return int(self.tokenizer.pad_token_id)

    @property
    def end_token_id(self) -> int:
        """The token that ends an answer."""
        return int(self.tokenizer.eos_token_id)

    @property
    def image_token_id(self) -> int:
        """The token that stands for a visual token."""
        return int(self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))

    @property
    def n_image_tokens(self) -> int:
        """Visual tokens of a question, of all its image blocks."""
        return sum(self.image_tokens)

    def asked(self, spec: PixelSpec, version: str) -> Self:
        """Return a processor that makes pictures in this way, and asks by the template of that name."""
        return replace(self, pixel_spec=spec, template=TEMPLATES[version])

    def pixels(self, picture: Path | bytes | Image.Image) -> Pixels:
        """Read one picture (see `PixelSpec.pixels`) as ``pixel_values`` ``[1, 3, size, size]``."""
        return {"pixel_values": torch.from_numpy(self.pixel_spec.pixels(picture))[None]}

    def inputs(
        self, rows: Sequence[Sequence[int]], pictures: Sequence[Pixels], side: str = "left"
    ) -> Pixels:
        """Return the inputs of a batch.

        Parameters
        ----------
        rows : sequence of sequence of int
            Token ids of each sample (see `encode`, `encode_prompt`).
        pictures : sequence of dict of str to Tensor
            One picture of each (see `pixels`).
        side : str
            Where rows are padded. On the ``right`` there is no attention mask: attention is causal, so no
            token sees the padding behind it, and without a mask it has faster kernels.
        """
        batch = {"input_ids": pad(rows, self.pad_token_id, side)}
        if side == "left":
            batch["attention_mask"] = pad([[1] * len(row) for row in rows], 0, side)
        return batch | joined(pictures)

    def save(self, folder: Path) -> None:
        """Write tokenizer and pixels as transformers' own LLaVA reads them; square pictures come out as ours."""
        self.tokenizer.save_pretrained(folder)
        spec = self.pixel_spec
        raw = {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": spec.size},
            "resample": 3,  # bicubic
            "do_center_crop": True,
            "crop_size": {"height": spec.size, "width": spec.size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(spec.mean),
            "image_std": list(spec.std),
        }
        write_json(folder / "preprocessor_config.json", raw)

    def prompt(self, question: str, n_images: int) -> str:
        """Return a question as text, up to the cue for its answer."""
        return self.template.prompt(question, n_images)

    def encode_prompt(self, question: str, n_images: int) -> tuple[int, ...]:
        """Return the token ids of a question, image tokens expanded, ready for an answer."""
        tokens = self._tokens(self.prompt(question, n_images))
        return tuple(i for i, _ in self._expanded([(i, IGNORED) for i, _ in tokens], n_images))

    def encode(
        self,
        question: str,
        n_images: int,
        answer: str,
        later: Sequence[tuple[str, str]] = (),
        system: str = "",
    ) -> Encoded:
        """Tokenise questions and answers together; only the answers and their end tokens get labels.

        Labels come from character offsets, so they are right whatever the tokenizer merges.

        Parameters
        ----------
        question, n_images, answer : str, int, str
            The first turn, with the pictures.
        later : sequence of (str, str)
            Further questions with their answers; as in LLaVA, each follows the end token before it.
        system : str
            What stands in place of the template's system text; empty for that.

        Raises
        ------
        EegToolError
            If a prompt's tokens change when the answer follows: the model would be asked with
            other tokens than it was trained on.
        """
        pairs = self._turn(self.template.prompt(question, n_images, system), answer, first=True)
        for further, reply in later:
            pairs += self._turn(self.template.turn(further), reply, first=False)
        expanded = self._expanded(pairs, n_images)
        return Encoded(tuple(i for i, _ in expanded), tuple(label for _, label in expanded))

    def count_tokens(self, answer: str) -> int:
        """Count the tokens of an answer, its end included."""
        return len(self._tokens(f" {answer}", first=False)) + 1

    def _turn(self, prompt: str, answer: str, *, first: bool) -> list[tuple[int, int]]:
        """Return the tokens of one turn, end token included, each with its label."""
        tokens = self._tokens(f"{prompt} {answer}", first=first)
        pairs = [(i, i if end > len(prompt) else IGNORED) for i, end in tokens]
        asked = [i for i, label in pairs if label == IGNORED]
        if asked != [i for i, _ in self._tokens(prompt, first=first)]:
            raise EegToolError(
                f"The answer '{answer}' merges with the end of the prompt '{prompt[-30:]}'.",
                "Choose another conversation template with --version.",
            )
        eos = self.tokenizer.eos_token_id
        return [*pairs, (eos, eos)]

    def _tokens(self, text: str, *, first: bool = True) -> list[tuple[int, int]]:
        """Return each token's id and where it ends in `text`, without an end token at the end.

        Only what comes `first` begins with the tokenizer's beginning token.
        """
        found = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=first)
        ends = [end for _, end in found["offset_mapping"]]
        tokens = list(zip(found["input_ids"], ends, strict=True))
        added = first and tokens[-1] == (
            self.tokenizer.eos_token_id,
            0,
        )  # some tokenizers append it
        return tokens[:-1] if added else tokens

    def _expanded(self, pairs: list[tuple[int, int]], n_images: int) -> list[tuple[int, int]]:
        """Repeat each image token once per visual token of its block."""
        image_id = self.image_token_id
        lengths = iter(self.image_tokens)
        found = sum(token == image_id for token, _ in pairs)
        if found != n_images or n_images != len(self.image_tokens):
            raise EegToolError(
                f"A sample has {n_images} images and its text {found} {IMAGE_TOKEN} tokens; "
                f"{len(self.image_tokens)} are needed.",
                "Rows are [Image1, Image1] with one <image> each; run `eegvlm prepare` again.",
            )
        expanded = []
        for pair in pairs:
            expanded += [pair] * (next(lengths) if pair[0] == image_id else 1)
        return expanded


def picture_of(sample_id: str, images: Sequence[str]) -> str:
    """Return the one picture of a row ``[Image1, Image1]``.

    Raises
    ------
    EegToolError
        If the row has another form; the sample is named.
    """
    if len(images) != 2 or images[0] != images[1]:
        raise EegToolError(
            f"The images of sample '{sample_id}' are [{', '.join(images)}], not one picture twice.",
            "Rows are [Image1, Image1]: the second stands for the same picture with its feature.",
        )
    return images[0]


def joined(pictures: Sequence[Pixels]) -> Pixels:
    """Return the pictures of a batch as one input."""
    return {name: torch.cat([picture[name] for picture in pictures]) for name in pictures[0]}


def pad(rows: Sequence[Sequence[int]], value: int, side: str) -> torch.Tensor:
    """Pad rows of different length to int64 ``[B, longest]`` on the ``left`` or ``right``."""
    width = max(len(row) for row in rows)
    padded = [
        [value] * (width - len(row)) + list(row)
        if side == "left"
        else list(row) + [value] * (width - len(row))
        for row in rows
    ]
    return torch.tensor(padded, dtype=torch.int64)
