"""The features file: float32 ``[N, 1, 1024]`` beside a sidecar that says which row is which epoch.

Written by extract, read by finetune and evaluate. Rows are joined by ``sample_id``, never by a
counter: the ids of the sidecar are compared with those of the question file before any row is used,
and every row with the checksum that the sidecar has for its id, so that rows which were shuffled
or dropped behind the sidecar's back are found, too.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from eegtool.core.console import warn
from eegtool.core.errors import EegToolError
from eegtool.core.options import FeatureSource
from eegtool.core.parsing import parse_json
from eegtool.core.records import (
    check_unique,
)
from eegtool.core.workspace import atomic_path, write_json

FEATURE_DIM: Final = 1024
"""Width of a high-level feature: that of CLIP ViT-L, whose projector it shares (EEG-VLM, arXiv 2511.19155)."""

_ROUNDING: Final = 1e-6
"""Share of their size by which numbers differ that only rounding makes different."""

_SIDECAR: Final = (
    "A sidecar is what `eegvlm extract` writes as NAME.json beside NAME.npy: an object with the "
    "'sample_ids' of the rows."
)

BLOCK: Final = 2048
"""Rows that are in memory at a time (8 MiB) where all of them are read."""


@dataclass(frozen=True, slots=True)
class FoldCard:
    """What the sidecar says about one fold of out-of-fold features (`eegtool.extract.folds`)."""

    number: int
    """From 1."""
    held_out: tuple[str, ...]
    """Subjects whose rows its module made, none of whom it saw in training."""
    weights_sha256: str
    """Weights of its module."""
    method: str
    """How its feature space was brought into that of the reference module."""
    fitted_on: int
    """Epochs on which that map was fitted."""
    residual: float
    """Share of the reference's variance on these epochs that the map leaves unexplained."""


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What ``*_high_level_features.json`` says about the rows of the ``.npy`` beside it."""

    sample_ids: tuple[str, ...]
    """Epoch of each row, in row order."""
    backbone: str
    weights_sha256: str
    """Weights of the module whose feature space this is; with folds, of the reference module."""
    images_sha256: str
    """Hash over the names and bytes of all pictures, in row order."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """How these pictures were made, as prepare stamped it."""
    fold: tuple[int, ...] | None = None
    """Number of the fold whose module made each row; None where one module made them all."""
    folds: tuple[FoldCard, ...] = ()
    code_sha256: str = ""
    """Of an own module's code (`eegtool.extract.backbones.code_sha256`)."""
    context: int = 0
    """Epochs on either side that a row knows of; 0 where it knows its own picture only."""
    row_checks: str = ""
    """CRC-32 of each epoch's id and row, eight hexadecimal digits each, in the order of the *sorted*
    ids: rows may be reordered together with their ids. `write_sidecar` fills it in; sidecars of
    version 0.1 have none."""


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
    context: int = 0
    """Epochs on either side that a row knows of."""

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
                "Run `eegvlm extract` again, or fix the features file.",
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
    write_sidecar(path, sidecar)


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of rows that are on disk already, with their checksums.

    Raises
    ------
    ValueError
        If there are not as many rows as ids, or not as many folds.
    """
    n_rows, ids = len(open_rows(path)), sidecar.sample_ids
    if n_rows != len(ids):
        raise ValueError(f"{n_rows} rows for {len(ids)} sample ids")
    if sidecar.fold is not None and len(sidecar.fold) != len(ids):
        raise ValueError(f"{len(sidecar.fold)} folds for {len(ids)} sample ids")
    checks = dict(zip(ids, _row_checks(path, ids), strict=True))
    checked = replace(sidecar, row_checks="".join(checks[sample_id] for sample_id in sorted(ids)))
    write_json(sidecar_path(path), asdict(checked))


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
        Ids of the question or fine-tune file, each once. The rows may be in another order: they are
        joined by id. Only rows without a sidecar are taken in the order of this file.
    other : str
        What to call that file in a message.
    source : {"real", "shuffled", "zero"}
        ``shuffled`` gives every epoch the row of another one, drawn with `seed`.
    seed : int
        Seed of the shuffling.

    Raises
    ------
    EegToolError
        If the file is missing, has another shape or type, its ids are not those of `sample_ids`, or
        its rows are not those that the sidecar was written for.
    """
    rows, sidecar = open_rows(path), read_sidecar(path)
    if sidecar is None:
        ids, weights, protocol = _ids_by_order(path, rows, sample_ids), "", {}
    else:
        ids, weights, protocol = sidecar.sample_ids, sidecar.weights_sha256, sidecar.protocol
        check_same_ids(path, ids, sample_ids, other)
        _check_against_sidecar(path, len(rows), sidecar)
    row_of = {sample_id: i for i, sample_id in enumerate(ids)}
    if source == "shuffled":
        row_of = _shuffled(row_of, seed)
    context = sidecar.context if sidecar else 0
    return FeatureTable(rows, row_of, source, weights, sidecar is None, protocol, context)


