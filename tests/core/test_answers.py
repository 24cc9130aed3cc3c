from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from eegtool.core.answers import UNREADABLE, Reader, read_stage
from eegtool.core.stages import STAGES

READ = [
    # labels
    ("W", "W", "W"),
    ("w", "W", "w"),
    (" R.\n", "REM", "R"),
    ("N1", "N1", "N1"),
    ("n2", "N2", "n2"),
    ("N3.", "N3", "N3"),
    ("**REM**", "REM", "REM"),
    ("N-2", "N2", "N-2"),
    ("Wake", "W", "Wake"),
    ("Wake (W)", "W", "Wake"),
    ("REM sleep", "REM", "REM"),
    ("N2 N2 N2 N2", "N2", "N2"),
    # sentences
    ("The stage is N2.", "N2", "N2"),
    ("the sleep stage is w.", "W", "w"),
    ("stage R", "REM", "R"),
    ("Stage: W", "W", "W"),
    ("Answer: R", "REM", "R"),
    ("The answer is W.", "W", "W"),
    ("Stage 2 sleep", "N2", "2"),
    ("Stage 4", "N3", "4"),
    ("N4", "N3", "N4"),
    ("Stage 3/4 sleep.", "N3", "3/4"),
    ("stage 3 or 4", "N3", "3 or 4"),
    ("NREM 2", "N2", "2"),
    ("non-REM stage 1", "N1", "1"),
    ("NREM sleep, stage N3", "N3", "N3"),
    ("The subject is awake.", "W", "awake"),
    ('{"stage": "N1"}', "N1", "N1"),
    ('{"stage": 2}', "N2", "2"),
    ("This epoch is scored as N3", "N3", "N3"),
    # several stages and a conclusion
    ("Spindles speak for N2, slow waves for N3. The stage is N3.", "N3", "N3"),
    ("The stage is N1. On reflection, the stage is N2.", "N2", "N2"),
    ("Therefore, N2. N3 would show more delta.", "N2", "N2"),
    ("It could be N1 or REM.\nThe stage is REM", "REM", "REM"),
    ("N1? No spindles yet, but K-complexes, so not wake.\nN2", "N2", "N2"),
    ("No sign of REM; the stage is most likely stage 2.", "N2", "2"),
    ("The stage is N2 because the slow waves of N3 are absent.", "N2", "N2"),
    ("Not N3. The answer: N2", "N2", "N2"),
    ("N2 rather than N3", "N2", "N2"),
]

UNREAD = [
    "",
    "   ",
    "we",
    "We see raw. waves",
    "The waves show w. amplitude",
    "3",
    "2.",
    "There are 3 spindles",
    "The answer is 3",
    "I cannot tell.",
    "NREM",
    "non-REM sleep",
    "N5",
    "N25",
    "IN2",
    "stager",
    "phaser",
    "stage 12",
    "Stage 1/2",
    "stage we see",
    "Not N3.",
    "N2 or N3",
    "The stage is N2 or N3.",
    "The stage is N2, or maybe stage N3.",
    "The stage is between N2 and N3.",
    "W, N1, N2, N3 or REM",
    "The answer is: N1, N2, or N3",
    "forewarned, rewakened, tremor",
]


@pytest.mark.parametrize(("text", "stage", "words"), READ)
def test_reads_the_stage_and_where_it_stands(text: str, stage: str, words: str) -> None:
    reading = read_stage(text)
    assert reading.stage == stage
    assert reading.span is not None
    begin, end = reading.span
    assert text[begin:end] == words


@pytest.mark.parametrize("text", UNREAD)
def test_does_not_guess(text: str) -> None:
    assert read_stage(text) == UNREADABLE


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("sentence", ["{}", "{}.", "The stage is {}.", "Sleep stage: {}"])
def test_reads_every_stage_in_any_case(stage: str, sentence: str) -> None:
    for spelled in (stage, stage.lower()):
        assert read_stage(sentence.format(spelled)).stage == stage


