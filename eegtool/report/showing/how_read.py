"""``--how-read``: a table of what was read from each answer, and by which rule."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from eegtool.core.errors import EegToolError
from eegtool.core.sheets import safe_cell
from eegtool.core.workspace import atomic_path
from eegtool.report.reading.sources import AnswerSet


def write_how_read(path: Path, sets: Sequence[AnswerSet]) -> None:
    """Write one row per answer, to be opened in a spreadsheet.

    Parameters
    ----------
    path : Path
        The ``.csv`` file. ``stage`` and ``words`` (those that name the stage, from character ``begin`` to
        before ``end`` of ``text``) are empty where the answer cannot be read; ``rule`` says why.
    sets : sequence of AnswerSet
        Whose answers; ``answers`` has their name.

    Raises
    ------
    EegToolError
        If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(
                ["question_id", "text", "stage", "words", "begin", "end", "rule", "answers"]
            )
            for one in sets:
                for epoch in one.epochs:
                    reading = epoch.reading
                    begin, end = reading.span or ("", "")
                    words = epoch.text[slice(*reading.span)] if reading.span else ""
                    texts = [epoch.sample_id, epoch.text, reading.stage or "", words]
                    writer.writerow(
                        [*map(safe_cell, texts), begin, end, reading.rule, safe_cell(one.name)]
                    )
    except OSError as error:
        raise EegToolError(
            f"{path} cannot be written: {error.strerror}.", "Give another file by --how-read."
        ) from error
