from __future__ import annotations

import re

import pytest

from eegtool.core.stages import DROPPED, STAGE_COLOURS, STAGE_INDEX, STAGES, stage_of


@pytest.mark.parametrize(
    ("description", "stage"),
    [
        ("Sleep stage W", "W"),
        ("Sleep stage 1", "N1"),
        ("Sleep stage 2", "N2"),
        ("Sleep stage 3", "N3"),
        ("Sleep stage 4", "N3"),
        ("Sleep stage R", "REM"),
        ("Sleep stage N1", "N1"),
        ("Sleep stage N2", "N2"),
        ("Sleep stage N3", "N3"),
        ("Sleep stage ?", "unscored"),
        ("Movement time", "movement time"),
        ("SLEEP STAGE w", "W"),
        ("  sleep   stage\t4 ", "N3"),
        ("movement Time\n", "movement time"),
    ],
)
def test_every_spelling(description: str, stage: str) -> None:
    assert stage_of(description) == stage
    assert stage in (*STAGES, *DROPPED)


@pytest.mark.parametrize(
    "description", ["", "W", "2", "Sleep stage", "Sleep stage 5", "Lights off", "Sleepstage 2"]
)
def test_other_annotations_are_no_stage(description: str) -> None:
    assert stage_of(description) is None


def test_order_and_colours() -> None:
    assert STAGES == ("W", "N1", "N2", "N3", "REM")
    assert [STAGE_INDEX[stage] for stage in STAGES] == [0, 1, 2, 3, 4]
    assert tuple(STAGE_COLOURS) == STAGES
    assert len(set(STAGE_COLOURS.values())) == 5
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in STAGE_COLOURS.values())
    assert not set(DROPPED) & set(STAGES)
