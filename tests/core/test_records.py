from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.forms import Forms
from eegtool.core.records import (
    Answer,
    Conversation,
    Epoch,
    Question,
    check_unique,
    json_line,
    read_answers,
    read_conversations,
    read_epochs,
    read_questions,
    write_conversations,
    write_epochs,
    write_questions,
)

EPOCH = Epoch(
    sample_id="SC4001E0-0123",
    cohort="sleep-edf",
    recording="SC4001E0",
    subject="SC400",
    night=1,
    epoch_index=123,
    onset_s=3690.0,
    stage="N2",
    split="ft",
    image="SC4001E0/SC4001E0-0123.png",
)
CONVERSATION = Conversation("SC4001E0-0123", ("a.png", "a.png"), "Which stage, 50 µV?", "N2")
QUESTION = Question("SC4001E0-0123", ("a.png", "a.png"), "Welches Stadium, «schläfrig»?", "N2")
ANSWER = Answer(
    "SC4001E0-0123", "Which?", ' N2,\n"probably" ', "N2", "x1", "tiny", {"seconds": 0.5}
)


def write_answers(path: Path, answers: list[Answer]) -> None:
    path.write_text("".join(json_line(a.to_row()) for a in answers), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "record", "write", "read"),
    [
        ("epochs.csv", EPOCH, write_epochs, read_epochs),
        ("eeg_ft.json", CONVERSATION, write_conversations, read_conversations),
        ("eeg_eval.jsonl", QUESTION, write_questions, read_questions),
        ("answers.jsonl", ANSWER, write_answers, read_answers),
    ],
)
def test_round_trip(
    tmp_path: Path,
    name: str,
    record: Any,
    write: Callable[[Path, Any], None],
    read: Callable[[Path], list[Any]],
) -> None:
    field = "question_id" if isinstance(record, Answer) else "sample_id"
    records = [record, replace(record, **{field: "other, \"quoted\" 'ü'"})]
    path = tmp_path / "not" / "there yet" / name
    path.parent.mkdir(parents=True)
    write(path, records)
    assert read(path) == records

    # Somebody saved it with an editor that puts a byte-order mark in front.
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(path) == records


def test_rows_have_the_form_of_llava() -> None:
    assert CONVERSATION.to_row() == {
        "id": "SC4001E0-0123",
        "image": ["a.png", "a.png"],
        "conversations": [
            {"from": "human", "value": "<image>\n<image>\nWhich stage, 50 µV?"},
            {"from": "gpt", "value": "N2"},
        ],
    }
    assert list(QUESTION.to_row()) == ["question_id", "image", "text", "category"]
    assert list(ANSWER.to_row()) == [
        "question_id",
        "prompt",
        "text",
        "label",
        "answer_id",
        "model_id",
        "metadata",
    ]


def test_files_have_one_row_per_line(tmp_path: Path) -> None:
    path = tmp_path / "eeg_ft.json"
    write_conversations(path, [CONVERSATION] * 3)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("[", "]", 5)
    assert "µ" in lines[1]
    write_epochs(tmp_path / "epochs.csv", [EPOCH])
    assert (tmp_path / "epochs.csv").read_bytes() == (
        b"sample_id,cohort,recording,subject,night,epoch_index,onset_s,stage,split,image\n"
        b"SC4001E0-0123,sleep-edf,SC4001E0,SC400,1,123,3690.0,N2,ft,SC4001E0/SC4001E0-0123.png\n"
    )


def test_foreign_llava_rows_are_read(tmp_path: Path) -> None:
    """One image as plain text, numbers as ids, no category: all occur in LLaVA's own files."""
    rows = [{"question_id": 7, "image": "x.png", "text": "<image>\nWhich?"}]
    (tmp_path / "q.jsonl").write_text(json.dumps(rows[0]) + "\n\n")
    assert read_questions(tmp_path / "q.jsonl") == [Question("7", ("x.png",) * 2, "Which?", "")]
    rows[0]["category"] = None
    (tmp_path / "q.jsonl").write_text(json.dumps(rows))
    taken = Forms()
    assert read_questions(tmp_path / "q.jsonl", taken)[0].category == ""
    assert taken == {"image": 1, "number": 1, "list": 1}
    row = ANSWER.to_row() | {"question_id": 7, "label": None}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert read_answers(tmp_path / "a.jsonl") == [replace(ANSWER, question_id="7", label="")]


def edited(record: Any, **changes: Any) -> Any:
    return record.to_row() | changes


