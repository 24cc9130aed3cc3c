"""Tables in the forms in which they are read: terminal, Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from eegtool.core.sheets import safe_cell
from eegtool.report.showing.tables import Cell, Table

_LATEX: Final = {
    **{c: rf"\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"κ": r"$\kappa$", "−": "$-$", "–": "--", "±": r"$\pm$", "×": r"$\times$", "†": r"$\dagger$"},
    **{"µ": r"$\mu$", "≥": r"$\geq$", "≤": r"$\leq$", "[": "{[}", "]": "{]}", "…": r"\ldots{}"},
}


def first_rows(table: Table, most: int, what: str) -> Table:
    """Return the first rows of a table, saying how many `what` are left."""
    left = len(table.rows) - most
    note = f"{left:,} further {what} in tables.csv. {table.note}".strip()
    return replace(table, rows=table.rows[:most], note=note) if left > 0 else table


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


def to_csv(tables: Sequence[Table]) -> str:
    """Return all tables as one CSV file: a line per cell, named by table, row and column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "row", "column", "value", "detail"])
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.columns[1:], row[1:], strict=True):
                texts = (row[0].text, column, cell.text, cell.detail)
                writer.writerow([table.key, *map(safe_cell, texts)])
    return out.getvalue()


def to_latex(tables: Sequence[Table]) -> str:
    """Return all tables for LaTeX with booktabs, each in a float of its own."""
    heads = ["% Needs \\usepackage{booktabs}; no other package."]
    body = [_latex(table) for table in tables]
    if foreign := {c for text in body for c in text if c > "\u00ff"}:
        shown = "".join(sorted(foreign)[:10])
        heads.append(f"% Has {shown}: compile with XeLaTeX or LuaLaTeX, and a font that has them.")
    return "\n".join([*heads, *body])


def _latex(table: Table) -> str:
    body = []
    for row in table.rows:
        body.append([latex(cell.text) for cell in row])
        if any(cell.detail for cell in row):
            body.append([rf"{{\scriptsize {latex(c.detail)}}}" if c.detail else "" for c in row])
    parts = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(table.title)}}}",
        rf"\label{{tab:{table.key}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        _latex_row(map(latex, table.columns)),
        r"\midrule",
        *map(_latex_row, body),
        r"\bottomrule",
        r"\end{tabular}",
        *([rf"\par\smallskip{{\footnotesize {latex(table.note)}}}"] if table.note else []),
        r"\end{table}",
        "",
    ]
    return "\n".join(parts)


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def latex(text: str) -> str:
    """Return `text` so that LaTeX shows it as it is."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


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
