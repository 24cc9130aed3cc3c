"""Export of high-level features: every picture through the trained module, streamed to disk in order."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch
from eegtool.core.stages import STAGES
from eegtool.core.workspace import atomic_path
from eegtool.extract.data import check_side, load_picture
from eegtool.extract.features import RowWriter, sidecar_path
from eegtool.extract.module import best_dtype
from eegtool.pictures.source import PictureSource, open_source

_AGAIN: Final = "Run `eegvlm prepare` again."


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export knows beside the rows that it wrote."""

    probabilities: np.ndarray
    """float32 ``[N, 5]``: the module's own probability of each stage, in row order."""
    images_sha256: str
    """Hash over the names and bytes of all pictures, in row order."""


Exporter = Callable[..., Exported]
"""`export` with size, threads, device and progress callback bound."""


def silently(_: int) -> None:
    """Ignore progress."""


@torch.inference_mode()
def export(
    module: nn.Module,
    epochs: Sequence[Epoch],
    pictures: Path | PictureSource,
    out: Path,
    *,
    size: int | None = None,
    batch_size: int = 128,
    workers: int = 2,
    device: torch.device,
    advance: Callable[[int], None] = silently,
) -> Exported:
    """Run the module over all pictures, in order, and write its features as float32 ``[N, 1, 1024]``.

    Threads decode the next pictures while the module sees this batch (reading, inflating and
    hashing leave Python's lock alone; worker processes would have to copy each batch). Memory does
    not grow with the number of epochs, but for their 20 bytes of probabilities.

    Parameters
    ----------
    module : nn.Module
        Gives features ``[B, 1024]`` and logits ``[B, 5]`` for uint8 ``[B, 3, H, W]``; on `device`.
        It is left in evaluation mode.
    epochs : sequence of Epoch
        One row each, in this order.
    pictures : Path or PictureSource
        Their image folder, or where else they come from.
    out : Path
        The ``.npy`` file. It takes this name only when it is whole; a sidecar of the rows that were
        there before goes (`eegtool.extract.features.write_sidecar` writes the new one).
    size : int, optional
        Side in pixels that prepare's stamp names; None where there is no stamp to hold them to.
    batch_size : int
        Pictures at a time.
    workers : int
        Threads that decode, at most; there is always one. A batch more than there are threads may wait.
    device : torch.device
        Where it runs; CUDA computes as in training (`best_dtype`). The features are float32 everywhere.
    advance : callable
        Called with the number of epochs done, after each batch.

    Raises
    ------
    EegToolError
        If a picture cannot be read or has another size than the first one, or a feature is not
        finite; the epoch is named.
    """
    module.eval()
    source = open_source(pictures, _AGAIN) if isinstance(pictures, Path) else pictures
    probabilities = np.empty((len(epochs), len(STAGES)), np.float32)
    manifest, done = hashlib.sha256(), 0
    with atomic_path(out) as tmp:
        with RowWriter(tmp, len(epochs)) as writer:
            for batch, digests in _batches(epochs, source, size, batch_size, max(workers, 1)):
                some = epochs[done : done + len(digests)]
                rows, logits = look(module, batch, device)
                writer.write(rows.float().cpu().numpy(), [epoch.sample_id for epoch in some])
                probabilities[done : done + len(some)] = logits.float().softmax(1).cpu().numpy()
                for epoch, digest in zip(some, digests, strict=True):
                    manifest.update(f"{epoch.image} {digest}\n".encode())
                done += len(some)
                advance(len(some))
        sidecar_path(out).unlink(missing_ok=True)
    return Exported(probabilities, manifest.hexdigest())


def look(
    module: nn.Module, pictures: np.ndarray, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the module over a batch of pictures, uint8 ``[B, H, W, 3]``; return features and logits.

    CUDA computes as in training (`best_dtype`).
    """
    cuda = device.type == "cuda"
    batch = torch.from_numpy(pictures).permute(0, 3, 1, 2)  # channels last in memory
    if cuda:
        batch = batch.pin_memory().to(device, non_blocking=True)
    with torch.autocast(device.type, best_dtype(), enabled=cuda):
        rows, logits = module(batch)
    return rows, logits


def _batches(
    epochs: Sequence[Epoch],
    source: PictureSource,
    size: int | None,
    batch_size: int,
    threads: int,
) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Yield uint8 ``[B, H, W, 3]`` and the SHA-256 of each file, batch by batch in order.

    A batch is one thread's work, and as many are in the making as the module has had to wait for. So
    one thread decodes where that is quicker than the module, which on a CPU wants the cores itself,
    and all of them do where it is slower.
    """
    if not epochs:
        return
    shape = load_picture(epochs[0], source).size
    check_side(epochs[0], shape, size)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    ahead: deque[Future[tuple[np.ndarray, list[str]]]] = deque()
    starts = iter(range(0, len(epochs), batch_size))

    def ask() -> None:
        if (start := next(starts, None)) is not None:
            ahead.append(pool.submit(_decode, epochs[start : start + batch_size], source, shape))

    try:
        ask()
        while ahead:
            future = ahead.popleft()
            late = not future.done()
            batch = future.result()
            ask()
            if late and len(ahead) <= threads:
                ask()
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode(
    epochs: Sequence[Epoch], source: PictureSource, shape: tuple[int, int]
) -> tuple[np.ndarray, list[str]]:
    """Return the pictures of a batch, uint8 ``[B, H, W, 3]``, and the SHA-256 of each file."""
    width, height = shape
    pictures = np.empty((len(epochs), height, width, 3), np.uint8)
    digests = []
    for i, epoch in enumerate(epochs):
        picture = load_picture(epoch, source)
        rgb = picture.rgb()
        if rgb.size != shape:
            sizes = [f"{s[0]}x{s[1]}" for s in (rgb.size, shape)]
            raise EegToolError(
                f"The picture {epoch.image} of epoch '{epoch.sample_id}' has {sizes[0]} "
                f"pixels, those before it {sizes[1]}.",
                "Run `eegvlm prepare` again: all pictures are drawn in one size.",
            )
        pictures[i] = np.asarray(rgb)
        digests.append(hashlib.sha256(picture.file()).hexdigest())
    return pictures, digests
