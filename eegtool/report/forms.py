"""Tables in the forms in which they are read: terminal, Markdown, CSV, LaTeX."""

from __future__ import annotations

import re

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from eegtool.report.tables import Cell, Table


def to_rich(table: Table) -> Group:
    """Return `table` for the terminal, with title and note; it fits into 80 columns."""
    shaded = any(cell.tone for row in table.rows for cell in row)
    shown = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for i, name in enumerate(table.columns):
        shown.add_column(
            _rich_cell(Cell(name), first=i == 0), min_width=8 if shaded and i else None
        )
    for row in table.rows:
        shown.add_row(*(_rich_cell(cell, first=i == 0) for i, cell in enumerate(row)))
    parts: list[RenderableType] = [Text(table.title, style="bold underline"), shown]
    return Group(*parts, *([Text(table.note, style="dim")] if table.note else []))


def to_markdown(table: Table) -> str:
    """Return `table` as Markdown, with its title as a heading."""
    lines = [
        table.columns,
        ("---", *["---:"] * (len(table.columns) - 1)),
        *([f"{c.text} ({c.detail})" if c.detail else c.text for c in row] for row in table.rows),
    ]
    body = "\n".join("| " + " | ".join(markdown(text) for text in line) + " |" for line in lines)
    parts = [f"## {table.title}", body, markdown(table.note)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown(text: str) -> str:
    """Return `text` so that Markdown shows it as it is, on one line."""
    text = " ".join(text.split()).replace("\\", "\\\\")
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)  # "<1 %" is no tag
    return re.sub(r"([|`*_\[\]])", r"\\\1", text)


def _rich_cell(cell: Cell, *, first: bool) -> Padding:
    text = Text(cell.text, justify="left" if first else "right")
    if cell.detail:
        text.append(f"\n{cell.detail}")
    return Padding(text, (0, 1, 0, 0 if first else 1), style=_style(cell))


def _style(cell: Cell) -> str:
    """Return black on white turning into the cell's tone: readable on dark and on light terminals."""
    if not cell.shade:
        return "dim" if cell.tone else ""
    full = (96, 160, 226) if cell.tone == "right" else (240, 140, 80)
    strength = 0.15 + 0.85 * cell.shade
    r, g, b = (round(255 - strength * (255 - channel)) for channel in full)
    return f"rgb(0,0,0) on rgb({r},{g},{b})"
