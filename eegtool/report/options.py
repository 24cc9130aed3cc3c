"""Options of report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument

from eegtool.core.options import FILES, LabelCoding, Panel, Seed, Workspace

FIGURES = Panel("Figures")

LightsOff = Annotated[
    str,
    FIGURES.option(
        "When the lights went off: seconds from the start, or a time of day (22:45:00). Time in bed begins there.",
        shown="annotations, else the start",
    ),
]
LightsOn = Annotated[
    str, FIGURES.option("When they went on again.", shown="annotations, else the end")
]
LightsFiles = Annotated[
    list[Path],
    FIGURES.option(
        "Where it stands for each recording: a table (recording, lights_off, lights_on), or recordings with "
        "annotations. Once for each file.",
        shown="no",
    ),
]
Full = Annotated[bool, FIGURES.option("Print all tables, not the summary alone.", "--full")]


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """Read the stages out of the answers and write figures, tables, hypnograms and one page."""

    workspace: Workspace = Path("sleep_data")
    answers: Annotated[
        list[Path],
        Argument(
            help="Answers to report on; further files are compared with the first.",
            metavar="[ANSWERS]...",
            show_default="WORKSPACE/answers/eeg_answers.jsonl",
        ),
    ] = field(default_factory=list)
    answers_file: Path | None = FILES(
        None, "The same as a flag, for one file.", shown="WORKSPACE/answers/eeg_answers.jsonl"
    )
    label_coding: LabelCoding = ""
    out: Path | None = FILES(None, "Folder of the report.", shown="WORKSPACE/report")
    scored_by: list[Path] = FILES(
        [],
        "Further scorings of the answered nights: what review.html saved, or any scoring named after "
        "recording and scorer (SC4001E0_anna.csv). Once for each file.",
        shown="no",
    )
    lights_off: LightsOff = ""
    lights_on: LightsOn = ""
    lights: LightsFiles = field(default_factory=list)
    how_read: Path | None = FILES(
        None,
        "Also write a CSV file that says how each answer was read: stage, words, rule.",
        shown="no",
    )
    reader: Literal["free", "sentence", "label"] = FIGURES(
        "free", "What counts as an answer: any clear text, only 'The stage is N2.', only 'N2'."
    )
    draws: int = FIGURES(1000, "Bootstrap samples behind the intervals; 0 for no intervals.", min=0)
    hypnograms: int = FIGURES(
        20, "Recordings that are drawn, about half a second each; -1 for all.", min=-1
    )
    full: Full = False
    pictures: Literal["embed", "link", "none"] = FIGURES(
        "embed",
        "Pictures of the epochs in review.html: inside it (as many as 24 MB hold, the mistakes first; "
        "the rest linked), only linked, or none.",
    )
    seed: Seed = 42