def warn_if_by_order(path: Path, table: FeatureTable) -> None:
    """Tell the user that nothing but the order says which row is which epoch."""
    if table.by_order:
        beside = sidecar_path(path)
        other = f" ({beside.name} beside it is something else)" if beside.exists() else ""
        warn(f"{path} has no sidecar{other}: its rows are taken in file order.")


def check_finite(path: Path, table: FeatureTable) -> None:
    """Refuse features of which any is NaN or infinite: one would turn a whole training into NaN.

    Those that say nothing are warned of (see `Variation`).

    Raises
    ------
    EegToolError
        Naming the epochs.
    """
    id_of = {row: sample_id for sample_id, row in table.row_of.items()}
    bad: list[str] = []
    variation = Variation()
    for start in range(0, len(table.rows), BLOCK):
        block = np.asarray(table.rows[start : start + BLOCK])
        ids = [id_of[start + i] for i in range(len(block))]
        finite = np.isfinite(block).all(axis=(1, 2))
        bad += [ids[i] for i in np.flatnonzero(~finite).tolist()]
        variation.add(block, ids)
    if bad:
        raise EegToolError(
            f"{path}: {len(bad)} of the high-level features are not finite: {first_three(bad)}.",
            "Run `eegvlm extract` again, or fix the features file.",
        )
    variation.warn(path)


class Variation:
    """How much the rows of features differ, gathered block by block.

    Those of a module that has collapsed, or of a script that never filled them in, train without an
    error and say nothing.
    """

    def __init__(self) -> None:
        self._low = np.full(FEATURE_DIM, np.inf, np.float32)
        self._high = -self._low
        self._flat: list[str] = []
        self._n = 0

    def add(self, rows: np.ndarray, sample_ids: Sequence[str]) -> None:
        """Look at rows ``[B, 1024]`` or ``[B, 1, 1024]`` of these epochs."""
        rows = rows.reshape(-1, FEATURE_DIM)
        self._low = np.fmin(self._low, np.fmin.reduce(rows))
        self._high = np.fmax(self._high, np.fmax.reduce(rows))
        flat = np.flatnonzero(rows.min(axis=1) == rows.max(axis=1))
        self._flat += [sample_ids[i] for i in flat.tolist()]
        self._n += len(rows)

    def warn(self, path: Path) -> None:
        """Warn of features that are the same for all epochs, or of epochs whose features are one number."""
        spread = float((self._high.astype(float) - self._low).max())
        if self._n > 1 and spread <= _ROUNDING * max(
            -float(self._low.min()), float(self._high.max())
        ):
            warn(
                f"{path}: all {self._n:,} features are the same, so they say nothing about an epoch."
            )
        elif self._flat:
            warn(
                f"{path}: {len(self._flat):,} of {self._n:,} features are one number {FEATURE_DIM} times "
                f"({first_three(self._flat)}): they say nothing about their epochs."
            )


def check_rows(path: Path, rows: np.ndarray) -> None:
    """Refuse what is not float32 ``[N, 1, 1024]``."""
    if rows.dtype != np.float32 or rows.ndim != 3 or rows.shape[1:] != (1, FEATURE_DIM):
        raise EegToolError(
            f"{path} holds {rows.dtype} {list(rows.shape)}, not float32 [N, 1, {FEATURE_DIM}].",
            "High-level features are one 1024-d vector per epoch: run `eegvlm extract`, or bring your "
            f"own into form, such as rows.astype('float32').reshape(-1, 1, {FEATURE_DIM}).",
        )


