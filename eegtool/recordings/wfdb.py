"""WFDB records of PhysioNet: a header in text, samples of 16 bits in one file, annotations in another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np

from eegtool.core.errors import EegToolError, brief
from eegtool.recordings.header import Annotation, ChannelInfo, Header, Opened, loss_of

# header(5) and annot(5) of the WFDB Applications Guide (Moody, PhysioNet).
_RECORD: Final = re.compile(
    r"(?P<name>[^\s/]+)(?P<segments>/\d+)?\s+(?P<n>\d+)(?:\s+(?P<hz>[\d.]+)\S*(?:\s+(?P<samples>\d+)"
    r"(?:\s+(?P<time>\d+:\d+:\d+)\S*(?:\s+(?P<date>\d+/\d+/\d+))?)?)?)?\s*"
)
_SIGNAL: Final = re.compile(
    r"(?P<file>\S+)\s+(?P<format>\d+)(?P<odd>[x:]\d+)*(?:\+(?P<offset>\d+))?"
    r"(?:\s+(?P<gain>[-\d.eE]+)(?:\((?P<baseline>-?\d+)\))?(?:/(?P<unit>\S+))?"
    r"(?:\s+\d+(?:\s+(?P<zero>-?\d+)(?:\s+\S+){0,3}(?:\s+(?P<label>\S.*))?)?)?)?\s*"
)
_HZ, _GAIN, _UNIT = "250", 200.0, "mV"  # where the header does not say
_INT16: Final = "16"
_SKIP, _NUM, _SUB, _CHN, _AUX = 59, 60, 61, 62, 63


def open_wfdb(path: Path) -> Opened:
    """Open a record by its header, and find its samples.

    Raises
    ------
    EegToolError
        If it is none, its samples are not there, or they are not of 16 bits in one file.
    """
    text = path.read_text(encoding="latin-1").splitlines()
    lines = [line for line in text if line.strip() and not line.startswith("#")]
    record = _RECORD.fullmatch(lines[0]) if lines else None
    signals = [_SIGNAL.fullmatch(line) for line in lines[1:]]
    if not record or not signals or len(signals) != int(record["n"]) or None in signals:
        raise EegToolError(f"{path} is not the header of a WFDB record.", "Fetch it again.")
    found = [match for match in signals if match]
    files = {(match["file"], match["format"], match["offset"] or "0") for match in found}
    odd = record["segments"] or len(files) > 1 or any(match["odd"] for match in found)
    if odd or found[0]["format"] != _INT16:
        raise EegToolError(
            f"{path}: its samples are not of 16 bits in one file.",
            "Convert the record, such as with PhysioNet's `xform` or `mit2edf`.",
        )
    name, _, offset = files.pop()
    samples_path = path.with_name(name)
    if not samples_path.is_file():
        raise EegToolError(f"{path}: its samples, {name}, are not there.", "Put them beside it.")
    there = (samples_path.stat().st_size - int(offset)) // (2 * len(found))
    declared = int(record["samples"] or there)
    n_samples, sfreq_hz = min(declared, there), float(record["hz"] or _HZ)
    loss = loss_of((declared - there) / sfreq_hz)
    start = (
        f"{record['date'] or '1/1/1985'} {record['time']}"  # as in EDF, if only the clock is known
    )
    header = Header(
        path=path,
        format="WFDB",
        channels=tuple(
            ChannelInfo(signal["label"] or f"signal {i}", sfreq_hz, signal["unit"] or _UNIT)
            for i, signal in enumerate(found, start=1)
        ),
        duration_s=n_samples / sfreq_hz,
        start=datetime.strptime(start, "%d/%m/%Y %H:%M:%S") if record["time"] else None,
        notes=(loss,) if loss else (),
        files=(path, samples_path),
    )

    def read(which: Sequence[int]) -> np.ndarray:
        shape = (n_samples, len(found))
        samples = np.memmap(samples_path, "<i2", "r", int(offset), shape)
        data = np.array(samples[:, list(which)].T, dtype=float)
        for row, signal in zip(data, (found[i] for i in which), strict=True):
            row -= float(signal["baseline"] or signal["zero"] or 0)
            row /= float(signal["gain"] or 0) or _GAIN
        return data

    return Opened(header, read, loss=loss)


def read_wfdb_annotations(path: Path) -> list[Annotation]:
    """Read the annotations that have a text; the header lies beside them, under their name.

    Raises
    ------
    EegToolError
        If the file breaks off, or its header is not there.
    """
    header_path = path.with_suffix(".hea")
    if not header_path.is_file():
        raise EegToolError(
            f"{path}: its header, {header_path.name}, is not there.", "Put it beside it."
        )
    sfreq_hz = open_wfdb(header_path).header.channels[0].sfreq_hz
    try:
        return [Annotation(at / sfreq_hz, 0.0, text) for at, text in _texts(path.read_bytes())]
    except IndexError as error:
        raise EegToolError(f"{path} is cut off ({brief(error)}).", "Fetch it again.") from error


def _texts(data: bytes) -> Iterator[tuple[int, str]]:
    """Give the sample and text of every annotation: words of 16 bits, 6 for the kind and 10 for the time gone by."""
    place, sample = 0, 0
    while True:
        word = data[place] | data[place + 1] << 8
        kind, number = word >> 10, word & 0x3FF
        place += 2
        if word == 0:
            return
        if kind == _SKIP:  # a longer time, the upper half first
            high, low = (int.from_bytes(data[place + i : place + i + 2], "little") for i in (0, 2))
            sample += (high << 16 | low) - (high >> 15 << 32)
            place += 4
        elif kind == _AUX:
            if place + number > len(data):
                raise IndexError("a text is not whole")
            yield sample, data[place : place + number].rstrip(b"\0").decode("latin-1")
            place += number + number % 2
        elif kind not in (_NUM, _SUB, _CHN):
            sample += number
