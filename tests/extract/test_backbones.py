from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from eegtool.core.errors import EegToolError
from eegtool.extract import backbones
from eegtool.extract.backbones import (
    TimmEncoder,
    code_sha256,
    create,
    feature_width,
    list_backbones,
)
from eegtool.extract.module import VisionModule

PAGE = Path(__file__).parents[2] / "docs" / "vision_module.md"


@pytest.fixture
def pictures() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, and forget what is imported from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def caught(name: str, *, pretrained: bool = False) -> EegToolError:
    with pytest.raises(EegToolError) as error:
        VisionModule(name, pretrained=pretrained, size=64)
    return error.value


# timm


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet81", "resnet18"),
        ("convnext_bass", "convnext_base"),
        ("vision_manba", "vision_mamba"),
    ],
)
def test_unknown_backbone_names_the_closest(name: str, near: str) -> None:
    error = caught(name)
    assert f"no model '{name}'" in error.what
    assert near in error.what.replace(name, "")
    assert "--list-backbones" in error.fix


def test_unknown_tag_names_the_known_ones() -> None:
    error = caught("resnet18.a4_in1k")
    assert "'resnet18' has no weights 'a4_in1k'. Did you mean 'a3_in1k'?" in error.what
    assert "tv_in1k" in error.fix


def test_pictures_are_normalised_as_the_backbone_expects() -> None:
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    levels = {}
    for name in ("vit_tiny_patch16_224", "resnet18"):
        encoder = create(name, pretrained=False, size=64)
        assert isinstance(encoder, TimmEncoder)
        config = timm.data.resolve_model_data_config(encoder.model)
        levels[name] = encoder.pixels(white)[0, :, 0, 0].tolist()
        expected = [(1 - m) / s for m, s in zip(config["mean"], config["std"], strict=True)]
        assert levels[name] == pytest.approx(expected)
    assert levels["vit_tiny_patch16_224"] != levels["resnet18"]


@pytest.mark.parametrize(
    ("name", "size", "seen"),
    [
        ("test_resnet", 100, 100),  # any size will do
        ("vit_tiny_patch16_224", 64, 64),  # of one size, which timm can change
        ("vit_tiny_patch16_224", 100, 112),  # ... in whole patches: nothing may be cut off
        ("vit_tiny_patch16_224", None, 224),
        ("test_maxvit", 100, 128),  # whole windows
        ("gmixer_12_224", 64, 224),  # of one size for good
        ("dla46_c", 100, 128),  # says that any size will do, and fails
    ],
)
def test_picture_and_model_are_brought_to_one_size(name: str, size: int | None, seen: int) -> None:
    side = size or 64
    with torch.device("meta"):
        encoder = create(name, pretrained=False, size=size)
        pixels = encoder.pixels(torch.zeros(2, 3, side, side, dtype=torch.uint8))
        assert pixels.shape == (2, 3, seen, seen)
        assert isinstance(encoder, TimmEncoder)
        pooled = encoder.eval().pool(encoder.features(pixels))
    assert pooled.shape == (2, encoder.model.head_hidden_size)


def test_resizing_keeps_the_whole_picture() -> None:
    encoder = create("vit_tiny_patch16_224", pretrained=False, size=100)
    pictures = torch.zeros(1, 3, 100, 100, dtype=torch.uint8)
    pictures[..., 98:] = 255
    pixels = encoder.pixels(pictures)
    assert pixels[..., -1].amin() > 0 > pixels[..., :100].amax()


# --pretrained


def test_pretrained_weights_are_loaded_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = timm.create_model("test_resnet").state_dict()
    save_file(stored, tmp_path / "model.safetensors")
    create_model = timm.create_model

    def from_file(name: str, *, pretrained: bool = False, **options: object) -> nn.Module:
        overlay = {"file": str(tmp_path / "model.safetensors")} if pretrained else None
        model: nn.Module = create_model(
            name, pretrained=pretrained, pretrained_cfg_overlay=overlay, **options
        )
        return model

    monkeypatch.setattr(timm, "create_model", from_file)
    monkeypatch.setattr(backbones, "_check_weights_can_be_had", lambda _: None)
    module = VisionModule("test_resnet", pretrained=True, size=64)
    assert module.origin == "timm's weights test_resnet.r160_in1k"
    encoder = module.backbone
    assert isinstance(encoder, TimmEncoder)
    loaded = encoder.model.state_dict()
    assert all(torch.equal(loaded[key], stored[key]) for key in loaded)


