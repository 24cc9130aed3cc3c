"""The plan of a training, which every rank needs, and what came out of it; both as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from eegtool.pictures.augmentation import Augmentation

IMBALANCE: Final = ("weights", "sampling", "none")
LOGS: Final = ("csv", "tensorboard")


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """Everything that a rank needs, as JSON; checked by the parent. Paths are absolute.

    Attributes
    ----------
    epochs : str
        Table of epochs (``epochs.csv``). Of it, only the fine-tune side is looked at.
    train_subjects, val_subjects : tuple of str
        Whom to train on and, other people, whom to validate on.
    folder : str
        Image folder of the fine-tune side.
    images_sha256 : str
        Hash of its pictures (`eegtool.extract.data.images_sha256`): a training does not continue with others.
    stages_sha256 : str
        Hash of how its epochs were scored: corrected scorings are trained on again.
    protocol : dict
        What prepare stamped: style, size and channel of the pictures.
    out : str
        Folder for the module, its card and the log.
    backbone, pretrained
        See `VisionModule`.
    code_sha256 : str
        Of an own module's code (`backbones.code_sha256`).
    train_epochs : int
        Passes over the training epochs.
    batch_size : int
        Pictures per step, of all ranks together.
    learning_rate, weight_decay : float
        AdamW. The rate rises over the share `warmup` of the steps and falls in a cosine.
    warmup : float
        That share.
    imbalance : str
        What is done about rare stages: 'weights' (loss by the inverse square root of their share),
        'sampling' (all stages are drawn equally often), 'none'.
    augmentation : Augmentation or None
        How far the signals are varied; None for not at all.
    facts_sha256 : str
        Hash of what prepare measured in the epochs to train on, where features are also to predict it; empty where not.
    patience : int
        Passes without a better validation macro-F1 after which it stops; 0 for never.
    log : str
        'csv', or 'tensorboard' for both.
    workers : int
        Processes per rank that decode pictures; 0 for none beside the training itself.
    seed : int
        Of everything random.
    """

    epochs: str
    train_subjects: tuple[str, ...]
    val_subjects: tuple[str, ...]
    folder: str
    images_sha256: str
    protocol: dict[str, Any]
    out: str
    stages_sha256: str = ""
    backbone: str = "resnet18"
    code_sha256: str = ""
    pretrained: bool = False
    train_epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.2
    imbalance: str = "weights"
    augmentation: Augmentation | None = None
    facts_sha256: str = ""
    patience: int = 0
    log: str = "csv"
    workers: int = 0
    seed: int = 42

    @property
    def size(self) -> int | None:
        """Side of the pictures in pixels, where the protocol says it."""
        size = self.protocol.get("size")
        return None if size is None else int(size)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> TrainPlan:
        """Return the plan from what JSON has kept of its fields."""
        subjects = {name: tuple(values[name]) for name in ("train_subjects", "val_subjects")}
        how = values["augmentation"]
        return cls(**{**values, **subjects, "augmentation": how and Augmentation(**how)})


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a training went.

    Attributes
    ----------
    history : tuple of dict
        One row per pass: ``pass``, ``loss``, ``images_per_s`` and, where somebody was held out,
        ``val_accuracy``, ``val_macro_f1``, ``val_kappa``.
    best_pass : int
        The pass whose weights were kept: the best in validation, else the last.
    stopped_early : bool
        Whether patience ended it.
    resumed_after : int
        Passes that an earlier, interrupted run had done.
    n_train, n_val : int
        Epochs.
    dtype : str
        Precision it was computed in.
    ranks : int
        Processes it ran in.
    weights_sha256 : str
        Of the weights file.
    """

    history: tuple[dict[str, Any], ...]
    best_pass: int
    stopped_early: bool
    resumed_after: int
    n_train: int
    n_val: int
    dtype: str
    ranks: int
    weights_sha256: str = ""

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> TrainResult:
        """Read what `train_module` wrote on the card of a module."""
        values = dict(card["training"])
        history = tuple(values.pop("history"))
        return cls(history=history, weights_sha256=card["weights_sha256"], **values)
