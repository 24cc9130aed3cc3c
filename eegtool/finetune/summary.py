"""What a base model would be in a training: its family, the tokens of an epoch, what is trained, how large it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eegtool.core.pictures import PICTURE_SIDE
from eegtool.finetune import estimate
from eegtool.model.adapters import contract_base, read_contract
from eegtool.model.checkpoints import Base, find_base, load_processor

_RANK = 128
"""Of LoRA in the recipe (arXiv 2511.19155)."""


def summary(name_or_path: str) -> dict[str, Any]:
    """Describe a base model, or the one that an adapter is for; no weights are read.

    Raises
    ------
    EegToolError
        If it is not a model that can be fused with features.
    """
    folder = Path(name_or_path)
    fusion, version, side = "add", "v1", PICTURE_SIDE
    if (folder / "eegvlm.json").is_file():
        contract = read_contract(folder)
        base = contract_base(folder, contract)
        fusion, version, side = contract.fusion, contract.version, contract.pixel_spec.size
    else:
        base = find_base(name_or_path)
    processor = load_processor(base, fusion=fusion, version=version, side=side)
    parts = estimate.count_parameters(base.empty(fusion), r=_RANK)
    total = sum(n for _, _, n in parts)
    return {
        "family": family_of(base),
        "pictures": f"{processor.pixel_spec.size} px: {processor.n_image_tokens:,} image tokens per epoch "
        f"(fusion {fusion})",
        "parameters": {part: n for part, _, n in parts},
        f"trained by LoRA of rank {_RANK}": {part: n for part, n, _ in parts if n},
        "weights": f"{estimate.gib(2 * total)} in 16 bits",
    }


def family_of(base: Base) -> str:
    """Return the name of a base model's family, and whether models of it were tested."""
    return (
        base.name if base.is_tested else f"{base.name} (works by the common seam; not tested here)"
    )
