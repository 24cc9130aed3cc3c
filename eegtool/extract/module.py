"""The specialized vision module: a backbone, widened to 1024 features, with a stage classifier on top."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate

from eegtool.core.stages import STAGES
from eegtool.extract import backbones
from eegtool.extract.features import FEATURE_DIM


class VisionModule(nn.Module):
    """Sees the picture of an epoch; its 1024-d representation is the high-level feature.

    Parameters
    ----------
    backbone : str
        Name of a timm model.
    pretrained : bool
        Whether to start from timm's weights.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: str, *, pretrained: bool = False) -> None:
        super().__init__()
        self.backbone = backbones.create(backbone, pretrained=pretrained)
        width = int(getattr(self.backbone, "head_hidden_size", self.backbone.num_features))
        # The normalisation gives every feature the scale of CLIP's, whose projector they share.
        self.widen = nn.Sequential(
            nn.Linear(width, FEATURE_DIM), nn.GELU(), nn.LayerNorm(FEATURE_DIM)
        )
        self.classifier = nn.Linear(FEATURE_DIM, len(STAGES))
        self.size = backbones.fixed_size(self.backbone)
        mean, std = backbones.pixel_statistics(self.backbone)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return float ``[B, 1024]`` for uint8 RGB pictures ``[B, 3, H, W]``."""
        pixels = (pictures.float() / 255 - self.mean) / self.std
        if self.size is not None:
            pixels = interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        pooled = self.backbone.forward_head(self.backbone.forward_features(pixels), pre_logits=True)
        widened: torch.Tensor = self.widen(pooled)
        return widened

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features ``[B, 1024]`` and stage logits ``[B, 5]``."""
        features = self.features(pictures)
        return features, self.classifier(features)
