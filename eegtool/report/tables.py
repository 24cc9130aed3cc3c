"""The tables of the report: built once from the metrics, shown in the terminal, in Markdown and on the page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from eegtool.core.stages import STAGES
from eegtool.report.metrics import Agreement, Metrics

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


def all_tables(metrics: Metrics) -> list[Table]:
    """Return the tables of a report in their order; one without rows is left out."""
    tables = [
        summary_table(metrics),
        stage_table(metrics),
        confusion_table(metrics),
        subject_table(metrics),
    ]
    return [table for table in tables if table.rows]


def summary_table(metrics: Metrics) -> Table:
    """Return the headline figures, each beside what it would be without looking at the signal."""
    chance = metrics.chance
    rows = (
        (
            "Accuracy",
            figure(metrics.accuracy),
            figure(chance.accuracy),
            figure(chance.random_accuracy),
        ),
        ("Macro-F1", figure(metrics.macro_f1), figure(chance.macro_f1), ""),
        ("Cohen's κ", figure(metrics.kappa), figure(chance.kappa), figure(0.0)),
        ("Epochs scored", f"{metrics.n:,}", "", ""),
        ("Unreadable answers", counted(metrics.unreadable, metrics.n), "", ""),
        ("Epochs without a label", f"{metrics.unlabelled:,}", "", ""),
        (
            f"Commonest answer ({metrics.most_common_answer})",
            percent(metrics.most_common_answer_share),
            "",
            "",
        ),
    )
    return Table(
        "summary",
        "Agreement with the scoring",
        ("", "Model", f"Always {chance.stage}", "At random"),
        tuple(tuple(Cell(text) for text in row) for row in rows),
        "At random: answers drawn as often as the model gave them. "
        f"Macro-F1: mean over the stages that occur in the labels ({', '.join(metrics.macro_f1_stages)}).",
    )


def stage_table(metrics: Metrics) -> Table:
    """Return precision, recall, F1 and support of each stage."""
    rows = tuple(
        (
            Cell(stage),
            *(Cell(figure(value)) for value in (score.precision, score.recall, score.f1)),
            Cell(f"{score.support:,}"),
        )
        for stage, score in metrics.per_stage.items()
    )
    return Table(
        "stages",
        "Per stage",
        ("Stage", "Precision", "Recall", "F1", "Epochs"),
        rows,
        f"{NOTHING} marks a quotient by zero: the stage was never answered, or is never true."
        if any(cell.text == NOTHING for row in rows for cell in row)
        else "",
    )


def confusion_table(metrics: Metrics) -> Table:
    """Return the confusion matrix with counts and shares of each row."""
    rows = []
    for stage, counts in zip(STAGES, metrics.confusion, strict=True):
        total = sum(counts)
        cells = [
            Cell(
                f"{count:,}",
                percent(count / total) if count else "",
                count / total if total else 0.0,
                "right" if answer == stage else "wrong",
            )
            for answer, count in zip(metrics.confusion_labels, counts, strict=True)
        ]
        rows.append((Cell(stage), *cells, Cell(f"{total:,}")))
    return Table(
        "confusion",
        "Confusion matrix",
        ("True", *metrics.confusion_labels, "epochs"),
        tuple(rows),
        "Rows: true stage. Columns: answer. Share of the row below each count.",
    )


def subject_table(metrics: Metrics) -> Table:
    """Return the figures of each subject."""
    return Table(
        "subjects",
        "Per subject",
        ("Subject", "Accuracy", "Macro-F1", "κ", "Epochs"),
        tuple(_subject_row(name, score) for name, score in metrics.per_subject.items()),
    )


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


def figure(value: float | None) -> str:
    """Return a figure with three decimals."""
    return NOTHING if value is None else f"{value:.3f}".replace("-", "−")


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


def _subject_row(name: str, score: Agreement) -> tuple[Cell, ...]:
    figures = (figure(score.accuracy), figure(score.macro_f1), figure(score.kappa))
    return (Cell(name), *(Cell(text) for text in figures), Cell(f"{score.n:,}"))


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
