"""Texts that others chose, in tables that a spreadsheet will open."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_NUMBER: Final = r"[+-]?\d[\d.,]*"
_PLAIN: Final = re.compile(rf"{_NUMBER}(?: to {_NUMBER})?(?: ?%| [^\W\d_]+)?")
"""What may begin with a sign: a number, an interval, with a unit perhaps."""


def safe_cell(text: str) -> str:
    """Return `text` so that no spreadsheet takes it for a formula: an apostrophe goes before it.

    Blanks and invisible characters in front of a formula do not hide it, nor do the full-width forms of
    its signs. A typographic minus becomes the one that programs read.

    Examples
    --------
    >>> safe_cell("=1+1"), safe_cell("−0.5"), safe_cell("C4-M1")
    ("'=1+1", '-0.5', 'C4-M1')
    """
    text = text.replace("−", "-")
    first = next((c for c in text if not _is_invisible(c)), "")
    is_formula = unicodedata.normalize("NFKC", first)[:1] in ("=", "+", "-", "@")
    return f"'{text}" if is_formula and not _PLAIN.fullmatch(text) else text


def _is_invisible(character: str) -> bool:
    """Tell control and format characters and separators: tab, blank, zero-width space, byte order mark."""
    return unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp")