HUMAN, GPT = CONVERSATION.to_row()["conversations"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "x"}, "'conversations' is missing"),
        (
            edited(CONVERSATION, conversations=[HUMAN]),
            "the turns are human; they must be human and",
        ),
        (edited(CONVERSATION, conversations=[GPT, HUMAN]), "the turns are gpt, human; they must"),
        (
            edited(CONVERSATION, conversations=[HUMAN, GPT, HUMAN]),
            "the turns are human, gpt, human;",
        ),
        (edited(CONVERSATION, conversations=[]), "the turns are none;"),
        (edited(CONVERSATION, conversations="text"), "'conversations' is not a list of turns"),
        (edited(CONVERSATION, conversations=[HUMAN, {"from": "bot"}]), "turn 2 is from 'bot'"),
        (edited(CONVERSATION, conversations=[HUMAN, GPT, HUMAN, GPT]), "in a later turn"),
        (edited(CONVERSATION, conversations=[GPT | {"from": "human"}, GPT]), "0 <image> for 2"),
        (edited(CONVERSATION, image=["a.png"] * 3), "2 <image> for 3 images"),
        (edited(CONVERSATION, id=None), "'id' must be text or a whole number, not None"),
        (edited(CONVERSATION, id=True), "'id' must be text or a whole number, not True"),
        (edited(CONVERSATION, image=[1, 2]), "'image' is not a path or a list of paths"),
        (edited(CONVERSATION, image=None), "'image' is not a path or a list of paths"),
        (
            edited(CONVERSATION, conversations=[HUMAN, {"from": "gpt", "value": 2}]),
            "'value' of turn 2 is not text",
        ),
        ("text", "not a JSON object"),
    ],
)
def test_broken_conversation_names_file_and_row(tmp_path: Path, row: Any, reason: str) -> None:
    path = tmp_path / "eeg_ft.json"
    path.write_text(json.dumps([CONVERSATION.to_row(), row]))
    with pytest.raises(EegToolError) as raised:
        read_conversations(path)
    assert f"{path}, row 2: " in raised.value.what
    assert reason in raised.value.what
    assert "Fix" in raised.value.fix


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting property name"),
        ("1", "not a JSON object"),
        ('{"question_id": "x", "image": "a.png"}', "'text' is missing"),
        ('{"question_id": "x", "image": "a.png", "text": null}', "'text' is not text"),
    ],
)
def test_broken_question_names_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "eeg_eval.jsonl"
    path.write_text(json_line(QUESTION.to_row()) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(EegToolError) as raised:
        read_questions(path)
    assert f"{path}, line 3: " in raised.value.what
    assert reason in raised.value.what


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text": ["N2"]}, "'text' is not text"),
        ({"label": ["N2"]}, "'label' is not text"),
        ({"metadata": "none"}, "'metadata' is not a JSON object"),
    ],
)
def test_broken_answer_names_file_and_line(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(json_line(ANSWER.to_row()) + json_line(edited(ANSWER, **changes)))
    with pytest.raises(EegToolError) as raised:
        read_answers(path)
    assert f"{path}, line 2: {reason}." in raised.value.what


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x,c,r,s,1,0,0.0,N4,ft,x.png", "stage 'N4'"),
        ("x,c,r,s,1,0,0.0,N2,test,x.png", "split 'test'"),
        ("x,c,r,s,one,0,0.0,N2,ft,x.png", "'one'"),
        ("x,c,r,s,1", "the columns must be sample_id, cohort"),
        ("x,c,r,s,1,0,0.0,N2,ft,x.png,more", "the columns must be sample_id, cohort"),
    ],
)
def test_broken_epoch_names_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "epochs.csv"
    write_epochs(path, [EPOCH])
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(EegToolError) as raised:
        read_epochs(path)
    assert f"{path}, line 4: " in raised.value.what
    assert reason in raised.value.what


def test_another_table_is_no_table_of_epochs(tmp_path: Path) -> None:
    path = tmp_path / "epochs.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(EegToolError, match="line 2: the columns must be sample_id"):
        read_epochs(path)


@pytest.mark.parametrize(
    "read",
    [read_epochs, read_conversations, read_questions, read_answers],
    ids=lambda f: f.__name__,
)
def test_unreadable_files(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    with pytest.raises(EegToolError, match=r"missing\.x does not exist") as missing:
        read(tmp_path / "missing.x")
    assert missing.value.fix == "Give the right path."
    with pytest.raises(EegToolError, match=r"run `eegvlm (prepare|evaluate)` first"):
        read(tmp_path / ("eeg_answers.jsonl" if read is read_answers else "epochs.csv"))

    binary = tmp_path / "binary.x"
    binary.write_bytes(b'{"question_id": "\xff\xfe"}\n')
    with pytest.raises(EegToolError) as raised:
        read(binary)
    assert str(binary) in raised.value.what
    assert "not UTF-8 text" in raised.value.what
    assert "byte 17" in raised.value.what
    assert raised.value.fix

    with pytest.raises(EegToolError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize(("text", "where"), [("[{]", "line 1"), ('{"id": 1}', "line 1")])
def test_broken_json_list(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "eeg_ft.json"
    path.write_text(text)
    with pytest.raises(EegToolError, match=f"{where}: "):
        read_conversations(path)


def test_duplicate_ids_are_named() -> None:
    check_unique(Path("eeg_ft.json"), ["a", "b", "c"])
    with pytest.raises(EegToolError, match=r"eeg_ft\.json: the id 'b' occurs more than once"):
        check_unique(Path("eeg_ft.json"), ["a", "b", "c", "b"])
