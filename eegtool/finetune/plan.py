"""The plan of a training: what the parent checked and every rank needs, as one JSON file.

It lies in the output folder as ``plan.json``, where it also says what is being trained there: a
training is only gone on with when its `Plan.fingerprint` is the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eegtool.core.errors import EegToolError
from eegtool.core.forms import CHAT
from eegtool.core.options import FeatureSource
from eegtool.core.pictures import PICTURE_SIDE
from eegtool.core.workspace import read_json, write_json

if TYPE_CHECKING:
    from eegtool.model.checkpoints import Base

PLAN_FILE: Final = "plan.json"

_FIELDS_OF_THE_OUTCOME: Final = (
    *("base_sha256", "data_sha256", "features_sha256", "protocol"),
    *("features", "fusion", "version", "bits", "zero_stage"),
    *("lora_r", "lora_alpha", "lora_dropout", "mm_projector_lr", "group_by_length"),
    *("use_dora", "use_rslora", "loraplus_lr_ratio"),
)
_FIELDS_OF_THE_CHOICE: Final = (
    *("best_metric", "early_stopping_patience", "eval_limit", "epochs_sha256"),
)
"""Decide the outcome only where the best weights are chosen, together with the steps at which they are validated."""
_SAME_OUTCOME: Final = (
    *("output_dir", "deepspeed", "tf32", "report_to", "run_name", "project"),
    *("disable_tqdm", "log_level", "log_level_replica", "log_on_each_node"),
    *("dataloader_num_workers", "dataloader_pin_memory"),
    *("trackio_space_id", "skip_memory_metrics"),
)
"""Arguments that only say how a training runs; so do all whose names begin with these:"""
_SAME_OUTCOME_PREFIXES: Final = ("save_", "logging_", "hub_", "ddp_", "torch_compile")


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a rank needs, checked by the parent; paths are absolute."""

    base: str
    """Name of the base model, or its path."""
    base_folder: str
    output_dir: str
    data_path: str
    image_folder: str
    features_file: str
    features: FeatureSource
    fusion: str
    version: str
    model_max_length: int
    lora_r: int
    lora_alpha: int
    lora_dropout: float
    mm_projector_lr: float
    gradient_checkpointing: bool
    trained_share: float
    """Share of all tokens that carry a label."""
    protocol: dict[str, Any]
    arguments: dict[str, Any]
    """Keyword arguments of transformers' TrainingArguments."""
    answers: dict[str, Any] = field(default_factory=dict)
    """What the samples teach of the answers (see `Contract.answers`)."""
    sequence: dict[str, Any] = field(default_factory=dict)
    """How stages follow each other (see `Contract.sequence`)."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that each rank sets before anything is imported (see `launcher.rank_environment`)."""
    stop_file: str = ""
    """When this file exists, the ranks save a checkpoint and stop."""
    vision_tower: str = ""
    """Folder of the vision tower, where it is apart (original LLaVA layout)."""
    picture_side: int = PICTURE_SIDE
    """Side of the pictures in pixels, for families whose towers take any."""
    base_sha256: str = ""
    data_sha256: str = ""
    features_sha256: str = ""
    """Of the features file; empty where the fusion takes none."""
    continue_from: str = ""
    """Folder of the adapter that LoRA and projector start from; empty: from the beginning."""
    continue_from_sha256: str = ""
    use_dora: bool = False
    """The lengths of the rows of each weight are trained, too (DoRA)."""
    use_rslora: bool = False
    """LoRA is scaled by alpha / sqrt(r) (rsLoRA)."""
    loraplus_lr_ratio: float = 1.0
    """Learning rate of LoRA's second matrices over that of the first ones (LoRA+)."""
    stage_share: float = 0.0
    """Share of a sample's loss that the words naming the stage have; 0: all words count alike."""
    attention: str = "auto"
    bits: int = 16
    """4: the language model is quantised."""
    zero_stage: int = 0
    """Stage of DeepSpeed's ZeRO; 0 without DeepSpeed."""
    group_by_length: bool = False
    eval_subjects: list[str] = field(default_factory=list)
    """Who is held out for validation; nobody where nothing is validated."""
    eval_limit: int = 0
    """Epochs of theirs that are scored at most; 0 for all."""
    epochs_file: str = ""
    """``epochs.csv``, which says whose an epoch is; empty where nothing is validated."""
    epochs_sha256: str = ""
    best_metric: str = ""
    """What the best weights are chosen by (see `validation.METRICS`); empty: the last ones are taken."""
    early_stopping_patience: int = 0
    """Validations without a better one after which the training stops; 0 for never."""
    resume: bool = False
    """Continue from the last whole checkpoint in `output_dir`."""

    @property
    def base_model(self) -> Base:
        """The base model, as `eegtool.model.checkpoints` loads it."""
        from eegtool.model.checkpoints import base_in

        return base_in(
            Path(self.base_folder), Path(self.vision_tower) if self.vision_tower else None
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the outcome (see `outcome`)."""
        text = json.dumps(outcome(asdict(self)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read the plan that the parent wrote.

        Raises
        ------
        EegToolError
            If the file is missing or no plan of this version.
        """
        raw = read_json(path)
        raw.pop("fingerprint", None)
        try:
            return cls(**raw)
        except TypeError as error:
            raise EegToolError(
                f"{path} is no plan of this version of eegvlm: {error}.",
                "Train into another --output-dir.",
            ) from error

    def write(self, path: Path) -> None:
        """Write the plan for the ranks."""
        write_json(path, {"fingerprint": self.fingerprint, **asdict(self)})


def outcome(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings of a plan (as a dictionary) that decide what is learnt.

    Not among them: where files lie, how often is logged and saved, how many processes work, how
    memory is saved (checkpointing, offload), and the number of ranks, which a checkpoint stores. Who is
    held out always decides; how they are validated decides only where the best weights are chosen by it.
    """
    names: tuple[str, ...] = _FIELDS_OF_THE_OUTCOME
    same: tuple[str, ...] = _SAME_OUTCOME_PREFIXES
    if plan.get("version") == CHAT:  # else the tower decides
        names += ("picture_side",)
    if plan.get("eval_subjects"):  # else plans are as they were before there was validation
        names += ("eval_subjects",)
    if plan.get("stage_share"):
        names += ("stage_share",)
    if plan.get("continue_from"):
        names += ("continue_from_sha256",)
    if plan.get("best_metric"):
        names += _FIELDS_OF_THE_CHOICE
    else:
        same += ("eval_",)
    chosen = {name: plan.get(name) for name in names}
    arguments = {
        name: value
        for name, value in plan.get("arguments", {}).items()
        if name not in _SAME_OUTCOME and not name.startswith(same)
    }
    # As JSON gives them back: a plan from a file equals the one that was written.
    return dict(json.loads(json.dumps(chosen | arguments)))


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Say which settings of two plans would make another model: ``"seed 1 and 2"``, hashes by name."""
    left, right = outcome(one), outcome(other)
    differing = []
    for name in sorted(left.keys() | right.keys()):
        a, b = left.get(name), right.get(name)
        if a != b:
            differing.append(
                name.removesuffix("_sha256") if "sha256" in name else f"{name} {a} and {b}"
            )
    return differing
