"""JSON that others wrote: read in one way, refused in one line that names file and line."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Final

from eegtool.core.errors import EegToolError

MAX_DEPTH: Final = 100
"""Lists and objects in each other; nothing that is meant comes near, and what handles it recurses."""

# A text as a whole, so that no bracket in it counts; one that does not end goes to the end of all.
_BRACKETS: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_HIGH, _LOW = r"u[dD][89abAB][0-9a-fA-F]{2}", r"u[dD][c-fC-F][0-9a-fA-F]{2}"
_ESCAPES: Final = re.compile(rf"\\(?:{_HIGH}\\{_LOW}|({_HIGH}|{_LOW})|.)", re.DOTALL)


def parse_json(
    data: str | bytes, source: Path | str, line: int = 0, *, half_characters: bool = False
) -> Any:
    r"""Read JSON text.

    Parameters
    ----------
    data : str or bytes
        The text; bytes are UTF-8, with a byte order mark or not.
    source : Path or str
        Where it comes from, for the message.
    line : int
        Its line in `source`; 0 where it is all of `source`.
    half_characters : bool
        Whether texts may hold half of a surrogate pair (``"\ud83d"``), which no file can be written
        with: only for who replaces them.

    Returns
    -------
    object
        What it says. Numbers may be infinite, NaN or longer than 64 bits: see `finite`.

    Raises
    ------
    EegToolError
        If it is not JSON or not UTF-8, is nested too deeply, or holds half of a character.
    """

    def refused(reason: str, at: int) -> EegToolError:
        here = line or text.count("\n", 0, at) + 1
        return EegToolError(
            f"{source}, line {here}: cannot be read: {reason}.",
            "Fix that line or write the file again.",
        )

    text = ""
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data.removeprefix("\ufeff")
        too_deep = _where_too_deep(text)
        if too_deep is not None:
            raise refused(f"it is nested more than {MAX_DEPTH} deep", too_deep)
        value = json.loads(text)
    except UnicodeDecodeError as error:
        line = line or error.object.count(b"\n", 0, error.start) + 1
        raise refused(f"it is not UTF-8 ({error.reason} at byte {error.start})", 0) from error
    except json.JSONDecodeError as error:
        reason = f"it is not JSON ({error.msg}, column {error.colno})"
        raise refused(reason, error.pos) from error
    except ValueError as error:  # Python reads no such number, and does not say where it stands
        raise refused("a number in it has thousands of digits", 0) from error
    if not half_characters:
        half = next((m for m in _ESCAPES.finditer(text) if m[1]), None)
        if half is not None:
            raise refused(f"'{half[0]}' is half of a character", half.start())
    return value


def finite(value: object) -> float | None:
    """Return `value` as a float; None if it is not a number, infinite, NaN or too large for one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def check_text(text: str, what: str) -> str:
    """Return `text`, refusing what no file can be written with: bytes of another encoding.

    Raises
    ------
    EegToolError
        Naming what it is.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text.encode(errors="backslashreplace").decode()
        raise EegToolError(
            f"{what} '{shown}' is not UTF-8 text (character {error.start + 1}).",
            "Type it, or name the file, in UTF-8.",
        ) from error
    return text


def _where_too_deep(text: str) -> int | None:
    """Return where `text` is nested more deeply than `MAX_DEPTH`; None if nowhere."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return None
    depth = 0
    for match in _BRACKETS.finditer(text):
        if match[0] in ("[", "{"):
            depth += 1
            if depth > MAX_DEPTH:
                return match.start()
        elif match[0] in ("]", "}"):
            depth -= 1
    return None
