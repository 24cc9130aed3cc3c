"""``eegvlm report``: answers in; figures, tables, hypnograms and one page out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.panel import Panel
from rich.text import Text

from eegtool.core.console import console, progress
from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S
from eegtool.core.workspace import (
    Workspace,
    atomic_path,
    check_folder,
    jsonable,
    read_json,
    run_stamp,
    write_json,
)
from eegtool.report.measures.compare import Comparison, as_answers, compare
from eegtool.report.measures.faithfulness import faithfulness
from eegtool.report.measures.findings import Findings
from eegtool.report.measures.intervals import Sampling
from eegtool.report.measures.metrics import Metrics, measure
from eegtool.report.measures.scorers import compare_scorers, measure_review
from eegtool.report.measures.sleep import deviations, night_statistics
from eegtool.report.options import ReportSettings
from eegtool.report.reading.joins import Known, look_up
from eegtool.report.reading.lights import Lights, Span, read_lights
from eegtool.report.reading.nights import Night, lay_out
from eegtool.report.reading.reviews import read_scorings
from eegtool.report.reading.sources import AnswerSet, named_apart, read_answer_sets
from eegtool.report.showing import exports, forms, words
from eegtool.report.showing.data import ReportData
from eegtool.report.showing.figures import summary_figure
from eegtool.report.showing.finding_tables import all_tables
from eegtool.report.showing.hypnogram import picture
from eegtool.report.showing.page import render_page
from eegtool.report.showing.pictures import PictureMode
from eegtool.report.showing.review import render_review
from eegtool.report.showing.summary import summary

_MODULE = "vision module alone"
_SMOOTHED = "after smoothing"
_IN_THE_TERMINAL = 30
"""Rows of a table that are printed; files and page have all of them."""


def run(
    settings: ReportSettings,
    texts: Mapping[str, str] | None = None,
    lights: Mapping[str, Lights] | None = None,
) -> tuple[words.Notice, ...]:
    """Write the report on an answers file and print its summary.

    Parameters
    ----------
    settings : ReportSettings
        Where the answers are and where the report goes.
    texts : mapping of str to str, optional
        What the model wrote about epochs beside its answers, by sample id.
    lights : mapping of str to Lights, optional
        When the lights went off and on, by recording, where that is known; else the settings say it.

    Returns
    -------
    tuple of Notice
        What must stand above the figures.

    Raises
    ------
    EegToolError
        If the answers cannot be read or scored, or the folder cannot be written.
    """
    workspace = Workspace(settings.workspace)
    out = settings.out or workspace.report
    check_folder(out, "The report folder")
    # Reading
    paths = _paths(settings, workspace)
    read = (read_answer_sets(path, settings.reader, settings.label_coding) for path in paths)
    sets = named_apart([one for several in read for one in several])
    if settings.how_read:
        exports.write_how_read(settings.how_read, sets)
    first = sets[0]
    known = look_up(workspace, first.epochs, first.run.protocol)
    nights, absences = lay_out(first.epochs)
    if lights is None:
        spans = {night.recording: _span(night, workspace) for night in nights}
        lights = read_lights(spans, settings.lights_off, settings.lights_on, settings.lights)
    scorings = read_scorings(settings.scored_by, nights)

    # Measures
    sampling = Sampling(settings.draws, settings.seed)
    metrics = measure(first.epochs, first.run, sampling)
    statistics = night_statistics(nights, lights)
    reviews = (s for s in scorings if s.decisions)
    findings = Findings(
        comparisons=tuple(_comparisons(sets, known, sampling)),
        sleep_statistics=tuple(statistics),
        sleep_deviations=deviations(statistics),
        scorers=compare_scorers(first.epochs, scorings, sampling) if scorings else None,
        reviews=tuple(measure_review(first.epochs, review, sampling) for review in reviews),
        faithfulness=faithfulness(first.epochs, known.facts, sampling),
    )

    # Showing
    _make_folder(out)
    n_drawn = len(nights) if settings.hypnograms < 0 else settings.hypnograms
    data = ReportData(
        answers=first,
        known=known,
        metrics=metrics,
        findings=findings,
        tables=all_tables(metrics, findings, is_part=bool(known.missing)),
        nights=nights,
        absences=absences,
        drawings=_export_nights(nights, n_drawn, out / "hypnograms", lights),
        stamp=_stamp(settings, paths, metrics),
        figure=summary_figure(metrics),
        image_folder=workspace.images("eval") if known.images else None,
        words=texts or {},
    )
    _print_report(data, out, full=settings.full)
    _write_all(data, out, settings.pictures)
    console.print(Text.assemble("Report  ", (str(out / "report.html"), "bold")), soft_wrap=True)
    return words.notices(data)


def _write_all(data: ReportData, out: Path, pictures: PictureMode) -> None:
    """Write everything but the single nights."""
    files: dict[str, str | bytes] = {
        "tables.md": tables_markdown(data),
        "tables.csv": forms.to_csv(data.tables),
        "tables.tex": forms.to_latex(data.tables),
        "report.html": render_page(data),
        "review.html": render_review(data, out, pictures),
    }
    if data.figure:
        files |= {"figure.svg": data.figure.svg, "figure.png": data.figure.png}
    for name, content in files.items():
        _write(out / name, content)
    write_json(out / "report.json", dict(data.stamp))
    write_json(out / "metrics.json", metrics_row(data))


def tables_markdown(data: ReportData) -> str:
    """Return ``tables.md``: the tables with the sentences that belong to them."""
    said = [notice.text for notice in words.notices(data)]
    said += [
        *words.protocol_sentences(data.metrics, data.known),
        *words.counting_sentences(data.metrics),
    ]
    heads = ["# Sleep staging report", *(forms.markdown(sentence) for sentence in said)]
    return (
        "\n\n".join([*heads, *(forms.to_markdown(table).strip() for table in data.tables)]) + "\n"
    )


def metrics_row(data: ReportData) -> dict[str, Any]:
    """Return ``metrics.json``: all figures, and what is to be known of answers and workspace."""
    answers, known = data.answers, data.known
    about = {
        "name": answers.name,
        "broken_line": answers.broken_line,
        "odd_probabilities": answers.odd_probabilities,
        "models_in_file": answers.siblings,
        "label_notes": answers.label_notes,
        "kept": asdict(known.kept) if known.kept else None,
        "missing": known.missing,
        "problems": known.problems,
        "module_calibration": known.module_calibration,
        "not_drawn": len(data.nights) - len(data.drawings),
    }
    return dict(jsonable({**asdict(data.metrics), **asdict(data.findings), **about}))


def _paths(settings: ReportSettings, workspace: Workspace) -> list[Path]:
    if settings.answers and settings.answers_file:
        raise EegToolError(
            "Answers are given twice, as files and by --answers-file.", "Give all of them as files."
        )
    return list(settings.answers) or [settings.answers_file or workspace.answers]


def _span(night: Night, workspace: Workspace) -> Span:
    """Return what is known of a recording's clock, and which part of it was answered."""
    card = workspace.signals / f"{night.recording}.json"
    began = read_json(card).get("start") if card.exists() else None
    start = datetime.fromisoformat(began) if isinstance(began, str) and began else None
    first_s = night.first_epoch * EPOCH_S
    return Span(start, float(first_s), float(first_s + len(night.true) * EPOCH_S))


