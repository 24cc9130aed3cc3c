"""The plan of a training: what the parent checked and every rank needs, as one JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eegtool.core.settings import FeatureSource
from eegtool.core.workspace import write_json


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a rank needs, checked by the parent; paths are absolute."""

    base: str
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

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read the plan that the parent wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Write the plan for the ranks."""
        write_json(path, asdict(self))
