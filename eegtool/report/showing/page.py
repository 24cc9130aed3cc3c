"""The HTML page: one file that needs nothing else. Every text of a model or a file is escaped."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from eegtool.core.stages import STAGE_COLOURS
from eegtool.report.showing import words
from eegtool.report.showing.data import ReportData

HERE: Final = Path(__file__).parent
_LONGEST_TEXT: Final = 400
_MOST_UNREADABLE: Final = 20
_COMPARISON: Final = "comparison"
_LAST: Final = "literature"
_PLACED: Final = (
    *("summary", "counts", "stages", "confusion", "surroundings", "calibration"),
    _LAST,
)
"""Tables that have a place of their own on the page; the others follow in their order."""


def page_template(name: str) -> Template:
    """Return a template of this folder; what it is given is escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def render_page(data: ReportData) -> str:
    """Return the page of figures as HTML; single epochs stand in ``review.html`` beside it."""
    unreadable = [e for e in data.answers.epochs if e.true is not None and e.predicted is None]
    tables = {table.key: table for table in data.tables}
    comparisons = [table for key, table in tables.items() if key.startswith(_COMPARISON)]
    others = [table for key, table in tables.items() if key not in _PLACED]
    anchors = {key: table.title for key, table in tables.items() if key != _LAST}
    anchors["hypnograms"] = "Hypnograms"
    anchors |= {key: table.title for key, table in tables.items() if key == _LAST}
    downloads = {}
    if data.figure:
        downloads["figure.svg"] = _as_address("image/svg+xml", data.figure.svg.encode())
        downloads["figure.png"] = _as_address("image/png", data.figure.png)
    # What is marked as safe below is our own, or has been made inert.
    return page_template(
        "page.html.j2"
    ).render(
        data=data,
        metrics=data.metrics,
        notices=words.notices(data),
        protocol=words.protocol_sentences(data.metrics, data.known),
        facts=words.protocol_facts(data.metrics, data.known),
        counting=words.counting_sentences(data.metrics),
        tables=tables,
        contents=anchors | {"source": "Source"},
        figure=Markup(data.figure.inline) if data.figure else "",  # noqa: S704
        downloads=downloads,
        comparisons=comparisons,
        others=[table for table in others if table not in comparisons],
        drawings=[(night, Markup(svg)) for night, svg in data.drawings],  # noqa: S704
        unreadable=[(epoch, _shortened(epoch.text)) for epoch in unreadable[:_MOST_UNREADABLE]],
        n_unreadable=len(unreadable),
        colours=STAGE_COLOURS,
    )


def _as_address(kind: str, content: bytes) -> str:
    """Return a file as an address that carries it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " …"
