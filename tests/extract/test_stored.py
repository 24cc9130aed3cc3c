from __future__ import annotations

import io
import os
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch, read_epochs
from eegtool.core.workspace import Workspace, sha256_of
from eegtool.extract import stored
from eegtool.extract.export import export
from eegtool.extract.module import VisionModule
from eegtool.extract.stored import STORED, features_of, is_module, open_module, store_module
from eegtool.extract.weights import load_module, save_module


def built(seed: int = 7, name: str = "test_resnet") -> VisionModule:
    torch.manual_seed(seed)
    return VisionModule(name, size=64).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_module(tmp_path / "trained", built(), {"validation": {"macro_f1": 0.61}})
    return tmp_path / "trained"


@pytest.fixture
def weights(folder: Path) -> str:
    return sha256_of(folder / "model.safetensors")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "adapter").mkdir()
    return tmp_path / "adapter"


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("links", [True, False])
def test_it_is_stored_whole(
    folder: Path, out: Path, weights: str, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refuse)
    assert store_module(folder, out, weights)
    assert below(out) == [STORED, f"{STORED}/card.json", f"{STORED}/model.safetensors"]
    for name in ("card.json", "model.safetensors"):
        assert (out / STORED / name).read_bytes() == (folder / name).read_bytes()
        assert (out / STORED / name).samefile(folder / name) is links
    assert stat.S_IMODE((out / STORED).stat().st_mode) == stat.S_IMODE(folder.stat().st_mode)
    _, card = load_module(out / STORED)
    assert card["validation"] == {"macro_f1": 0.61}
    assert is_module(out / STORED, weights)


def test_it_stays_when_the_workspace_is_trained_anew(folder: Path, out: Path, weights: str) -> None:
    assert store_module(folder, out, weights)
    other = save_module(folder, built(seed=8), {})
    assert other != weights
    load_module(out / STORED)  # its hash is checked
    assert is_module(out / STORED, weights)


def no_card(folder: Path) -> None:
    (folder / "card.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def other_weights(folder: Path) -> None:
    save_module(folder, built(seed=8), {})


def changed_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def broken_card(folder: Path) -> None:
    (folder / "card.json").write_text("{")


def nothing(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "spoil", [no_card, no_weights, other_weights, changed_weights, broken_card, nothing]
)
def test_anything_else_is_not_stored(folder: Path, out: Path, weights: str, spoil: object) -> None:
    spoil(folder)  # type: ignore[operator]
    assert not store_module(folder, out, weights)
    assert below(out) == []


def test_where_the_weights_are_not_known_none_are_stored(folder: Path, out: Path) -> None:
    (folder / "card.json").write_text('{"weights_sha256": ""}')
    assert not is_module(folder, "")
    assert not store_module(folder, out, "")
    assert below(out) == []


def test_a_module_that_is_replaced_meanwhile_is_not_stored(
    folder: Path, out: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = stored._link_or_copy

    def copy_and_train(source: Path, target: Path) -> None:
        plain(source, target)
        if source.name == "model.safetensors":
            save_module(folder, built(seed=8), {})

    monkeypatch.setattr(stored, "_link_or_copy", copy_and_train)
    assert not store_module(folder, out, weights)
    assert below(out) == []


def test_a_full_disk_leaves_nothing_behind(
    folder: Path, out: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored, "_link_or_copy", fill)
    with pytest.raises(OSError, match="No space left"):
        store_module(folder, out, weights)
    assert below(out) == []


def feature_of(folder: Path, picture: np.ndarray, backbone: str | None = None) -> np.ndarray:
    """Return the feature of one picture, uint8 ``[H, W, 3]``, by the module of a folder."""
    png = io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    return features_of(open_module(folder, backbone)[0], {"a": png.getvalue()})["a"]


def picture_of(workspace: Workspace, epoch: Epoch) -> np.ndarray:
    with Image.open(workspace.images(epoch.split) / epoch.image) as image:
        return np.array(image.convert("RGB"))


def test_the_feature_is_that_of_the_export(folder: Path, workspace: Workspace) -> None:
    epochs = read_epochs(workspace.epochs)[:3]
    out = workspace.root / "rows.npy"
    export(built(), epochs, workspace.images("ft"), out, device=torch.device("cpu"))
    rows = np.load(out)
    for epoch, row in zip(epochs, rows, strict=True):
        feature = feature_of(folder, picture_of(workspace, epoch))
        assert feature.shape == (1, 1024)
        assert feature.dtype == np.float32
        assert np.abs(feature - row).max() < 1e-5
    assert np.abs(rows[0] - rows[1]).max() > 1e-2


def test_a_picture_of_another_size_is_resized(folder: Path) -> None:
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (48, 96, 3), dtype=np.uint8)
    small = np.asarray(Image.fromarray(picture).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.array_equal(feature_of(folder, picture), feature_of(folder, small))


OWN = """
import torch
from torch import nn

class Bright(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
    def pixels(self, pictures):
        return pictures.float() / 255
    def features(self, pixels):
        return pixels.mean(dim=(1, 2, 3))[:, None] * self.scale
    def pool(self, features):
        return features / (features < 1)  # a white picture is infinitely bright
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a module of one's own, its code in the current folder."""
    (tmp_path / "bright_eyes.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bright_eyes", raising=False)
    from eegtool.extract.backbones import code_sha256

    name = "bright_eyes:Bright"
    save_module(tmp_path / "own", built(name=name), {"code_sha256": code_sha256(name)})
    return tmp_path / "own"


def test_ones_own_code_runs_only_if_a_person_names_it(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = np.full((64, 64, 3), 99, np.uint8)
    with pytest.raises(EegToolError, match="code of your own") as caught:
        feature_of(own, grey)
    assert "--backbone bright_eyes:Bright" in caught.value.fix
    assert feature_of(own, grey, "bright_eyes:Bright").shape == (1, 1024)
    assert capsys.readouterr().out == ""


def test_changed_code_is_told(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bright_eyes.py").write_text(OWN + "# another day\n")
    feature_of(own, np.full((64, 64, 3), 99, np.uint8), "bright_eyes:Bright")
    assert "the code of 'bright_eyes:Bright' is not that" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_feature_that_is_not_finite_is_refused(own: Path) -> None:
    with pytest.raises(EegToolError, match="not finite"):
        feature_of(own, np.full((64, 64, 3), 255, np.uint8), "bright_eyes:Bright")
