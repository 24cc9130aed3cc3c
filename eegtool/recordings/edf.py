"""EDF and BDF files: header, time of every record, samples, annotations; for recordings and scorings alike.

Libraries open a file only if its header is in perfect order, and go by names, which need not be unique;
MNE drops annotations outside of the recording and searches all bytes for them. So the files are read here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.recordings.header import Annotation, ChannelInfo, Header, Opened, Pause

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
EDF_MARKS: Final = (b"0       ", b"\xffBIOSEMI")
"""How EDF and BDF files begin."""
_ANNOTATIONS: Final = ("EDF Annotations", "BDF Annotations")
_MONTHS: Final = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
_NO_DATE: Final = (1985, 1, 1)
"""The first day EDF can tell; what anonymised files have."""
_GAP_S: Final = 0.05  # onsets of records are written in few digits
_LONGEST_S: Final = 4 * 86400.0  # no recording with its pauses is longer

# A "time-stamped annotations list" of the EDF+ specification (Kemp & Olivan 2003): onset, perhaps a
# duration, texts. The first list of every record has an empty text and tells when the record begins.
_LIST: Final = re.compile(
    "(?P<onset>[+-][0-9]+(?:[.][0-9]*)?)(?:\x15(?P<duration>[0-9]+(?:[.][0-9]*)?))?"
    "\x14(?P<texts>[^\x00]*)\x14\x00"
)
_RECORD_TIME: Final = re.compile(rb"([+-]\d+(?:\.\d*)?)\x14\x14")


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
    scales : tuple of (float, float) or None
        Factor and offset from the numbers of each signal to its unit; None where the header's limits are
        no numbers apart from each other.
    record_s : float
        Duration of a record.
    n_records : int
        Whole records in the file.
    declared : int
        Records that the header speaks of; -1 where it does not know.
    start : datetime or None
        Local clock of the first sample; on 1 January 1985 where only the date is junk.
    first_s : float
        When the first sample was taken, counted from the start that stands in the header.
    pauses : tuple of Pause
        Where records do not follow each other at once.
    simulated : bool
        Whether the patient or recording field says so.
    loss : str
        What is missing at the end of the file; empty if it is whole.
    notes : tuple of str
        Oddities that do no harm.
    """

    path: Path
    format: str
    labels: tuple[str, ...]
    units: tuple[str, ...]
    samples: tuple[int, ...]
    scales: tuple[tuple[float, float] | None, ...]
    record_s: float
    n_records: int
    declared: int
    start: datetime | None
    simulated: bool
    loss: str
    notes: tuple[str, ...]
    first_s: float = 0.0
    pauses: tuple[Pause, ...] = ()

    @property
    def signals(self) -> tuple[int, ...]:
        """Positions of what is no annotation."""
        return tuple(i for i, label in enumerate(self.labels) if label not in _ANNOTATIONS)

    @property
    def annotations(self) -> tuple[slice, ...]:
        """Bytes of every annotation signal within a record."""
        return tuple(self.place(i) for i, label in enumerate(self.labels) if label in _ANNOTATIONS)

    @property
    def duration_s(self) -> float:
        """From the first sample to the last, pauses included."""
        return self.n_records * self.record_s + sum(p.duration_s for p in self.pauses)

    @property
    def header_bytes(self) -> int:
        """Bytes before the first record."""
        return _BLOCK * (1 + len(self.labels))

    @property
    def record_bytes(self) -> int:
        """Bytes of a record."""
        return sum(self.samples) * self.sample_bytes

    def place(self, signal: int) -> slice:
        """Return where a signal lies in every record, in bytes."""
        at = sum(self.samples[:signal]) * self.sample_bytes
        return slice(at, at + self.samples[signal] * self.sample_bytes)

    @property
    def sample_bytes(self) -> int:
        """Bytes per sample."""
        return 3 if self.format.startswith("BDF") else 2

    def sfreq_hz(self, signal: int) -> float:
        """Return the sampling rate of one signal."""
        return self.samples[signal] / self.record_s


def read_edf_header(path: Path) -> EdfHeader:
    """Read the header of an EDF or BDF file, with or without signals, and compare it with the file's size.

    Raises
    ------
    EegToolError
        If the file is of another format, cut within the header or damaged, or its records step back in time.
    """
    with path.open("rb") as file:
        content = file.read(_BLOCK)
        size = file.seek(0, 2)
        if not content:
            raise EegToolError(f"The recording {path} is empty.", "Fetch it again.")
        if not (content.startswith(EDF_MARKS)):
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
    declared = _number(path, columns, "number of records")
    record_bytes = sum(samples) * (3 if kind == "BDF" else 2)
    n_records, rest = divmod(size - header_bytes, record_bytes)
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
        scales=tuple(_scale(columns, i) for i in range(n_signals)),
        record_s=record_s,
        n_records=n_records,
        declared=declared,
        start=start,
        simulated=b"SIMULATED" in content[:168].upper(),
        loss=_loss(declared, n_records, rest, record_s),
        notes=tuple(notes),
    )
    return _timed(header) if header.signals and header.annotations and n_records else header


