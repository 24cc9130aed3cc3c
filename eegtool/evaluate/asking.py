"""Questions to a loaded model: what decides its answers, and the rows that say so."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from eegtool.core.console import progress
from eegtool.core.errors import EegToolError
from eegtool.core.launching import is_first_rank
from eegtool.core.options import AnswerMode, FeatureSource
from eegtool.core.parsing import parse_json
from eegtool.core.probabilities import by_stage
from eegtool.core.records import Answer, Epoch, Question
from eegtool.evaluate.model_folder import ModelFolder
from eegtool.evaluate.shards import parts_of, whole_lines
from eegtool.inference.loaded import LoadedModel
from eegtool.inference.writing import Decoding, Reply
from eegtool.model.processor import Pixels

_WHEREABOUTS: Final = ("subject", "recording", "night", "epoch_index", "onset_s")
_AGAIN: Final = "Start again with --overwrite, or give another --answers-file."


@dataclass(frozen=True, eq=False)
class Job:
    """How a model is asked, whatever the questions: what decides its answers, and what their rows say.

    Attributes
    ----------
    model : ModelFolder
        Who is asked.
    mode, decoding : AnswerMode, Decoding
        See `LoadedModel.reply`.
    template, prompt : str, callable
        Name of the conversation template to ask by; question and number of pictures → what the model sees.
    pictures : mapping
        How they were made.
    epochs : mapping of str to Epoch
        Where questions come from, by sample id, as far as that is known.
    features, seed
        Source of the high-level features (see `load_features`).
    """

    model: ModelFolder
    mode: AnswerMode
    decoding: Decoding
    template: str
    prompt: Callable[[str, int], str]
    pictures: Mapping[str, Any]
    epochs: Mapping[str, Epoch]
    features: FeatureSource = "real"
    seed: int | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the answers; how they are computed (batches, precision) is not part of it."""
        writes = self.model.answers.writes(self.mode)
        return {
            "adapter_sha256": self.model.adapter_sha256,
            "mode": self.mode,
            "conv_mode": self.template,
            "features": self.features,
            "decoding": str(self.decoding) if writes else None,
            "max_new_tokens": self.decoding.max_new_tokens if writes else None,
            "seed": self.seed if self.features == "shuffled" else None,
        }

    @property
    def protocol(self) -> dict[str, Any]:
        """What a row says of the pictures and of the model."""
        contract = self.model.contract
        named = ("base", "fusion", "version", *["context"] * bool(contract.context))
        return {**self.pictures, **{name: getattr(contract, name) for name in named}}

    def answered(
        self,
        questions: Iterable[Question],
        answers_file: Path,
        *,
        parts_only: bool = False,
        strict: bool = True,
        fix: str = _AGAIN,
    ) -> dict[str, bytes]:
        """Return the lines of an answers file and its parts that answer questions, by sample id.

        Raises
        ------
        EegToolError
            If a line is not an answer (`fix` says what to do with its ``{path}``) or, where it is `strict`,
            is one of another model or run, or answers another question.
        """
        asked = {question.sample_id: question for question in questions}
        found: dict[str, bytes] = {}
        # The answers file last: what a part held that vanished meanwhile is in there.
        for path in [*parts_of(answers_file), *[answers_file] * (not parts_only)]:
            for number, line in enumerate(whole_lines(path), start=1):
                row = read_row(line, f"{path}, line {number}", fix.format(path=path))
                mismatch = self._mismatch(row, asked.get(row.question_id))
                if not mismatch:
                    found.setdefault(row.question_id, line)
                elif strict:
                    raise EegToolError(f"{path} holds {mismatch} in line {number}.", _AGAIN)
        return found

    def ask(
        self,
        model: LoadedModel,
        questions: Sequence[Question],
        done: Collection[str],
        pixels_of: Callable[[Question], Pixels],
        feature_of: Callable[[str], np.ndarray] | None,
        *,
        batch_size: int | None,
        deterministic: bool = False,
    ) -> Iterator[list[Answer]]:
        """Ask those questions that are not `done`, and yield their rows batch by batch (see `LoadedModel.replies`).

        Probabilities are not in them: they come at the end (see `calibration.calibrated`).
        """
        common = {
            **self.identity,
            **{"batch_size": 0, **model.computation, "deterministic": deterministic},
            "protocol": self.protocol,
        }
        bar = progress("epochs")
        bar.disable = not is_first_rank()
        with bar:
            n_done = sum(question.sample_id in done for question in questions)
            line = bar.add_task("Answering", total=len(questions), completed=n_done, note="")
            began, n = time.perf_counter(), 0
            how: dict[str, Any] = {"mode": self.mode, "decoding": self.decoding, "done": done}
            asked = model.with_template(self.template)
            for batch, replies, size in asked.replies(
                questions, pixels_of, feature_of, batch_size=batch_size, **how
            ):
                rows = [
                    self._row(question, reply, {**common, "batch_size": size})
                    for question, reply in zip(batch, replies, strict=True)
                    if question.sample_id not in done
                ]
                n += len(rows)
                rate = n / (time.perf_counter() - began)
                bar.update(line, advance=len(rows), note=f"{rate:,.{rate < 10:d}f} answers/s")
                yield rows

    def _seen(self, question: Question) -> str:
        return self.prompt(question.text, len(question.images))

    def _row(self, question: Question, reply: Reply, metadata: dict[str, Any]) -> Answer:
        if epoch := self.epochs.get(question.sample_id):
            metadata |= {name: getattr(epoch, name) for name in _WHEREABOUTS}
        if reply.log_likelihood is not None:
            metadata["log_likelihoods"] = by_stage(reply.log_likelihood.tolist())
        if reply.truncated:
            metadata["truncated"] = True
        return Answer(
            question_id=question.sample_id,
            prompt=self._seen(question),
            text=reply.text,
            label=question.category,
            answer_id=f"{question.sample_id}-{self.model.adapter_sha256[:8]}",
            model_id=self.model.name,
            metadata=metadata,
        )

    def _mismatch(self, row: Answer, question: Question | None) -> str:
        """Say why a row is not one of this run; empty if it is."""
        own = row.metadata
        differing = [f"{k} {own.get(k)}" for k, v in self.identity.items() if own.get(k) != v]
        if differing:
            return (
                f"answers of another model or run: '{row.question_id}' is of {row.model_id}, "
                f"{', '.join(differing)},"
            )
        if question and row.label == question.category and row.prompt == self._seen(question):
            return ""
        return f"the answers to other questions: '{row.question_id}'"


def read_row(line: bytes, where: str, fix: str = _AGAIN) -> Answer:
    """Read a line of an answers file; `fix` says what to do where that cannot be done.

    Raises
    ------
    EegToolError
        If it is not an answer.
    """
    try:
        return Answer.from_row(parse_json(line, where))
    except (EegToolError, KeyError, TypeError, ValueError) as error:
        raise EegToolError(f"{where} is not an answer.", fix) from error
