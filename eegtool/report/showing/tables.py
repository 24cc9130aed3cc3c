"""The tables of the report as plain records; `forms` shows them, `contents` fills them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


Value = Cell | str | int | float | None
"""What a cell is made of: a text stays as it is, counts get commas, figures three decimals."""


def table(
    key: str, title: str, columns: Iterable[str], rows: Iterable[Iterable[Value]], note: str = ""
) -> Table:
    """Return a table of values."""
    cells = tuple(tuple(cell(value) for value in row) for row in rows)
    return Table(key, title, tuple(columns), cells, note)


def cell(value: Value, interval: tuple[float, float] | None = None) -> Cell:
    """Return a cell with a value, and its interval on the second line."""
    if isinstance(value, Cell):
        return value
    if isinstance(value, int):
        return Cell(f"{value:,}")
    return Cell(value if isinstance(value, str) else figure(value), span(interval))


def figures_of(
    record: object,
    names: Sequence[str],
    intervals: Mapping[str, tuple[float, float] | None] | None = None,
) -> list[Cell]:
    """Return a cell for each of the named figures of a record, with its interval."""
    return [cell(getattr(record, name), (intervals or {}).get(name)) for name in names]


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


def span(interval: tuple[float, float] | None, form: str = ".3f") -> str:
    """Return an interval as text, with "to" between ends that have signs; nothing where there is none."""
    low, high = (figure(end, form) for end in interval or (None, None))
    if interval is None:
        return ""
    return f"{low} to {high}" if low[0] in "+−" else f"{low}–{high}"
