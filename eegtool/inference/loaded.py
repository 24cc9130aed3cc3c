"""A loaded model: words and log-likelihoods about epochs in memory, from a batch to a whole night."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from eegtool import __version__
from eegtool.core.console import console
from eegtool.core.errors import EegToolError, brief
from eegtool.core.options import AnswerMode
from eegtool.core.records import Question
from eegtool.core.registry import check_name
from eegtool.inference import seam
from eegtool.inference.cache import Cached
from eegtool.inference.decoding import Decoding
from eegtool.inference.memory import first_batch_size, is_out_of_memory
from eegtool.inference.scoring import Choice, behind_reasons, encode_choice, stage_log_likelihoods
from eegtool.inference.writing import Reply, Written, decoded_ahead, write
from eegtool.model.adapters import Contract, inner, load_adapter
from eegtool.model.answer_form import AnswerForm
from eegtool.model.checkpoints import AnyProcessor, Network
from eegtool.model.families.chat import FamilyProcessor
from eegtool.model.loading import best_dtype
from eegtool.model.processor import Pixels, joined

DTYPES: Final = ("auto", "float32", "bfloat16", "float16")


class Batch(NamedTuple):
    """Questions that were asked together, and the replies to them."""

    questions: list[Question]
    replies: list[Reply]
    size: int
    """Questions asked at the same time by then; the last batch may have fewer."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A network that can be asked, and what it takes to ask it.

    Attributes
    ----------
    network : EEGVLM or FusedModel
        On its device, ready to be asked.
    processor : Processor or FamilyProcessor
        With the template to ask by.
    answers : AnswerForm
        How it was taught to answer.
    merged : bool
        Whether LoRA is part of the network's weights.
    around : callable
        Calls what asks about a batch, with whatever must be around it; by default nothing is.
    """

    network: Network
    processor: AnyProcessor
    answers: AnswerForm
    merged: bool = False
    around: Callable[[Callable[[], list[Reply]]], list[Reply]] = lambda ask: ask()
    _choices: dict[tuple[str, int], Choice] = field(default_factory=dict, init=False)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        base: str | None = None,
        vision_tower: str = "",
        device: str | torch.device = "auto",
        dtype: str = "auto",
        attention: str = "auto",
        merge: bool = False,
    ) -> LoadedModel:
        """Load and check a model (see `load_adapter`), without what no answer needs.

        Parameters
        ----------
        folder : Path
            What `eegvlm finetune` or `eegvlm export` wrote.
        base, vision_tower : str, optional
            Where the base lies here, if not where it lay in training.
        device : str or torch.device
            ``auto``: the first GPU, or the CPU where there is none.
        dtype : str
            ``auto`` (the best the device has), ``float32``, ``bfloat16`` or ``float16``.
        attention : str
            See `checkpoints.choose_attention`.
        merge : bool
            Add LoRA to the weights of the base: faster, and rounded to their precision.

        Raises
        ------
        EegToolError
            If it cannot be loaded (see `load_adapter`).
        """
        check_name("dtype", dtype, DTYPES)
        where = device_of(device)
        if where.type == "cuda":
            torch.cuda.set_device(where)  # what libraries allocate by themselves belongs there, too
        loaded, processor, contract = load_adapter(
            folder,
            base=base,
            dtype=best_dtype(where) if dtype == "auto" else getattr(torch, dtype),
            attention=attention,
            vision_tower=vision_tower,
            device=where,
            merge=merge,
        )
        network = inner(loaded)
        network.drop_unread_layers()
        answers = AnswerForm.from_contract(contract.answers)
        return cls(network.to(where), processor, answers, merge or contract.merged)

    def with_template(self, name: str) -> LoadedModel:
        """Return the same model, asked by another conversation template."""
        return replace(self, processor=self.processor.asked(self.processor.pixel_spec, name))

    @property
    def computation(self) -> dict[str, Any]:
        """How it computes: precision, attention, versions."""
        others = (f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
        return {
            "dtype": str(self.network.dtype).removeprefix("torch."),
            "merged": self.merged,
            "attention": self.network.get_decoder().config._attn_implementation,
            "versions": ", ".join([f"eegvlm {__version__}", *others]),
        }

    def replies(
        self,
        questions: Sequence[Question],
        pixels_of: Callable[[Question], Pixels],
        feature_of: Callable[[str], np.ndarray] | None,
        *,
        mode: AnswerMode = "score",
        decoding: Decoding | None = None,
        batch_size: int | None = None,
        done: Collection[str] = (),
    ) -> Generator[Batch, None, None]:
        """Ask about many epochs, batch by batch, those with the longest questions first.

        Parameters
        ----------
        questions : sequence of Question
            What is asked.
        pixels_of : callable
            Question → its picture (see `Processor.pixels`); threads call it ahead of the model.
        feature_of : callable or None
            Sample id → high-level feature, float32 ``[1, 1024]``; None if the fusion needs none.
        mode, decoding : AnswerMode, Decoding or None
            See `reply`.
        batch_size : int or None
            Questions at the same time; None: as many as fit, and half as many whenever memory runs out.
        done : collection of str
            Sample ids that need no reply. A batch all of which is done is passed over; one that was torn,
            when a program was killed, is asked again as a whole: the last bits of a reply depend on what
            else is in its batch.

        Raises
        ------
        EegToolError
            If memory runs out and the batch is not to be halved, or is one question only.
        """
        if not questions:
            return
        decoding = decoding or Decoding(self.answers.max_new_tokens)
        ordered = longest_first(questions, self.processor)
        size = batch_size or self._first_batch_size(ordered[0], mode, decoding)
        missing = _torn_batches(ordered, done, size)
        ready: list[Pixels] = []
        start = 0
        with closing(decoded_ahead(pixels_of, missing, 2 * size)) as pictures:
            while start < len(missing):
                batch = missing[start : start + size]
                ready += islice(pictures, max(0, len(batch) - len(ready)))
                high = None
                if feature_of is not None:
                    high = np.stack([feature_of(q.sample_id) for q in batch])
                pixels = ready[: len(batch)]
                replies, reason = self._try(batch, pixels, high, mode, decoding)
                if replies is not None:
                    yield Batch(batch, replies, size)
                    start += len(batch)
                    del ready[: len(batch)]
                    continue
                if batch_size is not None or len(batch) == 1:
                    fix = "Use --batch-size auto." if batch_size else "Use a GPU with more memory."
                    raise EegToolError(
                        f"Memory ran out for {len(batch)} questions at a time: {reason}.",
                        f"What was answered is kept. {fix}",
                    )
                size = len(batch) // 2
                console.print(f"  Memory ran out: continuing with {size} questions at a time.")
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    def reply(
        self,
        questions: Sequence[Question],
        pixels: Sequence[Pixels],
        features: np.ndarray | None,
        mode: AnswerMode = "score",
        decoding: Decoding | None = None,
    ) -> list[Reply]:
        """Ask about a batch.

        Parameters
        ----------
        questions : sequence of Question
            The batch.
        pixels : sequence of dict of str to Tensor
            A picture per question (see `Processor.pixels`).
        features : float32 [B, 1, 1024] or None
            A high-level feature per question; None if the fusion needs none.
        mode : AnswerMode
            What is wanted: words, log-likelihoods of the stages, or both.
        decoding : Decoding, optional
            How words are chosen; by default the likeliest, as many as the answers of the training had.

        Raises
        ------
        EegToolError
            If the model's log-likelihoods are not finite numbers.
        """
        decoding = decoding or Decoding(self.answers.max_new_tokens)
        high = None if features is None else torch.from_numpy(features).to(self.network.device)
        found: dict[int, Reply] = {}
        for rows, replies, cached in self._written(questions, pixels, high, mode, decoding):
            if mode != "generate":
                scored = self._scored(
                    [questions[row] for row in rows],
                    [reply.text for reply in replies],
                    [pixels[row] for row in rows],
                    None if high is None else high[list(rows)],
                    cached,
                )
                replies = [
                    replace(
                        w,
                        text=s.text if mode == "score" else w.text,
                        log_likelihood=s.log_likelihood,
                    )
                    for w, s in zip(replies, scored, strict=True)
                ]
            found |= zip(rows, replies, strict=True)
        return [found[row] for row in range(len(questions))]

    def writes(self, mode: AnswerMode) -> bool:
        """Say whether the model writes anything, be it only reasons before a score."""
        return mode != "score" or self.answers.reasons_first

    def _first_batch_size(self, longest: Question, mode: AnswerMode, decoding: Decoding) -> int:
        """Return how many questions fit into memory, by the longest of them."""
        return first_batch_size(
            self.network,
            n_tokens=len(self.processor.encode_prompt(longest.text, len(longest.images))),
            n_new_tokens=decoding.max_new_tokens,
            n_beams=decoding.num_beams,
            writes=self.writes(mode),
            scores=mode != "generate",
        )

    def _try(
        self,
        batch: list[Question],
        pixels: list[Pixels],
        features: np.ndarray | None,
        mode: AnswerMode,
        decoding: Decoding,
    ) -> tuple[list[Reply] | None, str]:
        """Ask; return None and the reason if memory ran out.

        The exception ends here: as long as it lives, so do the tensors of all frames it went through.
        """
        try:
            return self.around(lambda: self.reply(batch, pixels, features, mode, decoding)), ""
        except (MemoryError, RuntimeError) as error:  # CUDA's is a RuntimeError, too
            if not is_out_of_memory(error):
                raise
            return None, brief(error)

    def _written(
        self,
        questions: Sequence[Question],
        pixels: Sequence[Pixels],
        features: torch.Tensor | None,
        mode: AnswerMode,
        decoding: Decoding,
    ) -> Iterable[Written]:
        """Let the model write where words are wanted, or come before a score."""
        network, processor = self.network, self.processor
        if not self.writes(mode):
            return [Written(range(len(questions)), [Reply("")] * len(questions), None)]
        if isinstance(processor, FamilyProcessor):
            return seam.write(network, processor, questions, pixels, features, decoding)
        pictures = joined(pixels)["pixel_values"].to(network.device)
        return write(network, processor, questions, pictures, features, decoding)

    def _scored(
        self,
        questions: Sequence[Question],
        texts: Sequence[str],
        pixels: Sequence[Pixels],
        features: torch.Tensor | None,
        cached: Cached | None,
    ) -> list[Reply]:
        """Score the stages, behind what was written where that has reasons; say the likeliest answer."""
        form = self.answers
        endings = [list(form.texts)] * len(questions)
        if form.reasons_first:
            endings = [behind_reasons(text, form.texts, form.lead) for text in texts]
        choices = [self._choice(q, e) for q, e in zip(questions, endings, strict=True)]
        network, processor = self.network, self.processor
        if isinstance(processor, FamilyProcessor):
            scores = seam.stage_scores(network, processor, choices, pixels, features)
        else:
            pictures = joined(pixels)["pixel_values"].to(network.device)
            scores = stage_log_likelihoods(network, processor, choices, pictures, features, cached)
        if not np.isfinite(scores).all():
            raise EegToolError(
                f"The model gives no numbers for the stages of '{questions[0].sample_id}' and others.",
                "Ask with --dtype float32; if that does not help, its training diverged.",
            )
        return [Reply(e[int(s.argmax())], s) for e, s in zip(endings, scores, strict=True)]

    def _choice(self, question: Question, answers: list[str]) -> Choice:
        """Tokenise the five answers to a question; without reasons, they are the same for all epochs."""
        key = (question.text, len(question.images))
        is_whole = self.answers.is_whole
        if self.answers.reasons_first:
            return encode_choice(self.processor, *key, answers, is_whole=is_whole)
        if key not in self._choices:
            self._choices[key] = encode_choice(self.processor, *key, answers, is_whole=is_whole)
        return self._choices[key]


def longest_first(questions: Sequence[Question], processor: AnyProcessor) -> list[Question]:
    """Sort by the number of tokens: batches waste no padding, and memory runs out at once or never."""
    keys = {(q.text, len(q.images)) for q in questions}
    length = {key: len(processor.encode_prompt(*key)) for key in keys}
    return sorted(questions, key=lambda q: -length[q.text, len(q.images)])


def merge_note(folder: Path, contract: Contract, dtype: str) -> str:
    """Say what ``--merge`` does to a model."""
    if contract.merged:
        return f"--merge: {folder} is merged already; there is nothing to merge."
    named = str(best_dtype()).removeprefix("torch.") if dtype == "auto" else dtype
    return (
        f"--merge: LoRA is added to the weights, and the sums are rounded to {named}; "
        "answers may differ in the last bits."
    )


def _torn_batches(
    questions: Sequence[Question], done: Collection[str], size: int
) -> list[Question]:
    """Return the batches in which any reply is missing, as wholes."""
    batches = (questions[i : i + size] for i in range(0, len(questions), size))
    return [q for batch in batches if any(q.sample_id not in done for q in batch) for q in batch]


def device_of(device: str | torch.device) -> torch.device:
    """Return a device by its name; ``auto`` is the first GPU, or the CPU where there is none.

    Raises
    ------
    EegToolError
        If there is no such device.
    """
    gpu = torch.cuda.is_available()
    try:
        found = torch.device(("cuda" if gpu else "cpu") if device == "auto" else device)
    except RuntimeError as error:
        raise EegToolError(
            f"The device '{device}' is not known: {brief(error)}.", "Give 'auto', 'cpu' or 'cuda'."
        ) from error
    if found.type == "cuda" and not gpu:
        raise EegToolError(f"The device '{device}': there is no GPU here.", "Give 'auto' or 'cpu'.")
    return torch.device("cuda", found.index or 0) if found.type == "cuda" else found
