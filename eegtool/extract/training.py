"""Training of the vision module on the fine-tune side, validated on subjects it does not train on."""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch
from eegtool.core.settings import ExtractSettings
from eegtool.core.stages import STAGE_INDEX, STAGES
from eegtool.core.workspace import inside
from eegtool.extract.module import VisionModule


class Pictures(Dataset[tuple[torch.Tensor, int, str]]):
    """Pictures of epochs, decoded when asked for: uint8 ``[3, H, W]``, stage index, SHA-256 of the file."""

    def __init__(self, epochs: Sequence[Epoch], folder: Path) -> None:
        self.epochs = epochs
        self.folder = folder

    def __len__(self) -> int:
        return len(self.epochs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, str]:
        epoch = self.epochs[index]
        path = inside(self.folder, epoch.image)
        try:
            data = path.read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                pixels = np.array(image.convert("RGB"))
        except OSError as error:
            raise EegToolError(
                f"The picture {path} of epoch '{epoch.sample_id}' cannot be read: {error}.",
                "Run `eegvlm prepare` again.",
            ) from error
        picture = torch.from_numpy(pixels).permute(2, 0, 1)
        return picture, STAGE_INDEX[epoch.stage], hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Scores:
    """How well the module alone stages sleep."""

    n: int
    accuracy: float
    macro_f1: float
    kappa: float


def score(true: np.ndarray, predicted: np.ndarray) -> Scores:
    """Score stage indices; macro-F1 is over the stages that occur in `true`."""
    present = np.unique(true)
    macro_f1 = f1_score(true, predicted, labels=present, average="macro", zero_division=0)
    constant = len(np.union1d(present, predicted)) < 2  # κ is 0/0 there
    kappa = 1.0 if constant else cohen_kappa_score(true, predicted)
    return Scores(len(true), float(accuracy_score(true, predicted)), float(macro_f1), float(kappa))


def split_validation(
    epochs: Sequence[Epoch], fraction: float, seed: int
) -> tuple[list[Epoch], list[Epoch], tuple[str, ...]]:
    """Hold out whole subjects of the fine-tune side for validation.

    Returns
    -------
    train, val : list of Epoch
        The two parts.
    val_subjects : tuple of str
        Who was held out. With a single subject nobody can be: `val` is empty.
    """
    subjects = sorted({epoch.subject for epoch in epochs})
    count = min(max(round(fraction * len(subjects)), 1), len(subjects) - 1)
    drawn = np.random.default_rng(seed).permutation(len(subjects))[:count]
    held_out = {subjects[i] for i in drawn}
    train = [epoch for epoch in epochs if epoch.subject not in held_out]
    val = [epoch for epoch in epochs if epoch.subject in held_out]
    return train, val, tuple(sorted(held_out))


def train(
    module: VisionModule,
    epochs: tuple[Sequence[Epoch], Sequence[Epoch]],
    folder: Path,
    settings: ExtractSettings,
    device: torch.device,
    report: Callable[[float, Scores | None], None],
) -> list[dict[str, Any]]:
    """Train the module in place and leave it at its best validation macro-F1.

    Parameters
    ----------
    module : VisionModule
        The module, already on `device`.
    epochs : tuple of sequences of Epoch
        Training and validation epochs; without validation epochs the last state is kept.
    folder : Path
        Their image folder.
    settings : ExtractSettings
        Passes, batch size, learning rate, seed.
    device : torch.device
        Where it runs.
    report : callable
        Called with the loss after each step, and with the scores (or None) after each pass.

    Returns
    -------
    list of dict
        One row per pass: loss and validation scores.
    """
    train_epochs, val_epochs = epochs
    torch.manual_seed(settings.seed)
    loader = DataLoader(
        Pictures(train_epochs, folder),
        batch_size=min(settings.batch_size, len(train_epochs)),
        shuffle=True,
        drop_last=True,
        num_workers=settings.workers,
        generator=torch.Generator().manual_seed(settings.seed),
    )
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=settings.learning_rate,
        total_steps=settings.train_epochs * len(loader),
        pct_start=0.2,
    )
    weights = class_weights(train_epochs).to(device)
    history: list[dict[str, Any]] = []
    best, best_f1 = None, -1.0
    for number in range(1, settings.train_epochs + 1):
        module.train()
        losses = []
        for pictures, stages, _ in loader:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                _, logits = module(pictures.to(device))
            loss = cross_entropy(logits.float(), stages.to(device), weight=weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            report(losses[-1], None)
        row: dict[str, Any] = {"train_epoch": number, "loss": float(np.mean(losses))}
        if val_epochs:
            _, predicted, _ = export(module, val_epochs, folder, settings.workers, device)
            scores = score(stage_indices(val_epochs), predicted)
            report(row["loss"], scores)
            row |= {"val_macro_f1": scores.macro_f1, "val_kappa": scores.kappa}
            if scores.macro_f1 > best_f1:
                best, best_f1 = copy.deepcopy(module.state_dict()), scores.macro_f1
        history.append(row)
    if best is not None:
        module.load_state_dict(best)
    return history


@torch.no_grad()
def export(
    module: VisionModule,
    epochs: Sequence[Epoch],
    folder: Path,
    workers: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[np.ndarray, np.ndarray, str]:
    """Run the module over all pictures, in order.

    Returns
    -------
    features : float32 [N, 1, 1024]
        One row per epoch.
    predicted : int64 [N]
        The module's own stage.
    images_sha256 : str
        Hash over names and bytes of the pictures, in row order.
    """
    module.eval()
    features, predicted, manifest = [], [], hashlib.sha256()
    loader = DataLoader(Pictures(epochs, folder), batch_size=128, num_workers=workers)
    names = iter(epoch.image for epoch in epochs)
    for pictures, _, digests in loader:
        rows, logits = module(pictures.to(device))
        features.append(rows.float().cpu().numpy())
        predicted.append(logits.argmax(1).cpu().numpy())
        for digest in digests:
            manifest.update(f"{next(names)} {digest}\n".encode())
        advance(len(rows))
    return np.concatenate(features)[:, None, :], np.concatenate(predicted), manifest.hexdigest()


def class_weights(epochs: Sequence[Epoch]) -> torch.Tensor:
    """Return float32 ``[5]``: inverse square root of each stage's share, mean 1 over the epochs.

    The root is a compromise: rare N1 is learnt, but the common stages keep their prior.
    """
    counts = np.bincount(stage_indices(epochs), minlength=len(STAGES)).astype(float)
    weights = np.where(counts > 0, 1 / np.sqrt(np.maximum(counts, 1)), 0.0)
    weights *= counts.sum() / (weights * counts).sum()
    return torch.tensor(weights, dtype=torch.float32)


def stage_indices(epochs: Sequence[Epoch]) -> np.ndarray:
    """Return the true stages as int64 ``[N]``."""
    return np.array([STAGE_INDEX[epoch.stage] for epoch in epochs], dtype=np.int64)
