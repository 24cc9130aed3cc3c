"""What the entries of a BIDS table mean: the ``Levels`` in the JSON files that describe its columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from eegtool.core.stages import code_in_column, stage_in_column
from eegtool.core.workspace import read_json
from eegtool.scorings.codings import fold_code

_SUFFIXES: Final = ("events", "hypnogram")
_TOP: Final = "dataset_description.json"
_FOLDERS: Final = 4
"""A data set with subjects, sessions and kinds of data is so deep."""


def levels_of(path: Path) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the stages that entries stand for, by column of a table; empty where BIDS says nothing.

    A JSON file describes all tables below it whose name has its entities (``task-sleep_events.json`` that of
    ``sub-01/eeg/sub-01_task-sleep_events.tsv``); a nearer one counts more. A level is a text, or has one as its
    ``Description``; only one that is a stage counts, in any words that are known. Words that are known
    themselves are no codes.

    Raises
    ------
    EegToolError
        If one of these files is no JSON.
    """
    columns: dict[str, dict[str, str]] = {}
    for sidecar in level_files(path):
        for column, described in read_json(sidecar).items():
            levels = described.get("Levels") if isinstance(described, Mapping) else None
            for code, level in levels.items() if isinstance(levels, Mapping) else ():
                text = level.get("Description", "") if isinstance(level, Mapping) else level
                stage = stage_in_column(text) if isinstance(text, str) else None
                known = code_in_column(code) is None and stage_in_column(code)
                if stage and not known:
                    columns.setdefault(column, {}).setdefault(fold_code(code), stage)
    return {column: tuple(codes.items()) for column, codes in columns.items()}


def level_files(path: Path) -> list[Path]:
    """Return the JSON files that describe a table of BIDS, the nearest first."""
    *entities, suffix = path.stem.split("_")
    if suffix not in _SUFFIXES:
        return []
    found: list[Path] = []
    folder = path.absolute().parent
    for _ in range(_FOLDERS):
        beside = [
            (len(words), p)
            for p in folder.glob(f"*{suffix}.json")
            if (words := p.stem.split("_"))[-1] == suffix and set(words[:-1]) <= set(entities)
        ]
        found += [p for _, p in sorted(beside, reverse=True)]
        if (folder / _TOP).is_file():
            break
        folder = folder.parent
    return found
