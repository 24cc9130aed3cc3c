"""The first screen: what a reader must know, on at most 40 lines; everything else is in the files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rich.console import RenderableType
from rich.text import Text

from eegtool.report.measures.metrics import Metrics
from eegtool.report.showing.contents import FIGURE_NAMES, confusion_table, summary_table
from eegtool.report.showing.data import ReportData
from eegtool.report.showing.forms import first_rows, to_rich
from eegtool.report.showing.tables import Cell, Table, cell, counted, table
from eegtool.report.showing.words import interval_sentence, notices

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
    tables = {table.key: table for table in data.tables}
    found = counted(metrics.unreadable, metrics.n or metrics.answered)
    subjects = len(metrics.per_subject)
    yield Text(
        f"\n{metrics.model_id or 'Unnamed model'}: {metrics.answered:,} epochs ({metrics.n:,} scored), "
        f"{subjects} subject{'s' * (subjects != 1)}; {found} unreadable"
    )
    said = notices(data)
    warnings = [n.text for n in said if n.level == "warning"]
    for text in warnings[:_LOUDEST]:
        yield Text.assemble(
            ("warning: ", "bold red"), text if len(text) < 230 else f"{text[:229]}…"
        )
    rest = len(said) - min(len(warnings), _LOUDEST)
    if rest:
        more = f"{rest}{' more' * bool(warnings)} note{'s' * (rest > 1)}"
        yield Text(f"{more}: see the report, or --full.", style="yellow")
    if metrics.n:
        for shown in _figures(metrics):
            yield from ("", to_rich(shown)) if shown.title else (to_rich(shown),)
        yield Text("\n" + interval_sentence(metrics.intervals.basis), style="dim")
        others = [t for t in data.tables if t.key.startswith("comparison")]
        for other in others[:_COMPARED]:
            _, ours, theirs, difference = other.rows[list(FIGURE_NAMES).index("kappa")]
            yield Text(
                f"{other.title}: κ {theirs.text} and {ours.text}; difference {difference.text}"
                + f" ({difference.detail})" * bool(difference.detail)
            )
    elif "sleep_nights" in tables:
        yield from (
            "",
            to_rich(first_rows(replace(tables["sleep_nights"], note=""), _NIGHTS, "nights")),
        )
    reviews = tables["reviews"].rows if "reviews" in tables else ()
    for name, done, changed, minutes, before, after, expected, _ in reviews[:_COMPARED]:
        yield Text(
            f"Review of {name.text} by {name.detail}: {done.text} epochs, {changed.text} changed, "
            f"{minutes.text} min; κ {before.text} before, {after.text} after, {expected.text} expected"
        )
    yield Text(f"\nTables  {out}/tables.md, or --full\nReview  {out}/review.html")


def _figures(metrics: Metrics) -> Iterator[Table]:
    """Yield headline figures, F1 of each stage and the confusion matrix: a line each, without shares."""
    full = summary_table(metrics)
    rows = ((name, m.text, m.detail or "none", always) for name, m, always, *_ in full.rows[:3])
    yield table("headline", full.title, ("", "Model", "95 % interval", full.columns[2]), rows)
    of = metrics.intervals.stages
    f1 = (cell(s.f1, of.get(stage, {}).get("f1")) for stage, s in metrics.per_stage.items())
    yield table("stages", "", ("Stage", *metrics.per_stage), [("F1", *f1)])
    full = confusion_table(metrics)
    bare = ((Cell(c.text, "", c.shade, c.tone) for c in row) for row in full.rows)
    columns = ("?" if name == "unreadable" else name for name in full.columns)
    yield table("confusion", "Confusion matrix (rows: scored)", columns, bare)
