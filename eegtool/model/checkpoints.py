"""Base models on disk: find, check, load."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, GenerationConfig, LlavaConfig
from transformers.utils import logging as transformers_logging

from eegtool.core.errors import EegToolError
from eegtool.core.records import IMAGE_TOKEN
from eegtool.core.registry import check_name, closest
from eegtool.core.workspace import read_json
from eegtool.model import tiny
from eegtool.model.eegvlm import EEGVLM, FUSIONS, patches
from eegtool.model.processor import TEMPLATES, PixelSpec, Processor

# Weight names of LLaVA checkpoints on the hub → names in transformers 5. transformers maps them for
# its own classes only, not for a class that extends them.
_HUB_NAMES: Final = {
    r"^language_model\.lm_head": "lm_head",
    r"^language_model\.model": "model.language_model",
    r"^vision_tower": "model.vision_tower",
    r"^multi_modal_projector": "model.multi_modal_projector",
}

# Of a high-level feature, which goes through the projector of the picture features.
_WIDTH: Final = 1024

KNOWN_BASES: Final = {"tiny": tiny.folder}


def resolve_base(name_or_path: str) -> Path:
    """Return the folder of a base model.

    Raises
    ------
    EegToolError
        If it is neither a known name nor a folder with a LLaVA in Hugging Face's layout.
    """
    if name_or_path in KNOWN_BASES:
        return KNOWN_BASES[name_or_path]()
    path = Path(name_or_path)
    if not path.is_dir():
        known = ", ".join(f"'{k}'" for k in KNOWN_BASES)
        raise EegToolError(
            f"The base model '{name_or_path}' is neither a folder nor a known name.",
            f"Known: {known}.{closest(name_or_path, KNOWN_BASES)} A LLaVA-1.5 is given as the "
            "folder it was downloaded to.",
        )
    if not (path / "config.json").is_file():
        raise EegToolError(
            f"The folder {path} holds no model: it has no config.json.",
            "Give the folder of a LLaVA-1.5 in Hugging Face's layout.",
        )
    model_type = read_json(path / "config.json").get("model_type")
    if model_type != "llava":
        raise EegToolError(
            f"{path / 'config.json'} describes a '{model_type}' model, not a 'llava' model.",
            "Use a LLaVA-1.5 in Hugging Face's layout, such as llava-hf/llava-1.5-13b-hf.",
        )
    return path


def base_sha256(folder: Path) -> str:
    """Hash what identifies a base model: its configuration, less the library version that wrote it."""
    config = read_json(folder / "config.json")
    config.pop("transformers_version", None)
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def best_dtype() -> torch.dtype:
    """Return the precision to work in here: float32 on a CPU, else bfloat16, on old GPUs float16."""
    if not torch.cuda.is_available():
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def load_processor(folder: Path, *, fusion: str, version: str) -> Processor:
    """Load the processor that fits a base model, without loading its weights.

    Raises
    ------
    EegToolError
        If the base model's shape is not LLaVA-1.5's, the tower's width is not that of the features,
        or the tokenizer has no ``<image>``.
    """
    check_name("fusion", fusion, FUSIONS)
    check_name("conversation template", version, TEMPLATES)
    try:
        config = LlavaConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _not_loadable(folder, error) from error
    if (config.vision_feature_layer, config.vision_feature_select_strategy) != (-2, "default"):
        raise EegToolError(
            f"{folder} takes its picture features from layer {config.vision_feature_layer} by "
            f"'{config.vision_feature_select_strategy}'; LLaVA-1.5 takes them from -2 by 'default'.",
            "Use a LLaVA-1.5, such as llava-hf/llava-1.5-13b-hf.",
        )
    width = config.vision_config.hidden_size
    if width != _WIDTH and FUSIONS[fusion].needs_features:
        raise EegToolError(
            f"The vision tower of {folder} is {width} wide; high-level features are {_WIDTH} "
            "wide and share its projector.",
            "Use a CLIP ViT-L tower, as LLaVA-1.5 has, or --fusion none.",
        )
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if not tokenizer.is_fast or image_id != config.image_token_id:
        raise EegToolError(
            f"The tokenizer of {folder} is not a fast one with {IMAGE_TOKEN} as token "
            f"{config.image_token_id}.",
            "Take the tokenizer files from the folder the model was downloaded with.",
        )
    if tokenizer.pad_token_id is None:  # padding is masked: any token will do
        tokenizer.pad_token = tokenizer.eos_token
    return Processor(
        tokenizer,
        TEMPLATES[version],
        _read_pixel_spec(folder, config.vision_config.image_size),
        FUSIONS[fusion].lengths(patches(config)),
    )


def load_base(
    folder: Path, *, fusion: str, version: str, dtype: torch.dtype
) -> tuple[EEGVLM, Processor]:
    """Load a base model and the processor that fits it.

    Raises
    ------
    EegToolError
        If they do not fit (see `load_processor`), or weights are missing or left over.
    """
    processor = load_processor(folder, fusion=fusion, version=version)
    try:
        with quiet():
            model, info = EEGVLM.from_pretrained(
                folder,
                dtype=dtype,
                key_mapping=_HUB_NAMES,
                output_loading_info=True,
                local_files_only=True,
            )
    except (OSError, SafetensorError) as error:
        raise _not_loadable(folder, error) from error
    check_keys(folder, info["missing_keys"], info["unexpected_keys"])
    model.fusion = fusion
    model.generation_config = GenerationConfig()  # the base's habits of sampling are not ours
    return model, processor


def _read_pixel_spec(folder: Path, size: int) -> PixelSpec:
    """Read the tower's pixel statistics from ``preprocessor_config.json``."""
    path = folder / "preprocessor_config.json"
    raw = read_json(path)
    try:
        return PixelSpec(size, tuple(raw["image_mean"]), tuple(raw["image_std"]))
    except KeyError as error:
        raise EegToolError(f"{path} has no {error}.", "Download the model again.") from error


def _not_loadable(folder: Path, error: Exception) -> EegToolError:
    return EegToolError(
        f"The base model in {folder} cannot be loaded: {str(error).splitlines()[0]}",
        "Its folder must be whole: config, weights, tokenizer and preprocessor as downloaded.",
    )


def check_keys(where: Path, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Refuse weights of which any is missing or left over: they would run as another model."""
    missing, unexpected = sorted(missing), sorted(unexpected)
    if missing or unexpected:
        raise EegToolError(
            f"{where} does not fit the model: {len(missing)} weights missing {missing[:2]}, "
            f"{len(unexpected)} unexpected {unexpected[:2]}.",
            "It was made for another model, or with another version of transformers or peft.",
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep off the terminal what the libraries say there and no user could act on."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # "Loading weights", once per rank
    try:
        with warnings.catch_warnings():
            # peft asks transformers by a name that transformers 5.2x deprecates.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
