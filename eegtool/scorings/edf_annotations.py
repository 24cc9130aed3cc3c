"""Scorings as EDF+ or BDF+ annotations, alone in a file or beside the signals they are about.

The annotations are picked out of the file here, and not by MNE, because MNE drops those outside of the
recording, needs to know the encoding, and searches all bytes of a recording for them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.core.stages import is_misspelt, stage_of
from eegtool.recordings.edf import parse_start
from eegtool.scorings.scoring import Entry, Scoring, refuse_word

EDF_MARK: Final = b"0       "
BDF_MARK: Final = b"\xffBIOSEMI"

_START: Final = ((88, 168), (168, 176), (176, 184))
"""Bytes of the header's fields for recording, start date and start time."""

# A "time-stamped annotations list" of the EDF+ specification (Kemp & Olivan 2003): onset, perhaps a
# duration, texts. The first list of every record has an empty text and tells when the record begins.
_LIST: Final = re.compile(
    "(?P<onset>[+-][0-9]+(?:[.][0-9]*)?)(?:\x15(?P<duration>[0-9]+(?:[.][0-9]*)?))?"
    "\x14(?P<texts>[^\x00]*)\x14\x00"
)


@dataclass(frozen=True, slots=True)
class EdfLayout:
    """Where the annotations are.

    Attributes
    ----------
    start : datetime or None
        Start in the header, to the second; None where it is no date.
    header_bytes, record_bytes, n_records : int
        Sizes; `n_records` is -1 where the header does not know it.
    annotations : tuple of slice
        Bytes of every annotation signal within a record.
    n_signals : int
        Signals that are no annotations.
    """

    start: datetime | None
    header_bytes: int
    record_bytes: int
    n_records: int
    annotations: tuple[slice, ...]
    n_signals: int


def read_layout(path: Path) -> EdfLayout | None:
    """Read the header of an EDF or BDF file; None if it is neither, or damaged."""
    with path.open("rb") as file:
        fixed = file.read(256)
        if not fixed.startswith((EDF_MARK, BDF_MARK)):
            return None
        sample_bytes = 2 if fixed.startswith(EDF_MARK) else 3
        try:
            n_records, n_all = int(fixed[236:244]), int(fixed[252:256])
            variable = file.read(256 * max(n_all, 0))
            at = 216 * n_all  # labels, transducers, units, ranges and filters come before
            sizes = [
                sample_bytes * int(variable[at + 8 * i : at + 8 * (i + 1)]) for i in range(n_all)
            ]
        except ValueError:
            return None
    if len(variable) < 256 * n_all or not sizes or min(sizes) < 1:
        return None
    labels = [variable[16 * i : 16 * (i + 1)].strip() for i in range(n_all)]
    ends = np.cumsum(sizes, dtype=int).tolist()
    annotations = tuple(
        slice(end - size, end)
        for label, size, end in zip(labels, sizes, ends, strict=True)
        if label in (b"EDF Annotations", b"BDF Annotations")
    )
    return EdfLayout(
        start=parse_start(*(fixed[a:b].decode("latin-1").strip() for a, b in _START))[0],
        header_bytes=256 * (n_all + 1),
        record_bytes=sum(sizes),
        n_records=n_records,
        annotations=annotations,
        n_signals=n_all - len(annotations),
    )


def has_stages(path: Path) -> bool:
    """Say whether an EDF+ or BDF+ file has sleep stages among its annotations.

    Raises
    ------
    EegToolError
        If the file is damaged.
    """
    layout = read_layout(path)
    if layout is None or not layout.annotations:
        return False
    annotations, _ = _annotations(path, layout)
    return any(stage_of(text) or is_misspelt(text) for _, _, text in annotations)


def read_edf_annotations(path: Path) -> Scoring:
    """Read the stages among the annotations of an EDF+ or BDF+ file.

    Annotations about something else (arousals, lights off) are passed over.

    Raises
    ------
    EegToolError
        If the file is damaged, a recording without scoring, or has a misspelt stage.
    """
    layout = read_layout(path)
    if layout is None:
        raise EegToolError(
            f"The hypnogram {path} cannot be read: its EDF header is damaged.", "Fetch it again."
        )
    if not layout.annotations:
        raise EegToolError(
            f"{path} is a recording and holds no scoring.",
            "Give the hypnogram that belongs to it: an EDF+, XML, CSV, TSV or text file.",
        )
    annotations, encoding = _annotations(path, layout)
    entries = []
    for number, (onset_s, duration_s, text) in enumerate(annotations, start=1):
        place = f"annotation {number}"
        stage = stage_of(text)
        if stage:
            entries.append(Entry(onset_s, duration_s, stage, place))
        elif is_misspelt(text):
            refuse_word(path, place, text)
    if not entries:
        others = ", ".join(
            repr(text) for text in list(dict.fromkeys(t for _, _, t in annotations))[:4]
        )
        raise EegToolError(
            f"No annotation of {path} is a sleep stage{f'; it has {others}' if others else ''}.",
            "Annotations must read like 'Sleep stage 2' or 'Sleep stage R'.",
        )
    notes = ("Its annotations are read as Latin-1.",) if encoding == "latin-1" else ()
    return Scoring("EDF+ annotations", tuple(entries), layout.start, notes=notes)


def _annotations(path: Path, layout: EdfLayout) -> tuple[list[tuple[float, float, str]], str]:
    """Return onset, duration (0 where there is none) and text of every annotation; the encoding."""
    text, encoding = _annotation_text(path, layout)
    lists = list(_LIST.finditer(text))
    # Signals begin with the first record, which may begin a fraction after the second in the header.
    # Only a list that begins with an empty text tells when; another one is an annotation like any.
    shift_s = 0.0
    if layout.n_signals and lists and not lists[0]["texts"].split("\x14")[0]:
        shift_s = float(lists[0]["onset"])
    if abs(shift_s) >= 1:
        shift_s = 0.0
    return [
        (float(found["onset"]) - shift_s, float(found["duration"] or 0), description)
        for found in lists
        for description in found["texts"].split("\x14")
        if description.strip()
    ], encoding


def _annotation_text(path: Path, layout: EdfLayout) -> tuple[str, str]:
    """Return the annotation signals of all records as one text, and its encoding."""
    whole = (path.stat().st_size - layout.header_bytes) // max(layout.record_bytes, 1)
    if whole < 1 or (whole < layout.n_records and not layout.n_signals):
        raise EegToolError(
            f"The hypnogram {path} is cut off: {max(whole, 0)} of {layout.n_records} records are there.",
            "Fetch it again.",
        )
    n_records = whole if layout.n_records < 1 else min(whole, layout.n_records)
    # Mapped and not read: the signals beside the annotations may be large.
    records = np.memmap(
        path, np.uint8, "r", layout.header_bytes, shape=(n_records, layout.record_bytes)
    )
    data = b"".join(record[part].tobytes() for record in records for part in layout.annotations)
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"
