from __future__ import annotations

import pytest
import torch
from torch import nn

from eegtool.extract import backbones
from eegtool.extract.module import VisionModule

# A residual network, a transformer of a fixed picture size, one of any size, a network that widens
# its features in its head, small relatives of convnext_base, windowed attention, MambaOut, Mamba.
BACKBONES = [
    "resnet18",
    "vit_tiny_patch16_224",
    "test_vit",
    "mobilenetv3_small_050",
    "test_convnext",
    "test_maxvit",
    "swin_tiny_patch4_window7_224",
    "mambaout_femto",
    "vision_mamba",
]


@pytest.fixture
def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, 64) for name in BACKBONES]
    + [(name, None) for name in ("vit_tiny_patch16_224", "test_vit", "vision_mamba")],
)
@torch.no_grad()
def test_every_backbone_gives_1024_features_and_five_logits(
    name: str, size: int | None, pictures: torch.Tensor
) -> None:
    module = VisionModule(name, size=size).eval()
    features, logits = module(pictures)
    assert features.shape == (2, 1024)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    assert logits.shape == (2, 5)
    assert not torch.allclose(features[0], features[1])
    assert torch.equal(module.represent(pictures), features)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "vision_mamba"])
def test_features_have_the_scale_of_the_tower(name: str, pictures: torch.Tensor) -> None:
    with torch.no_grad():
        features = VisionModule(name).eval().represent(pictures)
    assert features.mean(1).abs().max() < 0.01
    assert (features.std(1) - 1).abs().max() < 0.01


def test_the_papers_resnet_is_the_pooled_last_stage_widened(pictures: torch.Tensor) -> None:
    module = VisionModule("resnet18", size=64).eval()
    encoder = module.backbone
    assert isinstance(encoder, backbones.TimmEncoder)
    with torch.no_grad():
        pixels = encoder.pixels(pictures)
        last_stage = encoder.model.forward_intermediates(pixels, intermediates_only=True)[-1]
        expected = module.widen(last_stage.mean((2, 3)))
        assert last_stage.shape == (2, 512, 2, 2)
        torch.testing.assert_close(module.represent(pictures), expected)
    assert isinstance(module.widen, nn.Sequential)
    assert [type(part) for part in module.widen] == [nn.Linear, nn.GELU, nn.LayerNorm]
    assert module.width == 512


def test_what_is_1024_wide_is_only_normalised(
    pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):  # 88 M parameters, of which none is needed here
        monkeypatch.setattr(backbones, "feature_width", lambda *_: 1024)
        module = VisionModule("convnext_base", size=64)
        pooled = module.backbone.pool(torch.zeros(2, 1024, 2, 2))
    assert pooled.shape == (2, 1024)
    assert isinstance(module.widen, nn.LayerNorm)


def test_the_seed_decides_and_the_trial_does_not_spend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return VisionModule("test_resnet").classifier.weight

    first, width = drawn(1), VisionModule("test_resnet").width
    assert torch.equal(drawn(1), first)
    assert not torch.equal(drawn(2), first)
    monkeypatch.setattr(backbones, "feature_width", lambda *_: width)
    assert torch.equal(drawn(1), first)


@pytest.mark.parametrize(
    ("name", "origin"), [("test_resnet", "random weights"), ("vision_mamba", "random weights")]
)
def test_it_says_where_its_weights_came_from(name: str, origin: str) -> None:
    module = VisionModule(name, size=64)
    assert (module.name, module.size, module.origin) == (name, 64, origin)
    assert module.training
