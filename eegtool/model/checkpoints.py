"""Base models on disk: find, check, load."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, BitsAndBytesConfig, GenerationConfig, LlavaConfig
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.modeling_utils import set_zero3_state
from transformers.utils import logging as transformers_logging

from eegtool.core.errors import EegToolError, brief
from eegtool.core.forms import IMAGE_TOKEN
from eegtool.core.registry import check_name, closest
from eegtool.core.workspace import read_json
from eegtool.model import llava_layout, tiny
from eegtool.model.eegvlm import EEGVLM, FUSIONS, patches
from eegtool.model.hub import model_folder
from eegtool.model.processor import TEMPLATES, PixelSpec, Processor
from eegtool.model.weights import open_weights, renamed, sampled_sha256, weights_files

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

_WHERE_FROM: Final = ("transformers_version", "_name_or_path", "mm_vision_tower")
"""What of a configuration says where a model lay and what wrote it, not what it is."""

_PROJECTOR: Final = "model.multi_modal_projector."

KNOWN_BASES: Final = {"tiny": tiny.folder}
ATTENTIONS: Final = ("auto", "sdpa", "flash_attention_2", "eager")
BITS: Final = (16, 4)


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on disk."""

    folder: Path
    """Of the language model and the projector; in Hugging Face's layout of everything."""
    vision_tower: Path | None = None
    """Folder of the vision tower: original LLaVA layout only."""
    layout: str = "hf"
    """``hf`` (Hugging Face's) or ``llava`` (the original one)."""


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
        If there is no such model, it is no LLaVA-1.5, a file is missing or damaged, or its weights
        are not, by name and shape, those of its configuration.
    """
    known = KNOWN_BASES.get(name_or_path)
    folder = known() if known else model_folder(name_or_path)
    if folder is None:
        listed = ", ".join(f"'{k}'" for k in KNOWN_BASES)
        raise EegToolError(
            f"The base model '{name_or_path}' is neither a folder nor a known name.",
            f"Known: {listed}.{closest(name_or_path, KNOWN_BASES)} A LLaVA-1.5 is given as the "
            "folder it was downloaded to.",
        )
    if not (folder / "config.json").is_file():
        raise EegToolError(
            f"The folder {folder} holds no model: it has no config.json.",
            "Give the folder of a LLaVA-1.5.",
        )
    config = read_json(folder / "config.json")
    parts = (config, config.get("text_config") or {})
    if packing := next(filter(None, (part.get("quantization_config") for part in parts)), None):
        raise EegToolError(
            f"{folder} is quantised ({packing.get('quant_method', 'of an unknown kind')}): packed weights "
            "cannot be fused with and trained here.",
            "Give the model as it was before; `finetune --bits 4` packs it while it is loaded.",
        )
    if llava_layout.is_original(config):
        base = Base(folder, llava_layout.find_tower(folder, vision_tower), "llava")
    elif config.get("model_type") == "llava":
        base = Base(folder)
    else:
        raise EegToolError(
            f"{folder / 'config.json'} describes a '{config.get('model_type')}' model, not a 'llava' "
            "model.",
            "Use a LLaVA-1.5, such as llava-hf/llava-1.5-13b-hf: a language model alone has no "
            "projector.",
        )
    _fitting_weights(base, llava_config(base))
    return base


def llava_config(base: Base) -> LlavaConfig:
    """Return the configuration of a base model of either layout; no weights are read.

    Raises
    ------
    EegToolError
        If it cannot be read, or is not made like LLaVA-1.5's.
    """
    try:
        if base.vision_tower:
            return llava_layout.config_of(base.folder, base.vision_tower)
        return LlavaConfig.from_pretrained(base.folder, local_files_only=True)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise _not_loadable(base.folder, error) from error


def base_sha256(base: Base | Path) -> str:
    """Hash what identifies a base model: its configuration and its weights, by samples.

    Neither the place it lies in nor the library that wrote it is part of it.
    """
    base = _as_base(base)
    folders = [base.folder, *([base.vision_tower] if base.vision_tower else [])]
    identity = []
    for folder in folders:
        config = read_json(folder / "config.json")
        kept = {k: v for k, v in config.items() if k not in _WHERE_FROM}
        identity.append([kept, {f.name: sampled_sha256(f) for f in weights_files(folder)}])
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _as_base(base: Base | Path) -> Base:
    return base if isinstance(base, Base) else find_base(str(base))


def best_dtype(device: torch.device | None = None) -> torch.dtype:
    """Return the precision to work in: float32 on a CPU, else bfloat16, on old GPUs float16.

    Without a device: that of the GPU, where there is one.
    """
    if not _on_gpu(device):
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def load_processor(base: Base | Path, *, fusion: str, version: str) -> Processor:
    """Load the processor that fits a base model, without loading its weights.

    Raises
    ------
    EegToolError
        If the base model's shape is not LLaVA-1.5's, the tower's width is not that of the features,
        or the tokenizer has no ``<image>``.
    """
    base = _as_base(base)
    check_name("fusion", fusion, FUSIONS)
    check_name("conversation template", version, TEMPLATES)
    config = llava_config(base)
    if (config.vision_feature_layer, config.vision_feature_select_strategy) != (-2, "default"):
        raise EegToolError(
            f"{base.folder} takes its picture features from layer {config.vision_feature_layer} by "
            f"'{config.vision_feature_select_strategy}'; LLaVA-1.5 takes them from -2 by 'default'.",
            "Use a LLaVA-1.5, such as llava-hf/llava-1.5-13b-hf.",
        )
    width = config.vision_config.hidden_size
    if width != _WIDTH and FUSIONS[fusion].needs_features:
        raise EegToolError(
            f"The vision tower of {base.folder} is {width} wide; high-level features are {_WIDTH} "
            "wide and share its projector.",
            "Use a CLIP ViT-L tower, as LLaVA-1.5 has, or --fusion none.",
        )
    return Processor(
        _read_tokenizer(base, config),
        TEMPLATES[version],
        _read_pixel_spec(base.vision_tower or base.folder, config.vision_config.image_size),
        FUSIONS[fusion].lengths(patches(config)),
    )


def _read_tokenizer(base: Base, config: LlavaConfig) -> Any:
    """Read the tokenizer, with ``<image>`` as a token and some token to pad with."""
    folder = base.folder
    try:
        if base.layout == "llava":
            tokenizer = llava_layout.tokenizer_of(folder)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, legacy=True)
            tokenizer.init_kwargs["legacy"] = True  # see `llava_layout.tokenizer_of`
    except (OSError, ValueError) as error:
        raise _not_loadable(folder, error) from error
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if base.layout == "llava" and len(tokenizer) - 1 > config.text_config.vocab_size:
        raise EegToolError(
            f"The tokenizer of {folder} has {len(tokenizer) - 1} tokens; the model has embeddings for "
            f"{config.text_config.vocab_size}.",
            "Take the tokenizer files from the folder the model was downloaded with.",
        )
    if base.layout != "llava" and (not tokenizer.is_fast or image_id != config.image_token_id):
        raise EegToolError(
            f"The tokenizer of {folder} is not a fast one with {IMAGE_TOKEN} as token "
            f"{config.image_token_id}.",
            "Take the tokenizer files from the folder the model was downloaded with.",
        )
    if tokenizer.pad_token_id is None:  # padding is masked: any token will do
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    base: Base | Path,
    *,
    fusion: str,
    version: str,
    dtype: torch.dtype,
    attention: str = "auto",
    bits: int = 16,
    device: torch.device | None = None,
) -> tuple[EEGVLM, Processor]:
    """Load a base model and the processor that fits it.

    Parameters
    ----------
    base : Base or Path
        From `find_base`; a bare folder is looked up.
    fusion, version : str
        Names of the fusion and of the conversation template.
    dtype : torch.dtype
        Precision of the weights.
    attention : str
        One of `ATTENTIONS`; ``auto`` is FlashAttention where it is installed, else PyTorch's own.
    bits : int
        4 packs the language model, not its head, into NF4 (QLoRA, Dettmers et al. 2023).
    device : torch.device, optional
        Where each weight goes as it is read, instead of through the memory of the host. ZeRO-3 places
        weights itself, and takes no notice.

    Raises
    ------
    EegToolError
        If they do not fit (see `load_processor`), weights are missing or left over, or what is asked
        for is not installed.
    """
    base = _as_base(base)
    processor = load_processor(base, fusion=fusion, version=version)
    config = llava_config(base)
    config.image_token_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    options = {
        "attn_implementation": choose_attention(attention, dtype, device),
        "quantization_config": quantization(bits, dtype),
        "device_map": None if device is None or is_deepspeed_zero3_enabled() else {"": device},
    }
    try:
        with quiet():
            # Its tensors are given to it, not its folder: transformers knows the names of one layout
            # only, and under ZeRO-3 reports neither weights that are left over nor other shapes.
            model, info = EEGVLM.from_pretrained(
                None,
                config=config,
                state_dict=_fitting_weights(base, config),
                dtype=dtype,
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, ImportError) as error:
        raise _not_loadable(base.folder, error) from error
    check_keys(base.folder, info["missing_keys"], info["unexpected_keys"])
    model.fusion = fusion
    model.generation_config = GenerationConfig()  # the base's habits of sampling are not ours
    return model, processor


def choose_attention(attention: str, dtype: torch.dtype, device: torch.device | None = None) -> str:
    """Return transformers' name of the attention to use; without a device on the GPU, where there is one.

    Raises
    ------
    EegToolError
        If it is unknown, or FlashAttention is asked for and cannot work here.
    """
    check_name("--attention", attention, ATTENTIONS)
    half = dtype in (torch.float16, torch.bfloat16)
    usable = _on_gpu(device) and half and find_spec("flash_attn") is not None
    if attention == "auto":
        return "flash_attention_2" if usable else "sdpa"
    if attention == "flash_attention_2" and not usable:
        raise EegToolError(
            "--attention flash_attention_2 needs a GPU, a precision of 16 bits and the package "
            "flash-attn.",
            "pip install flash-attn, or leave out --attention.",
        )
    return attention


def _on_gpu(device: torch.device | None) -> bool:
    return torch.cuda.is_available() if device is None else device.type == "cuda"


def quantization(bits: int, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return how to pack the language model; None for 16 bits, which stay as they are.

    Raises
    ------
    EegToolError
        If the number is another one, the package is missing, or ZeRO-3 is to shard the model: packed
        weights have no shards.
    """
    check_name("--bits", str(bits), map(str, BITS))
    if bits == 16:
        return None
    if find_spec("bitsandbytes") is None:
        raise EegToolError("--bits 4 needs bitsandbytes.", "pip install 'eegvlm[quant]'")
    if is_deepspeed_zero3_enabled():
        raise EegToolError(
            "--bits 4 and ZeRO-3 exclude each other: packed weights cannot be sharded.",
            "Use --deepspeed zero2.",
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "model.multi_modal_projector", "model.vision_tower"],
    )


def _fitting_weights(base: Base, config: LlavaConfig) -> dict[str, torch.Tensor]:
    """Return the tensors of a base model, mapped from its files, if they are those of `config`.

    Raises
    ------
    EegToolError
        If a tensor is missing, left over or of another shape.
    """
    if base.vision_tower:
        weights = llava_layout.weights_of(base.folder, base.vision_tower)
    else:
        weights = renamed(open_weights(base.folder), _HUB_NAMES)
    with torch.device("meta"), set_zero3_state():  # says that sharding is taken care of
        expected = EEGVLM(config).state_dict()
    if config.tie_word_embeddings:
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


def _not_loadable(folder: Path, error: Exception) -> EegToolError:
    return EegToolError(
        f"The base model in {folder} cannot be loaded: {brief(error)}",
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
