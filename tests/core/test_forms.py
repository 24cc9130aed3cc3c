"""Rows as LLaVA-Instruct, chats and users of the recipe write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eegtool.core.forms import Forms, sentences
from eegtool.core.records import Conversation, read_conversations, write_conversations


def said(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def chat(*texts: Any) -> list[dict[str, Any]]:
    roles = ("user", "assistant") * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


PAIR = ("a.png", "a.png")
PLAIN = Conversation("x", PAIR, "Which?", "N2")
PICTURE = {"type": "image"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("row", "expected", "taken"),
    [
        # The recipe turns 'image' into a list and says nothing of the marks.
        (
            {"id": "x", "image": [*PAIR], "conversations": said("<image>\nWhich?", "N2")},
            PLAIN,
            {"mark": 1},
        ),
        (
            {"id": "x", "image": "a.png", "conversations": said("<image>\nWhich?", "N2")},
            PLAIN,
            {"image": 1, "mark": 1},
        ),
        (
            {"id": "x", "image": ["a.png"], "conversations": said("<image><image>Which?", "N2")},
            PLAIN,
            {"image": 1},
        ),
        (
            {"id": "x", "image": "a.png", "conversations": said("Which?\n<image>", "N2")},
            PLAIN,
            {"image": 1, "mark": 1, "place": 1},
        ),
        (
            {"id": 7, "image": [*PAIR], "conversations": said("<image>\n<image>\nWhich?", "N2")},
            Conversation("7", PAIR, "Which?", "N2"),
            {"number": 1},
        ),
        (
            {"id": "x", "image": [*PAIR], "messages": chat("<image>\nWhich?", "N2")},
            PLAIN,
            {"mark": 1, "chat": 1},
        ),
        (
            {"id": "x", "image": [*PAIR], "messages": chat([PICTURE, text("Which?")], "N2")},
            PLAIN,
            {"mark": 1, "chat": 1},
        ),
        (
            {
                "id": "x",
                "image": [*PAIR],
                "conversations": [
                    {"from": "system", "value": "You score sleep."},
                    *said("<image>\n<image>\nWhich?", "N2"),
                    *said("Why?", "Spindles."),
                ],
            },
            Conversation("x", PAIR, "Which?", "N2", (("Why?", "Spindles."),), "You score sleep."),
            {"turns": 1, "system": 1},
        ),
    ],
    ids=["mark", "image", "one in a list", "place", "number", "chat", "parts", "turns"],
)
def test_rows_are_taken_as_people_have_them(
    tmp_path: Path, row: dict[str, Any], expected: Conversation, taken: dict[str, int]
) -> None:
    path = tmp_path / "eeg_ft.json"
    path.write_text(json.dumps([row]))
    counted = Forms()
    assert read_conversations(path, counted) == [expected]
    assert +counted == Forms(taken)
    write_conversations(path, [expected])  # what is written is one form, and reads the same
    again = Forms()
    assert read_conversations(path, again) == [expected]
    assert +again == Forms({k: n for k, n in taken.items() if k in ("turns", "system")})


def test_lines_are_read_where_a_list_is_usual(tmp_path: Path) -> None:
    path = tmp_path / "eeg_ft.jsonl"
    rows = [PLAIN.to_row(), Conversation("y", PAIR, "Which?\u2028Say.", "W").to_row()]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    taken = Forms()
    assert [row.sample_id for row in read_conversations(path, taken)] == ["x", "y"]
    assert taken["lines"] == 2


def test_each_form_is_said_once_with_its_rows() -> None:
    found = sentences(Forms({"mark": 5239, "number": 2, "turns": 0}))
    assert found == [
        "one <image> for the same picture twice: taken as two (5,239)",
        "the id is a number: taken as text (2)",
    ]
