"""A loaded model: words and log-likelihoods about epochs in memory, from a batch to a whole night."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from eegtool import __version__
from eegtool.core.console import console
from eegtool.core.errors import EegToolError, brief
from eegtool.core.launching import is_first_rank
from eegtool.core.options import AnswerMode
from eegtool.core.records import Question
from eegtool.core.registry import check_name
from eegtool.inference.memory import first_batch_size, is_out_of_memory
from eegtool.inference.scoring import Choice, behind_reasons, encode_choice, stage_log_likelihoods
from eegtool.inference.writing import Decoding, Reply, Written, inputs_of, write
from eegtool.model.adapters import Contract, inner, load_adapter
from eegtool.model.answer_form import AnswerForm
from eegtool.model.checkpoints import AnyProcessor, Network
from eegtool.model.families.chat import FamilyProcessor
from eegtool.model.loading import best_dtype
from eegtool.model.processor import Pixels, joined

DTYPES: Final = ("auto", "float32", "bfloat16", "float16")
_DECODERS: Final = 4
"""Threads that decode pictures while the model is busy."""


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
        if merge and is_first_rank():
            console.print(merge_note(folder, contract, dtype), markup=False)
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
        size = batch_size or first_batch_size(
            self.network,
            n_tokens=len(self.processor.encode_prompt(ordered[0].text, len(ordered[0].images))),
            n_new_tokens=decoding.max_new_tokens,
            n_beams=decoding.num_beams,
            writes=self.answers.writes(mode),
            scores=mode != "generate",
        )
        batches = (ordered[i : i + size] for i in range(0, len(ordered), size))
        torn = (batch for batch in batches if any(q.sample_id not in done for q in batch))
        missing = list(chain.from_iterable(torn))
        waiting: list[Future[Pixels]] = []
        start = 0
        pool = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")
        try:
            while start < len(missing):
                batch = missing[start : start + size]
                ahead = missing[start + len(waiting) : start + 3 * size]
                waiting += [pool.submit(pixels_of, question) for question in ahead]
                pixels = [picture.result() for picture in waiting[: len(batch)]]
                high = None
                if feature_of is not None:
                    high = np.stack([feature_of(q.sample_id) for q in batch])
                replies, reason = None, ""
                try:
                    replies = self.around(partial(self.reply, batch, pixels, high, mode, decoding))
                except (MemoryError, RuntimeError) as error:  # CUDA's is a RuntimeError, too
                    if not is_out_of_memory(error):
                        raise
                    reason = brief(error)
                # Only here the exception has ended, and with it the tensors of all frames it went through.
                if replies is not None:
                    yield Batch(batch, replies, size)
                    start += len(batch)
                    del waiting[: len(batch)]
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
        finally:
            pool.shutdown(cancel_futures=True)

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
        nothing = Written(range(len(questions)), [Reply("")] * len(questions), None)
        parts: Iterable[Written] = [nothing]
        if self.answers.writes(mode):
            parts = write(self.network, self.processor, questions, pixels, high, decoding)
        for part in parts:
            replies = part.replies
            if mode != "generate":
                replies = self._scored(part, questions, pixels, high, keeps_text=mode == "both")
            found |= zip(part.rows, replies, strict=True)
        return [found[row] for row in range(len(questions))]

    def _scored(
        self,
        part: Written,
        batch: Sequence[Question],
        pictures: Sequence[Pixels],
        features: torch.Tensor | None,
        *,
        keeps_text: bool,
    ) -> list[Reply]:
        """Score the stages, behind what was written where that has reasons; say the likeliest, or what was written."""
        form, network, processor = self.answers, self.network, self.processor
        questions, pixels = [batch[row] for row in part.rows], [pictures[row] for row in part.rows]
        high = None if features is None else features[list(part.rows)]
        endings = [list(form.texts)] * len(questions)
        if form.reasons_first:
            endings = [behind_reasons(reply.text, form.texts, form.lead) for reply in part.replies]
        choices = [self._choice(q, e) for q, e in zip(questions, endings, strict=True)]
        if isinstance(processor, FamilyProcessor):
            inputs = inputs_of(network, processor, [choice.prompt for choice in choices], pixels)
            scores = network.score(inputs, high, [choice.answers for choice in choices])
        else:
            shown = joined(pixels)["pixel_values"]
            scores = stage_log_likelihoods(network, processor, choices, shown, high, part.cached)
        if not np.isfinite(scores).all():
            raise EegToolError(
                f"The model gives no numbers for the stages of '{questions[0].sample_id}' and others.",
                "Ask with --dtype float32; if that does not help, its training diverged.",
            )
        return [
            replace(r, text=r.text if keeps_text else e[int(s.argmax())], log_likelihood=s)
            for r, e, s in zip(part.replies, endings, scores, strict=True)
        ]

    def _choice(self, question: Question, answers: list[str]) -> Choice:
        """Tokenise the five answers to a question; without reasons, they are the same for all epochs."""
        key = (question.text, len(question.images))
        found = None if self.answers.reasons_first else self._choices.get(key)
        if found is None:
            is_whole = self.answers.is_whole
            found = encode_choice(self.processor, *key, answers, is_whole=is_whole)
            self._choices[key] = found
        return found


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
