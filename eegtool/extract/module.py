"""The specialized vision module: an encoder, widened to 1024 features, with a stage classifier on top."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eegtool.core.stages import STAGES
from eegtool.extract import backbones
from eegtool.extract.context import ContextEncoder
from eegtool.extract.features import FEATURE_DIM


def best_dtype() -> torch.dtype:
    """Return the precision to compute in: float32 on a CPU, else bfloat16, on old GPUs float16."""
    if not torch.cuda.is_available():
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


class VisionModule(nn.Module):
    """Sees the picture of an epoch; its 1024-d representation is the high-level feature.

    Parameters
    ----------
    backbone : str
        What `backbones.create` builds: a timm model, ``vision_mamba``, or ``package.module:factory``.
    pretrained : bool
        Whether to start from timm's weights.
    size : int or None
        Side of the pictures in pixels, if known.
    context : int
        Epochs on either side that a feature may depend on; 0 where it knows its own picture only.

    Attributes
    ----------
    name : str
        The backbone's name, as given.
    size : int or None
        As given.
    width : int
        Width of the encoder's own feature vector.
    origin : str
        Where its first weights came from, for people to read.
    facts : Linear or None
        What reads the facts of an epoch out of its representation, in a training that teaches them.
    context : ContextEncoder or None
        What makes features of the representations of a night (see `eegtool.extract.context`); None where a
        representation is the feature.

    Raises
    ------
    EegToolError
        If the encoder cannot be built or gives no feature vector.
    """

    def __init__(
        self,
        backbone: str,
        *,
        pretrained: bool = False,
        size: int | None = None,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.name = backbone
        self.size = size
        self.backbone: backbones.Encoder = backbones.create(
            backbone, pretrained=pretrained, size=size
        )
        self.width = backbones.feature_width(backbone, self.backbone, size)
        own = ":" in backbone
        default = "weights as its factory made them" if own else "random weights"
        self.origin = str(getattr(self.backbone, "origin", default))
        # The normalisation gives every feature the scale of CLIP's, whose projector they share.
        norm = nn.LayerNorm(FEATURE_DIM)
        widening = (nn.Linear(self.width, FEATURE_DIM), nn.GELU())
        self.widen = nn.Sequential(*widening, norm) if self.width != FEATURE_DIM else norm
        self.classifier = nn.Linear(FEATURE_DIM, len(STAGES))
        self.context = ContextEncoder(context) if context else None
        self.facts: nn.Linear | None = None

    def represent(self, pictures: Tensor) -> Tensor:
        """Return float ``[B, 1024]`` for uint8 RGB pictures ``[B, 3, H, W]``."""
        pixels = self.backbone.pixels(pictures)
        widened: Tensor = self.widen(self.backbone.pool(self.backbone.features(pixels)))
        return widened

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return representations ``[B, 1024]`` and stage logits ``[B, 5]``, each of its own picture only."""
        features = self.represent(pictures)
        return features, self.classifier(features)