def open_edf(path: Path) -> Opened:
    """Open a recording in EDF or BDF.

    Raises
    ------
    EegToolError
        See `read_edf_header`; also if it holds no signals or samples, or its times cannot be known.
    """
    edf = read_edf_header(path)
    _check_recording(edf)
    header = Header(
        path=path,
        format=edf.format,
        channels=tuple(
            ChannelInfo(edf.labels[i], edf.sfreq_hz(i), edf.units[i]) for i in edf.signals
        ),
        duration_s=edf.duration_s,
        start=edf.start,
        notes=(*filter(None, (edf.loss,)), *edf.notes),
        simulated=edf.simulated,
        files=(path,),
        pauses=edf.pauses,
    )
    return Opened(
        header,
        lambda which: _read_samples(edf, [edf.signals[i] for i in which]),
        lambda: read_edf_annotations(edf),
        edf.loss,
    )


def _check_recording(edf: EdfHeader) -> None:
    """Refuse a file without signals or samples, or whose times cannot be known."""
    path = edf.path
    if not edf.signals:
        raise EegToolError(
            f"{path} holds annotations but no signal.", "It is a hypnogram; give the recording."
        )
    if not edf.record_s > 0:
        raise EegToolError(
            f"The header of {path} is damaged: its duration of a record is '{edf.record_s:g}'.",
            "Fetch the file again.",
        )
    if not edf.n_records:
        raise EegToolError(
            f"The recording {path} holds no data: not one whole record follows its header.",
            "Fetch the file again.",
        )
    if edf.format.endswith("D") and not edf.annotations:
        raise EegToolError(
            f"{path} is an {edf.format} file without annotations: its times are not known.",
            "Export it as one continuous recording.",
        )


def _read_samples(header: EdfHeader, signals: Sequence[int]) -> np.ndarray:
    """Read signals of one sampling rate in the unit of the file; a straight line goes through pauses."""
    scales = [scale for i in signals if (scale := header.scales[i])]
    for i in signals:
        if header.scales[i] is None:
            raise EegToolError(
                f"Channel '{header.labels[i]}' of {header.path} is not calibrated: its physical or "
                "digital minimum and maximum are the same, or no numbers.",
                "Choose another with --channel, or fix the header (EDFbrowser does that).",
            )
    records, n = _records(header), header.samples[signals[0]]
    data = np.empty((len(signals), header.n_records * n))
    for row, i, (factor, offset) in zip(data, signals, scales, strict=True):
        row[:] = _numbers(records[:, header.place(i)], header.sample_bytes).ravel()
        row *= factor
        row += offset
    return _with_pauses(data, header, n / header.record_s) if header.pauses else data


def read_edf_annotations(header: EdfHeader) -> tuple[list[Annotation], str]:
    """Read all annotations of a file.

    Returns
    -------
    annotations : list of Annotation
        With duration 0 where there is none.
    encoding : str
        ``"utf-8"``, or ``"latin-1"`` where it is not that.
    """
    columns = [_records(header)[:, part] for part in header.annotations]
    data = np.concatenate(columns, axis=1).tobytes() if columns else b""
    try:
        text, encoding = data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        text, encoding = data.decode("latin-1"), "latin-1"
    return [
        Annotation(
            float(found["onset"]) - header.first_s, float(found["duration"] or 0), description
        )
        for found in _LIST.finditer(text)
        for description in found["texts"].split("\x14")
        if description.strip()
    ], encoding


def _records(header: EdfHeader) -> np.ndarray:
    """Map all whole records, uint8 [n_records, record_bytes]: only what is used of them is read."""
    shape = (header.n_records, header.record_bytes)
    return np.memmap(header.path, np.uint8, "r", header.header_bytes, shape)


