"""The model as it is asked: loaded, on its device, without what no answer needs."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.markup import escape

from eegtool.core.console import console
from eegtool.core.settings import AskSettings, EvaluateSettings
from eegtool.model.adapters import inner, load_adapter
from eegtool.model.checkpoints import best_dtype
from eegtool.model.eegvlm import EEGVLM
from eegtool.model.processor import Processor


def load(
    model_path: Path, settings: EvaluateSettings | AskSettings, rank: int = 0
) -> tuple[EEGVLM, Processor]:
    """Load a model and put it on the GPU of this rank, where there is one.

    Raises
    ------
    EegToolError
        If it cannot be loaded (see `load_adapter`).
    """
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what libraries allocate by themselves belongs there, too
    loaded, processor, contract = load_adapter(
        model_path,
        base=settings.model_base,
        dtype=best_dtype() if settings.dtype == "auto" else getattr(torch, settings.dtype),
        attention=getattr(settings, "attention", "auto"),
        vision_tower=settings.vision_tower,
        device=device,
        merge=settings.merge,
    )
    model = inner(loaded)
    if settings.merge and rank == 0:
        dtype = str(model.dtype).removeprefix("torch.")
        console.print(
            f"--merge: {escape(str(model_path))} is merged already; there is nothing to merge."
            if contract.merged
            else f"--merge: LoRA is added to the weights, and the sums are rounded to {dtype}; "
            "answers may differ in the last bits."
        )
    model.drop_unread_layers()
    return model.to(device), processor
