"""Options of evaluate and ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument

from eegtool.core.options import (
    ASKING,
    FILES,
    RUNNING,
    AnswerMode,
    AskingRanks,
    Attention,
    DecideFor,
    FeatureSource,
    Json,
    LabelCoding,
    Merge,
    ModelBase,
    ModelFolder,
    NoCalibration,
    OwnModule,
    Panel,
    Precision,
    Seed,
    VisionTower,
    Workspace,
)

DECODING = Panel("Writing answers")


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """Ask the fine-tuned model about every epoch of the evaluation side."""

    model_path: ModelFolder
    workspace: Workspace = Path("sleep_data")
    model_base: ModelBase = None
    vision_tower: VisionTower = ""
    question_file: Path | None = FILES(None, "Questions.", shown="WORKSPACE/eeg_eval.jsonl")
    image_folder: Path | None = FILES(
        None, "Folder of their pictures.", shown="WORKSPACE/eeg_images_eval"
    )
    features_file: Path | None = FILES(
        None, "Their high-level features.", shown="WORKSPACE/eval_high_level_features.npy"
    )
    label_coding: LabelCoding = ""
    answers_file: Path | None = FILES(
        None, "Where the answers go.", shown="WORKSPACE/answers/eeg_answers.jsonl"
    )
    overwrite: bool = FILES(False, "Begin the answers file from scratch.")
    mode: AnswerMode = ASKING(
        "generate", "What is wanted: words, the probability of each stage, or both."
    )
    conv_mode: str = ASKING(
        "",
        "Ask by another conversation template than the trained one: 'v1', 'llava_v1'.",
        shown="the trained one",
    )
    features: FeatureSource = ASKING(
        "real", "Sanity checks: 'shuffled' gives every epoch another's features, 'zero' gives none."
    )
    subjects: str = ASKING("", "Ask only about these subjects, such as SC400,SC401.", shown="all")
    limit: int = ASKING(0, "Ask only the first so many questions.", shown="all", min=0)
    calibrate: bool = ASKING(
        False,
        "Fit a temperature and an offset per stage to these answers; keep them beside the adapter.",
    )
    decide_for: DecideFor = ASKING(
        "likelihood",
        "With --calibrate: also fit which stage is said, so that macro-F1 or Cohen's kappa is "
        "highest; else it is the likeliest one.",
    )
    no_calibration: bool = ASKING(False, "Leave the adapter's calibration out.")
    max_new_tokens: int = DECODING(
        0, "Longest answer in tokens.", shown="that of the question template", min=0
    )
    temperature: float = DECODING(0.0, "Above 0: draw the words, not the likeliest.", min=0.0)
    top_p: float = DECODING(
        1.0, "Draw from the likeliest words that make up this share.", min=0.0, max=1.0
    )
    num_beams: int = DECODING(1, "Beams of the search; 1 is greedy.", min=1)
    seed: Seed = 42
    batch_size: str = RUNNING(
        "auto", "Questions answered at the same time; 'auto' halves it when memory runs out."
    )
    num_gpus: AskingRanks = 0
    num_chunks: int = RUNNING(
        1, "Parts of a run that is spread over machines; all write to one --answers-file.", min=1
    )
    chunk_idx: int = RUNNING(0, "Which of these parts this is, from 0.", min=0)
    dtype: Precision = "auto"
    merge: Merge = False
    attention: Attention = "auto"
    deterministic: bool = RUNNING(False, "Let PyTorch use nothing that varies from run to run.")


@dataclass(frozen=True, slots=True)
class AskSettings:
    """Ask the fine-tuned model about one picture, and see how likely each stage is."""

    image: Annotated[Path, Argument(help="Picture of one epoch.", metavar="IMAGE")]
    model_path: ModelFolder
    question: Annotated[
        str,
        Argument(
            help="What to ask.", metavar="QUESTION", show_default="what the model was trained on"
        ),
    ] = ""
    workspace: Path = FILES(
        Path("sleep_data"),
        "Where the vision module is, if the model's folder has none.",
        "--workspace",
        "-w",
    )
    features_file: Path | None = FILES(
        None,
        "Take the picture's high-level feature from here, by the picture's name.",
        shown="computed by the vision module",
    )
    backbone: OwnModule = ""
    model_base: ModelBase = None
    vision_tower: VisionTower = ""
    max_new_tokens: int = ASKING(
        0, "Longest answer in tokens.", shown="that of the question template", min=0
    )
    no_calibration: NoCalibration = False
    dtype: Precision = "auto"
    merge: Merge = False
    json: Json = False
