"""EDF and BDF files: the header in a few lines, the samples through MNE.

MNE opens a file only if its header is in perfect order, reads it twice if it holds annotations, and
goes by names, which need not be unique. So the header is read here, and MNE gets a clean one.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

import mne
import numpy as np

from eegtool.core.errors import EegToolError

# EDF (Kemp et al. 1992), EDF+ (Kemp & Olivan 2003), BDF (BioSemi): one fixed part, then one column
# per signal of every field, all in text.
_FIXED: Final = {
    "version": 8,
    "patient": 80,
    "recording": 80,
    "start date": 8,
    "start time": 8,
    "header size": 8,
    "reserved": 44,
    "number of records": 8,
    "duration of a record": 8,
    "number of signals": 4,
}
_PER_SIGNAL: Final = {
    "label": 16,
    "transducer": 80,
    "unit": 8,
    "physical minimum": 8,
    "physical maximum": 8,
    "digital minimum": 8,
    "digital maximum": 8,
    "filter": 80,
    "samples per record": 8,
    "signal reserved": 32,
}
_BLOCK: Final = 256  # bytes of the fixed part, and of each signal
_BDF_VERSION: Final = b"\xffBIOSEMI"
_ANNOTATIONS: Final = ("EDF Annotations", "BDF Annotations")
_MONTHS: Final = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
_NO_DATE: Final = (1985, 1, 1)
"""The first day EDF can tell; what anonymised files have."""
_GAP_S: Final = 0.05  # onsets of records are written in few digits


@dataclass(frozen=True, slots=True)
class EdfHeader:
    """What the header of an EDF or BDF file says, and how much of the file is there.

    Attributes
    ----------
    path : Path
        The file.
    format : str
        ``"EDF"``, ``"EDF+C"``, ``"EDF+D"``, ``"BDF"``, ``"BDF+C"`` or ``"BDF+D"``.
    labels, units : tuple of str
        Of all signals, annotations too.
    samples : tuple of int
        Samples of each signal per record.
    calibrated : tuple of bool
        Whether the limits of each signal are numbers apart from each other.
    record_s : float
        Duration of a record.
    n_records : int
        Whole records in the file.
    start : datetime or None
        Local clock; on 1 January 1985 where only the date is junk.
    simulated : bool
        Whether the patient or recording field says so.
    loss : str
        What is missing at the end of the file; empty if it is whole.
    notes : tuple of str
        Oddities that do no harm.
    content : bytes
        The header itself.
    """

    path: Path
    format: str
    labels: tuple[str, ...]
    units: tuple[str, ...]
    samples: tuple[int, ...]
    calibrated: tuple[bool, ...]
    record_s: float
    n_records: int
    start: datetime | None
    simulated: bool
    loss: str
    notes: tuple[str, ...]
    content: bytes

    @property
    def signals(self) -> tuple[int, ...]:
        """Positions of what is no annotation."""
        return tuple(i for i, label in enumerate(self.labels) if label not in _ANNOTATIONS)

    @property
    def sample_bytes(self) -> int:
        """Bytes per sample."""
        return 3 if self.format.startswith("BDF") else 2

    def sfreq_hz(self, signal: int) -> float:
        """Return the sampling rate of one signal."""
        return self.samples[signal] / self.record_s


def read_edf_header(path: Path) -> EdfHeader:
    """Read the header of an EDF or BDF file, and compare it with the size of the file.

    Raises
    ------
    EegToolError
        If the file is of another format, cut within the header, damaged, without data, or an EDF+D
        file with a gap.
    """
    with path.open("rb") as file:
        content = file.read(_BLOCK)
        size = file.seek(0, 2)
        if not content:
            raise EegToolError(f"The recording {path} is empty.", "Fetch it again.")
        if not (content.startswith((b"0       ", _BDF_VERSION))):
            raise EegToolError(
                f"{path} is no EDF or BDF file: it begins with {content[:16]!r}.",
                "Give the recording itself, or convert it to EDF.",
            )
        fixed = _columns(content, _FIXED, 1)
        n_signals = _number(path, fixed, "number of signals", least=1) if len(content) > 252 else 1
        file.seek(_BLOCK)
        content += file.read(_BLOCK * n_signals)
    header_bytes = _BLOCK * (1 + n_signals)
    if len(content) < header_bytes:
        raise EegToolError(
            f"The header of {path} is cut off: {len(content)} of {header_bytes} bytes are there.",
            "Fetch the file again.",
        )
    columns = fixed | _columns(content[_BLOCK:], _PER_SIGNAL, n_signals)
    if _number(path, columns, "header size") != header_bytes:
        raise _damaged(path, "header size", columns["header size"][0])
    record_s = _decimal(path, columns, "duration of a record")
    samples = tuple(
        _number(path, columns, "samples per record", i, least=1) for i in range(n_signals)
    )
    kind, reserved = ("BDF" if content[0] == 0xFF else "EDF"), columns["reserved"][0]
    form = f"{kind}{reserved[3:5]}" if re.match("[EB]DF[+][CD]", reserved) else kind
    record_bytes = sum(samples) * (3 if kind == "BDF" else 2)
    n_records, rest = divmod(size - header_bytes, record_bytes)
    signals = [label for label in columns["label"] if label not in _ANNOTATIONS]
    if not signals:
        raise EegToolError(
            f"{path} holds annotations but no signal.", "It is a hypnogram; give the recording."
        )
    if not record_s > 0:
        raise _damaged(path, "duration of a record", columns["duration of a record"][0])
    if n_records == 0:
        raise EegToolError(
            f"The recording {path} holds no data: not one whole record follows its header.",
            "Fetch the file again.",
        )
    loss = _loss(_number(path, columns, "number of records"), n_records, rest, record_s)
    start, odd = parse_start(
        *(columns[name][0] for name in ("recording", "start date", "start time"))
    )
    notes = [odd] if odd else []
    if any(byte > 127 for byte in content[8:]):  # the first byte of BDF is 255
        notes.append("The header is not ASCII as EDF demands; it was read as Latin-1.")
    header = EdfHeader(
        path=path,
        format=form,
        labels=columns["label"],
        units=columns["unit"],
        samples=samples,
        calibrated=tuple(
            _apart(columns, "physical", i) and _apart(columns, "digital", i)
            for i in range(n_signals)
        ),
        record_s=record_s,
        n_records=n_records,
        start=start,
        simulated=b"SIMULATED" in content[:168].upper(),
        loss=loss,
        notes=tuple(notes),
        content=content,
    )
    if form.endswith("+D"):
        _refuse_gaps(header)
    return header


def read_edf_samples(header: EdfHeader, signals: Sequence[int]) -> np.ndarray:
    """Read signals of one sampling rate through MNE, all others unread.

    Parameters
    ----------
    header : EdfHeader
        From `read_edf_header`.
    signals : sequence of int
        Positions in ``header.labels``.

    Returns
    -------
    float64 [n_signals, n_samples]
        In the unit of the file.

    Raises
    ------
    EegToolError
        If the header does not tell what the numbers of a signal mean.
    """
    for i in signals:
        if not header.calibrated[i]:
            raise EegToolError(
                f"Channel '{header.labels[i]}' of {header.path} is not calibrated: its physical or "
                "digital minimum and maximum are the same, or no numbers.",
                "Choose another with --channel, or mend the header (EDFbrowser does that).",
            )
    read = mne.io.read_raw_bdf if header.format.startswith("BDF") else mne.io.read_raw_edf
    with header.path.open("rb") as file:
        source = _WithHeader(file, _clean(header))
        raw = read(source, include=[str(i) for i in signals], preload=True, verbose="ERROR")
    data = raw.get_data(picks=[str(i) for i in signals])
    data *= 1e6  # the clean header calls everything µV, and MNE gives volts
    return data


class _WithHeader(io.RawIOBase):
    """A file of which the first bytes are replaced."""

    def __init__(self, file: BinaryIO, header: bytes) -> None:
        self._file = file
        self._header = header

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        at = self._file.tell()
        content = self._file.read(size)
        if at >= len(self._header):
            return content
        return self._header[at : at + len(content)] + content[len(self._header) - at :]


def _clean(header: EdfHeader) -> bytes:
    """Return the header as MNE likes it: plain EDF, signals named by their position."""
    n = len(header.labels)
    clean = {
        "patient": ["X"],
        "recording": ["X"],
        "start date": ["01.01.85"],
        "start time": ["00.00.00"],
        "reserved": [""],
        "number of records": [str(header.n_records)],
        "label": [str(i) for i in range(n)],
        "transducer": [""] * n,
        "unit": ["uV"] * n,
        "filter": [""] * n,
        "signal reserved": [""] * n,
    }
    limits = ("physical minimum", "physical maximum", "digital minimum", "digital maximum")
    parts: list[bytes] = []
    at = 0
    for name, width in (_FIXED | _PER_SIGNAL).items():
        total = width * (n if name in _PER_SIGNAL else 1)
        old = header.content[at : at + total]
        at += total
        if name in clean:
            parts.append("".join(text.ljust(width) for text in clean[name]).encode())
        elif name in limits:  # MNE parses those of all signals, wanted or not
            junk = ("0" if name.endswith("minimum") else "1").ljust(width).encode()
            cells = [old[i * width : (i + 1) * width] for i in range(n)]
            parts += [c if ok else junk for c, ok in zip(cells, header.calibrated, strict=True)]
        else:
            parts.append(old)
    return b"".join(parts)


def _columns(content: bytes, fields: dict[str, int], n: int) -> dict[str, tuple[str, ...]]:
    columns, at = {}, 0
    for name, width in fields.items():
        cells = [content[at + i * width : at + (i + 1) * width] for i in range(n)]
        columns[name] = tuple(c.decode("latin-1").split("\0")[0].strip() for c in cells)
        at += n * width
    return columns


def _decimal(path: Path, columns: dict[str, tuple[str, ...]], field: str, i: int = 0) -> float:
    text = columns[field][i]
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise _damaged(path, field, text) from None


def _number(
    path: Path, columns: dict[str, tuple[str, ...]], field: str, i: int = 0, least: int = -1
) -> int:
    value = _decimal(path, columns, field, i)
    if not (value.is_integer() and value >= least):
        raise _damaged(path, field, columns[field][i])
    return int(value)


def _apart(columns: dict[str, tuple[str, ...]], kind: str, i: int) -> bool:
    try:
        low, high = (
            float(columns[f"{kind} {end}"][i].replace(",", ".")) for end in ("minimum", "maximum")
        )
    except ValueError:
        return False
    return math.isfinite(high - low) and high != low


def _damaged(path: Path, field: str, text: str) -> EegToolError:
    return EegToolError(
        f"The header of {path} is damaged: its {field} is '{text}'.", "Fetch the file again."
    )


def _loss(declared: int, there: int, rest: int, record_s: float) -> str:
    if declared > there:
        lost_s = (declared - there) * record_s
        return (
            f"The file is cut off: the last {lost_s:g} s of {declared * record_s:g} s are missing."
        )
    if declared == -1:
        more = ", and the beginning of another that is left out" if rest else ""
        return (
            f"The header does not say how long the recording is: it was not stopped properly. "
            f"The file holds {there * record_s:g} s{more}."
        )
    if declared < there:
        return (
            f"The header speaks of {declared * record_s:g} s, the file holds {there * record_s:g} s; "
            "all of it is used."
        )
    return ""


def parse_start(recording: str, date: str, time: str) -> tuple[datetime | None, str]:
    """Read the start from three fields of a header.

    Parameters
    ----------
    recording : str
        Recording field; in EDF+ it begins like ``Startdate 24-APR-1989``.
    date, time : str
        Such as ``24.04.89`` and ``16.13.00``; years before 85 are after 2000 (EDF+ specification).

    Returns
    -------
    datetime or None
        On 1 January 1985 where only the date is junk; None where the time is.
    str
        What is odd about it; empty if nothing.
    """
    clock = re.fullmatch(r"(\d{1,2})\D(\d{1,2})\D(\d{1,2})", time)
    day = re.fullmatch(r"(\d{1,2})\D(\d{1,2})\D(\d{2})", date)
    full = re.match(r"Startdate (\d{1,2})-([A-Z]{3})-(\d{4})\b", recording, re.IGNORECASE)
    candidates = []
    if full and full[2].upper() in _MONTHS:  # EDF+: four digits of the year
        candidates.append((int(full[3]), _MONTHS.index(full[2].upper()) + 1, int(full[1])))
    if day:  # EDF: 1985 to 2084
        year = int(day[3])
        candidates.append((year + (1900 if year >= 85 else 2000), int(day[2]), int(day[1])))
    if clock:
        hour, minute, second = map(int, clock.groups())
        for year_month_day in (*candidates, _NO_DATE):
            try:
                year, month, day_of_month = year_month_day
                start = datetime(year, month, day_of_month, hour, minute, second)
            except ValueError:
                continue
            odd = f"The start date '{date}' is no date; only the clock is used."
            return start, "" if year_month_day in candidates else odd
    return None, f"The start '{date} {time}' is no date and time; it is not used."


def _refuse_gaps(header: EdfHeader) -> None:
    """Compare the onsets that an EDF+D file gives its records with those of an unbroken recording."""
    tell_time = [i for i, label in enumerate(header.labels) if label in _ANNOTATIONS]
    if not tell_time:
        raise EegToolError(
            f"{header.path} is an {header.format} file without annotations: its times are not known.",
            "Export it as one continuous recording.",
        )
    at = sum(header.samples[: tell_time[0]]) * header.sample_bytes
    record_bytes = sum(header.samples) * header.sample_bytes
    data = np.memmap(
        header.path,
        mode="r",
        offset=len(header.content),
        shape=(header.n_records, record_bytes),
    )
    width = min(header.samples[tell_time[0]] * header.sample_bytes, 32)
    first_s = 0.0
    for i, cell in enumerate(np.ascontiguousarray(data[:, at : at + width])):
        onset = re.match(rb"[+-]\d+(?:\.\d*)?", cell.tobytes())
        if onset is None:
            raise EegToolError(
                f"Record {i + 1} of {header.path} does not tell its time.", "Fetch the file again."
            )
        if i == 0:
            first_s = float(onset[0])
        reached_s = i * header.record_s
        gap_s = float(onset[0]) - first_s - reached_s
        if abs(gap_s) > _GAP_S:
            what = f"a gap of {gap_s:g} s" if gap_s > 0 else f"a step back of {-gap_s:g} s"
            raise EegToolError(
                f"{header.path} is an {header.format} file with {what} after {reached_s:g} s.",
                "Read as continuous, all later epochs would be mislabelled. Export the parts as "
                "files of their own (EDFbrowser does that), each with its hypnogram.",
            )
