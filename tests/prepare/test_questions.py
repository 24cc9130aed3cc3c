from __future__ import annotations

import json

import pytest

from eegtool.core.answers import read_stage
from eegtool.core.errors import EegToolError
from eegtool.core.forms import Forms
from eegtool.core.records import Conversation, Epoch
from eegtool.core.stages import STAGES
from eegtool.prepare.questions import (
    QUESTION_TEMPLATES,
    RATIONALES,
    asking_about,
    check_rationale,
    conversation,
    question,
)
from eegtool.reasons.facts import Facts
from eegtool.reasons.words import conclusion

FACTS = Facts(0.6, 0.2, 0.1, 0.05, 0.05, (13.1,), 48, 0.09, 3, 1, 2)


def epoch(stage: str) -> Epoch:
    image = "SC4001E0/SC4001E0-0007.png"
    return Epoch("SC4001E0-0007", "sleep-edf", "SC4001E0", "SC400", 1, 7, 210.0, stage, "ft", image)


@pytest.mark.parametrize("name", QUESTION_TEMPLATES)
@pytest.mark.parametrize("stage", STAGES)
def test_the_true_stage_is_only_in_the_answer(name: str, stage: str) -> None:
    template = QUESTION_TEMPLATES[name]
    sample = conversation(epoch(stage), template)
    assert sample.answer == (conclusion(stage) if template.reasons else stage)
    assert sample.sample_id == "SC4001E0-0007"
    assert sample.images == ("SC4001E0/SC4001E0-0007.png",) * 2
    asked = question(epoch(stage), template)
    assert (asked.sample_id, asked.images) == (sample.sample_id, sample.images)
    assert asked.category == stage
    assert "answer" not in asked.to_row()

    # The same words for every stage: they cannot tell which one it is.
    other = epoch(STAGES[STAGES.index(stage) - 1])
    assert sample.question == conversation(other, template).question == asked.text
    row = sample.to_row()
    assert Conversation.from_row(row, Forms()) == sample
    answer = row["conversations"].pop()["value"]
    assert answer == sample.answer
    assert row == conversation(other, template).to_row() | {"conversations": row["conversations"]}
    assert json.dumps(row).count("<image>") == len(sample.images) == 2


@pytest.mark.parametrize("name", ["options", "explain", "cot"])
def test_all_stages_are_on_offer(name: str) -> None:
    text = QUESTION_TEMPLATES[name].question
    assert "one of W, N1, N2, N3 or REM." in text
    assert not any(f" {stage}" in QUESTION_TEMPLATES["stage"].question for stage in STAGES)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("rationale", RATIONALES)
@pytest.mark.parametrize(("name", "place"), [("cot", "end"), ("explain", "start")])
def test_an_answer_names_the_stage_at_its_place(
    name: str, place: str, rationale: str, stage: str
) -> None:
    reasons = RATIONALES[rationale](stage, FACTS)
    answer = conversation(epoch(stage), QUESTION_TEMPLATES[name], reasons).answer
    parts = (reasons, conclusion(stage)) if place == "end" else (conclusion(stage), reasons)
    assert answer == " ".join(filter(None, parts))
    assert read_stage(answer).stage == stage
    assert ("50 µV" in answer) is (rationale == "measured")


def test_only_measured_reasons_need_facts() -> None:
    assert RATIONALES["none"]("N2", None) == ""
    assert RATIONALES["template"]("N2", None) == RATIONALES["template"]("N2", FACTS)
    with pytest.raises(ValueError, match="what was measured"):
        RATIONALES["measured"]("N2", None)


def test_reasons_without_a_question_for_them_are_refused() -> None:
    reasons = RATIONALES["measured"]("N3", FACTS)
    with pytest.raises(ValueError, match="SC4001E0-0007: reasons do not answer"):
        conversation(epoch("N3"), QUESTION_TEMPLATES["stage"], reasons)


@pytest.mark.parametrize("template", ["stage", "options"])
@pytest.mark.parametrize("rationale", ["template", "measured"])
def test_reasons_that_nobody_asks_for_are_refused(template: str, rationale: str) -> None:
    with pytest.raises(EegToolError, match=f"--rationale {rationale} does not fit") as caught:
        check_rationale(template, rationale)
    assert "Use --template explain or cot" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("template", "rationale"),
    [
        ("stage", "none"),
        ("options", "none"),
        *((t, name) for t in ("explain", "cot") for name in RATIONALES),
    ],
)
def test_reasons_that_are_asked_for_are_fine(template: str, rationale: str) -> None:
    check_rationale(template, rationale)


@pytest.mark.parametrize(
    ("kinds", "context", "asked"),
    [
        (("eeg", "eeg"), 0, "this 30-second EEG epoch show?"),
        (("eeg", "eog", "eog"), 0, "this 30-second epoch of EEG and EOG show?"),
        (("eeg", "eog", "emg"), 1, "the 30-second epoch of EEG, EOG and EMG in the middle show?"),
    ],
)
@pytest.mark.parametrize("name", QUESTION_TEMPLATES)
def test_the_question_says_what_is_shown(
    name: str, kinds: tuple[str, ...], context: int, asked: str
) -> None:
    template = QUESTION_TEMPLATES[name]
    found = asking_about(template, context, kinds)
    assert asked in found.question
    assert ("neighbours" in found.question) is bool(context)
    if template.reasons:
        assert ("eye movements" in found.question) is ("eog" in kinds)
        assert ("chin tone" in found.question) is ("emg" in kinds)
    if set(kinds) == {"eeg"}:
        assert found == template
