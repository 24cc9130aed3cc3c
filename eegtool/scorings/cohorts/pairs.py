"""``pairs.csv``: a lab says itself which files are of one night, and who slept."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from eegtool.core.errors import EegToolError
from eegtool.core.registry import closest
from eegtool.recordings.reading import is_recording
from eegtool.scorings.annotations import holds_scoring
from eegtool.scorings.codings import parse_codes
from eegtool.scorings.cohorts.night import FETCH, Night, dangling, safe_name, stem_of
from eegtool.scorings.hypnograms import is_hypnogram
from eegtool.scorings.scoring import ReadAs

PAIRS: Final = "pairs.csv"
_COLUMNS: Final = ("recording", "hypnogram", "subject", "night")


def read_pairs(table: Path, files: Sequence[Path]) -> list[Night]:
    """Read a ``pairs.csv``.

    Parameters
    ----------
    table : Path
        CSV in UTF-8, separated by comma, semicolon or tab, with the columns recording, hypnogram
        (may be empty), subject and night, in any order and among others; stage_codes, scoring_column
        and scorer are as the options of these names. Paths are relative to its folder.
    files : sequence of Path
        All files there are, for suggestions.

    Raises
    ------
    EegToolError
        Naming the line: a cell is empty or wrong, a file is not there, outside of the folder or
        listed twice, or columns are missing.
    """
    rows = _rows(table)
    first_line: dict[Path, int] = {}
    nights = []
    for line, row in rows:
        where = f"{table}, line {line}"
        recording = _listed(where, "recording", row, table.parent, files)
        if recording is None or not is_recording(recording) or is_hypnogram(recording):
            raise EegToolError(
                f"{where}: '{row['recording']}' is not a recording.",
                "The column 'recording' names one file of signals per line.",
            )
        hypnogram = _listed(where, "hypnogram", row, table.parent, files)
        for path in (recording, hypnogram):
            if path and first_line.setdefault(path, line) != line:
                raise EegToolError(
                    f"{where}: {path} is in line {first_line[path]} already.",
                    "Each recording and each hypnogram belongs to one line.",
                )
        if not row["subject"]:
            raise EegToolError(f"{where}: 'subject' is empty.", "Name who slept.")
        if not (row["night"].isascii() and row["night"].isdigit() and int(row["night"]) > 0):
            raise EegToolError(
                f"{where}: the night '{row['night']}' is not a number.",
                "Number the nights of each subject 1, 2, ...",
            )
        if hypnogram is None and holds_scoring(recording):
            hypnogram = recording
        # The folders are part of the name: P01/psg.edf and P02/psg.edf are different recordings.
        within = recording.relative_to(table.parent)
        name = safe_name("-".join([*within.parent.parts, stem_of(recording)]), recording)
        subject = safe_name(row["subject"], table)
        read_as = ReadAs(
            parse_codes(row.get("stage_codes", "")),
            row.get("scoring_column", ""),
            row.get("scorer", ""),
        )
        night = Night("generic", name, subject, int(row["night"]), recording, hypnogram)
        nights.append(replace(night, read_as=read_as))
    return nights


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the lines of a table with their numbers: separated by comma, semicolon or tab."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EegToolError(
            f"{table} cannot be read: {error}.", "Save it as CSV in UTF-8."
        ) from error
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    reader.fieldnames = [name.strip().casefold() for name in reader.fieldnames or []]
    if missing := [name for name in _COLUMNS if name not in reader.fieldnames]:
        raise EegToolError(
            f"{table} lacks the columns {', '.join(missing)}; it has "
            f"{', '.join(reader.fieldnames) or 'none'}.",
            f"Its first line must be {','.join(_COLUMNS)}.",
        )
    rows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise csv.Error(f"it has {'more' if None in row else 'fewer'} cells than columns")
            cells = {name: cell.strip() for name, cell in row.items()}
            if any(cells.values()):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise EegToolError(
            f"{table}, line {reader.line_num}: {error}.",
            "Put names with a separator in them in double quotes, and close these.",
        ) from error
    return rows


def _listed(
    where: str, column: str, row: dict[str, str], folder: Path, files: Sequence[Path]
) -> Path | None:
    """Return the file of one cell; None where the cell is empty."""
    cell = row[column].replace("\\", "/")  # as Windows writes folders
    if not cell:
        return None
    # Judged as text, not resolved: data managers keep the files themselves elsewhere, behind links.
    parts = PurePosixPath(cell)
    if parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:", cell):
        raise EegToolError(
            f"{where}: '{row[column]}' leaves the folder of {PAIRS}.",
            "Paths are relative to that folder and stay inside it.",
        )
    path = folder / parts
    if problem := dangling(path):
        raise EegToolError(f"{where}: {problem}.", FETCH)
    if not path.is_file():
        known = [p.relative_to(folder).as_posix() for p in files if p.is_relative_to(folder)]
        raise EegToolError(
            f"{where}: there is no file '{row[column]}' in {folder}.",
            f"Paths are relative to that folder.{closest(cell, known)}",
        )
    return path
