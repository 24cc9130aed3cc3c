"""Base models and adapters on disk: find, load, save, verify."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from eegtool.core.errors import EegToolError
from eegtool.core.registry import check_name, closest
from eegtool.core.workspace import read_json, sha256_of, write_json
from eegtool.model import tiny
from eegtool.model.eegvlm import EEGVLM, FUSIONS
from eegtool.model.processor import TEMPLATES, PixelSpec, Processor

_PROJECTOR: Final = "model.multi_modal_projector."
_CARD: Final = "eegvlm.json"
_ADAPTER: Final = "adapter_model.safetensors"
_PROJECTOR_FILE: Final = "projector.safetensors"
"""The file is written last of all: an adapter folder that has it is whole."""

# Weight names of LLaVA checkpoints on the hub → names in transformers 5. transformers maps them for
# its own classes only, not for a class that extends them.
_HUB_NAMES: Final = {
    r"^language_model\.lm_head": "lm_head",
    r"^language_model\.model": "model.language_model",
    r"^vision_tower": "model.vision_tower",
    r"^multi_modal_projector": "model.multi_modal_projector",
}

KNOWN_BASES: Final = {"tiny": tiny.folder}


@dataclass(frozen=True, slots=True)
class Contract:
    """What an adapter was trained with and must be asked with (``eegvlm.json`` of its folder)."""

    base: str
    """Name or path of the base model."""
    base_sha256: str
    """Hash of the base model's configuration."""
    fusion: str
    version: str
    """Name of the conversation template."""
    pixel_spec: PixelSpec
    features_weights_sha256: str
    """Weights of the vision module that made the features; empty where not known."""
    features: str
    """Source of the features in training: real, shuffled or zero."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """How epochs and pictures were made (channel, filter, style, size, ...), as prepare stamped it."""


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


def load_base(
    folder: Path, *, fusion: str, version: str, dtype: torch.dtype
) -> tuple[EEGVLM, Processor]:
    """Load a base model and the processor that fits it.

    Raises
    ------
    EegToolError
        If weights are missing or left over, the tower's width is not that of the features, or the
        tokenizer has no ``<image>``.
    """
    check_name("fusion", fusion, FUSIONS)
    check_name("conversation template", version, TEMPLATES)
    model, info = EEGVLM.from_pretrained(
        folder,
        dtype=dtype,
        key_mapping=_HUB_NAMES,
        output_loading_info=True,
        local_files_only=True,
    )
    _check_keys(folder, info["missing_keys"], info["unexpected_keys"])
    width = model.config.vision_config.hidden_size
    if width != 1024 and FUSIONS[fusion].needs_features:
        raise EegToolError(
            f"The vision tower of {folder} is {width} wide; high-level features are 1024 wide and "
            "share its projector.",
            "Use a CLIP ViT-L tower, as LLaVA-1.5 has, or --fusion none.",
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.convert_tokens_to_ids("<image>") != model.config.image_token_id:
        raise EegToolError(f"The tokenizer of {folder} has no '<image>' token of the model's id.")
    model.fusion = fusion
    processor = Processor(
        tokenizer,
        TEMPLATES[version],
        read_pixel_spec(folder, model.config.vision_config.image_size),
        FUSIONS[fusion].lengths(model.patches),
    )
    return model, processor


def read_pixel_spec(folder: Path, size: int) -> PixelSpec:
    """Read the tower's pixel statistics from ``preprocessor_config.json``."""
    raw = read_json(folder / "preprocessor_config.json")
    return PixelSpec(size, tuple(raw["image_mean"]), tuple(raw["image_std"]))


def add_lora(model: EEGVLM, *, r: int, alpha: int, dropout: float) -> PeftModel:
    """Put LoRA on every linear layer of the language model, and open the projector for training.

    The layers are found by type below the language model; the vision tower is never touched.
    """
    language = model.model.language_model
    prefix = next(name for name, module in model.named_modules() if module is language)
    leaves = sorted(
        {n.split(".")[-1] for n, m in language.named_modules() if isinstance(m, torch.nn.Linear)}
    )
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=rf"{re.escape(prefix)}\..*\.({'|'.join(leaves)})",
    )
    peft_model = get_peft_model(model, config)
    for parameter in model.model.multi_modal_projector.parameters():
        parameter.requires_grad_(True)
    tower = {id(p) for p in model.model.vision_tower.parameters()}
    if any(id(p) in tower for p in peft_model.parameters() if p.requires_grad):
        raise RuntimeError("LoRA reached the vision tower, which must stay frozen.")
    return peft_model


