"""``eegvlm report``: answers in; figures, tables and one page out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.panel import Panel
from rich.text import Text

from eegtool.core.console import console, progress
from eegtool.core.errors import EegToolError
from eegtool.core.settings import ReportSettings
from eegtool.core.workspace import Workspace, atomic_path, run_stamp, write_json
from eegtool.report.contents import agreement_tables
from eegtool.report.data import ReportData
from eegtool.report.forms import markdown, to_markdown, to_rich
from eegtool.report.hypnogram import draw
from eegtool.report.metrics import Metrics, measure
from eegtool.report.nights import Drawing, Night, lay_out
from eegtool.report.page import render_page
from eegtool.report.sources import read_answer_sets
from eegtool.report.tables import Table
from eegtool.report.words import counting_sentences, notices, protocol_facts, protocol_sentences


def run(settings: ReportSettings) -> None:
    """Write the report on an answers file and print its tables.

    Parameters
    ----------
    settings : ReportSettings
        Where the answers are and where the report goes.

    Raises
    ------
    EegToolError
        If the answers cannot be read or scored, or the folder cannot be written.
    """
    workspace = Workspace(settings.workspace)
    path = settings.answers_file or workspace.answers
    out = settings.out or workspace.report

    answers, *_ = read_answer_sets(path)
    epochs = answers.epochs
    _make_folder(out)
    metrics = measure(epochs, answers.run)
    tables = agreement_tables(metrics)
    _print_report(metrics, tables)

    nights, absences = lay_out(epochs)
    figures = {"n": metrics.n, "accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1}
    stamp = run_stamp(
        "report",
        settings,
        inputs={"answers": path},
        protocol=metrics.protocol,
        results={**figures, "kappa": metrics.kappa, "unreadable": metrics.unreadable},
    )
    data = ReportData(
        metrics=metrics,
        tables=tuple(tables),
        notices=notices(metrics),
        protocol=protocol_sentences(metrics),
        counting=counting_sentences(metrics),
        facts=protocol_facts(metrics),
        epochs=epochs,
        nights=tuple(nights),
        drawings=tuple(_draw_all(nights)),
        absences=tuple(absences),
        stamp=stamp,
    )
    page = render_page(data, out, settings.pictures)
    write_json(out / "metrics.json", metrics.to_row())
    _write_text(out / "tables.md", tables_markdown(metrics, tables))
    _write_text(out / "report.html", page)
    write_json(out / "report.json", stamp)
    console.print(Text.assemble("Report  ", (str(out / "report.html"), "bold")), soft_wrap=True)


def tables_markdown(metrics: Metrics, tables: Sequence[Table]) -> str:
    """Return ``tables.md``: the tables with the sentences that belong to them."""
    said = [notice.text for notice in notices(metrics)]
    said += [*protocol_sentences(metrics), *counting_sentences(metrics)]
    heads = ["# Sleep staging report", *(markdown(sentence) for sentence in said)]
    return "\n\n".join([*heads, *(to_markdown(table).strip() for table in tables)]) + "\n"


def _print_report(metrics: Metrics, tables: Sequence[Table]) -> None:
    console.print()
    for sentence in protocol_sentences(metrics):
        console.print(Text(sentence, style="dim"))
    for notice in notices(metrics):
        style = "bold red" if notice.level == "warning" else "yellow"
        console.print(Panel(Text(notice.text), border_style=style))
    for table in tables:
        console.print()
        console.print(to_rich(table))
    console.print()
    for sentence in counting_sentences(metrics):
        console.print(Text(sentence))
    console.print()


def _draw_all(nights: Sequence[Night]) -> list[Drawing]:
    with progress("recordings") as bar:
        task = bar.add_task("Drawing", total=len(nights), note="")
        drawings = []
        for night in nights:
            drawings.append(Drawing(night, draw(night)))
            bar.advance(task)
    return drawings


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EegToolError(
            f"The report folder {path} cannot be made: {error.strerror}.", "Give another --out."
        ) from error


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as tmp:
        tmp.write_text(text, encoding="utf-8")
