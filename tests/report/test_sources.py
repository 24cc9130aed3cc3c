"""Answers files as they come: broken, mixed, foreign."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.records import Answer
from eegtool.core.stages import STAGES
from eegtool.report.reading.sources import named_apart, read_answer_sets

AnswerOf = Callable[..., Answer]
WriteAnswers = Callable[[Sequence[Answer]], Path]


def test_everything_an_epoch_knows(answer: AnswerOf, write_answers: WriteAnswers) -> None:
    told = dict(zip(STAGES, (0.1, 0.1, 0.6, 0.1, 0.1), strict=True))
    path = write_answers([answer(3, "N2", "The stage is N2.", stage_probabilities=told)])
    (only,) = read_answer_sets(path)
    (epoch,) = only.epochs
    assert (epoch.sample_id, epoch.recording, epoch.subject) == (
        "SC4031E0-0003",
        "SC4031E0",
        "SC403",
    )
    assert (epoch.epoch_index, epoch.onset_s, epoch.night) == (3, 90.0, 1)
    assert (epoch.question, epoch.predicted, epoch.right) == ("Which stage?", "N2", True)
    assert (epoch.probabilities, epoch.certainty) == ((0.1, 0.1, 0.6, 0.1, 0.1), 0.6)
    assert only.run.protocol["channel"] == "EEG Fpz-Cz"


@pytest.mark.parametrize("cut", [5, 40, -30])
def test_a_broken_last_line_costs_only_itself(
    answer: AnswerOf, write_answers: WriteAnswers, cut: int
) -> None:
    path = write_answers([answer(i, "N2", "N2 快速") for i in range(3)])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    (only,) = read_answer_sets(path)
    assert len(only.epochs) == 2
    assert only.broken_line.startswith("line 3: ")
    path.write_bytes(lines[0] + lines[1][:cut] + b"\n" + lines[2])
    with pytest.raises(EegToolError, match="line 2"):
        read_answer_sets(path)
    path.write_bytes(lines[0][:cut])
    with pytest.raises(EegToolError, match="holds no answers but a broken one, line 1: "):
        read_answer_sets(path)


def test_several_models_in_one_file_never_meet(
    answer: AnswerOf, write_answers: WriteAnswers
) -> None:
    rows = [answer(i, "N2", "N2") for i in range(3)]
    rows += [replace(a, model_id="other", text="N3") for a in rows]
    rows += [answer(i, "N2", "W", features="shuffled") for i in range(2)]
    sets = named_apart(read_answer_sets(write_answers(rows)))
    assert [len(s.epochs) for s in sets] == [3, 3, 2]
    assert {s.siblings for s in sets} == {3}
    assert len({s.name for s in sets}) == 3
    assert {e.predicted for e in sets[1].epochs} == {"N3"}


def test_names_tell_files_apart(answer: AnswerOf, write_answers: WriteAnswers) -> None:
    path = write_answers([answer(0, "N2", "N2")])
    other = path.with_name("shuffled.jsonl")
    other.write_bytes(path.read_bytes())
    sets = [s for p in (path, other) for s in read_answer_sets(p)]
    assert [s.name for s in named_apart(sets)] == ["eeg_answers", "shuffled"]
    assert [s.name for s in named_apart([sets[0], sets[0]])] == ["1: eeg_answers", "2: eeg_answers"]


def test_odd_probabilities_are_left_out_and_named(
    answer: AnswerOf, write_answers: WriteAnswers
) -> None:
    rows = [answer(i, "N2", "N2", stage_probabilities={"W": i}) for i in range(2)]
    (only,) = read_answer_sets(write_answers(rows))
    assert [e.probabilities for e in only.epochs] == [None, None]
    assert only.odd_probabilities[0] == "'SC4031E0-0000': they are not one number for each stage"


def test_not_text_and_byte_order_mark(answer: AnswerOf, write_answers: WriteAnswers) -> None:
    path = write_answers([answer(i, "N2", "N2") for i in range(2)])
    good = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + good)
    assert len(read_answer_sets(path)[0].epochs) == 2
    path.write_bytes(b"\xff\xfe\n" + good)
    with pytest.raises(EegToolError, match="not UTF-8"):
        read_answer_sets(path)


@pytest.mark.parametrize(
    "odd", [10**30, 10**400, -1, float("nan"), float("inf"), True, "1", [1], {}]
)
def test_odd_numbers_are_as_if_they_were_not_there(
    answer: AnswerOf, write_answers: WriteAnswers, odd: object
) -> None:
    rows = [
        answer(0, "N2", "N2", epoch_index=odd, night=odd),
        answer(1, "N2", "N2", onset_s=odd if odd != 10**30 else 10**400),
        answer(2, "N2", "N2", stage_probabilities=dict.fromkeys(STAGES, odd)),
        answer(3, "N2", "N2", protocol={"low_hz": odd, "deep": [odd, {"x": odd}]}),
    ]
    (only,) = read_answer_sets(write_answers(rows))
    first, second, third, _ = only.epochs
    assert (first.epoch_index, first.night, second.onset_s) == (None, None, None)
    assert third.probabilities is None
    assert [text.partition(":")[0] for text in only.odd_probabilities] == ["'SC4031E0-0002'"]
    if odd == 10**400 or isinstance(odd, float):
        assert only.run.protocol["low_hz"] == [0.3, None]
        assert only.run.protocol["deep"] == [None, {"x": None}]


def test_what_is_nested_too_deeply_costs_only_a_last_line(
    answer: AnswerOf, write_answers: WriteAnswers
) -> None:
    path = write_answers([answer(i, "N2", "N2") for i in range(2)])
    deep = '{"a":' * 800 + "1" + "}" * 800
    with path.open("a") as file:
        file.write(deep + "\n")
    (only,) = read_answer_sets(path)
    assert only.broken_line == "line 3: cannot be read: it is nested more than 100 deep"
    with path.open("a") as file:
        file.write(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(EegToolError, match=r"line 3: cannot be read: it is nested"):
        read_answer_sets(path)


def test_half_characters_of_an_answer_are_replaced(
    answer: AnswerOf, write_answers: WriteAnswers
) -> None:
    (only,) = read_answer_sets(write_answers([answer(0, "N2", "N2 \ud83d", subject="\udc00")]))
    assert (only.epochs[0].text, only.epochs[0].subject) == ("N2 \ufffd", "\ufffd")


def test_a_json_list_of_answers_is_read(
    tmp_path: Path, answer: AnswerOf, write_answers: WriteAnswers
) -> None:
    lines = write_answers([answer(i, "N2", "N2") for i in range(3)])
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    listed = tmp_path / "answers.json"
    listed.write_text(json.dumps(rows, indent=2))
    (one,), (other,) = read_answer_sets(lines), read_answer_sets(listed)
    assert one.epochs == other.epochs
    listed.write_text(json.dumps([*rows, 7]))
    with pytest.raises(EegToolError, match="row 4: not a JSON object"):
        read_answer_sets(listed)
