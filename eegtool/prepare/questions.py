"""Question templates: how to ask about an epoch, and how the right answer reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from eegtool.core.errors import EegToolError
from eegtool.core.records import Conversation, Epoch, Question
from eegtool.core.stages import STAGES
from eegtool.reasons.facts import Facts
from eegtool.reasons.words import conclusion, define, reason

_ASK: Final = "Which sleep stage does this 30-second EEG epoch show?"
_WAVES: Final = "K-complexes and slow waves"
_SEEN: Final = {"eog": "eye movements", "emg": "chin tone"}
"""What else is reasoned about where these kinds of channels are drawn."""

_CHOICE: Final = f"{', '.join(STAGES[:-1])} or {STAGES[-1]}"


@dataclass(frozen=True, slots=True)
class QuestionTemplate:
    """A question about every epoch, and the form of its answer.

    Attributes
    ----------
    question : str
        The same for every epoch: it cannot tell the stage.
    answer : callable
        The answer, given the stage and its reasons (maybe none).
    reasons : bool
        Whether reasons are asked for.
    """

    question: str
    answer: Callable[[str, str], str]
    reasons: bool = False


_ASPECTS: Final = f"amplitude and frequencies, rhythm, spindles, {_WAVES}, the AASM rule"

QUESTION_TEMPLATES: Final[dict[str, QuestionTemplate]] = {
    "stage": QuestionTemplate(_ASK, lambda stage, reasons: stage),
    "options": QuestionTemplate(
        f"{_ASK} Answer with one of {_CHOICE}.", lambda stage, reasons: stage
    ),
    "explain": QuestionTemplate(
        f"{_ASK} Begin with 'The stage is ...', one of {_CHOICE}. Then give the reasons: {_ASPECTS}.",
        lambda stage, reasons: f"{conclusion(stage)} {reasons}".strip(),
        reasons=True,
    ),
    "cot": QuestionTemplate(
        f"{_ASK} Reason step by step: {_ASPECTS}. Conclude with 'The stage is ...', one of {_CHOICE}.",
        lambda stage, reasons: f"{reasons} {conclusion(stage)}".strip(),
        reasons=True,
    ),
}


def asking_about(
    template: QuestionTemplate, context_epochs: int, kinds: Sequence[str]
) -> QuestionTemplate:
    """Return the template for pictures of channels of these kinds and so many neighbours on either side."""
    *others, last = dict.fromkeys(kind.upper() for kind in kinds)
    shown = (
        f"30-second epoch of {', '.join(others)} and {last}"
        if others
        else f"30-second {last} epoch"
    )
    asked = f"Which sleep stage does this {shown} show?"
    if context_epochs:
        asked = f"Which sleep stage does the {shown} in the middle show? The dimmed ones are its neighbours."
    text = template.question.replace(_ASK, asked)
    seen = [word for kind, word in _SEEN.items() if kind in kinds]
    return replace(template, question=text.replace(_WAVES, ", ".join((_WAVES, *seen))))


RATIONALES: Final[dict[str, Callable[[str, Facts | None], str]]] = {
    "none": lambda stage, facts: "",
    "template": lambda stage, facts: define(stage),
    "measured": lambda stage, facts: reason(_measured(facts), stage),
}
"""Reasons for the answer, given the stage and what was measured: an empty text, what the AASM Manual
says of the stage, or what was measured in the epoch and what the manual makes of it."""


def check_rationale(template: str, rationale: str) -> None:
    """Refuse reasons in the answer to a question that does not ask for them.

    Raises
    ------
    EegToolError
        Naming the flags.
    """
    if rationale != "none" and not QUESTION_TEMPLATES[template].reasons:
        asking = " or ".join(name for name, t in QUESTION_TEMPLATES.items() if t.reasons)
        raise EegToolError(
            f"--rationale {rationale} does not fit --template {template}, which asks for no reasons.",
            f"Use --template {asking}, or --rationale none.",
        )


def conversation(epoch: Epoch, template: QuestionTemplate, reasons: str = "") -> Conversation:
    """Return the fine-tuning sample of an epoch: ``[Image1, Image1]``, the question, the true answer.

    Parameters
    ----------
    epoch : Epoch
        With its true stage.
    template : QuestionTemplate
        How to ask.
    reasons : str
        A text of `RATIONALES`; empty for an answer without reasons.

    Raises
    ------
    ValueError
        If there are reasons and the template asks for none.
    """
    if reasons and not template.reasons:
        raise ValueError(f"{epoch.sample_id}: reasons do not answer '{template.question}'")
    answer = template.answer(epoch.stage, reasons)
    return Conversation(epoch.sample_id, (epoch.image,) * 2, template.question, answer)


def question(epoch: Epoch, template: QuestionTemplate) -> Question:
    """Return the evaluation question of an epoch; the true stage is its category, not in its text."""
    return Question(epoch.sample_id, (epoch.image,) * 2, template.question, epoch.stage)


def _measured(facts: Facts | None) -> Facts:
    if facts is None:
        raise ValueError("measured reasons need what was measured")
    return facts
