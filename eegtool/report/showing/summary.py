"""The first screen: what a reader must know, on at most 40 lines; everything else is in the files."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from eegtool.report.showing.contents import FIGURE_NAMES, confusion_table, summary_table
from eegtool.report.showing.data import ReportData
from eegtool.report.showing.forms import to_rich
from eegtool.report.showing.tables import Cell, Table, cell, counted
from eegtool.report.showing.words import interval_sentence

_LOUDEST = 2
_NIGHTS = 5
_COMPARED = 2


def summary(data: ReportData, out: str) -> Iterator[RenderableType]:
    """Yield what the terminal shows.

    Parameters
    ----------
    data : ReportData
        What the report says.
    out : str
        Its folder.
    """
    metrics = data.metrics
    found = counted(metrics.unreadable, metrics.n or metrics.answered)
    subjects = len(metrics.per_subject)
    yield Text(
        f"\n{metrics.model_id or 'Unnamed model'}: {metrics.answered:,} epochs ({metrics.n:,} scored), "
        f"{subjects} subject{'s' * (subjects != 1)}; {found} unreadable"
    )
    warnings = [n.text for n in data.notices if n.level == "warning"]
    for text in warnings[:_LOUDEST]:
        yield Text.assemble(
            ("warning: ", "bold red"), text if len(text) < 230 else f"{text[:229]}…"
        )
    rest = len(data.notices) - min(len(warnings), _LOUDEST)
    if rest:
        more = f"{rest}{' more' * bool(warnings)} note{'s' * (rest > 1)}"
        yield Text(f"{more}: see the report, or --full.", style="yellow")
    if metrics.n:
        for table in (_headline(data), _stages(data), _confusion(data)):
            yield from ("", to_rich(table)) if table.title else (to_rich(table),)
        yield Text("\n" + interval_sentence(metrics.intervals.basis), style="dim")
        others = [t for t in data.tables if t.key.startswith("comparison") and t.rows]
        for table in others[:_COMPARED]:
            _, ours, theirs, difference = table.rows[list(FIGURE_NAMES).index("kappa")]
            yield Text(
                f"{table.title}: κ {theirs.text} and {ours.text}; difference {difference.text}"
                + f" ({difference.detail})" * bool(difference.detail)
            )
    else:
        nights = next((t for t in data.tables if t.key == "sleep_nights"), None)
        if nights:
            yield from ("", to_rich(_first(nights)))
    reviews = [row for table in data.tables if table.key == "reviews" for row in table.rows]
    for name, done, changed, minutes, before, after, expected, _ in reviews[:_COMPARED]:
        yield Text(
            f"Review of {name.text} by {name.detail}: {done.text} epochs, {changed.text} changed, "
            f"{minutes.text} min; κ {before.text} before, {after.text} after, {expected.text} expected"
        )
    yield Text(f"\nTables  {out}/tables.md, or --full\nReview  {out}/review.html")


def _headline(data: ReportData) -> Table:
    """Return accuracy, macro-F1 and κ with their intervals, a line each."""
    full = summary_table(data.metrics)
    rows = tuple(
        (row[0], Cell(row[1].text), Cell(row[1].detail or "none"), row[2]) for row in full.rows[:3]
    )
    return Table("headline", full.title, ("", "Model", "95 % interval", full.columns[2]), rows)


def _stages(data: ReportData) -> Table:
    """Return F1 of each stage in a row, its interval below."""
    of = data.metrics.intervals.stages
    scores = data.metrics.per_stage.items()
    row = [cell(score.f1, of.get(stage, {}).get("f1")) for stage, score in scores]
    return Table("stages", "", ("Stage", *data.metrics.per_stage), ((Cell("F1"), *row),))


def _confusion(data: ReportData) -> Table:
    """Return the confusion matrix without shares, a line each."""
    full = confusion_table(data.metrics)
    rows = tuple(tuple(Cell(c.text, "", c.shade, c.tone) for c in row) for row in full.rows)
    columns = tuple("?" if name == "unreadable" else name for name in full.columns)
    return Table("confusion", "Confusion matrix (rows: scored)", columns, rows)


def _first(table: Table) -> Table:
    """Return the first nights of a table of all."""
    left = len(table.rows) - _NIGHTS
    note = f"{left:,} further nights in tables.csv." if left > 0 else ""
    return Table(table.key, table.title, table.columns, table.rows[:_NIGHTS], note)
