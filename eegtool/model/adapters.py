"""Adapters on disk: what fine-tuning trains, saved with the contract it must be asked with."""

from __future__ import annotations

import copy
import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from eegtool.core.errors import EegToolError
from eegtool.core.registry import check_name
from eegtool.core.workspace import read_json, sha256_of, write_json
from eegtool.model.checkpoints import base_sha256, check_keys, load_base, quiet, resolve_base
from eegtool.model.eegvlm import EEGVLM, FUSIONS
from eegtool.model.processor import TEMPLATES, PixelSpec, Processor

_PROJECTOR: Final = "model.multi_modal_projector."
_CARD: Final = "eegvlm.json"
_ADAPTER: Final = "adapter_model.safetensors"
_PROJECTOR_FILE: Final = "projector.safetensors"


@dataclass(frozen=True, slots=True)
class Contract:
    """What an adapter was trained with and must be asked with (``eegvlm.json`` of its folder)."""

    base: str
    """Name or absolute path of the base model."""
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
    with quiet():
        peft_model = get_peft_model(model, config)
    for parameter in model.model.multi_modal_projector.parameters():
        parameter.requires_grad_(True)
    tower = {id(p) for p in model.model.vision_tower.parameters()}
    if any(id(p) in tower for p in peft_model.parameters() if p.requires_grad):
        raise RuntimeError("LoRA reached the vision tower, which must stay frozen.")
    return peft_model


def save_adapter(
    folder: Path,
    model: PeftModel,
    state: Mapping[str, torch.Tensor],
    contract: Contract,
    log: Mapping[str, Any],
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
    log : dict
        How the training went, for ``training_log.json``.

    Raises
    ------
    EegToolError
        If nothing was learnt, or the training diverged.
    RuntimeError
        If a gathered parameter is empty.
    """
    lora = {k: v for k, v in state.items() if "lora_" in k}
    projector = {
        _PROJECTOR + k.split(_PROJECTOR)[1]: v.contiguous()
        for k, v in state.items()
        if _PROJECTOR in k
    }
    if not lora or not projector or any(v.numel() == 0 for v in state.values()):
        raise RuntimeError("Trained parameters came back empty: they were not gathered.")
    if not all(bool(v.isfinite().all()) for v in state.values()):
        raise EegToolError(
            "The training diverged: trained weights are not finite numbers.",
            "Lower --learning-rate or --mm-projector-lr.",
        )
    if not any(bool(v.any()) for k, v in lora.items() if "lora_B" in k):
        raise EegToolError(
            "LoRA has not moved from its start: nothing was learnt.",
            "Train for more steps, with a --learning-rate above 0.",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as tmp:
        made = Path(tmp) / folder.name
        config = copy.copy(model.peft_config["default"])
        config.inference_mode = True
        config.save_pretrained(made)
        tensors = get_peft_model_state_dict(model, lora, save_embedding_layers=False)
        for name, part in ((_ADAPTER, tensors), (_PROJECTOR_FILE, projector)):
            (made / name).write_bytes(save(part, {"format": "pt"}))
        if len(tensors) != len(lora):
            raise RuntimeError(f"{len(tensors)} of {len(lora)} LoRA tensors were kept.")
        write_json(made / _CARD, asdict(contract))
        write_json(made / "training_log.json", log)
        (made / "README.md").write_text(_card_text(contract), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
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
        contract = Contract(**raw, pixel_spec=spec)
    except (KeyError, TypeError) as error:
        raise EegToolError(f"{folder / _CARD} is not readable as a contract: {error}.") from error
    check_name("fusion", contract.fusion, FUSIONS)
    check_name("conversation template", contract.version, TEMPLATES)
    return contract


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
    projector, state = _read_tensors(folder / _PROJECTOR_FILE), _read_tensors(folder / _ADAPTER)
    model, processor = load_base(
        base_folder, fusion=contract.fusion, version=contract.version, dtype=dtype
    )
    own = {k for k in model.state_dict() if k.startswith(_PROJECTOR)}
    check_keys(folder / _PROJECTOR_FILE, own - projector.keys(), projector.keys() - own)
    config = LoraConfig.from_pretrained(folder)
    config.base_model_name_or_path = None  # peft warns of a folder that has moved; ours is checked
    try:
        model.load_state_dict(projector, strict=False)
        with quiet():
            peft_model = get_peft_model(model, config)
        result = set_peft_model_state_dict(peft_model, state)
    except RuntimeError as error:  # PyTorch's word for a weight of another shape
        raise EegToolError(f"{folder} does not fit the model: {error}") from error
    missing = [k for k in result.missing_keys if "lora_" in k]
    check_keys(folder / _ADAPTER, missing, result.unexpected_keys)
    peft_model.eval()
    return peft_model, replace(processor, pixel_spec=contract.pixel_spec), contract


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise EegToolError(f"{path} cannot be read: {error}.", "Fine-tune again.") from error


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
