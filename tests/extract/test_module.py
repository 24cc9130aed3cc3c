from __future__ import annotations

import pytest
import timm
import torch

from eegtool.core.errors import EegToolError
from eegtool.extract import backbones
from eegtool.extract.module import VisionModule

# A residual network, a transformer of a fixed picture size, one of any size, a network that widens
# its features in its head, and a small relative of convnext_base.
BACKBONES = [
    "resnet18",
    "vit_tiny_patch16_224",
    "test_vit",
    "mobilenetv3_small_050",
    "test_convnext",
]


@pytest.fixture
def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_gives_1024_features_and_five_logits(
    name: str, pictures: torch.Tensor
) -> None:
    module = VisionModule(name).eval()
    with torch.no_grad():
        features, logits = module(pictures)
    assert features.shape == (2, 1024)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    assert logits.shape == (2, 5)
    assert not torch.allclose(features[0], features[1])


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_features_have_the_scale_of_the_tower(name: str, pictures: torch.Tensor) -> None:
    with torch.no_grad():
        features = VisionModule(name).eval().features(pictures)
    assert features.mean(1).abs().max() < 0.01
    assert (features.std(1) - 1).abs().max() < 0.01


def test_any_width_is_widened() -> None:
    widths = {name: VisionModule(name).widen[0].in_features for name in ("test_vit", "resnet18")}
    assert widths == {"test_vit": 64, "resnet18": 512}


def test_pictures_are_normalised_as_the_backbone_expects() -> None:
    module = VisionModule("vit_tiny_patch16_224")
    config = timm.data.resolve_model_data_config(module.backbone)
    assert module.mean.flatten().tolist() == pytest.approx(config["mean"])
    assert module.std.flatten().tolist() == pytest.approx(config["std"])
    assert module.mean.flatten().tolist() != VisionModule("resnet18").mean.flatten().tolist()


def test_same_seed_same_weights() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(VisionModule("test_resnet").classifier.weight)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    ("name", "near"), [("resnet81", "resnet18"), ("convnext_bass", "convnext_base")]
)
def test_unknown_backbone_names_the_closest(name: str, near: str) -> None:
    with pytest.raises(EegToolError) as caught:
        backbones.create(name, pretrained=False)
    assert f"no model '{name}'" in caught.value.what
    assert near in caught.value.what.replace(name, "")


def test_weights_that_cannot_be_fetched_are_an_error_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand so on")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(EegToolError, match="couldn't connect") as caught:
        backbones.create("resnet18", pretrained=True)
    assert "--pretrained" in caught.value.fix
