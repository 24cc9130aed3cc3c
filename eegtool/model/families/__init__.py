"""Vision-language models of many families under one fusion: found, checked and loaded.

A family that is named in `FAMILIES` is tested; any other model with the common seam works as `Family` does by
default. LLaVA-1.5, whose features go through the projector of its pictures, is `eegtool.model.eegvlm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoProcessor, GenerationConfig
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.modeling_utils import set_zero3_state
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_MAPPING,
)

from eegtool.core.errors import EegToolError, brief
from eegtool.core.registry import check_name, load
from eegtool.model.checkpoints import check_keys, choose_attention, quantization, quiet
from eegtool.model.eegvlm import FUSIONS
from eegtool.model.families.chat import FamilyProcessor
from eegtool.model.families.fused import FusedModel, fused_class, outside_decoder
from eegtool.model.families.generic import Family, missing_seam

FAMILIES: Final = {
    "qwen3_vl": "eegtool.model.families.qwen3_vl:FAMILY",
    "smolvlm": "eegtool.model.families.smolvlm:FAMILY",
    "gemma3": "eegtool.model.families.gemma3:FAMILY",
    "qwen2_5_vl": "eegtool.model.families.qwen2_5_vl:FAMILY",
    "internvl": "eegtool.model.families.internvl:FAMILY",
    "llava_onevision": "eegtool.model.families.llava_onevision:FAMILY",
}
"""``model_type`` of a configuration → what its family has of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class FamilyBase:
    """A base model in a folder: its configuration, its family and its class; no weights are read.

    Attributes
    ----------
    folder : Path
        As transformers writes it.
    config : transformers.PreTrainedConfig
        What it says.
    family : Family
        See `family_of`.
    network : type
        The family's class with a head that tells words.
    """

    folder: Path
    config: Any
    family: Family
    network: type

    @property
    def hidden_size(self) -> int:
        """Width of the language model's tokens."""
        return int(self.config.get_text_config().hidden_size)


def find_family(folder: Path) -> FamilyBase:
    """Read which family a folder's model is of.

    Raises
    ------
    EegToolError
        If its configuration cannot be read, or see `family_of`.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise _not_loadable(folder, error) from error
    return FamilyBase(folder, config, family_of(config), _classes(config)[0])


def family_of(config: Any) -> Family:
    """Return the family of a configuration.

    Raises
    ------
    EegToolError
        If it is not one of a vision-language model, or of one without the seam.
    """
    name = config.model_type
    missing = missing_seam(*_classes(config))
    if missing or getattr(config, "image_token_id", None) is None:
        missing = missing or ["image_token_id"]
        raise EegToolError(
            f"A '{name}' model cannot be fused with features: it has no {' and no '.join(missing)}.",
            "Use a model that puts pictures between the words, such as Qwen3-VL, Gemma 3 or SmolVLM2.",
        )
    return load(FAMILIES[name]) if name in FAMILIES else Family(name, is_tested=False)


def _classes(config: Any) -> tuple[type, type]:
    """Return a configuration's class with a head that tells words, and that of the model below it."""
    kind = type(config)
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise EegToolError(
            f"A '{config.model_type}' model is not a vision-language model: it takes no pictures.",
            "Use a model for pictures and text, such as Qwen3-VL, Gemma 3 or SmolVLM2.",
        )
    network = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[kind]
    return network, MODEL_MAPPING.get(kind, network)


def load_family_processor(base: FamilyBase, *, fusion: str, side: int) -> FamilyProcessor:
    """Load the processor of a base model, without loading its weights.

    Parameters
    ----------
    base : FamilyBase
        From `find_family`.
    fusion : str
        Name of the fusion.
    side : int
        Side of the pictures in pixels (see `FamilyProcessor`).

    Raises
    ------
    EegToolError
        If it cannot be read, is that of another model, or cannot write what the fusion needs.
    """
    check_name("fusion", fusion, FUSIONS)
    try:
        with quiet():
            hub = AutoProcessor.from_pretrained(base.folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError) as error:
        raise _not_loadable(base.folder, error) from error
    image_token_id = base.config.image_token_id
    # Without an image processor, a tokenizer comes back alone.
    if image_token_id not in getattr(hub, "image_token_ids", ()):
        raise EegToolError(
            f"The processor in {base.folder} is not that of its {base.family.name} model: its image "
            f"token is not {image_token_id}.",
            "Take the processor files from the folder the model was downloaded with.",
        )
    processor = FamilyProcessor(hub, base.family, fusion, side, image_token_id)
    processor.encode_prompt("?", 2)
    return processor


def load_family(
    base: FamilyBase,
    *,
    fusion: str,
    dtype: torch.dtype,
    attention: str = "auto",
    bits: int = 16,
    device: torch.device | None = None,
) -> FusedModel:
    """Load a base model with the projector of the features in it, at its start.

    Parameters
    ----------
    base : FamilyBase
        From `find_family`.
    fusion : str
        Name of the fusion; for ``none`` there is no projector.
    dtype, attention, bits, device
        See `eegtool.model.checkpoints.load_base`.

    Raises
    ------
    EegToolError
        If weights are missing or left over, or what is asked for is not installed.
    """
    check_name("fusion", fusion, FUSIONS)
    kind = fused_class(base.network, base.family, fusion)
    packing = quantization(bits, dtype)
    if packing is not None:
        packing.llm_int8_skip_modules = outside_decoder(on_meta(base, fusion))
    try:
        with quiet():
            model, info = kind.from_pretrained(
                base.folder,
                config=base.config,
                dtype=dtype,
                attn_implementation=_attention(base, attention, dtype),
                quantization_config=packing,
                device_map=None if device is None or is_deepspeed_zero3_enabled() else {"": device},
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise _not_loadable(base.folder, error) from error
    check_keys(base.folder, info["missing_keys"], info["unexpected_keys"])
    model.generation_config = GenerationConfig()  # the base's habits of sampling are not ours
    return model


def on_meta(base: FamilyBase, fusion: str) -> FusedModel:
    """Return the model without weights: to count parameters and to find modules by."""
    with torch.device("meta"), set_zero3_state():  # says that sharding is taken care of
        return fused_class(base.network, base.family, fusion)(base.config)


def _attention(base: FamilyBase, attention: str, dtype: torch.dtype) -> str:
    """Choose the attention; FlashAttention only where all of the family's model has it."""
    chosen = choose_attention(attention, dtype)
    has_flash = all(getattr(kind, "_supports_flash_attn", True) for kind in _classes(base.config))
    if chosen == "flash_attention_2" and not has_flash:
        if attention == "auto":
            return "sdpa"
        raise EegToolError(
            f"A '{base.family.name}' model cannot use FlashAttention.", "Leave out --attention."
        )
    return chosen


def _not_loadable(folder: Path, error: Exception) -> EegToolError:
    return EegToolError(
        f"The base model in {folder} cannot be loaded: {brief(error)}.",
        "Its folder must be whole: config, weights, tokenizer and processor as downloaded.",
    )