def check_same_ids(
    path: Path, ids: Sequence[str], sample_ids: Sequence[str], other: str = "the question file"
) -> None:
    """Refuse rows of `path` whose ids are not those of the `other` file, in whatever order.

    Raises
    ------
    EegToolError
        Naming ids that only one side has.
    """
    extra, lacking = sorted(set(ids) - set(sample_ids)), sorted(set(sample_ids) - set(ids))
    if extra or lacking:
        detail = "; ".join(
            f"{len(some)} only in {where} ({first_three(some)})"
            for some, where in ((lacking, other), (extra, path.name))
            if some
        )
        raise EegToolError(
            f"The rows of {path} are not those of {other}: {detail}.",
            "Run `eegvlm extract` again after `eegvlm prepare`, or point to the matching files.",
        )


def unchanged(path: Path, planned: Sidecar, fold_weights: tuple[str, ...] = ()) -> bool:
    """Tell whether features on disk are already those that an export would write.

    Parameters
    ----------
    path : Path
        The ``.npy`` file.
    planned : Sidecar
        What the sidecar would say, folds and checksums left out.
    fold_weights : tuple of str
        Weights of the module of each fold, in the order of their numbers; empty without folds.

    Returns
    -------
    bool
        False also where there are none, or they cannot be read or are not what was once written.
    """
    try:
        sidecar = read_sidecar(path)
        if sidecar is None:
            return False
        _check_against_sidecar(path, len(open_rows(path)), sidecar)
    except EegToolError:
        return False
    found = replace(sidecar, fold=None, folds=(), row_checks="")
    weights = tuple(card.weights_sha256 for card in sidecar.folds)
    return bool(sidecar.row_checks) and (found, weights) == (planned, fold_weights)


def move_features(made: Path, path: Path) -> None:
    """Give features and their sidecar another name; those that had it before go."""
    sidecar_path(path).unlink(missing_ok=True)  # features never stand beside the ids of others
    made.replace(path)
    sidecar_path(made).replace(sidecar_path(path))


class RowWriter:
    """Writes a features file row by row, so that memory does not grow with their number.

    Plain writing, not a memory map: its pages would count as this process's memory until they are
    on disk.

    Parameters
    ----------
    path : Path
        The ``.npy`` file.
    n : int
        Rows there will be.
    """

    def __init__(self, path: Path, n: int) -> None:
        self._file = path.open("wb")
        header = {"descr": "<f4", "fortran_order": False, "shape": (n, 1, FEATURE_DIM)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, rows: np.ndarray, sample_ids: Sequence[str]) -> None:
        """Append rows ``[B, 1024]`` or ``[B, 1, 1024]`` of these epochs.

        Raises
        ------
        EegToolError
            Naming the epochs whose row holds NaN or infinity.
        """
        finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            bad = [sample_ids[i] for i in np.flatnonzero(~finite).tolist()]
            raise EegToolError(
                f"{len(bad)} of the high-level features are not finite: {first_three(bad)}.",
                "Train with a lower --learning-rate, or fix the rows that you import.",
            )
        self._file.write(np.ascontiguousarray(rows, "<f4").data)


def open_rows(path: Path) -> np.ndarray:
    """Map a features file into memory, without reading it."""
    try:
        rows = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise EegToolError(
            f"The features file {path} does not exist.", "Run `eegvlm extract` first."
        ) from None
    except (OSError, ValueError) as error:
        raise EegToolError(f"The features file {path} cannot be read: {error}.") from error
    check_rows(path, rows)
    return rows


def _row_checks(path: Path, ids: Sequence[str]) -> Iterator[str]:
    """Yield the checksum of each row together with its id, as far as there are rows."""
    for start in range(0, len(ids), BLOCK):
        # Mapped again: pages of the blocks before need not stay in memory.
        block = open_rows(path)[start : start + BLOCK]
        for sample_id, row in zip(ids[start : start + BLOCK], block, strict=False):
            check = zlib.crc32(np.ascontiguousarray(row).data, zlib.crc32(sample_id.encode()))
            yield f"{check:08x}"


