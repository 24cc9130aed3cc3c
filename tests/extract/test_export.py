from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch
from eegtool.core.workspace import Workspace
from eegtool.extract.data import load_picture
from eegtool.extract.export import Exported, export
from eegtool.extract.features import FEATURE_DIM, Sidecar, load_features, write_features
from eegtool.pictures.source import open_source

CPU = torch.device("cpu")


class Means(nn.Module):
    """Gives the mean of each colour as the first features, and says so in its logits."""

    spoil = -1  # index of the epoch that it cannot see

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[torch.Size] = []
        self.seen = 0

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert pictures.dtype == torch.uint8
        assert not self.training
        assert not torch.is_grad_enabled()
        self.batches.append(pictures.shape)
        features = torch.zeros(len(pictures), FEATURE_DIM)
        features[:, :3] = pictures.float().mean((2, 3))
        if self.seen <= self.spoil < self.seen + len(pictures):
            features[self.spoil - self.seen, 9] = torch.nan
        self.seen += len(pictures)
        return features, features[:, :5]


@pytest.fixture
def side(epochs: list[Epoch]) -> list[Epoch]:
    """Return the fine-tune side in an order of its own."""
    own = [epoch for epoch in epochs if epoch.split == "ft"]
    return [own[i * 7 % len(own)] for i in range(len(own))]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "features" / "rows.npy"


def exported(
    side: Sequence[Epoch], workspace: Workspace, out: Path, batch_size: int = 8, workers: int = 2
) -> Exported:
    folder = workspace.images("ft")
    return export(Means(), side, folder, out, batch_size=batch_size, workers=workers, device=CPU)


def pixels(workspace: Workspace, epoch: Epoch) -> np.ndarray:
    with Image.open(workspace.images("ft") / epoch.image) as image:
        return np.array(image.convert("RGB"))


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (8, 0), (8, 3), (3, 5), (99, 2)])
def test_row_i_is_that_of_epoch_i(
    workspace: Workspace, side: list[Epoch], out: Path, batch_size: int, workers: int
) -> None:
    done = exported(side, workspace, out, batch_size, workers)
    rows = np.load(out)
    assert rows.dtype == np.float32
    assert rows.shape == (len(side), 1, FEATURE_DIM)
    means = [pixels(workspace, epoch).mean((0, 1)) for epoch in side]
    np.testing.assert_allclose(rows[:, 0, :3], means, rtol=1e-5)
    assert not rows[:, 0, 3:].any()
    assert done.probabilities.dtype == np.float32
    assert done.probabilities.shape == (len(side), 5)
    np.testing.assert_allclose(done.probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(done.probabilities.argmax(1), np.argmax(means, axis=1))


def test_pictures_come_as_bytes_in_batches_and_are_counted(
    workspace: Workspace, side: list[Epoch], out: Path
) -> None:
    module = Means()
    counted: list[int] = []
    module.train()
    folder = workspace.images("ft")
    export(module, side, folder, out, batch_size=8, device=CPU, advance=counted.append)
    assert module.batches == [(8, 3, 64, 64), (8, 3, 64, 64), (4, 3, 64, 64)]
    assert counted == [8, 8, 4]


def test_hash_is_over_names_and_bytes_in_row_order(
    workspace: Workspace, side: list[Epoch], out: Path
) -> None:
    manifest = hashlib.sha256()
    for epoch in side:
        data = (workspace.images("ft") / epoch.image).read_bytes()
        manifest.update(f"{epoch.image} {hashlib.sha256(data).hexdigest()}\n".encode())
    assert exported(side, workspace, out).images_sha256 == manifest.hexdigest()
    assert exported(side[::-1], workspace, out).images_sha256 != manifest.hexdigest()


def test_palette_and_grey_pictures_are_read_in_colour(
    workspace: Workspace, side: list[Epoch]
) -> None:
    path = workspace.images("ft") / side[0].image
    with Image.open(path) as image:
        grey, palette = image.convert("L"), image.quantize(16)
    for drawn in (grey, palette):
        drawn.save(path)
        picture = load_picture(side[0], open_source(workspace.images("ft")))
        np.testing.assert_array_equal(picture.rgb(), np.array(drawn.convert("RGB")))
        assert picture.file() == path.read_bytes()


def test_nothing_to_export_is_an_empty_file(workspace: Workspace, out: Path) -> None:
    assert exported([], workspace, out).probabilities.shape == (0, 5)
    assert np.load(out).shape == (0, 1, FEATURE_DIM)


def test_sidecar_of_the_rows_before_goes(
    workspace: Workspace, side: list[Epoch], out: Path
) -> None:
    ids = tuple(epoch.sample_id for epoch in side)
    out.parent.mkdir()
    write_features(out, np.zeros((len(ids), 1, FEATURE_DIM), np.float32), Sidecar(ids, "", "", ""))
    exported(side, workspace, out)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert load_features(out, ids).by_order


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def enlarge(path: Path) -> None:
    Image.new("RGB", (80, 64)).save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "cannot be read: it does not exist"),
        (lambda path: path.write_bytes(b"\x89PNG, or not"), "cannot be read: cannot identify"),
        (cut, "cannot be read"),
        (enlarge, "has 80x64 pixels, those before it 64x64"),
    ],
    ids=["missing", "no picture", "cut short", "another size"],
)
def test_bad_picture_is_named_and_nothing_is_half_written(
    workspace: Workspace,
    side: list[Epoch],
    out: Path,
    spoil: Callable[[Path], object],
    message: str,
) -> None:
    exported(side, workspace, out)
    before = out.read_bytes()
    spoil(workspace.images("ft") / side[13].image)
    with pytest.raises(EegToolError, match=message) as caught:
        exported(side, workspace, out)
    assert f"{side[13].image} of epoch '{side[13].sample_id}'" in caught.value.what
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("i", [0, 9, 19])
def test_feature_that_is_no_number_is_named_and_nothing_is_half_written(
    workspace: Workspace, side: list[Epoch], out: Path, i: int
) -> None:
    module = Means()
    module.spoil = i
    message = re.escape(f"1 of the high-level features are not finite: {side[i].sample_id}.")
    with pytest.raises(EegToolError, match=message):
        export(module, side, workspace.images("ft"), out, batch_size=8, device=CPU)
    assert not list(out.parent.iterdir())


def test_picture_outside_its_folder_is_refused(
    workspace: Workspace, side: list[Epoch], out: Path
) -> None:
    with pytest.raises(EegToolError, match="leaves the image folder"):
        exported([replace(side[0], image="../epochs.csv")], workspace, out)