def _numbers(cells: np.ndarray, sample_bytes: int) -> np.ndarray:
    """Return the integers of 16 or 24 bits in bytes, lowest byte first."""
    if sample_bytes == 2:
        return np.ascontiguousarray(cells).view("<i2")
    wide = np.zeros((len(cells), cells.shape[1] // 3, 4), np.uint8)
    wide[..., 1:] = cells.reshape(len(cells), -1, 3)
    return wide.view("<i4")[..., 0] >> 8


def _timed(header: EdfHeader) -> EdfHeader:
    """Find out when each record of an EDF+ file begins: how late the first is, where there are pauses."""
    stamps = _stamps(header, range(header.n_records) if header.format.endswith("D") else (0, -1))
    if len(stamps) > 1 and stamps[-1] - stamps[0] > header.duration_s - header.record_s + _GAP_S:
        stamps = _stamps(header, range(header.n_records))
    if not len(stamps):
        return header
    first_s = float(stamps[0])
    timed = replace(
        header, start=header.start and header.start + timedelta(seconds=first_s), first_s=first_s
    )
    if abs(first_s) >= 1:
        note = f"The first sample was taken {first_s:g} s after the start that the header tells."
        timed = replace(timed, notes=(*header.notes, note))
    if len(stamps) < 3:
        return timed
    reached_s = (np.arange(len(stamps)) * header.record_s)[1:]
    jumps_s = np.diff(stamps) - header.record_s
    if min(jumps_s) < -_GAP_S:
        at = int(np.argmin(jumps_s))
        raise EegToolError(
            f"{header.path} is an {header.format} file with a step back of {-jumps_s[at]:g} s after "
            f"{reached_s[at]:g} s.",
            "Export its parts as files of their own (EDFbrowser does that), each with its hypnogram.",
        )
    late_s = stamps[1:] - stamps[0]
    pauses = tuple(
        Pause(float(late_s[i] - jumps_s[i]), float(jumps_s[i]))
        for i in np.flatnonzero(jumps_s > _GAP_S)
    )
    if not pauses:
        return timed
    listed = ", ".join(f"{p.duration_s:g} s after {p.onset_s:g} s" for p in pauses[:3])
    more = f" and {len(pauses) - 3} more" if len(pauses) > 3 else ""
    if not header.format.endswith("D"):
        raise EegToolError(
            f"{header.path} calls itself continuous ({header.format}), but its records tell of "
            f"a gap: {listed}{more}.",
            "Write EDF+D into its header (EDFbrowser does that), and gaps are read as unscored time; or "
            "export it again.",
        )
    note = f"The recording pauses: {listed}{more}. This is unscored time."
    timed = replace(timed, pauses=pauses, notes=(*timed.notes, note))
    if timed.duration_s > _LONGEST_S:
        raise EegToolError(
            f"{header.path} pauses for {sum(p.duration_s for p in pauses) / 3600:.0f} hours.",
            "Export its parts as files of their own (EDFbrowser does that), each with its hypnogram.",
        )
    return timed


def _stamps(header: EdfHeader, records: Sequence[int]) -> np.ndarray:
    """Return the onsets that some records tell, in seconds; empty if these cannot be known."""
    stamps = []
    cells = _records(header)[:, header.annotations[0]]
    for i in records:
        found = _RECORD_TIME.match(cells[i].tobytes())
        if found is None and header.format.endswith("D"):
            raise EegToolError(
                f"Record {i + 1} of {header.path} does not tell its time.", "Fetch the file again."
            )
        if found is None:  # EDF+C is continuous by definition
            return np.empty(0)
        stamps.append(float(found[1]))
    return np.array(stamps)


def _with_pauses(data: np.ndarray, header: EdfHeader, sfreq_hz: float) -> np.ndarray:
    """Put a straight line where nothing was recorded, as long as the pause."""
    spread = np.empty((len(data), round(header.duration_s * sfreq_hz)))
    read = written = 0
    for onset_s, duration_s in (*header.pauses, Pause(header.duration_s, 0.0)):
        stop = min(round(onset_s * sfreq_hz), written + data.shape[1] - read)
        spread[:, written:stop] = data[:, read : read + stop - written]
        read, written = (
            read + stop - written,
            min(round((onset_s + duration_s) * sfreq_hz), spread.shape[1]),
        )
        if stop < written and read < data.shape[1]:
            line = np.linspace(data[:, read - 1], data[:, read], written - stop, axis=1)
            spread[:, stop:written] = line
    return spread[:, :written]


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


def _scale(columns: dict[str, tuple[str, ...]], i: int) -> tuple[float, float] | None:
    """Return factor and offset from the numbers of a signal to its unit, if the limits tell."""
    try:
        low, high, first, last = (
            float(columns[f"{kind} {end}"][i].replace(",", "."))
            for kind in ("physical", "digital")
            for end in ("minimum", "maximum")
        )
        factor = (high - low) / (last - first)
    except (ValueError, ZeroDivisionError):
        return None
    offset = low - factor * first
    return (factor, offset) if factor and math.isfinite(factor + offset) else None


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
