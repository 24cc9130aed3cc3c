"""The vision module beside a fine-tuned model: stored there, and asked for the features of pictures.

An adapter folder carries the module that made the features it was trained with, so that pictures of
which no features file knows can be asked about: one, or those of a whole night.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from PIL import Image
from rich.markup import escape

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.pictures import as_rgb, open_picture
from eegtool.core.workspace import read_json, sha256_of

if TYPE_CHECKING:  # timm, behind it, takes seconds to import
    from eegtool.extract.module import VisionModule

WEIGHTS: Final = "model.safetensors"
CARD: Final = "card.json"
STORED: Final = "vision_module"
"""Folder of the module in that of an adapter or merged model."""


def is_module(folder: Path, weights_sha256: str) -> bool:
    """Say whether a folder's card describes these weights; empty ones (not known) are nobody's."""
    try:
        described = read_json(folder / CARD).get("weights_sha256")
    except EegToolError:
        return False
    return bool(weights_sha256) and described == weights_sha256


def store_module(folder: Path, out: Path, weights_sha256: str) -> bool:
    """Put the module of `folder` into ``out/vision_module``: whole, or not at all.

    Files are linked where the disk can do so: they are never written to, only replaced.

    Parameters
    ----------
    folder : Path
        Where `weights.save_module` wrote it.
    out : Path
        Folder of an adapter or merged model.
    weights_sha256 : str
        Weights that made the features the model was trained with; empty where not known.

    Returns
    -------
    bool
        Whether it is there now; False if `folder` does not hold these weights.
    """
    if not is_module(folder, weights_sha256):
        return False
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{STORED}-") as tmp:
        made = Path(tmp) / "made"  # mkdtemp's own folder only its owner may enter
        made.mkdir()
        for name in (WEIGHTS, CARD):
            if not (folder / name).is_file():
                return False
            _link_or_copy(folder / name, made / name)
        # As copied: it may have been trained again meanwhile.
        if not is_module(made, weights_sha256) or sha256_of(made / WEIGHTS) != weights_sha256:
            return False
        made.rename(out / STORED)
    return True


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source, target)


def open_module(folder: Path, backbone: str | None = None) -> tuple[VisionModule, dict[str, Any]]:
    """Load a stored module, on the CPU, and its card; warn where its code has changed since.

    Parameters
    ----------
    folder : Path
        Where the module is.
    backbone : str, optional
        What the user says the module is; needed for code of one's own (see `weights.load_module`).

    Raises
    ------
    EegToolError
        If it cannot be loaded.
    """
    # timm, behind these, takes seconds to import; finetune only stores.
    from eegtool.extract.backbones import code_sha256
    from eegtool.extract.weights import load_module

    module, card = load_module(folder, backbone=backbone)
    if card.get("code_sha256", "") != code_sha256(module.name):
        console.print(
            f"[bold yellow]warning:[/] the code of '{escape(module.name)}' is not that of the "
            "training of its weights."
        )
    return module, card


@torch.inference_mode()
def features_of(
    module: VisionModule,
    pictures: Mapping[str, bytes] | Mapping[str, Image.Image],
    *,
    device: torch.device | None = None,
    batch_size: int = 128,
    workers: int = 2,
    advance: Callable[[int], None] = lambda _: None,
    onsets_s: Mapping[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """Let a stored module look at pictures in memory, as `eegvlm extract` lets it look at files.

    Parameters
    ----------
    module : VisionModule
        What `open_module` gave.
    pictures : mapping of str to bytes or Image
        Pictures of any format, or decoded or drawn, by sample id; brought to the size of the module's own pictures if they
        have another one.
    device : torch.device, optional
        Where it computes; by default the GPU, where there is one.
    batch_size, workers : int
        Pictures at a time, and threads that decode.
    advance : callable
        Called with the number of pictures done, after each batch.
    onsets_s : mapping of str to float, optional
        When each epoch begins, if all are of one recording: a module with context sees them as neighbours.
        Without it, each epoch stands alone.

    Returns
    -------
    dict of str to float32 [1, 1024]
        The high-level feature of each, by sample id.

    Raises
    ------
    EegToolError
        If a picture cannot be read or a feature is not finite.
    """
    from eegtool.extract.context import in_context, pieces
    from eegtool.extract.export import look

    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(device).eval()
    found: dict[str, np.ndarray] = {}
    names = [*pictures]
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        for start in range(0, len(names), batch_size):
            ids = names[start : start + batch_size]
            decoded = pool.map(lambda i: _decoded(i, pictures[i], module.size), ids)
            rows = look(module, np.stack(list(decoded)), device)[0].float().cpu().numpy()
            if odd := [i for i, row in zip(ids, rows, strict=True) if not np.isfinite(row).all()]:
                raise EegToolError(
                    f"The high-level feature that '{module.name}' makes of '{odd[0]}' is not finite.",
                    "Train the module again with a lower --learning-rate.",
                )
            found |= zip(ids, rows[:, None], strict=True)
            advance(len(ids))
    if module.context is not None:
        nights = [onsets_s] if onsets_s else [{name: 0.0} for name in names]
        for night in nights:
            for track, ids in pieces(night, module.context.reach):
                rows = np.concatenate([found[i] for i in ids])
                seen, _ = in_context(module.context, track, rows, device)
                found |= zip(ids, seen[:, None], strict=True)
    return found


def _decoded(sample_id: str, data: bytes | Image.Image, size: int | None) -> np.ndarray:
    """Return a picture, uint8 ``[H, W, 3]``, of so many pixels a side."""
    if isinstance(data, Image.Image):
        rgb = as_rgb(data)
    else:
        with open_picture(data, f"The picture of '{sample_id}'", "Draw it again.") as image:
            rgb = as_rgb(image)
    if size is not None and rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(rgb)
