"""The features file: float32 ``[N, 1, 1024]`` beside a sidecar that says which row is which epoch.

Written by extract, read by finetune and evaluate. Rows are joined by ``sample_id``, never by a
counter: the sidecar is compared with the ids of the question file before any row is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.markup import escape

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.core.records import check_unique
from eegtool.core.settings import FeatureSource
from eegtool.core.workspace import atomic_path, read_json, write_json

FEATURE_DIM: Final = 1024
"""Width of a high-level feature: that of CLIP ViT-L, whose projector it shares (EEG-VLM, arXiv 2511.19155)."""


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What ``*_high_level_features.json`` says about the rows of the ``.npy`` beside it."""

    sample_ids: tuple[str, ...]
    """Epoch of each row, in row order."""
    backbone: str
    weights_sha256: str
    images_sha256: str
    """Hash over the names and bytes of all pictures, in row order."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """How these pictures were made, as prepare stamped it."""


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """High-level features that are found by ``sample_id``."""

    rows: np.ndarray
    """float32 ``[N, 1, 1024]``, memory-mapped: only the rows asked for are read."""
    row_of: dict[str, int]
    source: FeatureSource
    weights_sha256: str
    """Weights of the vision module that made them; empty where there is no sidecar to say it."""
    by_order: bool
    """Whether, for want of a sidecar, the rows were taken in file order."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """How the pictures were made; empty where there is no sidecar to say it."""

    def __getitem__(self, sample_id: str) -> np.ndarray:
        """Return the float32 ``[1, 1024]`` feature of one epoch.

        Raises
        ------
        EegToolError
            If it holds NaN or infinity, which would turn a whole training into NaN.
        """
        if self.source == "zero":
            return np.zeros(self.rows.shape[1:], np.float32)
        row = np.array(self.rows[self.row_of[sample_id]])
        if not np.isfinite(row).all():
            raise EegToolError(
                f"The high-level feature of epoch '{sample_id}' is not finite.",
                "Run `eegvlm extract` again, or mend the features file.",
            )
        return row


def sidecar_path(path: Path) -> Path:
    """Return the path of the sidecar of a features file."""
    return path.with_suffix(".json")


def write_features(path: Path, rows: np.ndarray, sidecar: Sidecar) -> None:
    """Write rows and sidecar.

    The old sidecar goes first and the new one comes last: features never stand beside the ids of others.
    """
    check_rows(path, rows)
    if len(rows) != len(sidecar.sample_ids):
        raise ValueError(f"{len(rows)} rows for {len(sidecar.sample_ids)} sample ids")
    sidecar_path(path).unlink(missing_ok=True)
    with atomic_path(path) as tmp, tmp.open("wb") as file:
        np.save(file, rows)
    write_json(sidecar_path(path), asdict(sidecar))


def load_features(
    path: Path,
    sample_ids: Sequence[str],
    *,
    other: str = "the question file",
    source: FeatureSource = "real",
    seed: int = 0,
) -> FeatureTable:
    """Open a features file and join it to the epochs that will ask for it.

    Parameters
    ----------
    path : Path
        The ``.npy`` file; its sidecar lies beside it.
    sample_ids : sequence of str
        Ids of the question or fine-tune file, in file order, each once.
    other : str
        What to call that file in a message.
    source : {"real", "shuffled", "zero"}
        ``shuffled`` gives every epoch the row of another one, drawn with `seed`.
    seed : int
        Seed of the shuffling.

    Raises
    ------
    EegToolError
        If the file is missing, has another shape or type, or its ids are not those of `sample_ids`.
    """
    try:
        rows = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise EegToolError(
            f"The features file {path} does not exist.", "Run `eegvlm extract` first."
        ) from None
    except (OSError, ValueError) as error:
        raise EegToolError(f"The features file {path} cannot be read: {error}.") from error
    check_rows(path, rows)
    by_order = not sidecar_path(path).exists()
    if by_order:
        ids, weights, protocol = _ids_by_order(path, rows, sample_ids), "", {}
    else:
        sidecar = _read_sidecar(path)
        ids, weights, protocol = sidecar.sample_ids, sidecar.weights_sha256, sidecar.protocol
        if len(ids) != len(rows):
            raise EegToolError(
                f"{path} has {len(rows)} rows, but its sidecar names {len(ids)} epochs.",
                "Run `eegvlm extract` again.",
            )
    check_same_ids(path, ids, sample_ids, other)
    row_of = {sample_id: i for i, sample_id in enumerate(ids)}
    if source == "shuffled":
        row_of = _shuffled(row_of, seed)
    return FeatureTable(rows, row_of, source, weights, by_order, protocol)


def warn_if_by_order(path: Path, table: FeatureTable) -> None:
    """Tell the user that nothing but the order says which row is which epoch."""
    if table.by_order:
        console.print(
            f"[yellow]warning:[/] {escape(str(path))} has no sidecar: its rows are taken in file order."
        )


def check_rows(path: Path, rows: np.ndarray) -> None:
    """Refuse what is not float32 ``[N, 1, 1024]``."""
    if rows.dtype != np.float32 or rows.ndim != 3 or rows.shape[1:] != (1, FEATURE_DIM):
        raise EegToolError(
            f"{path} holds {rows.dtype} {list(rows.shape)}, not float32 [N, 1, {FEATURE_DIM}].",
            "High-level features are one 1024-d vector per epoch; run `eegvlm extract`.",
        )


def check_same_ids(
    path: Path, ids: Sequence[str], sample_ids: Sequence[str], other: str = "the question file"
) -> None:
    """Refuse rows of `path` whose ids are not, in the same order, those of the `other` file.

    Raises
    ------
    EegToolError
        Naming ids that only one side has, or the first row at which the order differs.
    """
    if tuple(ids) == tuple(sample_ids):
        return
    extra, missing = sorted(set(ids) - set(sample_ids)), sorted(set(sample_ids) - set(ids))
    if extra or missing:
        detail = "; ".join(
            f"{len(some)} only in {where} ({', '.join(some[:3])}{', …' if len(some) > 3 else ''})"
            for some, where in ((missing, other), (extra, path.name))
            if some
        )
    else:
        i = next(i for i, (a, b) in enumerate(zip(ids, sample_ids, strict=True)) if a != b)
        detail = f"row {i} is '{ids[i]}' in {path.name} and '{sample_ids[i]}' in {other}"
    raise EegToolError(
        f"The rows of {path} are not those of {other}: {detail}.",
        "Run `eegvlm extract` again after `eegvlm prepare`, or point to the matching files.",
    )


def _read_sidecar(path: Path) -> Sidecar:
    raw: dict[str, Any] = read_json(sidecar_path(path))
    try:
        sidecar = Sidecar(**raw | {"sample_ids": tuple(raw["sample_ids"])})
    except (KeyError, TypeError) as error:
        raise EegToolError(
            f"{sidecar_path(path)} is not a features sidecar: {error}.",
            "Run `eegvlm extract` again.",
        ) from error
    check_unique(sidecar_path(path), sidecar.sample_ids)
    return sidecar


def _ids_by_order(path: Path, rows: np.ndarray, sample_ids: Sequence[str]) -> tuple[str, ...]:
    """Accept somebody's own ``.npy`` without a sidecar by order, if at least the number fits."""
    if len(rows) != len(sample_ids):
        raise EegToolError(
            f"{path} has no sidecar and {len(rows)} rows for {len(sample_ids)} epochs.",
            "Without a sidecar the rows must be those epochs, in the order of their file.",
        )
    return tuple(sample_ids)


def _shuffled(row_of: dict[str, int], seed: int) -> dict[str, int]:
    """Give every id the row of another id: a random cycle through all of them."""
    ids = list(row_of)
    cycle = np.random.default_rng(seed).permutation(len(ids))
    following = np.roll(cycle, 1)
    return {ids[i]: row_of[ids[j]] for i, j in zip(cycle, following, strict=True)}
