"""Question templates: how to ask about an epoch, and how the right answer reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from eegtool.core.records import Conversation, Epoch, Question
from eegtool.core.stages import STAGES


@dataclass(frozen=True, slots=True)
class QuestionTemplate:
    """A question about every epoch, and the form of its answer with ``{stage}``."""

    question: str
    answer: str


QUESTION_TEMPLATES: Final[dict[str, QuestionTemplate]] = {
    "stage": QuestionTemplate("Which sleep stage does this 30-second EEG epoch show?", "{stage}"),
    "options": QuestionTemplate(
        "Which sleep stage does this 30-second EEG epoch show? "
        f"Answer with one of {', '.join(STAGES[:-1])} or {STAGES[-1]}.",
        "{stage}",
    ),
}


def conversation(epoch: Epoch, template: QuestionTemplate) -> Conversation:
    """Return the fine-tuning sample of an epoch: ``[Image1, Image1]``, the question, the true answer."""
    answer = template.answer.format(stage=epoch.stage)
    return Conversation(epoch.sample_id, (epoch.image,) * 2, template.question, answer)


def question(epoch: Epoch, template: QuestionTemplate) -> Question:
    """Return the evaluation question of an epoch."""
    return Question(epoch.sample_id, (epoch.image,) * 2, template.question, epoch.stage)
