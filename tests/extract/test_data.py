from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from eegtool.core.errors import EegToolError
from eegtool.core.pictures import read_rgb
from eegtool.core.records import Epoch
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace
from eegtool.extract.data import Pictures, errors_of_workers, images_sha256


@pytest.fixture
def side(epochs: list[Epoch]) -> list[Epoch]:
    return [epoch for epoch in epochs if epoch.split == "ft"]


def test_picture_and_stage(workspace: Workspace, side: list[Epoch]) -> None:
    folder = workspace.images("ft")
    picture, stage, number = Pictures(side, folder, 64)[7]
    assert (picture.dtype, picture.shape) == (torch.uint8, (3, 64, 64))
    with Image.open(folder / side[7].image) as image:
        np.testing.assert_array_equal(picture.permute(1, 2, 0).numpy(), np.array(image))
    assert (STAGES[stage], number) == (side[7].stage, 7)


def test_palette_becomes_colours(workspace: Workspace, side: list[Epoch]) -> None:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(workspace.images("ft") / side[0].image)
    assert Pictures(side, workspace.images("ft"))[0][0][:, 5, 5].tolist() == [200, 100, 50]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "F", "CMYK", "1"])
def test_both_models_see_the_same_picture(
    workspace: Workspace, side: list[Epoch], mode: str
) -> None:
    """Foreign ones, too: see `eegtool.core.pictures`."""
    path = workspace.images("ft") / side[0].image
    levels = np.arange(64 * 64).reshape(64, 64)
    deep: dict[str, np.ndarray] = {
        "I;16": (levels * 16).astype(np.uint16),
        "F": (levels / 4095).astype(np.float32),
    }
    grey = Image.fromarray((levels // 16).astype(np.uint8))
    image = Image.fromarray(deep[mode]) if mode in deep else grey.convert(mode)
    if image.mode in ("RGBA", "LA"):
        image.putalpha(ImageOps.invert(grey))
    image.save(path, "PNG" if mode in ("RGBA", "LA", "I;16", "1") else "TIFF")
    seen = Pictures(side, workspace.images("ft"), 64)[0][0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(seen, np.asarray(read_rgb(path, "")))
    assert 0 < seen.std() < 255
    assert seen.min() < 10
    assert seen.max() > 245


def whole(path: Path) -> bytes:
    return path.read_bytes()


BROKEN: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "no picture": lambda path: path.write_bytes(b"\x89PNG, or not"),
    "cut": lambda path: path.write_bytes(whole(path)[:-900]),
    "cut in a chunk's head": lambda path: path.write_bytes(whole(path)[:20]),
    "another checksum": lambda path: path.write_bytes(whole(path)[:30] + b"\0" + whole(path)[31:]),
}


@pytest.mark.parametrize("spoil", BROKEN.values(), ids=BROKEN.keys())
def test_unreadable_picture_is_named(
    workspace: Workspace, side: list[Epoch], spoil: Callable[[Path], object]
) -> None:
    spoil(workspace.images("ft") / side[3].image)
    with pytest.raises(EegToolError, match="cannot be read") as caught:
        Pictures(side, workspace.images("ft"), 64)[3]
    assert str(workspace.images("ft") / side[3].image) in caught.value.what
    assert f"epoch '{side[3].sample_id}'" in caught.value.what


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (128, 128)])
def test_picture_of_another_size_is_refused(
    workspace: Workspace, side: list[Epoch], size: tuple[int, int]
) -> None:
    folder = workspace.images("ft")
    Image.new("RGB", size).save(folder / side[2].image)
    with pytest.raises(EegToolError) as caught:
        Pictures(side, folder, 64)[2]
    for words in (
        side[2].image,
        f"'{side[2].sample_id}'",
        f"{size[0]} x {size[1]}",
        "says 64 x 64",
    ):
        assert words in caught.value.what
    assert Pictures(side, folder)[2][0].shape == (3, size[1], size[0])  # nobody said a size


def test_picture_outside_of_the_folder_is_refused(workspace: Workspace, side: list[Epoch]) -> None:
    from dataclasses import replace

    with pytest.raises(EegToolError, match="leaves the image folder"):
        Pictures([replace(side[0], image="../epochs.csv")], workspace.images("ft"))[0]


def test_error_of_a_worker_reads_like_one_of_this_process(
    workspace: Workspace, side: list[Epoch]
) -> None:
    folder = workspace.images("ft")
    (folder / side[3].image).unlink()
    pictures = Pictures(side, folder)
    with pytest.raises(EegToolError) as here:
        pictures[3]
    with pytest.raises(EegToolError) as there, errors_of_workers():
        for _ in DataLoader(pictures, batch_size=4, num_workers=1):
            pass
    assert (there.value.what, there.value.fix) == (here.value.what, here.value.fix)


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(EegToolError) as caught, errors_of_workers():
        raise EegToolError("The file x: y is gone.", "Look for it.")
    assert (caught.value.what, caught.value.fix) == ("The file x: y is gone.", "Look for it.")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_hash_of_pictures_is_over_names_and_bytes_in_order(
    workspace: Workspace, side: list[Epoch], workers: int
) -> None:
    folder = workspace.images("ft")
    lines = "".join(
        f"{e.image} {hashlib.sha256((folder / e.image).read_bytes()).hexdigest()}\n" for e in side
    )
    assert images_sha256(side, folder, workers) == hashlib.sha256(lines.encode("utf-8")).hexdigest()
    assert images_sha256(side[::-1], folder, workers) != images_sha256(side, folder, workers)


def test_hash_changes_with_a_picture_and_names_what_is_missing(
    workspace: Workspace, side: list[Epoch]
) -> None:
    folder = workspace.images("ft")
    before = images_sha256(side, folder, 2)
    (folder / side[3].image).write_bytes((folder / side[4].image).read_bytes())
    assert images_sha256(side, folder, 2) != before
    (folder / side[3].image).unlink()
    with pytest.raises(EegToolError, match=f"epoch '{side[3].sample_id}' cannot be read"):
        images_sha256(side, folder, 2)
