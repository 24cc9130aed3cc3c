"""Backbones of the vision module: any timm model, asked for its pooled features."""

from __future__ import annotations

from typing import Any

import timm

from eegtool.core.errors import EegToolError
from eegtool.core.registry import closest


def create(name: str, *, pretrained: bool) -> Any:
    """Build a timm model (a torch module) without its classifier.

    Raises
    ------
    EegToolError
        If timm has no such model, or its weights cannot be fetched.
    """
    if not timm.is_model(name):
        raise EegToolError(
            f"--backbone: timm has no model '{name}'.{closest(name, timm.list_models())}",
            "Any name of timm.list_models() will do, such as 'resnet18' or 'convnext_base'.",
        )
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError) as error:
        raise EegToolError(
            f"The pretrained weights of '{name}' cannot be fetched: {str(error).splitlines()[0]}",
            "Run where there is a network, or leave out --pretrained.",
        ) from error


def pixel_statistics(backbone: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per colour that the backbone expects, from its own data config."""
    config = timm.data.resolve_model_data_config(backbone)
    return tuple(config["mean"]), tuple(config["std"])


def fixed_size(backbone: Any) -> int | None:
    """Return the only picture side a backbone accepts (most transformers); None where any will do."""
    config = backbone.pretrained_cfg
    return int(config["input_size"][-1]) if config.get("fixed_input_size") else None
