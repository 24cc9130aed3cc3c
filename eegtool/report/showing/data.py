"""All that a report shows, in one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eegtool.report.measures.findings import Findings
from eegtool.report.measures.metrics import Metrics
from eegtool.report.reading.joins import Known
from eegtool.report.reading.nights import Absence, Night
from eegtool.report.reading.sources import AnswerSet
from eegtool.report.showing.hypnogram import Picture
from eegtool.report.showing.tables import Table


@dataclass(frozen=True, slots=True)
class ReportData:
    """What a report says of one run, and of those it is compared with.

    Attributes
    ----------
    answers : AnswerSet
        The run, and every answered epoch in the order of its file. Nothing in it is escaped.
    known : Known
        What the workspace knows of the epochs: pictures, the vision module's stages, what was measured.
    metrics : Metrics
        Figures of the run. Without any label there are none that need one: `Metrics.n` is then 0, and
        accuracy, κ, chance and the like are None.
    findings : Findings
        What was found beside them.
    tables : tuple of Table
        All tables, in their order; one that has no rows is not among them.
    nights : sequence of Night
        All recordings that can be laid out in time.
    absences : sequence of Absence
        Recordings that cannot be, and why.
    drawings : sequence of (Night, str)
        Those that were drawn (``--hypnograms``), each with an ``<svg>`` element of our own making.
    stamp : mapping
        Run stamp of this report (see `eegtool.core.workspace.run_stamp`).
    figure : Picture or None
        What the page begins with; None without labels.
    image_folder : Path or None
        Folder of the evaluation pictures; None where there is none.
    words : mapping of str to str
        What the model wrote about an epoch beside its answer, by sample id.
    """

    answers: AnswerSet
    known: Known
    metrics: Metrics
    findings: Findings
    tables: tuple[Table, ...]
    nights: Sequence[Night]
    absences: Sequence[Absence]
    drawings: Sequence[tuple[Night, str]]
    stamp: Mapping[str, Any]
    figure: Picture | None = None
    image_folder: Path | None = None
    words: Mapping[str, str] = field(default_factory=dict)
