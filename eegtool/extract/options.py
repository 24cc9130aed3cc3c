"""Options of extract."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from typer import Option

from eegtool.core.options import HARDWARE, TRAINING, DecideFor, Seed, TrainingRanks, Workspace

MODULE: Final = "Vision module"
FEATURES: Final = "Features"


@dataclass(frozen=True, slots=True)
class ExtractSettings:
    """Train the specialized vision module and export its high-level features."""

    workspace: Workspace = Path("sleep_data")
    backbone: Annotated[
        str,
        Option(
            help="Encoder: any timm model, 'vision_mamba', or your own as 'package.module:factory'.",
            rich_help_panel=MODULE,
        ),
    ] = "resnet18"
    list_backbones: Annotated[
        str,
        Option(
            help="List the encoders of that name, such as 'resnet*', and do nothing else.",
            show_default="no",
            rich_help_panel=MODULE,
        ),
    ] = ""
    pretrained: Annotated[
        bool,
        Option(
            "--pretrained",
            help="Start from timm's weights (fetched once).",
            rich_help_panel=MODULE,
        ),
    ] = False
    weights: Annotated[
        Path | None,
        Option(
            help="Folder of a trained module to use, without training.",
            show_default="none",
            rich_help_panel=MODULE,
        ),
    ] = None
    folds: Annotated[
        int,
        Option(
            min=0,
            help="Fine-tune side: features by modules that did not see the subject, of so many folds.",
            show_default="none",
            rich_help_panel=FEATURES,
        ),
    ] = 0
    context: Annotated[
        float,
        Option(
            min=0.0,
            max=600.0,
            help="Minutes on either side of an epoch that its feature knows of; 0: its own picture only.",
            rich_help_panel=MODULE,
        ),
    ] = 0.0
    import_features: Annotated[
        Path | None,
        Option(
            help="Take over features (.npy) made elsewhere; needs --ids.",
            show_default="none",
            rich_help_panel=FEATURES,
        ),
    ] = None
    ids: Annotated[
        Path | None,
        Option(
            help="Their sample ids, a row each: .txt, .json, or .csv.",
            show_default="the order of the JSON files",
            rich_help_panel=FEATURES,
        ),
    ] = None
    train_epochs: Annotated[
        int, Option(min=1, help="Passes over the fine-tune side.", rich_help_panel=TRAINING)
    ] = 10
    patience: Annotated[
        int,
        Option(
            min=0,
            help="Stop after so many passes without a better macro-F1; 0 for never.",
            rich_help_panel=TRAINING,
        ),
    ] = 5
    batch_size: Annotated[
        int, Option(min=2, help="Pictures per training step.", rich_help_panel=TRAINING)
    ] = 32
    learning_rate: Annotated[
        float, Option(min=0.0, help="Peak learning rate.", rich_help_panel=TRAINING)
    ] = 1e-3
    weight_decay: Annotated[
        float, Option(min=0.0, help="Weight decay.", rich_help_panel=TRAINING)
    ] = 0.05
    imbalance: Annotated[
        str,
        Option(
            help="Rare stages: 'weights' in the loss, 'sampling', or 'none'.",
            rich_help_panel=TRAINING,
        ),
    ] = "weights"
    decide_for: Annotated[
        DecideFor,
        Option(
            help="What the module's own stages are decided for: the likeliest one, or so that macro-F1 or "
            "Cohen's kappa is highest, by its validation subjects.",
            rich_help_panel=TRAINING,
        ),
    ] = "likelihood"
    augment: Annotated[
        bool,
        Option(
            "--augment/--no-augment",
            help="Vary the stored signals a little: amplitude, time, noise, a lost channel.",
            rich_help_panel=TRAINING,
        ),
    ] = True
    flip: Annotated[
        bool,
        Option("--flip", help="Also mirror in time and amplitude.", rich_help_panel=TRAINING),
    ] = False
    channel_dropout: Annotated[
        float,
        Option(
            min=0.0,
            max=0.9,
            help="How often a montage is EEG alone in training, and how often else each of its channels is "
            "missing, so that the model can do without.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.0
    val_fraction: Annotated[
        float,
        Option(
            min=0.05,
            max=0.9,
            help="Share of the fine-tune subjects held out for validation.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.2
    log: Annotated[str, Option(help="Log to 'csv' or 'tensorboard'.", rich_help_panel=TRAINING)] = (
        "csv"
    )
    num_gpus: TrainingRanks = 0
    workers: Annotated[
        int,
        Option(
            min=0,
            help="Processes (in training) and threads (in export) that decode pictures.",
            rich_help_panel=HARDWARE,
        ),
    ] = 0
    seed: Seed = 42
