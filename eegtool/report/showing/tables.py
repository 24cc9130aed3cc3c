"""The tables of the report as plain records; `forms` shows them, `contents` fills them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

NOTHING = "–"
"""Shown where a figure is not defined."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes
    ----------
    text : str
        What it says.
    detail : str
        Smaller second line.
    shade : float
        Strength of its colour, 0 to 1.
    tone : str
        Colour: ``"right"`` and ``"wrong"`` answers, or none.
    """

    text: str
    detail: str = ""
    shade: float = 0.0
    tone: Literal["", "right", "wrong"] = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Title, column heads, rows and an explaining line. The first column names the row."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def figure(value: float | None, form: str = ".3f") -> str:
    """Return a figure, with three decimals where no other form is asked for."""
    return NOTHING if value is None else f"{value:{form}}".replace("-", "−")


def percent(share: float) -> str:
    """Return a share in whole percent, without rounding something to nothing or to everything."""
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{share:.0%}".replace("%", " %")


def counted(count: int, total: int) -> str:
    """Return a count with its share."""
    return f"{count:,} ({percent(count / total)})"


def cell(value: float | None, interval: tuple[float, float] | None = None) -> Cell:
    """Return a cell with a figure, and its interval on the second line."""
    return Cell(figure(value), span(interval))


def cells_of(
    figures: object,
    names: Sequence[str],
    intervals: Mapping[str, tuple[float, float] | None] | None = None,
) -> tuple[Cell, ...]:
    """Return a cell for each of the named figures of a record, with its interval."""
    return tuple(cell(getattr(figures, name), (intervals or {}).get(name)) for name in names)


def span(interval: tuple[float, float] | None) -> str:
    """Return an interval as text; nothing where there is none."""
    if interval is None:
        return ""
    low, high = (figure(end) for end in interval)
    return f"{low} to {high}" if low.startswith("−") else f"{low}–{high}"


def signed_span(interval: tuple[float, float] | None) -> str:
    """Return an interval of a difference as text; nothing where there is none."""
    return " to ".join(figure(end, "+.3f") for end in interval or ())


def text_row(texts: Sequence[str]) -> tuple[Cell, ...]:
    """Return a row of plain cells."""
    return tuple(Cell(text) for text in texts)
