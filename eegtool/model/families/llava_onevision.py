"""LLaVA-OneVision, which cuts the only picture of a conversation into tiles, and none of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from eegtool.model.families.generic import Family


@dataclass(frozen=True, eq=False)
class _OneVision(Family):
    def pictures_for(self, n_blocks: int) -> int:
        return n_blocks

    def first_picture(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # Also of `batch_num_images`, which has one number a conversation: it tells the tower of no tiles.
        return {name: value[:1] for name, value in inputs.items()}


FAMILY: Final = _OneVision("llava_onevision")
