from __future__ import annotations

import json

import pytest

from eegtool.core.records import Epoch
from eegtool.core.stages import STAGES
from eegtool.prepare.questions import QUESTION_TEMPLATES, conversation, question


def epoch(stage: str) -> Epoch:
    image = "SC4001E0/SC4001E0-0007.png"
    return Epoch("SC4001E0-0007", "sleep-edf", "SC4001E0", "SC400", 1, 7, 210.0, stage, "ft", image)


@pytest.mark.parametrize("name", QUESTION_TEMPLATES)
@pytest.mark.parametrize("stage", STAGES)
def test_the_true_stage_is_only_in_the_answer(name: str, stage: str) -> None:
    template = QUESTION_TEMPLATES[name]
    sample = conversation(epoch(stage), template)
    assert sample.answer == stage
    assert sample.sample_id == "SC4001E0-0007"
    assert sample.images == ("SC4001E0/SC4001E0-0007.png",) * 2
    asked = question(epoch(stage), template)
    assert (asked.sample_id, asked.images) == (sample.sample_id, sample.images)
    assert asked.category == stage

    # The same words for every stage: they cannot tell which one it is.
    other = epoch(STAGES[STAGES.index(stage) - 1])
    assert sample.question == conversation(other, template).question == asked.text
    row = sample.to_row()
    answer = row["conversations"].pop()["value"]
    assert answer == stage
    assert row == conversation(other, template).to_row() | {"conversations": row["conversations"]}
    assert json.dumps(row).count("<image>") == len(sample.images) == 2


def test_options_lists_all_stages() -> None:
    text = QUESTION_TEMPLATES["options"].question
    assert text.endswith("Answer with one of W, N1, N2, N3 or REM.")
    assert not any(f" {stage}" in QUESTION_TEMPLATES["stage"].question for stage in STAGES)
