from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from eegtool.core.errors import EegToolError
from eegtool.core.workspace import read_json, sha256_of, write_json
from eegtool.extract.module import VisionModule
from eegtool.extract.weights import load_module, save_module

CARD = {"trained_on": {"subjects": ["S01"], "epochs": 20}, "validation": {"macro_f1": 0.61}}


def pictures(size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (3, 3, size, size), generator=generator, dtype=torch.uint8)


def built(name: str = "test_resnet", size: int | None = 64) -> VisionModule:
    torch.manual_seed(7)
    return VisionModule(name, size=size).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_module(tmp_path / "vision", built(), CARD)
    return tmp_path / "vision"


def forge(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], backbone: str) -> None:
    """Change tensors and write them so that file and card agree again."""
    state = load_file(folder / "model.safetensors")
    change(state)
    data = save(state, {"backbone": backbone})
    (folder / "model.safetensors").write_bytes(data)
    card = read_json(folder / "card.json") | {"weights_sha256": hashlib.sha256(data).hexdigest()}
    write_json(folder / "card.json", card)


def refused(path: Path, backbone: str | None = None) -> EegToolError:
    with pytest.raises(EegToolError) as error:
        load_module(path, backbone=backbone)
    return error.value


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_resnet", 64),
        ("test_resnet", None),
        ("test_vit", 64),
        ("vit_tiny_patch16_224", 48),  # its positions depend on the size
        ("test_maxvit", 64),
        ("vision_mamba", 32),
    ],
)
@torch.no_grad()
def test_a_saved_module_gives_the_same_features(
    name: str, size: int | None, tmp_path: Path
) -> None:
    module = built(name, size)
    module.train()(pictures(size or 64))  # running means are no parameters, but count
    digest = save_module(tmp_path, module, CARD)
    loaded, card = load_module(tmp_path)
    assert not loaded.training
    for one, other in zip(
        module.eval()(pictures(size or 64)), loaded(pictures(size or 64)), strict=True
    ):
        assert torch.equal(one, other)
    assert digest == sha256_of(tmp_path / "model.safetensors") == card["weights_sha256"]


def test_the_card_says_what_how_and_how_good(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    module, loaded = load_module(folder / "model.safetensors", backbone="test_resnet")
    assert card == loaded
    assert CARD.items() <= card.items()
    assert (card["backbone"], card["size"], card["width"]) == ("test_resnet", 64, module.width)
    assert card["parameters"] == sum(p.numel() for p in module.parameters())


def test_a_card_cannot_lie_about_the_weights(tmp_path: Path) -> None:
    digest = save_module(tmp_path, built(), {"backbone": "resnet50", "weights_sha256": "0"})
    assert read_json(tmp_path / "card.json")["backbone"] == "test_resnet"
    assert read_json(tmp_path / "card.json")["weights_sha256"] == digest


def test_the_hash_is_that_of_the_weights_alone(folder: Path, tmp_path: Path) -> None:
    digest = sha256_of(folder / "model.safetensors")
    assert save_module(tmp_path / "again", built(), {"finished": "later"}) == digest
    other = built()
    with torch.no_grad():
        other.classifier.bias[0] += 1
    assert save_module(tmp_path / "other", other, {"finished": "later"}) != digest


def test_files_can_be_read_by_others(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_mode & 0o044 == 0o044
    with safe_open(folder / "model.safetensors", "pt") as opened:
        assert opened.metadata() == {"backbone": "test_resnet"}


@pytest.mark.parametrize("method", ["write_bytes", "write_text"])
def test_a_failed_save_leaves_what_was_there(
    folder: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = built()
    with torch.no_grad():
        other.classifier.bias[0] += 1
    with monkeypatch.context() as patch:
        patch.setattr(Path, method, full)
        with pytest.raises(EegToolError, match="cannot be written: No space"):
            save_module(folder, other, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    load_module(folder)


def test_a_save_killed_between_its_files_is_noticed(folder: Path, tmp_path: Path) -> None:
    other = built()
    with torch.no_grad():
        other.classifier.bias[0] += 1
    save_module(tmp_path / "other", other, {})
    (tmp_path / "other" / "model.safetensors").replace(folder / "model.safetensors")
    assert "SHA-256 differs" in refused(folder).what


def test_weights_of_another_module_are_refused_naming_both(folder: Path, tmp_path: Path) -> None:
    asked = refused(folder, backbone="resnet18")
    assert "'test_resnet'" in asked.what
    assert "'resnet18'" in asked.what
    assert "--backbone test_resnet" in asked.fix
    save_module(tmp_path / "vit", built("test_vit"), {})
    (tmp_path / "vit" / "model.safetensors").replace(folder / "model.safetensors")
    swapped = refused(folder)
    assert "'test_vit'" in swapped.what
    assert "'test_resnet'" in swapped.what


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state: state.pop("classifier.bias"), "1 missing (classifier.bias)"),
        (
            lambda state: state.update(a=torch.ones(1), b=torch.ones(1), c=torch.ones(1)),
            "3 left over (a, b, …)",
        ),
        (
            lambda state: state.update({"classifier.bias": torch.ones(6)}),
            "1 of another shape (classifier.bias)",
        ),
        (lambda state: state["classifier.bias"].fill_(torch.nan), "not finite: classifier.bias"),
        (lambda state: state["classifier.weight"][0, 0].fill_(torch.inf), "classifier.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], what: str
) -> None:
    load_module(folder)
    forge(folder, change, "test_resnet")
    error = refused(folder)
    assert what in error.what
    assert str(folder) in error.what
    assert error.fix


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors does not exist"),
        (lambda f: (f / "card.json").unlink(), "card.json does not exist"),
        (lambda f: (f / "card.json").write_text("{}"), "does not say which backbone"),
        (lambda f: (f / "card.json").write_text("[]"), "not a JSON object"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "cannot be read"),
    ],
)
def test_damaged_folders_are_refused(
    folder: Path, spoil: Callable[[Path], object], what: str
) -> None:
    spoil(folder)
    assert what in refused(folder).what


OWN = """
from pathlib import Path
from torch import nn

Path("ran.txt").touch()

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 4)
        self.two = nn.Linear(3, 4)
        self.two.weight = self.one.weight  # shared, which safetensors does not take

    def pixels(self, pictures):
        return pictures.float().mean((2, 3)) / 255

    def features(self, pixels):
        return self.one(pixels) * self.two(pixels)

    def pool(self, features):
        return features

class Talks(Mine):
    def get_extra_state(self):
        return "words"

    def set_extra_state(self, state):
        pass
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "own_weights_test.py").write_text(OWN, encoding="utf-8")
    return tmp_path


@torch.no_grad()
def test_code_of_your_own_runs_only_when_you_name_it(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "own_weights_test:Mine"
    module = built(name)
    save_module(own / "vision", module, {})
    (own / "ran.txt").unlink()
    monkeypatch.delitem(sys.modules, "own_weights_test")
    error = refused(own / "vision")
    assert name in error.what
    assert f"--backbone {name}" in error.fix
    assert not (own / "ran.txt").exists()
    loaded, _ = load_module(own / "vision", backbone=name)
    assert (own / "ran.txt").exists()
    assert torch.equal(loaded.represent(pictures()), module.represent(pictures()))


def test_a_state_that_is_no_tensor_is_refused(own: Path) -> None:
    with pytest.raises(EegToolError, match="_extra_state"):
        save_module(own / "vision", built("own_weights_test:Talks"), {})
    assert not (own / "vision").exists()