def test_without_a_network_it_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Offline:
        def head(self, *_: object, **__: object) -> None:
            raise OSError("Name or service not known\nand so on")

    monkeypatch.setattr(backbones, "get_session", Offline)
    error = caught("resnet18", pretrained=True)
    assert error.what == (
        "The pretrained weights of 'resnet18' cannot be fetched: https://huggingface.co cannot be "
        "reached (Name or service not known)."
    )
    assert "leave out --pretrained" in error.fix


def test_weights_that_break_off_are_an_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("Connection reset by peer\nand so on")

    monkeypatch.setattr(backbones, "_check_weights_can_be_had", lambda _: None)
    monkeypatch.setattr(timm, "create_model", broken)
    assert "cannot be loaded: Connection reset by peer." in caught("resnet18", pretrained=True).what


@pytest.mark.parametrize("name", ["vision_mamba", "nowhere:factory", "resnet20ts"])
def test_what_has_no_pretrained_weights_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "is_model", lambda _: True)
    error = caught(name, pretrained=True)
    assert "no pretrained weights" in error.what
    assert f"'{name}'" in error.what
    assert "Leave out --pretrained" in error.fix


# --list-backbones


def test_list_names_parameters_and_width() -> None:
    rows = {row.name: row for row in list_backbones("resnet18*")}
    assert list(rows) == ["resnet18", "resnet18d"]
    model = timm.create_model("resnet18", num_classes=0)
    assert rows["resnet18"].parameters == sum(p.numel() for p in model.parameters())
    assert rows["resnet18"].width == 512
    mamba = list_backbones("Vision_*")[0]
    assert mamba.name == "vision_mamba"
    assert 4e6 < mamba.parameters < 10e6
    assert mamba.width == 384


def test_listing_draws_no_weights() -> None:
    before = torch.get_rng_state()
    rows = list_backbones("vit_giant*_224")
    assert len(rows) >= 1
    assert max(row.parameters for row in rows) > 1e9  # 4 GB
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("pattern", "near"), [("resnt18*", "resnet18"), ("*mambo", "mamba")])
def test_a_pattern_without_a_match_names_the_closest(pattern: str, near: str) -> None:
    with pytest.raises(EegToolError) as error:
        list_backbones(pattern)
    assert f"'{pattern}'" in error.value.what
    assert near in error.value.fix


# Your own


def test_the_example_of_the_documents_runs(here: Path, pictures: Tensor) -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Your own vision module\n")[1]
    section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    code = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    names = re.findall(r"--backbone (\w+:\w+)", section)
    assert len(code) == 1
    assert len(names) == 1
    assert len(code[0].splitlines()) <= 24
    (here / f"{names[0].partition(':')[0]}.py").write_text(code[0], encoding="utf-8")
    module = VisionModule(names[0], size=64)
    assert module.origin == "weights as its factory made them"
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    stages = torch.tensor([0, 3])
    losses = []
    for _ in range(10):
        features, logits = module(pictures)
        losses.append(nn.functional.cross_entropy(logits, stages))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert features.shape == (2, 1024)
    assert losses[-1] < 0.5 * losses[0]


OWN = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.drop = nn.Dropout()
        self.eval()

    def pixels(self, pictures):
        return pictures.float() / 255

    def features(self, pixels):
        return self.drop(pixels) * self.scale

    def pool(self, features):
        return features.mean((2, 3))

class Flat(Mine):
    def pool(self, features):
        return features.mean((2, 3)).flatten()

class Grid(Mine):
    pool = None

class Map(Mine):
    def pool(self, features):
        return features

class Pair(Mine):
    def pool(self, features):
        return features, features

class Whole(Mine):
    def pool(self, features):
        return features.mean((2, 3)).long()

class Lonely(Mine):
    def pool(self, features):
        return features.mean((2, 3)).squeeze(0)

class Two(Mine):
    def pool(self, features):
        return features.mean((2, 3))[:2]

class Broken(Mine):
    def features(self, pixels):
        return pixels @ torch.zeros(3, 3)

class Plain:
    pixels = features = pool = print

