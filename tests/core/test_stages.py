from __future__ import annotations

import re

import pytest

from eegtool.core.stages import (
    DROPPED,
    MOVEMENT,
    STAGE_COLOURS,
    STAGE_INDEX,
    STAGES,
    TYPICAL_SPELLINGS,
    UNSCORED,
    closest_spelling,
    code_in_column,
    is_misspelt,
    stage_in_column,
    stage_of,
)

# Stage = spellings, separated by commas: in annotations and columns alike ...
ANYWHERE = {
    "W": "W, w, Wake, awake, Wakefulness, Wach, Sleep stage W, Stage W, Stage 0, S0, sleep_stage_w, "
    "SLEEP-S0, WAKE, Stage Wake",
    "N1": "N1, n1, N 1, N-1, NREM1, NREM 1, Non-REM 1, NREM stage 1, S1, Sleep stage 1, Sleep stage N1, "
    "Sleepstage 1, Sleepstage1, Stage1, Stage 1 sleep, Stage 1, Stage N1, SLEEP-S1, Stage I",
    "N2": "N2, NREM2, non REM 2, S2, Sleep stage 2, Sleep stage N2, Stage 2 sleep, Stage 2, SLEEP-S2, "
    "Stage II, N2 sleep",
    "N3": "N3, N4, NREM3, NREM4, non-REM 3, Non-REM 4, S3, S4, Sleep stage 3, Sleep stage 4, "
    "Sleep stage N3, Stage 3 sleep, Stage 4 sleep, SLEEP-S3, SLEEP-S4, SWS, Slow wave sleep, "
    "slow-wave sleep, Deep sleep, Stage III, Stage IV",
    "REM": "R, r, REM, rem, Sleep stage R, Sleep stage REM, REM sleep, Stage R, Stage REM, SLEEP-REM",
    MOVEMENT: "Movement time, MOVEMENT TIME, Sleep stage M, Stage MT",
    UNSCORED: "Unscored, Sleep stage ?, Stage unknown, Indeterminate sleep stage, SLEEP-UNSCORED, "
    "Unscored stage",
}
# "S  1" is a stimulus in recordings made with BrainVision.
TRIGGERS = ("S 0", "S 1", "S  1", "s  2", "S-3", "S_4", "Sleep S 2", "S\t1")
# ... and only in columns of stages.
IN_COLUMNS = {
    "W": "0, 0.0, +0",
    "N1": "1, 1.0, 01",
    "N2": "2, 2.0",
    "N3": "3, 4, 4.0",
    "REM": "5, 5.0",
    MOVEMENT: "6, M, MT, movement",
    UNSCORED: "7, 9, -1, -2, ?, unknown, undefined, undetermined, not scored, unstaged, UNS, U, n/a, NaN, "
    "none, ART, artifact, Artefact, L, Lights on",
}


def listed(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(text, stage) for stage, texts in table.items() for text in texts.split(", ")]


@pytest.mark.parametrize(("text", "stage"), listed(ANYWHERE))
def test_spellings_that_hold_anywhere(text: str, stage: str) -> None:
    assert stage_of(text) == stage
    assert stage_of(f"  {text.upper()}\n") == stage
    assert stage_in_column(text) == stage
    assert stage in (*STAGES, *DROPPED)


@pytest.mark.parametrize(("text", "stage"), listed(IN_COLUMNS))
def test_spellings_that_hold_in_columns(text: str, stage: str) -> None:
    assert stage_in_column(text) == stage
    assert stage_of(text) is None


@pytest.mark.parametrize("text", TRIGGERS)
def test_triggers_are_no_stages(text: str) -> None:
    assert stage_of(text) is None
    assert not is_misspelt(text)
    assert stage_in_column(text) is not None
    assert stage_of(f"Stage {text}") == stage_in_column(text)


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("4", 4),
        (" 04", 4),
        ("4.0", 4),
        ("4,00", 4),
        ("-1", -1),
        ("+5", 5),
        ("4.5", None),
        ("", None),
        ("N3", None),
        ("4" * 9, None),
    ],
)
def test_codes(cell: str, code: int | None) -> None:
    assert code_in_column(cell) == code


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "-",
            "Sleep",
            "Sleep stage",
            "Stage",
            "Sleep stage 5",
            "Stage 6",
            "N5",
            "N0",
            "S5",
        ),
        *(
            "8",
            "10",
            "2.5",
            "-3",
            "1e0",
            "Lights off",
            "EEG arousal",
            "Hypopnea",
            "asleep",
            "light",
        ),
        *("12", "9" * 5000, "W0", "Wake up", "REM onset", "S1/S2", "NREM", "Stage 1-2"),
    ],
)
def test_what_is_no_stage(text: str) -> None:
    assert stage_of(text) is None
    assert stage_in_column(text) is None


@pytest.mark.parametrize(
    ("text", "misspelt"),
    [
        ("Sleep stage 5", True),
        ("Sleep stge 2", True),
        ("Sleeep stage W", True),
        ("Stage X", True),
        ("Movment time", True),
        ("REM sleeep", True),
        ("Lights off", False),
        ("EEG arousal", False),
        ("Obstructive apnea", False),
        ("Movement", False),
        ("Wake up", False),
        ("PLM", False),
        ("N5", False),
        ("", False),
    ],
)
def test_misspelt_stages_are_told_from_other_annotations(text: str, misspelt: bool) -> None:
    assert is_misspelt(text) is misspelt


@pytest.mark.parametrize("text", TYPICAL_SPELLINGS)
def test_what_is_suggested_is_known(text: str) -> None:
    assert stage_in_column(text) is not None


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("Wakee", " Did you mean 'Wake'?"),
        ("sleep stge 2", " Did you mean 'Sleep stage 2'?"),
        ("xyz", ""),
    ],
)
def test_the_closest_spelling(word: str, suggestion: str) -> None:
    assert closest_spelling(word) == suggestion


def test_order_and_colours() -> None:
    assert STAGES == ("W", "N1", "N2", "N3", "REM")
    assert [STAGE_INDEX[stage] for stage in STAGES] == [0, 1, 2, 3, 4]
    assert tuple(STAGE_COLOURS) == STAGES
    assert len(set(STAGE_COLOURS.values())) == 5
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in STAGE_COLOURS.values())
    assert not set(DROPPED) & set(STAGES)
