"""Options of evaluate and ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from typer import Argument, Option

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
    Precision,
    Seed,
    VisionTower,
    Workspace,
)

DECODING: Final = "Writing answers"


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """Ask the fine-tuned model about every epoch of the evaluation side."""

    model_path: ModelFolder
    workspace: Workspace = Path("sleep_data")
    model_base: ModelBase = None
    vision_tower: VisionTower = ""
    question_file: Annotated[
        Path | None,
        Option(help="Questions.", show_default="WORKSPACE/eeg_eval.jsonl", rich_help_panel=FILES),
    ] = None
    image_folder: Annotated[
        Path | None,
        Option(
            help="Folder of their pictures.",
            show_default="WORKSPACE/eeg_images_eval",
            rich_help_panel=FILES,
        ),
    ] = None
    features_file: Annotated[
        Path | None,
        Option(
            help="Their high-level features.",
            show_default="WORKSPACE/eval_high_level_features.npy",
            rich_help_panel=FILES,
        ),
    ] = None
    label_coding: LabelCoding = ""
    answers_file: Annotated[
        Path | None,
        Option(
            help="Where the answers go.",
            show_default="WORKSPACE/answers/eeg_answers.jsonl",
            rich_help_panel=FILES,
        ),
    ] = None
    overwrite: Annotated[
        bool,
        Option("--overwrite", help="Begin the answers file from scratch.", rich_help_panel=FILES),
    ] = False
    mode: Annotated[
        AnswerMode,
        Option(
            help="What is wanted: words, the probability of each stage, or both.",
            rich_help_panel=ASKING,
        ),
    ] = "generate"
    conv_mode: Annotated[
        str,
        Option(
            help="Ask by another conversation template than the trained one: 'v1', 'llava_v1'.",
            show_default="the trained one",
            rich_help_panel=ASKING,
        ),
    ] = ""
    features: Annotated[
        FeatureSource,
        Option(
            help="Sanity checks: 'shuffled' gives every epoch another's features, 'zero' gives none.",
            rich_help_panel=ASKING,
        ),
    ] = "real"
    subjects: Annotated[
        str,
        Option(
            help="Ask only about these subjects, such as SC400,SC401.",
            show_default="all",
            rich_help_panel=ASKING,
        ),
    ] = ""
    limit: Annotated[
        int,
        Option(
            min=0,
            help="Ask only the first so many questions.",
            show_default="all",
            rich_help_panel=ASKING,
        ),
    ] = 0
    calibrate: Annotated[
        bool,
        Option(
            "--calibrate",
            help="Fit a temperature and an offset per stage to these answers; keep them beside the adapter.",
            rich_help_panel=ASKING,
        ),
    ] = False
    decide_for: Annotated[
        DecideFor,
        Option(
            help="With --calibrate: also fit which stage is said, so that macro-F1 or Cohen's kappa is "
            "highest; else it is the likeliest one.",
            rich_help_panel=ASKING,
        ),
    ] = "likelihood"
    no_calibration: Annotated[
        bool,
        Option(
            "--no-calibration",
            help="Leave the adapter's calibration out.",
            rich_help_panel=ASKING,
        ),
    ] = False
    max_new_tokens: Annotated[
        int,
        Option(
            min=0,
            help="Longest answer in tokens.",
            show_default="that of the question template",
            rich_help_panel=DECODING,
        ),
    ] = 0
    temperature: Annotated[
        float,
        Option(
            min=0.0, help="Above 0: draw the words, not the likeliest.", rich_help_panel=DECODING
        ),
    ] = 0.0
    top_p: Annotated[
        float,
        Option(
            min=0.0,
            max=1.0,
            help="Draw from the likeliest words that make up this share.",
            rich_help_panel=DECODING,
        ),
    ] = 1.0
    num_beams: Annotated[
        int, Option(min=1, help="Beams of the search; 1 is greedy.", rich_help_panel=DECODING)
    ] = 1
    seed: Seed = 42
    batch_size: Annotated[
        str,
        Option(
            help="Questions answered at the same time; 'auto' halves it when memory runs out.",
            rich_help_panel=RUNNING,
        ),
    ] = "auto"
    num_gpus: AskingRanks = 0
    num_chunks: Annotated[
        int,
        Option(
            min=1,
            help="Parts of a run that is spread over machines; all write to one --answers-file.",
            rich_help_panel=RUNNING,
        ),
    ] = 1
    chunk_idx: Annotated[
        int, Option(min=0, help="Which of these parts this is, from 0.", rich_help_panel=RUNNING)
    ] = 0
    dtype: Precision = "auto"
    merge: Merge = False
    attention: Attention = "auto"
    deterministic: Annotated[
        bool,
        Option(
            "--deterministic",
            help="Let PyTorch use nothing that varies from run to run.",
            rich_help_panel=RUNNING,
        ),
    ] = False


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
    workspace: Annotated[
        Path,
        Option(
            "--workspace",
            "-w",
            help="Where the vision module is, if the model's folder has none.",
            rich_help_panel=FILES,
        ),
    ] = Path("sleep_data")
    features_file: Annotated[
        Path | None,
        Option(
            help="Take the picture's high-level feature from here, by the picture's name.",
            show_default="computed by the vision module",
            rich_help_panel=FILES,
        ),
    ] = None
    backbone: OwnModule = ""
    model_base: ModelBase = None
    vision_tower: VisionTower = ""
    max_new_tokens: Annotated[
        int,
        Option(
            min=0,
            help="Longest answer in tokens.",
            show_default="that of the question template",
            rich_help_panel=ASKING,
        ),
    ] = 0
    no_calibration: NoCalibration = False
    dtype: Precision = "auto"
    merge: Merge = False
    json: Json = False
