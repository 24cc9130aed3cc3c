"""Options of extract."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eegtool.core.options import (
    HARDWARE,
    TRAINING,
    DecideFor,
    Panel,
    Seed,
    TrainingRanks,
    Workspace,
)

MODULE = Panel("Vision module")
FEATURES = Panel("Features")


@dataclass(frozen=True, slots=True)
class ExtractSettings:
    """Train the specialized vision module and export its high-level features."""

    workspace: Workspace = Path("sleep_data")
    backbone: str = MODULE(
        "resnet18",
        "Encoder: any timm model, 'vision_mamba', or your own as 'package.module:factory'.",
    )
    list_backbones: str = MODULE(
        "", "List the encoders of that name, such as 'resnet*', and do nothing else.", shown="no"
    )
    pretrained: bool = MODULE(False, "Start from timm's weights (fetched once).")
    weights: Path | None = MODULE(
        None, "Folder of a trained module to use, without training.", shown="none"
    )
    folds: int = FEATURES(
        0,
        "Fine-tune side: features by modules that did not see the subject, of so many folds.",
        shown="none",
        min=0,
    )
    context: float = MODULE(
        0.0,
        "Minutes on either side of an epoch that its feature knows of; 0: its own picture only.",
        min=0.0,
        max=600.0,
    )
    import_features: Path | None = FEATURES(
        None, "Take over features (.npy) made elsewhere; needs --ids.", shown="none"
    )
    ids: Path | None = FEATURES(
        None,
        "Their sample ids, a row each: .txt, .json, or .csv.",
        shown="the order of the JSON files",
    )
    train_epochs: int = TRAINING(10, "Passes over the fine-tune side.", min=1)
    patience: int = TRAINING(
        5, "Stop after so many passes without a better macro-F1; 0 for never.", min=0
    )
    batch_size: int = TRAINING(32, "Pictures per training step.", min=2)
    learning_rate: float = TRAINING(1e-3, "Peak learning rate.", min=0.0)
    weight_decay: float = TRAINING(0.05, "Weight decay.", min=0.0)
    imbalance: str = TRAINING(
        "weights", "Rare stages: 'weights' in the loss, 'sampling', or 'none'."
    )
    decide_for: DecideFor = TRAINING(
        "likelihood",
        "What the module's own stages are decided for: the likeliest one, or so that macro-F1 or "
        "Cohen's kappa is highest, by its validation subjects.",
    )
    augment: bool = TRAINING(
        True,
        "Vary the stored signals a little: amplitude, time, noise, a lost channel.",
        "--augment/--no-augment",
    )
    learn_facts: bool = TRAINING(
        True,
        "Train features to predict what prepare measured (--rationale measured), too.",
        "--learn-facts/--no-learn-facts",
    )
    flip: bool = TRAINING(False, "Also mirror in time and amplitude.")
    channel_dropout: float = TRAINING(
        0.0,
        "How often a montage is EEG alone in training, and how often else each of its channels is "
        "missing, so that the model can do without.",
        min=0.0,
        max=0.9,
    )
    val_fraction: float = TRAINING(
        0.2, "Share of the fine-tune subjects held out for validation.", min=0.05, max=0.9
    )
    log: str = TRAINING("csv", "Log to 'csv' or 'tensorboard'.")
    num_gpus: TrainingRanks = 0
    workers: int = HARDWARE(
        0, "Processes (in training) and threads (in export) that decode pictures.", min=0
    )
    seed: Seed = 42
