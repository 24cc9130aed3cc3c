"""LLaVA-1.5 on disk, in Hugging Face's layout and in that of its authors: found, checked and loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, GenerationConfig, LlavaConfig
from transformers.modeling_utils import set_zero3_state

from eegtool.core.errors import EegToolError
from eegtool.core.forms import IMAGE_TOKEN
from eegtool.core.registry import check_name
from eegtool.core.workspace import read_json
from eegtool.model import llava_layout
from eegtool.model.eegvlm import EEGVLM, FUSIONS, patches
from eegtool.model.loading import (
    check_keys,
    choose_attention,
    not_loadable,
    placement,
    quantization,
    quiet,
)
from eegtool.model.processor import TEMPLATES, PixelSpec, Processor
from eegtool.model.weights import open_weights, renamed

# Weight names of LLaVA checkpoints on the hub, and those of earlier versions of transformers →
# names in transformers 5.
_HUB_NAMES: Final = {
    r"^language_model\.lm_head": "lm_head",
    r"^language_model\.model": "model.language_model",
    r"^(model\.)?vision_tower\.(vision_model\.)?": "model.vision_tower.",
    r"^multi_modal_projector": "model.multi_modal_projector",
}

# Of a high-level feature, which goes through the projector of the picture features.
_WIDTH: Final = 1024

_PROJECTOR: Final = "model.multi_modal_projector."


@dataclass(frozen=True, slots=True)
class LlavaBase:
    """A LLaVA-1.5 on disk; no weights are read.

    Attributes
    ----------
    folder : Path
        Of the language model and the projector; in Hugging Face's layout of everything.
    vision_tower : Path or None
        Folder of the vision tower: original layout only.
    """

    folder: Path
    vision_tower: Path | None = None
    name: ClassVar[str] = "llava"
    is_tested: ClassVar[bool] = True

    @property
    def folders(self) -> list[Path]:
        """Where its weights lie."""
        return [self.folder, *([self.vision_tower] if self.vision_tower else [])]

    @property
    def config(self) -> LlavaConfig:
        """Its configuration, of either layout.

        Raises
        ------
        EegToolError
            If it cannot be read, or is not made like LLaVA-1.5's.
        """
        try:
            if self.vision_tower:
                return llava_layout.config_of(self.folder, self.vision_tower)
            return LlavaConfig.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError, TypeError, StrictDataclassError) as error:
            raise not_loadable(self.folder, error) from error

    def check(self) -> None:
        """Refuse weights that are not, by name and shape, those of the configuration.

        Raises
        ------
        EegToolError
            If a tensor is missing, left over or of another shape.
        """
        _fitting_weights(self)

    @property
    def projected_tokens(self) -> int:
        """Tokens of a sample that go through the trained projector."""
        return patches(self.config)

    def template(self, version: str) -> str:
        """Return the name of a conversation template, if there is one of that name.

        Raises
        ------
        EegToolError
            If there is none.
        """
        check_name("conversation template", version, TEMPLATES)
        return version

    def processor(self, *, fusion: str, version: str, side: int) -> Processor:
        """Load the processor, without loading weights; pictures are as large as the tower takes them.

        Raises
        ------
        EegToolError
            If the model's shape is not LLaVA-1.5's, the tower's width is not that of the features, or the
            tokenizer has no ``<image>``.
        """
        config = self.config
        if (config.vision_feature_layer, config.vision_feature_select_strategy) != (-2, "default"):
            raise EegToolError(
                f"{self.folder} takes its picture features from layer {config.vision_feature_layer} by "
                f"'{config.vision_feature_select_strategy}'; LLaVA-1.5 takes them from -2 by 'default'.",
                "Use a LLaVA-1.5, such as llava-hf/llava-1.5-13b-hf.",
            )
        width = config.vision_config.hidden_size
        if width != _WIDTH and FUSIONS[fusion].needs_features:
            raise EegToolError(
                f"The vision tower of {self.folder} is {width} wide; high-level features are {_WIDTH} "
                "wide and share its projector.",
                "Use a CLIP ViT-L tower, as LLaVA-1.5 has, or --fusion none.",
            )
        return Processor(
            _read_tokenizer(self),
            TEMPLATES[version],
            _read_pixel_spec(self.vision_tower or self.folder, config.vision_config.image_size),
            FUSIONS[fusion].lengths(patches(config)),
        )

    def load(
        self,
        *,
        image_token_id: int,
        fusion: str,
        dtype: torch.dtype,
        attention: str,
        bits: int,
        device: torch.device | None,
    ) -> EEGVLM:
        """Load the model (see `eegtool.model.checkpoints.load_base`)."""
        config = self.config
        config.image_token_id = image_token_id  # the original layout does not say it
        options = {
            "attn_implementation": choose_attention(attention, dtype, device),
            "quantization_config": quantization(bits, dtype),
            "device_map": placement(device),
        }
        try:
            with quiet():
                # Its tensors are given to it, not its folder: transformers knows the names of one layout
                # only, and under ZeRO-3 reports neither weights that are left over nor other shapes.
                model, info = EEGVLM.from_pretrained(
                    None,
                    config=config,
                    state_dict=_fitting_weights(self),
                    dtype=dtype,
                    output_loading_info=True,
                    **options,
                )
        except (OSError, ValueError, ImportError) as error:
            raise not_loadable(self.folder, error) from error
        check_keys(self.folder, info["missing_keys"], info["unexpected_keys"])
        model.fusion = fusion
        model.generation_config = GenerationConfig()  # the base's habits of sampling are not ours
        return model

    def empty(self, fusion: str = "add") -> EEGVLM:
        """Return the model without weights: to count parameters by."""
        with torch.device("meta"), set_zero3_state():  # says that sharding is taken care of
            return EEGVLM(self.config)


def _read_tokenizer(base: LlavaBase) -> Any:
    """Read the tokenizer, with ``<image>`` as a token and some token to pad with."""
    folder, config, original = base.folder, base.config, base.vision_tower is not None
    try:
        if original:
            tokenizer = llava_layout.tokenizer_of(folder)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, legacy=True)
            tokenizer.init_kwargs["legacy"] = True  # see `llava_layout.tokenizer_of`
    except (OSError, ValueError) as error:
        raise not_loadable(folder, error) from error
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if original and len(tokenizer) - 1 > config.text_config.vocab_size:
        raise EegToolError(
            f"The tokenizer of {folder} has {len(tokenizer) - 1} tokens; the model has embeddings for "
            f"{config.text_config.vocab_size}.",
            "Take the tokenizer files from the folder the model was downloaded with.",
        )
    if not original and (not tokenizer.is_fast or image_id != config.image_token_id):
        raise EegToolError(
            f"The tokenizer of {folder} is not a fast one with {IMAGE_TOKEN} as token "
            f"{config.image_token_id}.",
            "Take the tokenizer files from the folder the model was downloaded with.",
        )
    if tokenizer.pad_token_id is None:  # padding is masked: any token will do
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _fitting_weights(base: LlavaBase) -> dict[str, torch.Tensor]:
    """Return the tensors of a base model, mapped from its files, if they are those of its configuration.

    Raises
    ------
    EegToolError
        If a tensor is missing, left over or of another shape.
    """
    if base.vision_tower:
        weights = llava_layout.weights_of(base.folder, base.vision_tower)
    else:
        weights = renamed(open_weights(base.folder), _HUB_NAMES)
    expected = base.empty().state_dict()
    if base.config.tie_word_embeddings:
        del expected["lm_head.weight"]
        weights.pop("lm_head.weight", None)
    if not any(name.startswith(_PROJECTOR) for name in weights):
        raise EegToolError(
            f"{base.folder} has no projector: its weights are those of a language model alone.",
            "Use a LLaVA-1.5, such as llava-hf/llava-1.5-13b-hf.",
        )
    check_keys(base.folder, expected.keys() - weights.keys(), weights.keys() - expected.keys())
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise EegToolError(
                f"{base.folder} does not fit its configuration: {name} is {list(tensor.shape)} and "
                f"should be {list(expected[name].shape)}.",
                "Its files must be those of one model: download it again.",
            )
    return weights


def _read_pixel_spec(folder: Path, size: int) -> PixelSpec:
    """Read the tower's pixel statistics from ``preprocessor_config.json``, or as today's transformers writes them."""
    path, whole = folder / "preprocessor_config.json", folder / "processor_config.json"
    in_one = whole.exists() and not path.exists()
    path = whole if in_one else path
    try:
        raw = read_json(path)["image_processor"] if in_one else read_json(path)
        return PixelSpec(size, tuple(raw["image_mean"]), tuple(raw["image_std"]))
    except (KeyError, TypeError) as error:
        raise EegToolError(
            f"{path} has no image_mean and image_std of three numbers each.",
            "Download the model again.",
        ) from error
