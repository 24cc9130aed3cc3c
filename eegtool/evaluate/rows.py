"""Rows of the answers file: made, recognised as one's own, given their probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eegtool.core.errors import EegToolError
from eegtool.core.parsing import parse_json
from eegtool.core.probabilities import of_stages
from eegtool.core.records import Answer, Epoch, Question
from eegtool.core.stages import STAGES
from eegtool.evaluate.shards import parts_of, whole_lines
from eegtool.evaluate.task import Task
from eegtool.inference.calibration import Calibration, calibrated
from eegtool.inference.writing import Reply

_DIGITS: Final = 6
_WHEREABOUTS: Final = ("subject", "recording", "night", "epoch_index", "onset_s")
_AGAIN: Final = "Start again with --overwrite, or give another --answers-file."


@dataclass(frozen=True, slots=True)
class RowMaker:
    """Makes the rows of one run, as a writer appends them; probabilities come at the end.

    Attributes
    ----------
    model_id : str
        Name of the model.
    common : mapping
        Metadata of all rows: the run's identity (`task.identity`), how it computes, protocol.
    prompts : mapping of str to str
        Each question as the model sees it, by sample id.
    epochs : mapping of str to Epoch
        Where epochs come from, as far as that is known.
    """

    model_id: str
    common: Mapping[str, Any]
    prompts: Mapping[str, str]
    epochs: Mapping[str, Epoch]

    def __call__(self, question: Question, reply: Reply, batch_size: int) -> Answer:
        """Return the row of one answer."""
        metadata = {**self.common, "batch_size": batch_size}
        if epoch := self.epochs.get(question.sample_id):
            metadata |= {name: getattr(epoch, name) for name in _WHEREABOUTS}
        if reply.log_likelihood is not None:
            rounded = reply.log_likelihood.round(_DIGITS).tolist()
            metadata["log_likelihoods"] = dict(zip(STAGES, rounded, strict=True))
        if reply.truncated:
            metadata["truncated"] = True
        return Answer(
            question_id=question.sample_id,
            prompt=self.prompts[question.sample_id],
            text=reply.text,
            label=question.category,
            answer_id=f"{question.sample_id}-{metadata['adapter_sha256'][:8]}",
            model_id=self.model_id,
            metadata=metadata,
        )


def with_probabilities(
    row: Answer, calibration: Calibration | None, answers: Sequence[str]
) -> Answer:
    """Return a row with the probabilities and, in mode ``score``, the stage that its log-likelihoods give.

    What the model wrote (mode ``both``) stays as it is, and so does a row without log-likelihoods.

    Parameters
    ----------
    row : Answer
        As asked, or as calibrated otherwise before.
    calibration : Calibration or None
        Of the model that was asked.
    answers : sequence of str
        Its answer for each stage (see `AnswerForm.texts`).

    Raises
    ------
    EegToolError
        If the log-likelihoods are not one number for each stage.
    """
    if row.metadata.get("log_likelihoods") is None:
        return row
    return calibrated(row, scores_of(row), calibration, answers)


def scores_of(row: Answer) -> tuple[float, ...]:
    """Return the log-likelihoods of a row, in the order of `STAGES`.

    Raises
    ------
    EegToolError
        If these are not one number for each stage.
    """
    scores = of_stages(row.metadata.get("log_likelihoods"))
    if scores is None:
        raise EegToolError(
            f"The log-likelihoods of '{row.question_id}' are not one number for each stage.", _AGAIN
        )
    return scores


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


def answered(task: Task, *, begun: bool = False) -> dict[str, bytes]:
    """Return the lines that answer questions of the task, by sample id, whoever wrote them.

    Parameters
    ----------
    begun : bool
        Whether ``--overwrite`` has done its work: before, the answers file does not count.

    Raises
    ------
    EegToolError
        If they were written by another model or run, or answer other questions. What other chunks
        have left is passed over with ``--overwrite``.
    """
    asked = {q.sample_id: (task.prompts[q.sample_id], q.category) for q in task.questions}
    overwrite = task.settings.overwrite
    found: dict[str, bytes] = {}
    # The answers file last: what a part held that vanished meanwhile is in there.
    for path in [*parts_of(task.answers_file), task.answers_file]:
        if path == task.answers_file and overwrite and not begun:
            continue
        for number, line in enumerate(whole_lines(path), start=1):
            row = read_row(line, f"{path}, line {number}")
            mismatch = _mismatch(row, task, asked)
            if not mismatch:
                found.setdefault(row.question_id, line)
            elif not overwrite:
                raise EegToolError(f"{path} holds {mismatch} in line {number}.", _AGAIN)
    return found


def _mismatch(row: Answer, task: Task, asked: dict[str, tuple[str, str]]) -> str:
    """Say why a row is not one of this run; empty if it is."""
    differing = [
        f"{k} {row.metadata.get(k)}" for k, v in task.identity.items() if row.metadata.get(k) != v
    ]
    if differing:
        return (
            f"answers of another model or run: '{row.question_id}' is of {row.model_id}, "
            f"{', '.join(differing)},"
        )
    if asked.get(row.question_id) != (row.prompt, row.label):
        return f"the answers to other questions: '{row.question_id}'"
    return ""


def remove(paths: Iterable[Path]) -> None:
    """Remove files; one that another process has removed meanwhile is no fault."""
    for path in paths:
        path.unlink(missing_ok=True)