def needs(width):
    return Mine()

number = 7
"""


@pytest.fixture
def own(here: Path) -> Path:
    path = here / "lab" / "encoders.py"
    path.parent.mkdir()
    path.write_text(OWN, encoding="utf-8")
    return path


def test_your_own_module_is_found_in_the_current_folder(own: Path, pictures: Tensor) -> None:
    module = VisionModule("lab.encoders:Mine", size=64)
    assert module.width == 3
    assert not module.backbone.drop.training  # type: ignore[attr-defined]  # as it was made
    expected = module.widen(pictures.float().mean((2, 3)) / 255)
    torch.testing.assert_close(module.represent(pictures), expected)


def test_the_trial_leaves_modes_and_the_random_numbers_as_they_were(own: Path) -> None:
    encoder = create("lab.encoders:Mine", pretrained=False)
    assert isinstance(encoder, nn.Module)
    encoder.train()
    before = torch.get_rng_state()
    assert feature_width("mine", encoder) == 3
    assert torch.equal(torch.get_rng_state(), before)
    assert all(part.training for part in encoder.modules())


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("lab.encodes:Mine", "'lab.encodes' cannot be imported: ModuleNotFoundError: No module"),
        ("lab/encoders.py:Mine", "'lab/encoders.py' cannot be imported: ModuleNotFoundError"),
        (":Mine", "'' cannot be imported: ValueError"),
        ("lab.encoders:Mone", "has no 'Mone' that can be called. Did you mean 'Mine'?"),
        ("lab.encoders:number", "has no 'number' that can be called."),
        ("lab.encoders:", "has no '' that can be called."),
        ("lab.encoders:needs", "needs() fails: TypeError: needs() missing 1 required"),
        ("lab.encoders:Grid", "gives a Grid without pool, not a vision module"),
        ("lab.encoders:dict", "has no 'dict'"),
        ("builtins:dict", "gives a dict without pixels and features and pool"),
        ("lab.encoders:Plain", "gives the Plain, not a vision module"),
        ("lab.encoders:Broken", "fails on pictures of 64 x 64 px: RuntimeError"),
        ("lab.encoders:Flat", "gives float32 [6] for 2 pictures"),
        ("lab.encoders:Lonely", "gives float32 [3] for 1 picture, not a feature vector"),
        ("lab.encoders:Two", "gives float32 [2, 3] for 3 pictures"),
        ("builtins:nope", "'builtins' has no 'nope' that can be called."),
        ("lab.encoders:Map", "gives float32 [2, 3, 64, 64] for 2 pictures"),
        ("lab.encoders:Whole", "gives int64 [2, 3] for 2 pictures"),
        ("lab.encoders:Pair", "gives tuple for 2 pictures"),
    ],
)
def test_what_is_wrong_with_your_own_module_is_said(own: Path, name: str, what: str) -> None:
    error = caught(name)
    assert what in error.what
    assert error.what.startswith("--backbone: ")
    assert error.fix


def test_code_is_all_that_it_imports_from_its_own_project(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {
        "net.py": "import torch\nimport parts.blocks as blocks\nfrom constants import WIDTH",
        "parts/__init__.py": "",
        "parts/blocks.py": "from . import deep\nfrom .deep import Deep",
        "parts/deep.py": "class Deep: pass\n\ndef late():\n    import lazily",
        "constants.py": "WIDTH = 3",
        "lazily.py": "def broken(:",
        "unrelated.py": "",
    }
    for name, source in sources.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(source)
    first = code_sha256("net:any")
    assert len(first) == 64
    for name in sources:
        (here / name).write_text(sources[name] + "\n# changed")
        assert (code_sha256("net:any") == first) == (name == "unrelated.py"), name
        (here / name).write_text(sources[name])
    assert code_sha256("net:any") == first
    assert code_sha256("resnet18") == ""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("net", "parts", "constants"):
            monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def f(:\n", "SyntaxError"),
        ("import no_such_library", "No module named 'no_such_library'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_why_it_cannot_be_imported_is_said(here: Path, source: str, why: str) -> None:
    (here / "spoilt.py").write_text(source, encoding="utf-8")
    error = caught("spoilt:factory")
    assert "'spoilt' cannot be imported" in error.what
    assert why in error.what
    assert str(here) in error.fix
