"""The vision module beside a fine-tuned model: stored there, and asked for the features of pictures.

An adapter folder carries the module that made the features it was trained with, so that pictures of
which no features file knows can be asked about: one, or those of a whole night.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from PIL import Image
from rich.markup import escape

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.records import read_epochs
from eegtool.core.workspace import Workspace, read_json, sha256_of

if TYPE_CHECKING:  # timm, behind it, takes seconds to import
    from eegtool.extract.module import VisionModule

WEIGHTS: Final = "model.safetensors"
CARD: Final = "card.json"
STORED: Final = "vision_module"
"""Folder of the module in that of an adapter or merged model."""


def is_module(folder: Path, weights_sha256: str) -> bool:
    """Say whether a folder's card describes these weights; empty ones (not known) are nobody's."""
    try:
        told = read_json(folder / CARD).get("weights_sha256")
    except EegToolError:
        return False
    return bool(weights_sha256) and told == weights_sha256


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
        # As copied: it may have been trained anew while it was.
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


def export_night(
    module: VisionModule,
    card: dict[str, Any],
    workspace: Workspace,
    *,
    batch_size: int = 128,
    workers: int = 2,
    advance: Callable[[int], None] = lambda _: None,
) -> bool:
    """Write the features of all epochs of a workspace's evaluation side, unless they are there already.

    Pictures are decoded ahead, and memory does not grow with their number (see `export.export`). On a
    GPU it computes in bfloat16, as `eegvlm extract` does.

    Parameters
    ----------
    module, card : VisionModule and dict
        What `open_module` gave.
    workspace : Workspace
        With ``epochs.csv`` and pictures.
    batch_size, workers : int
        Pictures at a time, and threads that decode.
    advance : callable
        Called with the number of epochs done, after each batch.

    Returns
    -------
    bool
        Whether they were computed now.

    Raises
    ------
    EegToolError
        If a picture cannot be read or a feature is not finite.
    """
    from eegtool.extract.backbones import code_sha256
    from eegtool.extract.data import images_sha256
    from eegtool.extract.export import export
    from eegtool.extract.features import Sidecar, unchanged, write_sidecar

    epochs = [epoch for epoch in read_epochs(workspace.epochs) if epoch.split == "eval"]
    folder, out = workspace.images("eval"), workspace.features("eval")
    planned = Sidecar(
        tuple(epoch.sample_id for epoch in epochs),
        card["backbone"],
        card["weights_sha256"],
        images_sha256(epochs, folder, workers, module.size),
        workspace.protocol(),
        code_sha256=code_sha256(card["backbone"]),
    )
    if unchanged(out, planned):
        return False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    export(
        module.to(device),
        epochs,
        folder,
        out,
        size=module.size,
        batch_size=batch_size,
        workers=workers,
        device=device,
        advance=advance,
    )
    write_sidecar(out, planned)
    return True


@torch.inference_mode()
def feature_of(folder: Path, picture: np.ndarray, backbone: str | None = None) -> np.ndarray:
    """Let a stored module look at one picture, on the CPU.

    It computes in float32; an export on a GPU computes in bfloat16, so its rows differ a little.

    Parameters
    ----------
    folder : Path
        Where the module is.
    picture : uint8 [H, W, 3]
        RGB; brought to the size of the module's own pictures if it has another one.
    backbone : str, optional
        What the user says the module is; needed for code of one's own (see `weights.load_module`).

    Returns
    -------
    float32 [1, 1024]
        The high-level feature.

    Raises
    ------
    EegToolError
        If the module cannot be loaded, or its feature is not finite.
    """
    module, _ = open_module(folder, backbone)
    size = module.size
    if size is not None and picture.shape[:2] != (size, size):
        resized = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)
        picture = np.asarray(resized)
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    feature: np.ndarray = module.represent(pixels).float().numpy()
    if not np.isfinite(feature).all():
        raise EegToolError(
            f"The high-level feature that '{module.name}' makes of this picture is not finite.",
            "Give it with --features-file, or train the module again with a lower --learning-rate.",
        )
    return feature
