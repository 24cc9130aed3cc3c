"""Options of stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument

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
    out: Path = FILES(Path("staged"), "Folder of the results: one folder for each night.")
    vision_module: Path | None = FILES(
        None,
        "Folder of the vision module, if the model's has none.",
        shown="MODEL_PATH/vision_module",
    )
    backbone: OwnModule = ""
    model_base: ModelBase = None
    vision_tower: VisionTower = ""
    channel: list[str] = SIGNAL(
        [],
        "Channel of these recordings that stands for the trained one, or a derivation.",
        shown="the trained one",
    )
    strict: Strict = False
    mode: Literal["score", "both"] = ASKING(
        "score", "The likeliest stage ('score'), or the stage that the model writes ('both')."
    )
    explain: Literal["none", "uncertain", "all"] = ASKING(
        "none", "Of which epochs the model's own words are kept."
    )
    explain_count: int = ASKING(20, "How many are 'uncertain': the least certain ones.", min=1)
    smooth: bool = ASKING(
        False, "Also give the likeliest sequence of stages, apart from the plain result."
    )
    no_calibration: NoCalibration = False
    lights_off: LightsOff = ""
    lights_on: LightsOn = ""
    lights: LightsFiles = field(default_factory=list)
    full: Full = False
    jobs: int = RUNNING(1, "Recordings drawn at the same time.", min=1)
    batch_size: str = RUNNING(
        "auto", "Epochs asked about at the same time; 'auto' halves it when memory runs out."
    )
    num_gpus: AskingRanks = 0
    dtype: Precision = "auto"
    merge: Merge = False
    attention: Attention = "auto"
    json: Json = False
