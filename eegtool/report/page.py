"""The HTML page: one file that needs nothing else. Every text of a model or a file is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eegtool.core.stages import STAGE_COLOURS
from eegtool.report.epochs import AnsweredEpoch
from eegtool.report.metrics import Metrics
from eegtool.report.nights import Absence, Drawing
from eegtool.report.tables import Table
from eegtool.report.words import counting_sentences, notices, protocol_facts, protocol_sentences

_LONGEST_TEXT: Final = 400
_MOST_UNREADABLE: Final = 20


def render_page(
    metrics: Metrics,
    tables: Sequence[Table],
    drawings: Sequence[Drawing],
    absences: Sequence[Absence],
    unreadable: Sequence[AnsweredEpoch],
    stamp: Mapping[str, Any],
) -> str:
    """Return the whole page as HTML.

    Parameters
    ----------
    metrics : Metrics
        Figures of the run.
    tables : sequence of Table
        Their tables.
    drawings : sequence of Drawing
        Recordings that could be laid out in time.
    absences : sequence of Absence
        Those that could not, and why.
    unreadable : sequence of AnsweredEpoch
        Epochs whose answer could not be read; the first twenty are listed.
    stamp : mapping
        Run stamp of this report (see `eegtool.core.workspace.run_stamp`).
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(
        "page.html.j2"
    ).render(
        metrics=metrics,
        tables={table.key: table for table in tables},
        drawings=[(drawing.night, Markup(drawing.svg)) for drawing in drawings],  # noqa: S704  drawn here, holds no foreign text
        absences=absences,
        unreadable=[(epoch, _shortened(epoch.text)) for epoch in unreadable[:_MOST_UNREADABLE]],
        n_unreadable=len(unreadable),
        notices=notices(metrics),
        protocol=protocol_sentences(metrics),
        facts=protocol_facts(metrics),
        counting=counting_sentences(metrics),
        colours=STAGE_COLOURS,
        stamp=stamp,
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " …"
