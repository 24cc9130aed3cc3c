"""Base models by folder or name, of whatever family: found, checked, told apart and loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import torch

from eegtool.core.errors import EegToolError
from eegtool.core.pictures import PICTURE_SIDE
from eegtool.core.registry import check_name, closest
from eegtool.core.workspace import read_json
from eegtool.model import llava_layout, tiny
from eegtool.model.eegvlm import EEGVLM, FUSIONS
from eegtool.model.families import FamilyBase, find_family
from eegtool.model.families.chat import FamilyProcessor
from eegtool.model.families.fused import FusedModel
from eegtool.model.families.llava import LlavaBase
from eegtool.model.hub import model_folder
from eegtool.model.processor import Processor
from eegtool.model.weights import sampled_sha256, weights_files

Base = LlavaBase | FamilyBase
"""A base model on disk."""
AnyProcessor = Processor | FamilyProcessor
Network = EEGVLM | FusedModel

_WHERE_FROM: Final = ("transformers_version", "_name_or_path", "mm_vision_tower")
"""What of a configuration says where a model lay and what wrote it, not what it is."""

KNOWN_BASES: Final = {"tiny": tiny.folder}


def find_base(name_or_path: str, vision_tower: str = "") -> Base:
    """Find a base model and check all that can be checked without reading its weights.

    Parameters
    ----------
    name_or_path : str
        A known name, a folder, or a name on the Hugging Face hub.
    vision_tower : str
        Folder or hub name of the tower, for the original LLaVA layout, which has none of its own;
        empty: the one its configuration names.

    Raises
    ------
    EegToolError
        If there is no such model, it is not a vision-language model that can be fused with features, a file
        is missing or damaged, or its weights are not, by name and shape, those of its configuration.
    """
    known = KNOWN_BASES.get(name_or_path)
    folder = known() if known else model_folder(name_or_path)
    if folder is None:
        listed = ", ".join(f"'{k}'" for k in KNOWN_BASES)
        raise EegToolError(
            f"The base model '{name_or_path}' is neither a folder nor a known name.",
            f"Known: {listed}.{closest(name_or_path, KNOWN_BASES)} Others are given as the folder they were "
            "downloaded to, or by their name on the hub.",
        )
    if not (folder / "config.json").is_file():
        raise EegToolError(
            f"The folder {folder} holds no model: it has no config.json.",
            "Give the folder of a vision-language model, such as LLaVA-1.5.",
        )
    config = read_json(folder / "config.json")
    parts = (config, config.get("text_config") or {})
    if packing := next(filter(None, (part.get("quantization_config") for part in parts)), None):
        raise EegToolError(
            f"{folder} is quantised ({packing.get('quant_method', 'of an unknown kind')}): packed weights "
            "cannot be fused with and trained here.",
            "Give the model as it was before; `finetune --bits 4` packs it while it is loaded.",
        )
    tower = (
        llava_layout.find_tower(folder, vision_tower) if llava_layout.is_original(config) else None
    )
    base = base_in(folder, tower)
    base.check()
    return base


def base_in(folder: Path, vision_tower: Path | None = None) -> Base:
    """Return the base model in a folder that `find_base` has checked before."""
    if vision_tower or read_json(folder / "config.json").get("model_type") == LlavaBase.name:
        return LlavaBase(folder, vision_tower)
    return find_family(folder)


def base_sha256(base: Base | Path) -> str:
    """Hash what identifies a base model: its configuration and its weights, by samples.

    Neither the place it lies in nor the library that wrote it is part of it.
    """
    identity = []
    for folder in _as_base(base).folders:
        config = read_json(folder / "config.json")
        kept = {k: v for k, v in config.items() if k not in _WHERE_FROM}
        identity.append([kept, {f.name: sampled_sha256(f) for f in weights_files(folder)}])
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def load_processor(
    base: Base | Path, *, fusion: str, version: str, side: int = PICTURE_SIDE
) -> Any:
    """Load the processor that fits a base model, without loading its weights.

    Parameters
    ----------
    base : Base or Path
        From `find_base`; a bare folder is looked up.
    fusion, version : str
        Names of the fusion and of the conversation template; families that have a chat template of their own
        take no other.
    side : int
        Side of the pictures in pixels; LLaVA-1.5 takes them in the size of its tower.

    Returns
    -------
    Processor or FamilyProcessor
        What makes the inputs of the model.

    Raises
    ------
    EegToolError
        If the processor cannot be read, or model, processor and fusion do not fit each other.
    """
    base = _as_base(base)
    check_name("fusion", fusion, FUSIONS)
    return base.processor(fusion=fusion, version=base.template(version), side=side)


def load_base(
    base: Base | Path,
    *,
    fusion: str,
    version: str,
    dtype: torch.dtype,
    side: int = PICTURE_SIDE,
    attention: str = "auto",
    bits: int = 16,
    device: torch.device | None = None,
) -> tuple[Any, Any]:
    """Load a base model and the processor that fits it.

    Parameters
    ----------
    base, fusion, version, side
        See `load_processor`.
    dtype : torch.dtype
        Precision of the weights.
    attention : str
        One of `loading.ATTENTIONS`; ``auto`` is FlashAttention where it is installed, else PyTorch's own.
    bits : int
        4 packs the language model, not its head, into NF4 (QLoRA, Dettmers et al. 2023).
    device : torch.device, optional
        Where each weight goes as it is read, instead of through the memory of the host. ZeRO-3 places
        weights itself, and takes no notice.

    Returns
    -------
    EEGVLM or FusedModel
        The model.
    Processor or FamilyProcessor
        What makes its inputs.

    Raises
    ------
    EegToolError
        If they do not fit (see `load_processor`), weights are missing or left over, or what is asked
        for is not installed.
    """
    base = _as_base(base)
    processor = load_processor(base, fusion=fusion, version=version, side=side)
    model = base.load(
        image_token_id=processor.image_token_id,
        fusion=fusion,
        dtype=dtype,
        attention=attention,
        bits=bits,
        device=device,
    )
    return model, processor


def _as_base(base: Base | Path) -> Base:
    return find_base(str(base)) if isinstance(base, Path) else base
