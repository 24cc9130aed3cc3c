"""Answered epochs: what the report knows about each epoch once its answer has been read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eegtool.core.errors import EegToolError
from eegtool.core.records import Answer, check_unique
from eegtool.core.registry import closest
from eegtool.core.stages import STAGES
from eegtool.report.answers import Reading, read_stage
from eegtool.report.plain import plain_text


@dataclass(frozen=True, slots=True)
class AnsweredEpoch:
    """One epoch, its true stage and the stage read from the answer.

    Attributes
    ----------
    sample_id : str
        Id of the epoch.
    recording, subject : str
        Where it comes from; empty where the answers file does not say.
    epoch_index : int or None
        Index of the epoch in the whole recording, from 0; None where the file does not say.
    true : str or None
        True stage; None where it is not known.
    text : str
        The answer.
    reading : Reading
        What was read from `text`.
    """

    sample_id: str
    recording: str
    subject: str
    epoch_index: int | None
    true: str | None
    text: str
    reading: Reading

    @property
    def predicted(self) -> str | None:
        """Stage read from the answer; None where it is unreadable."""
        return self.reading.stage


def answered_epochs(path: Path, answers: Sequence[Answer]) -> list[AnsweredEpoch]:
    """Read the stage of every answer.

    Parameters
    ----------
    path : Path
        File of the answers, for messages.
    answers : sequence of Answer
        Its rows.

    Returns
    -------
    list of AnsweredEpoch
        One per answer, in the order of the file.

    Raises
    ------
    EegToolError
        If there is no answer or none with a true stage, an id occurs twice, or a label is no stage.
    """
    if not answers:
        raise EegToolError(
            f"{path} holds no answers.", "Run `eegvlm evaluate` first, or give another file."
        )
    check_unique(path, [plain_text(answer.question_id) for answer in answers])
    epochs = [_answered_epoch(path, answer) for answer in answers]
    if all(epoch.true is None for epoch in epochs):
        raise EegToolError(
            f"{path}: none of the {len(epochs)} answers has a label, so nothing can be scored.",
            "Put the true stage of each epoch into 'label' "
            "(evaluate copies it from 'category' of the questions file).",
        )
    return epochs


def _answered_epoch(path: Path, answer: Answer) -> AnsweredEpoch:
    metadata = answer.metadata
    text = plain_text(answer.text)
    sample_id = plain_text(answer.question_id)
    return AnsweredEpoch(
        sample_id=sample_id,
        recording=plain_text(metadata.get("recording")),
        subject=plain_text(metadata.get("subject")),
        epoch_index=_index(metadata.get("epoch_index")),
        true=_true_stage(path, sample_id, plain_text(answer.label).strip()),
        text=text,
        reading=read_stage(text),
    )


def _true_stage(path: Path, sample_id: str, label: str) -> str | None:
    if not label:
        return None
    if label not in STAGES:
        known = ", ".join(f"'{stage}'" for stage in STAGES)
        raise EegToolError(
            f"{path}: the label '{label}' of '{sample_id}' is no sleep stage.",
            f"Labels are {known}, or empty where not known.{closest(label, STAGES)}",
        )
    return label


def _index(value: object) -> int | None:
    """Return an epoch index; None for anything that is not a whole number from 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return value
