"""Vision-language models of many families under one fusion: found, checked and loaded.

A family that is named in `FAMILIES` is tested; any other model with the common seam works as `Family` does by
default. LLaVA-1.5, whose features go through the projector of its pictures, is `eegtool.model.eegvlm`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoProcessor, GenerationConfig
from transformers.modeling_utils import set_zero3_state
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_MAPPING,
)

from eegtool.core.errors import EegToolError
from eegtool.core.forms import CHAT
from eegtool.core.registry import load
from eegtool.model.families.chat import FamilyProcessor
from eegtool.model.families.fused import FusedModel, fused_class, outside_decoder
from eegtool.model.families.generic import Family, missing_seam
from eegtool.model.loading import (
    check_keys,
    choose_attention,
    not_loadable,
    placement,
    quantization,
    quiet,
)
from eegtool.model.weights import weights_files

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
    vision_tower: ClassVar[None] = None

    @property
    def name(self) -> str:
        """Name of the family."""
        return self.family.name

    @property
    def is_tested(self) -> bool:
        """Whether the tests run a small model of its family."""
        return self.family.is_tested

    @property
    def folders(self) -> list[Path]:
        """Where its weights lie."""
        return [self.folder]

    @property
    def projected_tokens(self) -> int:
        """Tokens of a sample that go through the trained projector: its feature."""
        return 1

    def check(self) -> None:
        """Refuse a folder without weights; their names are checked when they are loaded.

        Raises
        ------
        EegToolError
            If there are none.
        """
        weights_files(self.folder)

    def template(self, version: str) -> str:
        """Return `CHAT`: the family's own template, whatever is asked for."""
        return CHAT

    def processor(self, *, fusion: str, version: str, side: int) -> FamilyProcessor:
        """Load the processor, without loading weights.

        Parameters
        ----------
        fusion : str
            Name of the fusion.
        version : str
            `CHAT`.
        side : int
            Side of the pictures in pixels (see `FamilyProcessor`).

        Raises
        ------
        EegToolError
            If it cannot be read, is that of another model, or cannot write what the fusion needs.
        """
        try:
            with quiet():
                hub = AutoProcessor.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError) as error:
            raise not_loadable(self.folder, error) from error
        image_token_id = self.config.image_token_id
        # Without an image processor, a tokenizer comes back alone.
        if image_token_id not in getattr(hub, "image_token_ids", ()):
            raise EegToolError(
                f"The processor in {self.folder} is not that of its {self.name} model: its image "
                f"token is not {image_token_id}.",
                "Take the processor files from the folder the model was downloaded with.",
            )
        processor = FamilyProcessor(hub, self.family, fusion, side, image_token_id)
        processor.encode_prompt("?", 2)
        return processor

    def load(
        self,
        *,
        image_token_id: int,
        fusion: str,
        dtype: torch.dtype,
        attention: str = "auto",
        bits: int = 16,
        device: torch.device | None = None,
    ) -> FusedModel:
        """Load the model with the projector of the features in it, at its start.

        For the fusion ``none`` there is no projector. See `eegtool.model.checkpoints.load_base`.
        """
        packing = quantization(bits, dtype)
        if packing is not None:
            packing.llm_int8_skip_modules = outside_decoder(self.empty(fusion))
        try:
            with quiet():
                model, info = fused_class(self.network, self.family, fusion).from_pretrained(
                    self.folder,
                    config=copy.deepcopy(self.config),
                    dtype=dtype,
                    attn_implementation=_attention(self, attention, dtype, device),
                    quantization_config=packing,
                    device_map=placement(device),
                    local_files_only=True,
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise not_loadable(self.folder, error) from error
        check_keys(self.folder, info["missing_keys"], info["unexpected_keys"])
        model.generation_config = GenerationConfig()  # the base's habits of sampling are not ours
        return model

    def empty(self, fusion: str) -> FusedModel:
        """Return the model without weights: to count parameters and to find modules by."""
        with torch.device("meta"), set_zero3_state():  # says that sharding is taken care of
            return fused_class(self.network, self.family, fusion)(copy.deepcopy(self.config))


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
        raise not_loadable(folder, error) from error
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


def _attention(
    base: FamilyBase, attention: str, dtype: torch.dtype, device: torch.device | None
) -> str:
    """Choose the attention; FlashAttention only where all of the family's model has it."""
    chosen = choose_attention(attention, dtype, device)
    has_flash = all(getattr(kind, "_supports_flash_attn", True) for kind in _classes(base.config))
    if chosen == "flash_attention_2" and not has_flash:
        if attention == "auto":
            return "sdpa"
        raise EegToolError(
            f"A '{base.family.name}' model cannot use FlashAttention.", "Leave out --attention."
        )
    return chosen
