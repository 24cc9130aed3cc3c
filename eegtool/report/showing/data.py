"""All that the page shows, in one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eegtool.report.measures.metrics import Metrics
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.joins import Known
from eegtool.report.reading.nights import Absence, Night
from eegtool.report.showing.hypnogram import Picture
from eegtool.report.showing.tables import Table
from eegtool.report.showing.words import Notice


@dataclass(frozen=True, slots=True)
class ReportData:
    """What a report says of one run, and of those it is compared with.

    Attributes
    ----------
    metrics : Metrics
        Figures of the run. Without any label there are none that need one: `Metrics.n` is then 0, and
        accuracy, κ, chance and the like are None.
    tables : tuple of Table
        All tables, in their order; one that has no rows is not among them.
    notices : tuple of Notice
        What must stand above the figures.
    protocol, counting : tuple of str
        Sentences: what was measured on what, and how answers were counted.
    facts : tuple of (str, str)
        The protocol as recorded, name by name.
    epochs : tuple of AnsweredEpoch
        Every answered epoch of the run, in the order of its file. Nothing in it is escaped.
    nights : tuple of Night
        All recordings that can be laid out in time.
    drawings : tuple of (Night, str)
        Those of them that were drawn (``--hypnograms``), each with an ``<svg>`` element of our own making.
    absences : tuple of Absence
        Recordings that cannot be laid out in time, and why.
    stamp : mapping
        Run stamp of this report (see `eegtool.core.workspace.run_stamp`).
    figure : Picture or None
        What the page begins with; None without labels.
    image_folder : Path or None
        Folder of the evaluation pictures; None where there is none.
    known : Known
        What the workspace knows of the epochs: pictures, the vision module's stages, what was measured.
    words : mapping of str to str
        What the model wrote about an epoch beside its answer, by sample id.
    """

    metrics: Metrics
    tables: tuple[Table, ...]
    notices: tuple[Notice, ...]
    protocol: tuple[str, ...]
    counting: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    epochs: tuple[AnsweredEpoch, ...]
    nights: tuple[Night, ...]
    drawings: tuple[tuple[Night, str], ...]
    absences: tuple[Absence, ...]
    stamp: Mapping[str, Any]
    figure: Picture | None = None
    image_folder: Path | None = None
    known: Known = field(default_factory=Known)
    words: Mapping[str, str] = field(default_factory=dict)
