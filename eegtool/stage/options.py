"""Options of stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from eegtool.core.options import (
    ASKING,
    FILES,
    RUNNING,
    SIGNAL,
    AskingRanks,
    Attention,
    Json,
    Merge,
    ModelBase,
    ModelFolder,
    NoCalibration,
    OwnModule,
    Precision,
    VisionTower,
)
from eegtool.prepare.options import Strict
from eegtool.report.options import Full, LightsFiles, LightsOff, LightsOn


@dataclass(frozen=True, slots=True)
class StageSettings:
    """Score new nights: recordings in; hypnograms with certainties and a report out."""

    recordings: Annotated[
        list[Path],
        Argument(
            help="Recordings, or folders of them. Scorings are not looked at.", metavar="PATH"
        ),
    ]
    model_path: ModelFolder
    out: Annotated[
        Path,
        Option(help="Folder of the results: one folder for each night.", rich_help_panel=FILES),
    ] = Path("staged")
    vision_module: Annotated[
        Path | None,
        Option(
            help="Folder of the vision module, if the model's has none.",
            show_default="MODEL_PATH/vision_module",
            rich_help_panel=FILES,
        ),
    ] = None
    backbone: OwnModule = ""
    model_base: ModelBase = None
    vision_tower: VisionTower = ""
    channel: Annotated[
        list[str],
        Option(
            help="Channel of these recordings that stands for the trained one, or a derivation.",
            show_default="the trained one",
            rich_help_panel=SIGNAL,
        ),
    ] = field(default_factory=list)
    strict: Strict = False
    mode: Annotated[
        Literal["score", "both"],
        Option(
            help="The likeliest stage ('score'), or the stage that the model writes ('both').",
            rich_help_panel=ASKING,
        ),
    ] = "score"
    explain: Annotated[
        Literal["none", "uncertain", "all"],
        Option(help="Of which epochs the model's own words are kept.", rich_help_panel=ASKING),
    ] = "none"
    explain_count: Annotated[
        int,
        Option(
            min=1, help="How many are 'uncertain': the least certain ones.", rich_help_panel=ASKING
        ),
    ] = 20
    smooth: Annotated[
        bool,
        Option(
            "--smooth",
            help="Also give the likeliest sequence of stages, apart from the plain result.",
            rich_help_panel=ASKING,
        ),
    ] = False
    no_calibration: NoCalibration = False
    lights_off: LightsOff = ""
    lights_on: LightsOn = ""
    lights: LightsFiles = field(default_factory=list)
    full: Full = False
    jobs: Annotated[
        int, Option(min=1, help="Recordings drawn at the same time.", rich_help_panel=RUNNING)
    ] = 1
    batch_size: Annotated[
        str,
        Option(
            help="Epochs asked about at the same time; 'auto' halves it when memory runs out.",
            rich_help_panel=RUNNING,
        ),
    ] = "auto"
    num_gpus: AskingRanks = 0
    dtype: Precision = "auto"
    merge: Merge = False
    attention: Attention = "auto"
    json: Json = False