def _check_against_sidecar(path: Path, n_rows: int, sidecar: Sidecar) -> None:
    """Refuse rows that are not those the sidecar was written for."""
    ids = sidecar.sample_ids
    mismatched: list[str] = []
    if sidecar.row_checks:
        if len(sidecar.row_checks) != 8 * len(ids):
            raise EegToolError(
                f"{sidecar_path(path)} has checksums of {len(sidecar.row_checks) // 8} rows for "
                f"{len(ids)} sample ids: it was changed by hand.",
                "Run `eegvlm extract` again.",
            )
        said = iter(sidecar.row_checks[i : i + 8] for i in range(0, 8 * len(ids), 8))
        expected = dict(zip(sorted(ids), said, strict=True))
        found = dict(zip(ids, _row_checks(path, ids), strict=False))
        mismatched = [sample_id for sample_id in ids if found.get(sample_id) != expected[sample_id]]
    if n_rows != len(ids):
        first = f"; the first that is missing is that of '{mismatched[0]}'" if mismatched else ""
        raise EegToolError(
            f"{path} has {n_rows} rows, but its sidecar names {len(ids)} epochs{first}.",
            "Run `eegvlm extract` again.",
        )
    if mismatched:
        raise EegToolError(
            f"{path}: {len(mismatched)} of {n_rows} rows are not those that were written for their epochs: "
            f"{first_three(mismatched)}.",
            "Rows were moved or changed; run `eegvlm extract` again.",
        )


def first_three(ids: Sequence[str]) -> str:
    """Name the first three."""
    return ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")


def read_sidecar(path: Path) -> Sidecar | None:
    """Read the sidecar of a features file.

    Returns
    -------
    Sidecar or None
        None where there is none: also where the JSON file of its name is something else, such as the
        samples of somebody who calls both files ``own``.

    Raises
    ------
    EegToolError
        If there is one that is broken.
    """
    beside = sidecar_path(path)
    if not beside.exists():
        return None
    try:
        raw = parse_json(beside.read_bytes(), beside)
    except (OSError, EegToolError) as error:
        why = error.what if isinstance(error, EegToolError) else f"{error}."
        raise EegToolError(
            f"{beside}, which could be the sidecar of {path.name}, cannot be read: {why}",
            f"Run `eegvlm extract` again, or give one of the two another name. {_SIDECAR}",
        ) from error
    if not isinstance(raw, dict) or not raw.keys() & {"sample_ids", "row_checks"}:
        return None
    try:
        fold = raw.get("fold")
        lists = {
            "sample_ids": tuple(raw["sample_ids"]),
            "fold": None if fold is None else tuple(fold),
            "folds": tuple(
                FoldCard(**card | {"held_out": tuple(card["held_out"])})
                for card in raw.get("folds", ())
            ),
        }
        sidecar = Sidecar(**raw | lists)
        if not all(isinstance(text, str) for text in (*sidecar.sample_ids, sidecar.row_checks)):
            raise ValueError("'sample_ids' and 'row_checks' must be text")
        if sidecar.fold and len(sidecar.fold) != len(sidecar.sample_ids):
            raise ValueError("'fold' does not cover its sample ids")
    except (KeyError, TypeError, ValueError) as error:
        raise EegToolError(
            f"{beside} is not a features sidecar: {error}.", "Run `eegvlm extract` again."
        ) from error
    check_unique(beside, sidecar.sample_ids)
    return sidecar


def _ids_by_order(path: Path, rows: np.ndarray, sample_ids: Sequence[str]) -> tuple[str, ...]:
    """Accept somebody's own ``.npy`` without a sidecar by order, if at least the number fits."""
    if len(rows) != len(sample_ids):
        raise EegToolError(
            f"{path} has no sidecar and {len(rows)} rows for {len(sample_ids)} epochs.",
            f"Without one the rows must be those epochs, in the order of their file. {_SIDECAR}",
        )
    return tuple(sample_ids)


def _shuffled(row_of: dict[str, int], seed: int) -> dict[str, int]:
    """Give every id the row of another id: a random cycle through all of them."""
    ids = list(row_of)
    cycle = np.random.default_rng(seed).permutation(len(ids))
    following = np.roll(cycle, 1)
    return {ids[i]: row_of[ids[j]] for i, j in zip(cycle, following, strict=True)}
