"""Pictures of epochs as tensors, and the hash that tells one set of pictures from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch.utils.data import Dataset

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch
from eegtool.core.stages import STAGE_INDEX
from eegtool.pictures.augmentation import Augmentation, vary
from eegtool.pictures.source import Picture, PictureSource, open_signals, open_source

_AGAIN: Final = "Run `eegvlm prepare` again."
_AT_ONCE: Final = 4096  # pictures that wait for a thread to hash them


class Pictures(Dataset[tuple[torch.Tensor, int, int]]):
    """Pictures of epochs, decoded or drawn when asked for.

    Parameters
    ----------
    epochs : sequence of Epoch
        Whose pictures.
    folder : Path
        Their image folder.
    size : int, optional
        Side in pixels that prepare's stamp names; None where there is no stamp to hold them to.
    augmentation : Augmentation, optional
        Draw them from stored signals that are varied so, by the seed that comes with an index.

    Raises
    ------
    EegToolError
        If there are no signals to vary, or pictures are drawn otherwise than they were.
    """

    def __init__(
        self,
        epochs: Sequence[Epoch],
        folder: Path,
        size: int | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.epochs = epochs
        self.size = size
        self.source = open_source(folder, _AGAIN)
        self.augmentation = augmentation
        self.signals = open_signals(folder) if augmentation else None
        if augmentation and not self.signals:
            raise EegToolError(
                f"{folder.parent} stores no signals, which augmentation varies.",
                f"{_AGAIN} Or train without augmentation.",
            )

    def __len__(self) -> int:
        return len(self.epochs)

    def __getitem__(self, index: int | tuple[int, int]) -> tuple[torch.Tensor, int, int]:
        """Return the picture (uint8 ``[3, H, W]``, RGB), the index of its stage and the epoch's number.

        Parameters
        ----------
        index : int or (int, int)
            Which epoch, and the seed of its augmentation.

        Raises
        ------
        EegToolError
            If the picture cannot be read or has another size, naming file and epoch.
        """
        index, seed = index if isinstance(index, tuple) else (index, None)
        epoch = self.epochs[index]
        if self.signals and self.augmentation:
            night, onset_s = self.signals.epoch(epoch.recording, epoch.epoch_index)
            rng, spec = np.random.default_rng(seed), self.signals.spec
            varied = vary(night, onset_s, self.augmentation, rng, spec.context_epochs, spec.strips)
            picture: Picture = self.signals.drawn(*varied)
        else:
            picture = load_picture(epoch, self.source)
        pixels = picture.array()
        check_side(epoch, (pixels.shape[1], pixels.shape[0]), self.size)
        return torch.from_numpy(pixels).permute(2, 0, 1), STAGE_INDEX[epoch.stage], index


def load_picture(epoch: Epoch, source: PictureSource) -> Picture:
    """Return the picture of an epoch; whatever is wrong with it, file and epoch are named."""
    return source.load(epoch.image, f"epoch '{epoch.sample_id}'")


def check_side(epoch: Epoch, found: tuple[int, int], size: int | None) -> None:
    """Refuse a picture that has not `size` pixels a side, where that is known; the epoch is named."""
    if size is not None and found != (size, size):
        raise EegToolError(
            f"The picture {epoch.image} of epoch '{epoch.sample_id}' has {found[0]} x {found[1]} "
            f"pixels; prepare.json says {size} x {size}.",
            _AGAIN,
        )


@contextmanager
def errors_of_workers() -> Iterator[None]:
    """Let an `EegToolError` that was raised in a DataLoader's worker say what it said there.

    PyTorch raises it again in this process, with the text of the worker's traceback before its own.
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

    Each is also held to `size` and to the checksums in it, or its signals to their hash: what is cut off
    should not be found after hours of training. What is drawn has the hash of the file that it would be.

    Returns
    -------
    str
        SHA-256 over one line ``<name> <SHA-256 of the file>`` per epoch.

    Raises
    ------
    EegToolError
        If a picture cannot be read or has not `size` pixels a side, naming file and epoch.
    """
    source = open_source(folder, _AGAIN)
    source.check(epoch.image for epoch in epochs)

    def line(epoch: Epoch) -> bytes:
        picture = load_picture(epoch, source)
        check_side(epoch, picture.size, size)
        picture.check()
        return f"{epoch.image} {hashlib.sha256(picture.file()).hexdigest()}\n".encode()

    manifest = hashlib.sha256()
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for start in range(0, len(epochs), _AT_ONCE):  # of millions, few wait at a time
            for row in pool.map(line, epochs[start : start + _AT_ONCE]):
                manifest.update(row)
    return manifest.hexdigest()
