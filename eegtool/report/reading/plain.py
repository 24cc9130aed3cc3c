"""Values out of files that others wrote, made safe to print and to store: the one gate they pass."""

from __future__ import annotations

import re
from typing import Any, Final

from eegtool.core.parsing import finite

# Control characters could drive a terminal and lone surrogates cannot be written as UTF-8. Each is
# replaced by one character, so that positions in the text stay what they were.
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def plain_text(value: object) -> str:
    """Return `value` as text without control characters; None gives an empty string."""
    return "" if value is None else _UNPRINTABLE.sub("\ufffd", str(value))


def plain_value(value: Any) -> Any:
    """Return a JSON value with its texts made plain and with None for every number that no float can be."""
    if isinstance(value, dict):
        return {plain_text(k): plain_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(v) for v in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return None if finite(value) is None else value
    return plain_text(value)
