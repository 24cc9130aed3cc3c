"""Features that were made elsewhere, taken over: which row is whose, and of which side."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eegtool.core.console import console, warn
from eegtool.core.errors import EegToolError
from eegtool.core.parsing import parse_json
from eegtool.core.records import (
    SPLITS,
    Conversation,
    Question,
    check_unique,
    read_conversations,
    read_questions,
)
from eegtool.core.workspace import Workspace, missing
from eegtool.extract.features import (
    BLOCK,
    RowWriter,
    Sidecar,
    Variation,
    first_three,
    move_features,
    open_rows,
    write_sidecar,
)


def import_features(npy: Path, ids_file: Path | None, workspace: Workspace) -> dict[str, int]:
    """Take over features that were made elsewhere, joined by id into the order of the JSON files.

    One file may hold both sides of the workspace or one of them; of a side it holds all epochs.

    Parameters
    ----------
    npy : Path
        float32 ``[N, 1, 1024]``; it is neither changed nor read into memory as a whole.
    ids_file : Path or None
        Epoch of each row, in any order: see `read_ids`. None: the rows are in the order of the JSON files,
        which is said; their number must leave no doubt of which.
    workspace : Workspace
        Gets the features and sidecars, under the names that finetune and evaluate look for.

    Returns
    -------
    dict of str to int
        Rows that were written, per side (``"ft"``, ``"eval"``).

    Raises
    ------
    EegToolError
        If shape, type or ids do not fit, or a row is not finite. Nothing is written then.
    """
    rows, sides = open_rows(npy), _ids_of_sides(workspace)
    ids = read_ids(ids_file) if ids_file else _in_row_order(npy, len(rows), sides)
    if len(rows) != len(ids):
        raise EegToolError(
            f"{npy} has {len(rows)} rows and {ids_file} {len(ids)} ids.",
            "Each row needs the id of its epoch.",
        )
    check_unique(ids_file or npy, ids)
    wanted = _sides_of_import(ids_file or npy, ids, sides, workspace)
    row_of = {sample_id: i for i, sample_id in enumerate(ids)}
    variation = Variation()
    staging = workspace.root / ".import"
    shutil.rmtree(staging, ignore_errors=True)  # of a killed run
    staging.mkdir()
    try:
        for side, own in wanted.items():
            made = staging / f"{side}.npy"
            with RowWriter(made, len(own)) as out:
                for start in range(0, len(own), BLOCK):
                    some = own[start : start + BLOCK]
                    block = open_rows(npy)[[row_of[sample_id] for sample_id in some]]
                    out.write(block, some)
                    variation.add(block, some)
            # Whose weights and which pictures made them, nobody here can know.
            write_sidecar(made, Sidecar(own, f"imported from {npy.name}", "", ""))
        for side in wanted:
            move_features(staging / f"{side}.npy", workspace.features(side))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    variation.warn(npy)
    return {side: len(own) for side, own in wanted.items()}


def read_ids(path: Path) -> tuple[str, ...]:
    """Read sample ids: ``.txt`` with one per line, ``.json`` list, or ``.csv`` with a column ``sample_id``.

    Raises
    ------
    EegToolError
        If the file is missing or is none of these.
    """
    forms = "Give a .txt with one id per line, a .json list, or a .csv with a column 'sample_id'."
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise missing(path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise EegToolError(f"{path} cannot be read: {error}.", forms) from error
    ids: Any
    match path.suffix.lower():
        case ".txt":
            ids = [line.strip() for line in text.splitlines() if line.strip()]
        case ".json":
            ids = parse_json(text, path)
        case ".csv":
            ids = [row.get("sample_id") for row in csv.DictReader(text.splitlines())]
        case _:
            ids = None
    if not isinstance(ids, list) or not all(isinstance(i, str) and i for i in ids):
        raise EegToolError(f"{path} is not a list of sample ids.", forms)
    return tuple(ids)


def _ids_of_sides(workspace: Workspace) -> dict[str, tuple[str, ...]]:
    """Return the ids of each side, in the order of its JSON file."""
    rows: dict[str, Sequence[Conversation | Question]] = {}
    if workspace.conversations.exists() or not workspace.questions.exists():
        rows["ft"] = read_conversations(workspace.conversations)
    if workspace.questions.exists():
        rows["eval"] = read_questions(workspace.questions)
    sides = {side: tuple(row.sample_id for row in own) for side, own in rows.items()}
    check_unique(workspace.root, [sample_id for own in sides.values() for sample_id in own])
    return sides


def _in_row_order(npy: Path, n: int, sides: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the ids of so many rows in the order of the JSON files, if only one reading is possible."""
    readings = {side: own for side, own in sides.items() if len(own) == n}
    both = tuple(sample_id for own in sides.values() for sample_id in own)
    if len(sides) > 1 and len(both) == n:
        readings["both"] = both
    if len(readings) != 1:
        counts = ", ".join(f"{len(own):,} on the {side} side" for side, own in sides.items())
        raise EegToolError(
            f"{npy} has {n:,} rows; there are {counts}: which rows are whose cannot be decided.",
            "Give the ids of its rows with --ids.",
        )
    (side, ids), *_ = readings.items()
    names = {
        "ft": "eeg_ft.json",
        "eval": "eeg_eval.jsonl",
        "both": "eeg_ft.json and eeg_eval.jsonl",
    }
    console.print(f"The rows of {npy.name} are taken in the order of {names[side]}.", markup=False)
    return ids


def _sides_of_import(
    source: Path, ids: Sequence[str], sides: dict[str, tuple[str, ...]], workspace: Workspace
) -> dict[str, tuple[str, ...]]:
    """Return the ids of each side that the file has, in the order of its JSON file."""
    given = set(ids)
    wanted = {side: own for side, own in sides.items() if given & set(own)}
    known = set().union(*sides.values())
    faults = {
        f"epochs of the {side} side are not in it": [i for i in own if i not in given]
        for side, own in wanted.items()
    } | {"of its ids are in neither JSON file": [i for i in ids if i not in known]}
    found = "; ".join(
        f"{len(some)} {what} ({first_three(some)})" for what, some in faults.items() if some
    )
    if found or not wanted:
        raise EegToolError(
            f"{source} does not fit {workspace.root}: {found or 'it is empty'}.",
            "It needs each epoch of a side once (see eeg_ft.json and eeg_eval.jsonl).",
        )
    for side in SPLITS:
        if side not in wanted:
            warn(
                f"{source} has no epochs of the {side} side: import its features from the same "
                "module, too."
            )
    return wanted
