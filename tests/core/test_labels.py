from __future__ import annotations

import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.labels import read_labels
from eegtool.core.stages import STAGES


def ids(labels: list[str]) -> list[str]:
    return [f"e{i}" for i in range(len(labels))]


@pytest.mark.parametrize(
    "labels",
    [
        ["W", "N1", "N2", "N3", "REM"],
        ["Wake", "n1", "Sleep stage 2", "stage N3", "R"],
        ["w", "S1", "NREM-2", "N4", "Rapid eye movement"],
        ["WK", "Stage 1", "N_2", "N3 sleep", "Sleep stage R"],
        [" AWAKE ", "non-REM 1", "nrem2", "slow wave sleep", "rem"],
    ],
)
def test_every_spelling_of_the_scorings_is_read(labels: list[str]) -> None:
    found = read_labels("q.jsonl", ids(labels), labels)
    assert found.stages == STAGES
    assert not found.notes


@pytest.mark.parametrize(
    ("coding", "labels", "stages"),
    [
        ("nsrr", ["0", "1", "2", "3", "4", "5", "9"], ["W", "N1", "N2", "N3", "N3", "REM", ""]),
        ("0-4", ["0", "1", "2", "3", "4"], [*STAGES]),
        ("1-5", ["1", "2.0", "03", "4", "5", "-1", ""], [*STAGES, "", ""]),
    ],
)
def test_numbers_are_read_by_their_coding(
    coding: str, labels: list[str], stages: list[str]
) -> None:
    assert read_labels("q.jsonl", ids(labels), labels, coding).stages == tuple(stages)


def test_what_is_not_a_stage_is_unknown_and_counted() -> None:
    labels = ["detail", "detail", "", "?", "N2", "movement time", "conv"]
    found = read_labels("a.jsonl", ids(labels), labels)
    assert found.stages == ("", "", "", "", "N2", "", "")
    assert found.notes == (
        "5 labels are not sleep stages and count as unknown: 'detail' (2), '?' (1), 'movement time' (1), …",
    )
    assert not read_labels("a.jsonl", ids([""]), [""]).notes


@pytest.mark.parametrize(
    ("labels", "coding", "message", "fix"),
    [
        (
            ["N2", "0", "4"],
            "",
            "mix two codings: 'N2' of 'e0' is a word, '.' of 'e.' a number",
            "one",
        ),
        (["N2", "4"], "nsrr", "mix two codings", "one way"),
        (["4", "0"], "", "its labels are numbers, such as '.' of 'e.'", "--label-coding: 'nsrr'"),
        (["5", "0"], "0-4", r"'5' of 'e0' is not a number of --label-coding 0-4 \(0, 1, 2", "Name"),
        (["0"], "1-5", "'0' of 'e0' is not a number of --label-coding 1-5", "Name"),
        (["Wakee"], "", "'Wakee' of 'e0' is not a sleep stage. Did you mean", "leave it empty"),
        (["sleep stage X"], "", "'sleep stage X' of 'e0' is not a sleep stage", "Correct"),
        (["0"], "aasm", "--label-coding 'aasm'", "'nsrr'"),
    ],
)
def test_what_has_two_readings_is_refused(
    labels: list[str], coding: str, message: str, fix: str
) -> None:
    with pytest.raises(EegToolError, match=message) as caught:
        read_labels("q.jsonl", ids(labels), labels, coding)
    assert fix in caught.value.fix
