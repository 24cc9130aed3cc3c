"""JSON that others wrote: read in one way, refused in one line that names file and line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.parsing import MAX_DEPTH, check_text, finite, parse_json
from eegtool.core.records import read_answers, read_conversations, read_questions
from eegtool.core.workspace import read_json


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ('{"a": [1, "[{"]}', {"a": [1, "[{"]}),
        (b'\xef\xbb\xbf"\xc2\xb5V"', "µV"),
        ("\ufeff[1]", [1]),
        ('"\\ud83d\\ude34"', "😴"),
        (r'"\\ud83d"', r"\ud83d"),  # a backslash, then letters
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)),
        (json.dumps(["[" * 1000, '"' + "{" * 1000]), ["[" * 1000, '"' + "{" * 1000]),
        (json.dumps([[]] * 1000), [[]] * 1000),  # many, not deep
    ],
)
def test_what_is_well_formed_is_read(data: str | bytes, value: object) -> None:
    assert parse_json(data, "x.json") == value


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ("{", "line 1: cannot be read: it is not JSON (Expecting property name"),
        ('{"a": 1,\n"b": }', "line 2: cannot be read: it is not JSON (Expecting value, column 6)"),
        (b'{"a":\n "\xff"}', "line 2: cannot be read: it is not UTF-8 (invalid start byte"),
        ("[" * 100_000, "line 1: cannot be read: it is nested more than 100 deep"),
        ('{"a":\n' * 800 + "1" + "}" * 800, "line 101: cannot be read: it is nested"),
        ('["[]", ' + "[\n" * 101 + "]" * 102, "line 100: cannot be read: it is nested"),
        ('["ok",\n"\\uD83D"]', r"line 2: cannot be read: '\uD83D' is half of a character"),
        ('["\\ude34\\ud83d"]', r"line 1: cannot be read: '\ude34' is half"),
        ('{"\\\\\\ud83d": 1}', r"line 1: cannot be read: '\ud83d' is half"),
        ("[" + "9" * 5000 + "]", "line 1: cannot be read: a number in it has thousands of digits"),
        ("", "line 1: cannot be read: it is not JSON"),
    ],
)
def test_what_is_hostile_is_refused_by_line(data: str | bytes, where: str) -> None:
    with pytest.raises(EegToolError) as raised:
        parse_json(data, Path("x.json"))
    assert raised.value.what.startswith(f"x.json, {where}")
    assert "\n" not in raised.value.what
    assert raised.value.fix


def test_a_line_of_a_file_is_named_by_its_number() -> None:
    with pytest.raises(EegToolError, match=r"^x.jsonl, line 7: cannot be read: it is not JSON"):
        parse_json("{", "x.jsonl", 7)
    with pytest.raises(EegToolError, match=r"^x.jsonl, line 7: .* not UTF-8"):
        parse_json(b"\xff", "x.jsonl", 7)


def test_half_characters_are_for_who_replaces_them() -> None:
    assert parse_json('"\\ud83d"', "x", half_characters=True) == "\ud83d"


@pytest.mark.parametrize(
    "text",
    ['"' + r"\"" * 200_000, '"' * 200_000, "[" * 10**6, '{"a":' * 10**5],
    ids=["escaped quotes", "quotes", "lists", "objects"],
)
def test_what_is_long_and_hostile_costs_no_time(text: str) -> None:
    with pytest.raises(EegToolError):
        parse_json(text, "x")  # a minute and more, were it read from every quote


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0),
        (0.5, 0.5),
        (True, None),
        ("1", None),
        (None, None),
        (math.nan, None),
        (-math.inf, None),
        (10**400, None),
        (10**30, 1e30),
        ([1], None),
    ],
)
def test_finite(value: object, number: float | None) -> None:
    assert finite(value) == number


@pytest.mark.parametrize("text", ["stage \udcff?", "\ud83d", "ok\udc80"])
def test_what_no_file_can_hold_is_refused(text: str) -> None:
    with pytest.raises(EegToolError, match=r"^The question '.*\\ud.*' is not UTF-8 text"):
        check_text(text, "The question")
    assert check_text("µV 睡眠 😴", "The question") == "µV 睡眠 😴"


@pytest.mark.parametrize("read", [read_conversations, read_questions, read_answers, read_json])
@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"id": "\\udc00"}', f'{{"id": {"9" * 5000}}}', '{"id": tru'],
    ids=range(4),
)
def test_all_readers_refuse_alike(
    tmp_path: Path, read: Callable[[Path], object], text: str
) -> None:
    path = tmp_path / "file"
    path.write_text("\n" + text)
    with pytest.raises(EegToolError, match=rf"^{path}, line [12]: cannot be read: "):
        read(path)
