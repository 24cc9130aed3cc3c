"""Pictures of epochs: decoding, and the hash that tells one set of pictures from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from eegtool.core.errors import EegToolError, brief
from eegtool.core.pictures import as_rgb, open_picture
from eegtool.core.records import Epoch
from eegtool.core.stages import STAGE_INDEX
from eegtool.core.workspace import fault_of, inside

_AGAIN: Final = "Run `eegvlm prepare` again."
_AT_ONCE: Final = 4096  # pictures that wait for a thread to hash them


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Pictures of epochs, decoded when asked for.

    Parameters
    ----------
    epochs : sequence of Epoch
        Whose pictures.
    folder : Path
        Their image folder.
    size : int, optional
        Side in pixels that prepare's stamp names; None where there is no stamp to hold them to.
    """

    def __init__(self, epochs: Sequence[Epoch], folder: Path, size: int | None = None) -> None:
        self.epochs = epochs
        self.folder = folder
        self.size = size

    def __len__(self) -> int:
        return len(self.epochs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return the picture (uint8 ``[3, H, W]``, RGB) and the index of its stage.

        Raises
        ------
        EegToolError
            If the picture cannot be read or has another size, naming file and epoch.
        """
        epoch = self.epochs[index]
        pixels, _ = read_picture(epoch, self.folder, self.size)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1), STAGE_INDEX[epoch.stage]


def read_picture(epoch: Epoch, folder: Path, size: int | None = None) -> tuple[np.ndarray, bytes]:
    """Return the RGB picture of an epoch, uint8 ``[H, W, 3]``, and the bytes of its file.

    Raises
    ------
    EegToolError
        If it cannot be read or has not `size` pixels a side, naming file and epoch.
    """
    data = _read(folder, epoch)
    with _opened(data, epoch, folder, size) as image:
        return np.asarray(as_rgb(image)), data


@contextmanager
def _opened(data: bytes, epoch: Epoch, folder: Path, size: int | None) -> Iterator[Image.Image]:
    """Open a picture, not yet decoded, that has the right size; say of which epoch it is if it cannot be."""
    called = _called(folder, epoch)
    with open_picture(data, called, _AGAIN) as image:
        if size is not None and image.size != (size, size):
            raise EegToolError(
                f"{called} has {image.width} x {image.height} pixels; prepare.json says "
                f"{size} x {size}.",
                _AGAIN,
            )
        yield image


@contextmanager
def errors_of_workers() -> Iterator[None]:
    """Let an `EegToolError` that was raised in a DataLoader's worker say what it said there.

    PyTorch raises it anew in this process, with the text of the worker's traceback before its own.
    """
    try:
        yield
    except EegToolError as error:
        before, found, message = error.what.rpartition(f"{EegToolError.__name__}: ")
        if not found or "DataLoader worker" not in before:
            raise
        what, _, fix = message.strip().partition("\n")
        raise EegToolError(what, fix) from None


def images_sha256(
    epochs: Sequence[Epoch], folder: Path, workers: int, size: int | None = None
) -> str:
    """Hash the names and bytes of pictures in the order of `epochs`, by `workers` threads (at least one).

    Each is also held to `size` and to the checksums in it: what is cut off should not be found after
    hours of training.

    Returns
    -------
    str
        SHA-256 over one line ``<name> <SHA-256 of the file>`` per epoch.

    Raises
    ------
    EegToolError
        If a picture cannot be read or has not `size` pixels a side, naming file and epoch.
    """

    def line(epoch: Epoch) -> bytes:
        data = _read(folder, epoch)
        with _opened(data, epoch, folder, size) as image:
            image.verify()
        return f"{epoch.image} {hashlib.sha256(data).hexdigest()}\n".encode()

    manifest = hashlib.sha256()
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for start in range(0, len(epochs), _AT_ONCE):  # of millions, few wait at a time
            for row in pool.map(line, epochs[start : start + _AT_ONCE]):
                manifest.update(row)
    return manifest.hexdigest()


def _read(folder: Path, epoch: Epoch) -> bytes:
    path = inside(folder, epoch.image)
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        why = f"it {fault}" if (fault := fault_of(path)) else brief(error)
        raise EegToolError(f"{_called(folder, epoch)} cannot be read: {why}.", _AGAIN) from error


def _called(folder: Path, epoch: Epoch) -> str:
    return f"The picture {folder / epoch.image} of epoch '{epoch.sample_id}'"