def test_a_conclusion_is_found_at_the_end_of_a_long_text() -> None:
    text = "N1 and N3 were considered. " * 2000 + "The stage is N2."
    assert read_stage(text).span == (len(text) - 3, len(text) - 1)


CASES = json.loads(Path(__file__).with_name("answers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "stage", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_real_looking_answers(text: str, stage: str | None, words: str | None) -> None:
    reading = read_stage(text)
    assert reading.stage == stage
    assert (text[slice(*reading.span)] if reading.span else None) == words


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60
    assert len({case[0] for case in CASES}) == len(CASES)


MORE = json.loads(Path(__file__).with_name("answers_more.json").read_text(encoding="utf-8"))


def test_answers_of_vision_language_models() -> None:
    """In the styles of such models, the first 178 written before the rules; one in twenty may be missed."""
    read = [(id_, stage, read_stage(text).stage) for id_, text, stage in MORE]
    assert [row for row in read if row[2] not in (None, row[1])] == []
    unread = [row for row in read if row[1] != row[2]]
    assert len(unread) <= 0.05 * len(MORE), unread
    assert len({row[0] for row in read}) == len(MORE) >= 130


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("N2", "label"),
        ("The image shows N2, unlike N1.", "verdict"),
        ("N1? Rather low. Therefore N2, as in the epoch before.", "conclusion"),
        ("N3 fits less than N2, which I choose.", "chosen"),
        ("W fits less well than N1, so I go with the latter.", "latter"),
        ("N1 and REM are alike; N1 fits best.", "best"),
        ("Spindles suggest N2.", "evidence"),
        ("Spindles in this N2 epoch", "only stage named"),
        ('{"stage": "N2", "excluded": "N3"}', "field"),
        ("N2 or N3", "several stages"),
        ("I cannot tell.", "no stage named"),
    ],
)
def test_says_by_which_rule(text: str, rule: str) -> None:
    assert read_stage(text).rule == rule


@pytest.mark.parametrize(
    ("reader", "text", "stage"),
    [
        ("label", "N2", "N2"),
        ("label", " REM\n", "REM"),
        ("label", "n2", None),
        ("label", "N2.", None),
        ("label", "The stage is N2.", None),
        ("sentence", "The stage is N2.", "N2"),
        ("sentence", "Spindles. No N3. The stage is n2", "N2"),
        ("sentence", "N3", "N3"),
        ("sentence", "This is N2.", None),
        ("sentence", "The stage is N2. Or N3.", None),
    ],
)
def test_stricter_readers(reader: Reader, text: str, stage: str | None) -> None:
    reading = read_stage(text, reader)
    assert reading.stage == stage
    assert (reading.span is None) == (stage is None)


@pytest.mark.parametrize(
    "text",
    [
        "N2 or " * 160_000,
        "is " * 330_000 + "N2",
        "(" * 500_000 + " " * 500_000,
        "[" * 100_000 + '"N2"' + "]" * 100_000,
        '{"stage": ' * 100_000,
        "与N2期" * 250_000,
    ],
    ids=lambda text: text[:8],
)
def test_a_long_text_returns(text: str) -> None:
    assert read_stage(text).stage in (None, "N2")


def test_of_a_very_long_text_both_ends_are_read() -> None:
    text = "This is N1. " + "It rambles on. " * 70_000 + "The stage is N3."
    assert read_stage(text).span == (len(text) - 3, len(text) - 1)
    assert read_stage(text[:-16]).span == (8, 10)


def test_hostile_texts_are_read_in_no_time() -> None:
    for text in (
        "no " * 5000 + "N3",
        "stage " * 5000,
        "{" * 5000,
        "N2 or " * 3000,
        "不是" * 5000 + "N3",
    ):
        start = time.perf_counter()
        read_stage(text)
        assert time.perf_counter() - start < 5


def test_the_former_name_of_the_reader_still_imports() -> None:
    from eegtool.report import answers

    assert answers.read_stage is read_stage
