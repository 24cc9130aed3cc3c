"""The form of the answers is found in the samples, whatever they look like."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.records import Conversation
from eegtool.core.stages import STAGES
from eegtool.model.answer_form import AnswerForm, conclusion_start, form_of

ASKED = "Which stage?"
Answer = Callable[[str, int], str]
SPELT = dict(zip(STAGES, ("Wake", "Stage 1", "Stage 2", "N3", "Stage R"), strict=True))


def count_tokens(answer: str) -> int:
    return len(answer.split()) + 1


def rows(answer: Answer, stages: tuple[str, ...] = STAGES, n: int = 10) -> list[Conversation]:
    pictures = ("a.png", "a.png")
    return [
        Conversation(f"{stage}{i}", pictures, ASKED, answer(stage, i))
        for stage in stages
        for i in range(n)
    ]


@pytest.mark.parametrize(
    ("answer", "place", "of_n2", "lead"),
    [
        (lambda s, i: s, "whole", "N2", ""),
        (lambda s, i: SPELT[s], "whole", "Stage 2", ""),
        (lambda s, i: f"The stage is {s}.", "whole", "The stage is N2.", ""),
        (
            lambda s, i: f"There are {i} spindles. The stage is {s}.",
            "end",
            "The stage is N2.",
            "The stage is",
        ),
        (
            lambda s, i: f"{i} waves.\nAnswer: {SPELT[s]}",
            "end",
            "Answer: Stage 2",
            "Answer:",
        ),
        # Reasons that are the same for all epochs of a stage are reasons all the same.
        (lambda s, i: f"Typical waves. So it is {s}.", "end", "So it is N2.", "So it is"),
        (
            lambda s, i: f"The image shows {s}. It has {i} waves, and more.",
            "start",
            "The image shows N2",
            "",
        ),
        (lambda s, i: f"该时段为{s}期睡眠。", "whole", "该时段为N2期睡眠。", ""),
        (lambda s, i: s if i else f"{s} sleep", "whole", "N2", ""),  # nearly all are alike
    ],
)
def test_the_form_is_found(answer: Answer, place: str, of_n2: str, lead: str) -> None:
    form = form_of(rows(answer), count_tokens)
    assert (form.place, form.stages["N2"], form.lead) == (place, of_n2, lead)
    assert form.question == ASKED
    assert (form.read, form.answers, form.untaught) == (50, 50, ())
    longest = max(count_tokens(answer(s, i)) for s in STAGES for i in range(10))
    assert form.longest_tokens == longest
    assert form.max_new_tokens >= max(8, longest)
    again = AnswerForm.from_contract(json.loads(json.dumps(asdict(form))))
    assert again == form
    assert form.texts == tuple(form.stages[stage] for stage in STAGES)


def test_answers_without_a_stage_are_counted_and_have_no_form() -> None:
    form = form_of(rows(lambda s, i: f"Some {i} waves."), count_tokens)
    assert (form.stages, form.place, form.read, form.untaught) == ({}, "nowhere", 0, STAGES)
    assert form.question == ASKED
    assert form.sentence() == "0 stages found in 0 of 50 answers, at no fixed place, up to 4 tokens"
    mixed = form_of([*rows(lambda s, i: s), *rows(lambda s, i: "Some waves.", n=1)], count_tokens)
    assert (mixed.place, mixed.read, mixed.answers) == ("whole", 50, 55)


def test_answers_of_every_kind_have_no_form_in_common() -> None:
    ways = ("It is {}.", "It shows stage {}, and waves.", "{}", "Waves. It is {}.", "My choice: {}")
    form = form_of(rows(lambda s, i: ways[i % 5].format(s)), count_tokens)
    assert (form.place, form.stages, form.read) == ("nowhere", {}, 50)


def test_a_stage_without_samples_is_spelt_like_the_others() -> None:
    form = form_of(rows(lambda s, i: f"It is {s}.", ("W", "N2", "REM")), count_tokens)
    assert form.untaught == ("N1", "N3")
    assert form.stages["N3"] == "It is N3."
    assert form_of(rows(lambda s, i: s, ("N2",)), count_tokens).stages == {}  # nothing to choose


def test_of_several_turns_that_with_the_stage_counts() -> None:
    turned = [
        replace(row, question="Describe it.", answer="Waves.", later=((ASKED, row.answer),))
        for row in rows(lambda s, i: s)
    ]
    form = form_of(turned, count_tokens)
    assert (form.question, form.place, form.read) == (ASKED, "whole", 50)


@pytest.mark.parametrize(
    ("text", "lead", "begin"),
    [
        ("Waves. The stage is N2.", "The stage is", 7),
        ("Waves and so", "The stage is", 12),  # cut before it came to an end
        ("Waves. It is N2.", "", 6),
        ("Waves and so", "", 12),
    ],
)
def test_where_reasons_end(text: str, lead: str, begin: int) -> None:
    assert conclusion_start(text, lead) == begin


@pytest.mark.parametrize("stages", [{"W": "W"}, dict.fromkeys(STAGES, "same")])
def test_a_contract_without_an_answer_for_each_stage_is_refused(stages: dict[str, str]) -> None:
    with pytest.raises(EegToolError, match="one answer for each stage"):
        AnswerForm.from_contract({"stages": stages})


def test_contracts_of_other_versions_are_read() -> None:
    assert AnswerForm.from_contract({}) == AnswerForm()
    earlier = {"stages": {s: f"It is {s}." for s in STAGES}, "lead": "It is ", "max_new_tokens": 9}
    assert AnswerForm.from_contract(earlier).reasons_first
    assert AnswerForm.from_contract({"hue": 3}) == AnswerForm()
