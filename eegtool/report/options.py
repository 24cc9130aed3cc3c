"""Options of report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from eegtool.core.options import FIGURES, FILES, LabelCoding, Seed, Workspace

LightsOff = Annotated[
    str,
    Option(
        help="When the lights went off: seconds from the start, or a time of day (22:45:00). Time in bed begins there.",
        show_default="annotations, else the start",
        rich_help_panel=FIGURES,
    ),
]
LightsOn = Annotated[
    str,
    Option(
        help="When they went on again.",
        show_default="annotations, else the end",
        rich_help_panel=FIGURES,
    ),
]
LightsFiles = Annotated[
    list[Path],
    Option(
        help="Where it stands for each recording: a table (recording, lights_off, lights_on), or recordings with "
        "annotations. Once for each file.",
        show_default="no",
        rich_help_panel=FIGURES,
    ),
]
Full = Annotated[
    bool,
    Option("--full", help="Print all tables, not the summary alone.", rich_help_panel=FIGURES),
]


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
    answers_file: Annotated[
        Path | None,
        Option(
            help="The same as a flag, for one file.",
            show_default="WORKSPACE/answers/eeg_answers.jsonl",
            rich_help_panel=FILES,
        ),
    ] = None
    label_coding: LabelCoding = ""
    out: Annotated[
        Path | None,
        Option(
            help="Folder of the report.", show_default="WORKSPACE/report", rich_help_panel=FILES
        ),
    ] = None
    scored_by: Annotated[
        list[Path],
        Option(
            help="Further scorings of the answered nights: what review.html saved, or any scoring named after "
            "recording and scorer (SC4001E0_anna.csv). Once for each file.",
            show_default="no",
            rich_help_panel=FILES,
        ),
    ] = field(default_factory=list)
    lights_off: LightsOff = ""
    lights_on: LightsOn = ""
    lights: LightsFiles = field(default_factory=list)
    how_read: Annotated[
        Path | None,
        Option(
            help="Also write a CSV file that says how each answer was read: stage, words, rule.",
            show_default="no",
            rich_help_panel=FILES,
        ),
    ] = None
    reader: Annotated[
        Literal["free", "sentence", "label"],
        Option(
            help="What counts as an answer: any clear text, only 'The stage is N2.', only 'N2'.",
            rich_help_panel=FIGURES,
        ),
    ] = "free"
    draws: Annotated[
        int,
        Option(
            min=0,
            help="Bootstrap samples behind the intervals; 0 for no intervals.",
            rich_help_panel=FIGURES,
        ),
    ] = 1000
    hypnograms: Annotated[
        int,
        Option(
            min=-1,
            help="Recordings that are drawn, about half a second each; -1 for all.",
            rich_help_panel=FIGURES,
        ),
    ] = 20
    full: Full = False
    pictures: Annotated[
        Literal["embed", "link", "none"],
        Option(
            help="Pictures of the epochs in review.html: inside it (as many as 24 MB hold, the mistakes first; "
            "the rest linked), only linked, or none.",
            rich_help_panel=FIGURES,
        ),
    ] = "embed"
    seed: Seed = 42