def save_adapter(
    folder: Path, model: PeftModel, state: dict[str, torch.Tensor], contract: Contract
) -> None:
    """Write the adapter folder: LoRA, projector and contract, whole or not at all.

    Parameters
    ----------
    folder : Path
        Where it goes; an adapter that is there is replaced.
    model : PeftModel
        The trained model; of its weights only the configuration is read.
    state : dict of str to Tensor
        Every trained parameter by its name in `model`, gathered from all ranks.
    contract : Contract
        What it was trained with.

    Raises
    ------
    RuntimeError
        If a gathered parameter is empty or LoRA has not moved from its start.
    """
    lora = {k: v for k, v in state.items() if "lora_" in k}
    projector = {
        _PROJECTOR + k.split(_PROJECTOR)[1]: v.contiguous()
        for k, v in state.items()
        if _PROJECTOR in k
    }
    if not lora or not projector or any(v.numel() == 0 for v in state.values()):
        raise RuntimeError("Trained parameters came back empty: they were not gathered.")
    if not any(v.abs().max() > 0 for k, v in lora.items() if "lora_B" in k):
        raise RuntimeError("LoRA has not moved: nothing was learnt.")
    made = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(made, ignore_errors=True)
    model.save_pretrained(made, state_dict=lora)
    save_file(projector, made / _PROJECTOR_FILE, metadata={"format": "pt"})
    write_json(made / _CARD, asdict(contract))
    (made / "README.md").write_text(_card_text(contract), encoding="utf-8")
    if len(load_file(made / _ADAPTER)) != len(lora):
        raise RuntimeError(f"{made / _ADAPTER} does not hold the {len(lora)} LoRA tensors.")
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)


def read_contract(folder: Path) -> Contract:
    """Read what an adapter folder says about itself.

    Raises
    ------
    EegToolError
        If it is no adapter folder of `eegvlm finetune`, or not a whole one.
    """
    for name in (_CARD, _ADAPTER, "adapter_config.json", _PROJECTOR_FILE):
        if not (folder / name).is_file():
            raise EegToolError(
                f"{folder} is not an adapter folder of `eegvlm finetune`: it has no {name}.",
                "Give the folder that `eegvlm finetune` wrote (its --output-dir).",
            )
    raw = read_json(folder / _CARD)
    try:
        spec = raw.pop("pixel_spec")
        spec = PixelSpec(spec["size"], tuple(spec["mean"]), tuple(spec["std"]))
        return Contract(**raw, pixel_spec=spec)
    except (KeyError, TypeError) as error:
        raise EegToolError(f"{folder / _CARD} is not readable as a contract: {error}.") from error


def adapter_sha256(folder: Path) -> str:
    """Hash the trained weights: the identity of a model in its answers."""
    both = "".join(sha256_of(folder / name) for name in (_ADAPTER, _PROJECTOR_FILE))
    return hashlib.sha256(both.encode()).hexdigest()


def load_adapter(
    folder: Path, *, base: str | None, dtype: torch.dtype
) -> tuple[PeftModel, Processor, Contract]:
    """Load base and adapter for inference, with no weight missing and none left over.

    Raises
    ------
    EegToolError
        If the folder is no adapter, the base is another one than it was trained on, or any weight
        does not find its place.
    """
    contract = read_contract(folder)
    base_folder = resolve_base(base or contract.base)
    if base_sha256(base_folder) != contract.base_sha256:
        raise EegToolError(
            f"{folder} was trained on the base model '{contract.base}'; {base_folder} is another one.",
            "Give the base model it was trained on with --model-base.",
        )
    model, processor = load_base(
        base_folder, fusion=contract.fusion, version=contract.version, dtype=dtype
    )
    projector = load_file(folder / _PROJECTOR_FILE)
    own = {k for k in model.state_dict() if k.startswith(_PROJECTOR)}
    _check_keys(folder / _PROJECTOR_FILE, own - projector.keys(), projector.keys() - own)
    model.load_state_dict(projector, strict=False)

    peft_model = get_peft_model(model, LoraConfig.from_pretrained(folder))
    state = load_file(folder / _ADAPTER)
    result = set_peft_model_state_dict(peft_model, state)
    missing = [k for k in result.missing_keys if "lora_" in k]
    _check_keys(folder / _ADAPTER, missing, result.unexpected_keys)
    peft_model.eval()
    return peft_model, processor, contract


def _check_keys(where: Path, missing: Any, unexpected: Any) -> None:
    missing, unexpected = sorted(missing), sorted(unexpected)
    if missing or unexpected:
        raise EegToolError(
            f"{where} does not fit the model: {len(missing)} weights missing {missing[:2]}, "
            f"{len(unexpected)} unexpected {unexpected[:2]}.",
            "It was made for another model, or with another version of transformers or peft.",
        )


def _card_text(contract: Contract) -> str:
    return f"""# EEG-VLM adapter

LoRA and projector for `{contract.base}`, made by `eegvlm finetune`.

| file | what |
|---|---|
| `adapter_model.safetensors`, `adapter_config.json` | LoRA on the language model (PEFT) |
| `projector.safetensors` | the projector shared by picture and high-level feature |
| `eegvlm.json` | what it must be asked with: base, fusion `{contract.fusion}`, template `{contract.version}`, pixels, features |
| `run.json` | stamp of the run: settings, versions, inputs |

Ask it with `eegvlm evaluate --model-path THIS_FOLDER`. Research use only: not a medical device.
"""
