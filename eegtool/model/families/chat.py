"""Questions, pictures and answers as the inputs of a family, by its own processor and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from jinja2.exceptions import TemplateError
from PIL import Image

from eegtool.core.errors import EegToolError, brief
from eegtool.core.pictures import read_rgb
from eegtool.model.eegvlm import FUSIONS
from eegtool.model.families.generic import Family
from eegtool.model.processor import IGNORED, Encoded, Pixels, PixelSpec, joined, pad, squared

_IDS: Final = "input_ids"
_MASK: Final = "attention_mask"
_GREY: Final = (0.5, 0.5, 0.5)


class _Turn(NamedTuple):
    """A question up to the cue for its answer, and the answer with what stands before it."""

    asked: str
    answered: str


@dataclass(frozen=True, eq=False)
class FamilyProcessor:
    """Everything between the rows of a file and the tensors of a model, in its family's own way.

    Attributes
    ----------
    hub : transformers.ProcessorMixin
        The family's processor.
    family : Family
        Of the model.
    fusion : str
        Name of the fusion: how many image blocks a question has, and how long they are.
    side : int
        Side of a picture in pixels, before the family's processor makes of it what its tower wants.
    image_token_id : int
        The token that stands for a visual token.
    """

    hub: Any
    family: Family
    fusion: str
    side: int
    image_token_id: int
    _expanded: dict[str, tuple[int, ...]] = field(default_factory=dict, init=False)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the family."""
        return self.hub.tokenizer

    @cached_property
    def n_blocks(self) -> int:
        """Image blocks of a question."""
        return sum(length > 0 for length in FUSIONS[self.fusion].lengths(2))

    @property
    def pad_token_id(self) -> int:
        """A token to pad with: it is masked, so any will do."""
        found = self.tokenizer.pad_token_id
        return int(self.end_token_id if found is None else found)

    @cached_property
    def end_token_id(self) -> int:
        """The token that ends an answer: the first special one that the chat template puts behind it."""
        probe = "N2"
        messages = [*_ask("?", self.n_blocks), _said(probe)]
        text = self._render(messages, cue=False)
        behind = self.tokenizer(text[text.rindex(probe) + len(probe) :], add_special_tokens=False)
        special = set(self.tokenizer.all_special_ids) | {
            i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special
        }
        found = next((i for i in behind[_IDS] if i in special), self.tokenizer.eos_token_id)
        return int(found)

    @property
    def pixel_spec(self) -> PixelSpec:
        """How a picture is made square, and what the family's processor says that it does with its colours."""
        mean, std = (getattr(self.hub.image_processor, f"image_{n}", None) for n in ("mean", "std"))
        return PixelSpec(self.side, tuple(mean or _GREY), tuple(std or _GREY))

    def asked(self, spec: PixelSpec, version: str) -> Self:
        """Return a processor for pictures of that size; the chat template stays the family's own."""
        return replace(self, side=spec.size)

    @cached_property
    def n_image_tokens(self) -> int:
        """Visual tokens of a question, of all its image blocks."""
        return self.encode_prompt("?", 2).count(self.image_token_id)

    def save(self, folder: Path) -> None:
        """Write the family's processor and tokenizer."""
        self.hub.save_pretrained(folder)

    def prompt(self, question: str, n_images: int) -> str:
        """Return a question as the chat template writes it, up to the cue for its answer."""
        self._check_images(n_images)
        return self._render(_ask(question, self.n_blocks), cue=True)

    def encode_prompt(self, question: str, n_images: int) -> tuple[int, ...]:
        """Return the token ids of a question, image tokens expanded, ready for an answer."""
        return self._expand(self.prompt(question, n_images))

    def encode(
        self,
        question: str,
        n_images: int,
        answer: str,
        later: Sequence[tuple[str, str]] = (),
        system: str = "",
    ) -> Encoded:
        """Tokenise questions and answers; only the answers and their end tokens get labels.

        Parameters
        ----------
        question, n_images, answer : str, int, str
            The first turn, with the pictures of its row: one, twice.
        later : sequence of (str, str)
            Further questions with their answers.
        system : str
            A system text; empty for none.

        Raises
        ------
        EegToolError
            If a prompt's tokens change when the answer follows: the model would be asked with other
            tokens than it was trained on.
        """
        self._check_images(n_images)
        ids: list[int] = []
        labels: list[int] = []
        for turn in self._turns(question, answer, later, system):
            asked = self._tokens(turn.asked, first=not ids)
            whole = self._tokens(turn.asked + turn.answered, first=not ids)
            if whole[: len(asked)] != asked:
                raise EegToolError(
                    f"The answer '{answer}' merges with the end of the prompt '{turn.asked[-30:]}'.",
                    "This model's chat template and tokenizer cannot be trained on such answers.",
                )
            reply = [*whole[len(asked) :], self.end_token_id]
            prompt = asked if ids else self._expand(turn.asked)
            ids += [*prompt, *reply]
            labels += [IGNORED] * len(prompt) + reply
        return Encoded(tuple(ids), tuple(labels))

    def count_tokens(self, answer: str) -> int:
        """Count the tokens of an answer, its end included."""
        (turn,) = self._turns("?", answer, (), "")
        return len(self._tokens(turn.answered, first=False)) + 1

    def pixels(self, picture: Path | bytes | Image.Image) -> Pixels:
        """Read one picture as the input of the tower.

        A picture that is not square is padded, never cropped; one of another size is resampled.

        Raises
        ------
        EegToolError
            If the picture is missing or cannot be read.
        """
        image = read_rgb(picture, "Check --image-folder, or prepare again.")
        images = [squared(image, self.side, self.pixel_spec.mean)] * self.family.pictures_for(
            self.n_blocks
        )
        made = self._process(self._render(_ask("?", len(images)), cue=True), images)
        pictures = {k: v for k, v in made.items() if k not in self._text_names}
        return self.family.first_picture(pictures)

    def inputs(
        self,
        rows: Sequence[Sequence[int]],
        pictures: Sequence[Pixels],
        side: str = "left",
    ) -> Pixels:
        """Return the inputs of a batch; see `eegtool.model.processor.Processor.inputs`."""
        batch = {_IDS: pad(rows, self.pad_token_id, side)}
        if side == "left":
            batch[_MASK] = pad([[1] * len(row) for row in rows], 0, side)
        for name in self._text_names - {_IDS, _MASK}:  # of what kind each token is
            types = self.hub.create_mm_token_type_ids([list(row) for row in rows])
            batch[name] = pad(types, 0, side)
        return batch | joined(pictures)

    @cached_property
    def _text_names(self) -> set[str]:
        """What of the processor's inputs has a number for each token."""
        made = self._process(self._render(_ask("?", 1), cue=True), [self._blank])
        return {name for name, value in made.items() if value.shape == made[_IDS].shape}

    @property
    def _blank(self) -> Image.Image:
        return Image.new("RGB", (self.side, self.side))

    def _check_images(self, n_images: int) -> None:
        if n_images != 2:
            raise EegToolError(
                f"A sample has {n_images} images; 2 are needed.",
                "Rows are [Image1, Image1] with one <image> each; run `eegvlm prepare` again.",
            )

    def _turns(
        self, question: str, answer: str, later: Sequence[tuple[str, str]], system: str
    ) -> list[_Turn]:
        """Cut a conversation, as the chat template writes it, into questions and answers, without ends."""
        end = self.tokenizer.convert_ids_to_tokens(self.end_token_id)
        messages = _ask(question, self.n_blocks, system)
        cued = self._render(messages, cue=True)
        turns, begin = [], 0
        for reply, following in zip([answer, *(a for _, a in later)], [*later, None], strict=True):
            messages.append(_said(reply))
            text = self._render(messages, cue=False)
            same = takewhile(lambda pair: pair[0] == pair[1], zip(cued, text, strict=False))
            at = text.find(reply.strip(), sum(1 for _ in same))
            if at < 0:
                raise EegToolError(
                    f"The chat template of this {self.family.name} model changes the answer '{reply}'.",
                    "Use a model whose chat template writes answers as they are.",
                )
            # What the cue says is what the model is asked with; some templates write it otherwise in between.
            lead = text[len(cued) : at] if text.startswith(cued) else ""
            turns.append(_Turn(cued[begin:], lead + reply.strip()))
            if following:
                messages.append(_message("user", following[0]))
                cued = self._render(messages, cue=True)
                begin = at + len(reply.strip())
                begin += len(end) if text[begin:].startswith(end) else 0
                if not cued.startswith(text[:begin]):
                    raise EegToolError(
                        f"The chat template of this {self.family.name} model rewrites earlier answers.",
                        "Fine-tune it on one question per sample.",
                    )
        return turns

    def _render(self, messages: list[dict[str, Any]], *, cue: bool) -> str:
        """Write messages by the chat template; with the `cue` for an answer, or without."""
        try:
            text = self.hub.apply_chat_template(messages, tokenize=False, add_generation_prompt=cue)
        except (ValueError, TypeError, TemplateError) as error:
            raise EegToolError(
                f"The chat template of this {self.family.name} model cannot be used: {brief(error)}.",
                "Use the variant that was trained for chats: 'instruct' or 'it'.",
            ) from error
        return str(text)

    def _tokens(self, text: str, *, first: bool) -> list[int]:
        """Tokenise as the processor does: without a beginning that the text has already."""
        special = first and not self._has_begun(text)
        return list(self.tokenizer(text, add_special_tokens=special)[_IDS])

    def _process(self, text: str, images: list[Image.Image]) -> Any:
        """Run the family's processor on one prompt with its pictures."""
        return self.hub(
            text=[text],
            images=[images],
            return_tensors="pt",
            **({"add_special_tokens": False} if self._has_begun(text) else {}),
            **self.family.whole,
        )

    def _has_begun(self, text: str) -> bool:
        """Whether a text has its beginning token already: the chat template's, not to be doubled."""
        begin = self.tokenizer.bos_token
        return begin is not None and text.startswith(begin)

    def _expand(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a prompt, image blocks as long as pictures of this side make them."""
        if text not in self._expanded:
            ids = self._process(text, [self._blank] * self.n_blocks)[_IDS][0].tolist()
            self._expanded[text] = tuple(self._shortened(ids) if self.fusion == "token" else ids)
        return self._expanded[text]

    def _shortened(self, ids: list[int]) -> list[int]:
        """Leave one token of the second image block: that of the feature."""
        columns = [i for i, token in enumerate(ids) if token == self.image_token_id]
        second = columns[len(columns) // 2 :]
        if second != list(range(second[0], second[0] + len(second))):
            raise EegToolError(
                f"The fusion 'token' cannot be used with this {self.family.name} model: its image "
                "tokens do not stand in a row.",
                "Use --fusion add or none.",
            )
        return ids[: second[0] + 1] + ids[second[-1] + 1 :]


def _ask(question: str, n_blocks: int, system: str = "") -> list[dict[str, Any]]:
    """Return the messages of a question with its image blocks."""
    asked = _message("user", question)
    asked["content"] = [{"type": "image"}] * n_blocks + asked["content"]
    return [*([_message("system", system)] if system else []), asked]


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _said(answer: str) -> dict[str, Any]:
    return _message("assistant", answer)