def _comparisons(sets: Sequence[AnswerSet], known: Known, sampling: Sampling) -> list[Comparison]:
    first, others = sets[0], sets[1:]
    ours = (first.name, first.epochs)
    smoothed = {e.sample_id: e.smoothed for e in first.epochs if e.smoothed}
    found = [
        compare(ours, (name, as_answers(first.epochs, stages)), sampling)
        for name, stages in ((_MODULE, known.module_stages), (_SMOOTHED, smoothed))
        if stages and any(epoch.true for epoch in first.epochs)
    ]
    for other in others:
        differs = first.run.differs_in(other.run)
        otherwise = first.run.decided_otherwise(other.run)
        theirs = (other.name, other.epochs)
        found.append(compare(ours, theirs, sampling, differs, otherwise))
    return found


def _stamp(settings: ReportSettings, paths: Sequence[Path], metrics: Metrics) -> dict[str, object]:
    figures = {"n": metrics.n, "accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1}
    inputs = {"answers" if i == 1 else f"answers {i}": p for i, p in enumerate(paths, start=1)}
    inputs |= {f"scoring {i}": p for i, p in enumerate(settings.scored_by, start=1)}
    inputs |= {f"lights {i}": p for i, p in enumerate(settings.lights, start=1)}
    return run_stamp(
        "report",
        settings,
        inputs=inputs,
        protocol=metrics.protocol,
        results={**figures, "kappa": metrics.kappa, "unreadable": metrics.unreadable},
    )


def _print_report(data: ReportData, out: Path, *, full: bool) -> None:
    if not full:
        for part in summary(data, str(out)):
            console.print(part, soft_wrap=isinstance(part, Text) and str(out) in part.plain)
        return
    console.print()
    for sentence in words.protocol_sentences(data.metrics, data.known):
        console.print(Text(sentence, style="dim"))
    for notice in words.notices(data):
        style = "bold red" if notice.level == "warning" else "yellow"
        console.print(Panel(Text(notice.text), border_style=style))
    for table in data.tables:
        if table.key != "literature":  # in the files and on the page
            console.print("", forms.to_rich(forms.first_rows(table, _IN_THE_TERMINAL, "rows")))
    console.print()
    for sentence in words.counting_sentences(data.metrics):
        console.print(Text(sentence))
    console.print()


def _export_nights(
    nights: Sequence[Night], n_drawn: int, folder: Path, lights: Mapping[str, Lights]
) -> list[tuple[Night, str]]:
    """Write every recording for other programs, and draw the first ones."""
    names = exports.file_names([night.recording for night in nights])
    drawings = []
    if nights:
        _make_folder(folder)
    with progress("recordings") as bar:
        task = bar.add_task("Hypnograms", total=len(nights), note="")
        for i, (night, name) in enumerate(zip(nights, names, strict=True)):
            epochs = exports.scored_epochs(night)
            exports.write_table(folder / f"{name}.csv", epochs)
            exports.write_events(folder / f"{name}_events.tsv", epochs)
            of = lights.get(night.recording)
            exports.write_hypnogram(folder / f"{name}_hypnogram.tsv", epochs, of)
            exports.write_annotations(folder / f"{name}_hypnogram.edf", epochs)
            if i < n_drawn:
                drawn = picture(night)
                _write(folder / f"{name}.svg", drawn.svg)
                _write(folder / f"{name}.png", drawn.png)
                drawings.append((night, drawn.inline))
            bar.advance(task)
    return drawings


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EegToolError(
            f"The report folder {path} cannot be made: {error.strerror}.", "Give another --out."
        ) from error


def _write(path: Path, content: str | bytes) -> None:
    with atomic_path(path) as tmp:
        tmp.write_bytes(content.encode() if isinstance(content, str) else content)
