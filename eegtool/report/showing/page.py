"""The HTML page: one file that needs nothing else. Every text of a model or a file is escaped."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eegtool.core.stages import STAGE_COLOURS
from eegtool.report.measures.metrics import Metrics
from eegtool.report.showing.data import ReportData
from eegtool.report.showing.figures import coverage_figure, reliability_figure
from eegtool.report.showing.page_data import browser_data
from eegtool.report.showing.pictures import PictureMode, gather

_HERE: Final = Path(__file__).parent
_LONGEST_TEXT: Final = 400
_MOST_UNREADABLE: Final = 20
_COMPARISON: Final = "comparison"
_PLACED: Final = (
    "summary",
    "counts",
    "stages",
    "confusion",
    "reliability",
    "coverage",
    "surroundings",
    "calibration",
    "literature",
)
"""Tables that have a place of their own on the page; the others follow in their order."""


def render_page(data: ReportData, out: Path, pictures: PictureMode = "embed") -> str:
    """Return the whole page as HTML.

    Parameters
    ----------
    data : ReportData
        What it shows.
    out : Path
        Folder in which it will lie: pictures that are not inside the page are linked from there.
    pictures : str
        Whether it carries pictures of epochs: ``"embed"``, ``"link"`` or ``"none"``.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = gather(data.image_folder, data.images, data.epochs, out, pictures)
    island, base64_text = browser_data(data.epochs, shown, data.module_stages)
    script = (_HERE / "browser.js").read_text(encoding="utf-8")
    unreadable = [e for e in data.epochs if e.true is not None and e.predicted is None]
    # What is marked as safe below is our own, or has been made inert.
    return environment.get_template(
        "page.html.j2"
    ).render(
        data=data,
        metrics=data.metrics,
        tables={table.key: table for table in data.tables},
        contents=_contents(data),
        charts=[(key, Markup(svg), label) for key, svg, label in _charts(data.metrics)],  # noqa: S704
        comparisons=[table for table in data.tables if table.key.startswith(_COMPARISON)],
        others=[
            table
            for table in data.tables
            if table.key not in _PLACED and not table.key.startswith(_COMPARISON)
        ],
        drawings=[(drawing.night, Markup(drawing.svg)) for drawing in data.drawings],  # noqa: S704
        unreadable=[(epoch, _shortened(epoch.text)) for epoch in unreadable[:_MOST_UNREADABLE]],
        n_unreadable=len(unreadable),
        colours=STAGE_COLOURS,
        picture_notes=shown.notes,
        linked=bool(shown.linked),
        island=Markup(island),  # noqa: S704
        base64=Markup(base64_text),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hash=_hash_for_policy(script),
    )


def _contents(data: ReportData) -> list[tuple[str, str]]:
    """Return the sections that a reader may want to jump to: anchor and name."""
    tables = [(table.key, table.title) for table in data.tables]
    last = [entry for entry in tables if entry[0] == "literature"]
    shown = [("hypnograms", "Hypnograms"), ("epochs", "Epochs")]
    return [*(entry for entry in tables if entry not in last), *shown, *last, ("source", "Source")]


def _charts(metrics: Metrics) -> list[tuple[str, str, str]]:
    """Return the figures that stand for a table: its key, an ``<svg>`` element, and what it shows."""
    charts = []
    if metrics.calibration:
        told = "A model that keeps its promises lies on the diagonal: it is right as often as it is certain."
        charts.append(("reliability", reliability_figure(metrics.calibration), told))
    if metrics.coverage:
        told = (
            "κ of the epochs that the model keeps, with its 95 % interval. Dashed: κ of all epochs, "
            "where the human scores as the label does."
        )
        charts.append(("coverage", coverage_figure(metrics.coverage), told))
    return charts


def _hash_for_policy(script: str) -> str:
    """Return what a Content-Security-Policy calls a script by, so that no other one may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " …"
