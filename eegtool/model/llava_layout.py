"""LLaVA-1.5 as its authors published it: a LLaMA with ``mm_`` keys, and its vision tower elsewhere.

A folder such as ``LLaVA-v1.5-13b`` holds the language model and the projector; CLIP lies in a folder
of its own. Here both become what Hugging Face's layout has in one.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AddedToken, CLIPVisionConfig, LlamaConfig, LlamaTokenizer, LlavaConfig

from eegtool.core.errors import EegToolError
from eegtool.core.forms import IMAGE_TOKEN
from eegtool.core.workspace import read_json
from eegtool.model.hub import model_folder
from eegtool.model.weights import open_weights, renamed

_ARCHITECTURE: Final = "LlavaLlamaForCausalLM"

_TEXT: Final = (
    *("vocab_size", "hidden_size", "intermediate_size", "hidden_act", "max_position_embeddings"),
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "attention_bias"),
    *("initializer_range", "rms_norm_eps", "rope_theta", "rope_scaling", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
"""What of the configuration describes the LLaMA."""

_OWN_NAMES: Final = {
    r"^model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    # Saved along where the tower was trained too.
    r"^model\.vision_tower\.vision_tower\.(vision_model\.)?": "model.vision_tower.",
    r"^model\.": "model.language_model.",
}
_TOWER_NAMES: Final = {
    r"^(vision_model\.)?(?=(embeddings|pre_layrnorm|encoder|post_layernorm)\.)": "model.vision_tower."
}


def is_original(config: dict[str, Any]) -> bool:
    """Say whether a configuration is one of the original layout."""
    return "text_config" not in config and any(name.startswith("mm_") for name in config)


def find_tower(folder: Path, vision_tower: str) -> Path:
    """Return the folder of the vision tower: the one asked for, else the one the model names.

    Raises
    ------
    EegToolError
        If it is not there, or is no CLIP.
    """
    name = vision_tower or str(read_json(folder / "config.json").get("mm_vision_tower") or "")
    advice = "Give the folder of its CLIP, or its name on the hub, with --vision-tower."
    tower = model_folder(name) if name else None
    if tower is None:
        raise EegToolError(f"The vision tower '{name}' of {folder} is not there.", advice)
    if not (tower / "config.json").is_file():
        raise EegToolError(f"The folder {tower} holds no vision tower: no config.json.", advice)
    kind = read_json(tower / "config.json").get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise EegToolError(f"{tower / 'config.json'} describes a '{kind}' model, no CLIP.", advice)
    return tower


def config_of(folder: Path, tower: Path) -> LlavaConfig:
    """Return the configuration that both folders have together.

    Raises
    ------
    EegToolError
        If the model is not made like LLaVA-1.5, or tower and projector do not fit each other.
    """
    raw = read_json(folder / "config.json")
    _check_made_like_llava(folder, raw)
    vision = CLIPVisionConfig.from_pretrained(tower, local_files_only=True)
    if vision.hidden_size != raw["mm_hidden_size"]:
        raise EegToolError(
            f"The vision tower in {tower} is {vision.hidden_size} wide; the projector of {folder} was "
            f"made for one that is {raw['mm_hidden_size']} wide.",
            "Give the tower it was trained with (openai/clip-vit-large-patch14-336 for LLaVA-1.5) "
            "with --vision-tower.",
        )
    text = LlamaConfig(**{name: raw[name] for name in _TEXT if raw.get(name) is not None})
    return LlavaConfig(
        architectures=["LlavaForConditionalGeneration"],
        text_config=text,
        vision_config=vision,
        image_token_index=text.vocab_size,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        projector_hidden_act="gelu",
        vision_feature_layer=raw["mm_vision_select_layer"],
        vision_feature_select_strategy={"patch": "default", "cls_patch": "full"}[
            raw.get("mm_vision_select_feature", "patch")
        ],
    )


def _check_made_like_llava(folder: Path, raw: dict[str, Any]) -> None:
    """Refuse models of which this layout's names do not say everything."""
    expected: dict[str, tuple[Any, ...]] = {
        "architectures": ([_ARCHITECTURE],),
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_use_im_start_end": (False, None),
        "mm_use_im_patch_token": (False, None),
        "mm_vision_select_feature": ("patch", "cls_patch", None),
    }
    for name, allowed in expected.items():
        if raw.get(name) not in allowed:
            raise EegToolError(
                f"{folder / 'config.json'} says {name} {raw.get(name)}; LLaVA-1.5 has {allowed[0]}.",
                "Use a LLaVA-1.5, such as liuhaotian/llava-v1.5-13b.",
            )
    lost = [n for n in ("mm_hidden_size", "mm_vision_select_layer", "vocab_size") if n not in raw]
    if lost:
        raise EegToolError(f"{folder / 'config.json'} has no {lost[0]}.", "Download it again.")


def weights_of(folder: Path, tower: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of both folders by their names in transformers' LLaVA (see `open_weights`)."""
    clip = renamed(open_weights(tower), _TOWER_NAMES)
    vision = {k: v for k, v in clip.items() if k.startswith("model.vision_tower.")}
    return vision | renamed(open_weights(folder), _OWN_NAMES)


def tokenizer_of(folder: Path) -> LlamaTokenizer:
    """Return the tokenizer with ``<image>`` as one more token, for which there is no embedding.

    LLaVA cuts a text at each ``<image>`` and tokenises the pieces one by one, each with a blank
    before it. That is how it was trained, so here it is done too: transformers calls it ``legacy``.

    Raises
    ------
    EegToolError
        If a package to read it is missing.
    """
    lacking = [name for name in ("sentencepiece", "google.protobuf") if not _installed(name)]
    if lacking and not (folder / "tokenizer.json").is_file():
        raise EegToolError(
            f"To read {folder / 'tokenizer.model'}, {lacking[0]} is needed.",
            "pip install sentencepiece protobuf",
        )
    tokenizer = LlamaTokenizer.from_pretrained(
        folder, local_files_only=True, legacy=True, add_bos_token=True
    )
    tokenizer.init_kwargs["legacy"] = True  # or it would be another one after saving
    token = AddedToken(IMAGE_TOKEN, special=True, normalized=False)
    tokenizer.add_tokens([token], special_tokens=True)
    return tokenizer


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
