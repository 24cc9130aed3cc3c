"""Weights of a vision module on disk, with a card that says what they are and how good."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from eegtool.core.errors import EegToolError, brief
from eegtool.core.workspace import atomic_path, jsonable, missing, read_json
from eegtool.extract.module import VisionModule
from eegtool.extract.stored import CARD, WEIGHTS

_FURTHEST: Final = 1200
"""Epochs of context at most: ten hours."""


def save_module(folder: Path, module: VisionModule, card: Mapping[str, Any]) -> str:
    """Write ``model.safetensors`` and ``card.json``, both or neither.

    Parameters
    ----------
    folder : Path
        Where they go; made if need be.
    module : VisionModule
        What to write.
    card : mapping
        What the module was trained on, how, and how good it is. What is needed to build it again is
        added: ``backbone``, ``size``, ``width``, ``parameters``, ``weights_sha256``.

    Returns
    -------
    str
        SHA-256 of the weights file, which depends on nothing but the backbone and the weights.

    Raises
    ------
    EegToolError
        If the module keeps something in its state that is no tensor.
    """
    # Cloned: tensors that share memory in somebody's own module may not do so in the file.
    state = {k: v.detach().cpu().contiguous().clone() for k, v in tensors_of(module).items()}
    # One entry only: safetensors writes several in no fixed order, and the hash would be another.
    data = save(state, {"backbone": module.name})
    digest = hashlib.sha256(data).hexdigest()
    known = {
        "backbone": module.name,
        "size": module.size,
        "width": module.width,
        "parameters": sum(p.numel() for p in module.parameters()),
        "weights_sha256": digest,
    } | ({} if module.context is None else {"context_epochs": module.context.reach})
    text = json.dumps(jsonable(known | dict(card) | known), indent=2, ensure_ascii=False)
    # If it is killed between the two, the hash in the old card does not fit: loading will say so.
    with atomic_path(folder / CARD) as card_tmp, atomic_path(folder / WEIGHTS) as weights_tmp:
        card_tmp.write_text(text + "\n", encoding="utf-8")
        weights_tmp.write_bytes(data)  # save_file makes files that only their owner can read
    return digest


def load_module(path: Path, *, backbone: str | None = None) -> tuple[VisionModule, dict[str, Any]]:
    """Load a module, in evaluation mode, and its card.

    Parameters
    ----------
    path : Path
        The folder that `save_module` wrote, or the weights file in it.
    backbone : str, optional
        What the user says the module is. Needed for your own modules: code is run because a person
        named it, never because a file did.

    Raises
    ------
    EegToolError
        If files are missing or damaged, the weights are those of another module, tensors are missing
        or left over or have another shape, or any is not finite.
    """
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise missing(file)
    card = read_json(file.with_name(CARD))
    name, size = card.get("backbone"), card.get("size")
    if not isinstance(name, str) or not isinstance(size, int | None):
        raise EegToolError(
            f"{file.with_name(CARD)} does not say which backbone the weights are of.",
            "Run `eegvlm extract` again, or give the folder that it wrote.",
        )
    if backbone not in (None, name):
        raise EegToolError(
            f"{file} holds weights of '{name}', not of '{backbone}'.",
            f"Give --backbone {name}, or other --weights.",
        )
    state = _read(file, card, name)
    if ":" in name and backbone is None:
        raise EegToolError(
            f"{file} holds weights of '{name}', which is code of your own.",
            f"If you trust it, say so: --backbone {name}.",
        )
    context = card.get("context_epochs", 0)
    if type(context) is not int or not 0 <= context <= _FURTHEST:
        raise EegToolError(
            f"{file.with_name(CARD)}: context_epochs is {context!r}, not a whole number from 0 to {_FURTHEST}.",
            "Run `eegvlm extract` again, or give the folder that it wrote.",
        )
    module = VisionModule(name, size=size, context=context)
    _check_fits(file, name, tensors_of(module), state)
    module.load_state_dict(state)
    return module.eval(), card


def tensors_of(module: VisionModule) -> dict[str, torch.Tensor]:
    """Return the state of a module; refuse one that holds what is no tensor.

    Raises
    ------
    EegToolError
        It names what that is.
    """
    state = module.state_dict()
    foreign = [key for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if foreign:
        raise EegToolError(
            f"The state of '{module.name}' holds what is no tensor: {', '.join(foreign)}.",
            "Weights are stored as tensors only; make it a buffer, or build it in the factory.",
        )
    return state


def _read(file: Path, card: Mapping[str, Any], name: str) -> dict[str, torch.Tensor]:
    """Read the tensors of a file that is the one its card describes."""
    try:
        with safe_open(file, "pt") as opened:
            written_by = (opened.metadata() or {}).get("backbone")
        data = file.read_bytes()
        state = load(data)
    except (OSError, SafetensorError) as error:
        raise EegToolError(
            f"{file} cannot be read: {brief(error)}.", "Copy it again, or run `eegvlm extract`."
        ) from error
    if written_by not in (None, name):
        raise EegToolError(
            f"{file} holds weights of '{written_by}', but the {CARD} beside it is of '{name}'.",
            "Bring together what belongs together, or run `eegvlm extract` again.",
        )
    if hashlib.sha256(data).hexdigest() != card.get("weights_sha256"):
        raise EegToolError(
            f"{file} is not the file that the {CARD} beside it describes: its SHA-256 differs.",
            "Bring together what belongs together, or run `eegvlm extract` again.",
        )
    return state


def _check_fits(
    file: Path,
    name: str,
    wanted: Mapping[str, torch.Tensor],
    found: Mapping[str, torch.Tensor],
) -> None:
    """Refuse tensors of another module or with numbers that are not finite."""
    both = wanted.keys() & found.keys()
    differing = [key for key in both if wanted[key].shape != found[key].shape]
    sides = {
        "missing": sorted(wanted.keys() - found.keys()),
        "left over": sorted(found.keys() - wanted.keys()),
        "of another shape": sorted(differing),
    }
    wrong = [
        f"{len(keys)} {what} ({', '.join(keys[:2])}{', …' if len(keys) > 2 else ''})"
        for what, keys in sides.items()
        if keys
    ]
    if wrong:
        raise EegToolError(
            f"The weights in {file} are not those of '{name}' as it is built here: "
            f"tensors {', '.join(wrong)}.",
            "It has changed since they were saved, or they were made with another version of timm.",
        )
    broken = [k for k, v in found.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise EegToolError(
            f"The weights in {file} are not finite: {', '.join(broken[:3])}.",
            "Train again with a lower --learning-rate.",
        )
