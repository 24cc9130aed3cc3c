"""EDF and BDF files: header, time of every record, samples, annotations; for recordings and scorings alike.

Libraries open a file only if its header is in perfect order, and go by names, which need not be unique;
MNE drops annotations outside of the recording and searches all bytes for them. So the files are read here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias

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


_Columns: TypeAlias = dict[str, tuple[str, ...]]
"""Fields of a header; one cell, or one for each signal."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where samples and annotations lie in a file, and when its records begin."""

    path: Path
    form: str
    labels: tuple[str, ...]
    samples: tuple[int, ...]
    """Of each signal per record."""
    record_s: float
    n_records: int
    """Whole records in the file."""
    first_s: float = 0.0
    """When the first sample was taken, counted from the start that stands in the header."""
    pauses: tuple[Pause, ...] = ()

    @property
    def signals(self) -> tuple[int, ...]:
        """Positions of what is no annotation."""
        return tuple(i for i, label in enumerate(self.labels) if label not in _ANNOTATIONS)

    @property
    def duration_s(self) -> float:
        """From the first sample to the last, pauses included."""
        return self.n_records * self.record_s + sum(p.duration_s for p in self.pauses)

    @property
    def sample_bytes(self) -> int:
        """Bytes per sample."""
        return 3 if self.form.startswith("BDF") else 2

    def columns(self, signals: Iterable[int]) -> list[np.ndarray]:
        """Map some signals, uint8 [n_records, n_bytes] each: only what is used of them is read."""
        at = np.cumsum((0, *self.samples)) * self.sample_bytes
        offset, shape = _BLOCK * (1 + len(self.labels)), (self.n_records, int(at[-1]))
        records = np.memmap(self.path, np.uint8, "r", offset, shape)
        return [records[:, at[i] : at[i + 1]] for i in signals]

    def annotations(self) -> list[np.ndarray]:
        """Map all annotation signals."""
        return self.columns(i for i, label in enumerate(self.labels) if label in _ANNOTATIONS)


def open_edf(path: Path, *, recording: bool = True) -> Opened:
    """Open an EDF or BDF file, and compare its header with its size.

    Parameters
    ----------
    path : Path
        The file.
    recording : bool
        Whether there must be signals and samples, and times that can be known; else it may be a hypnogram, which has
        no channels.

    Raises
    ------
    EegToolError
        If the file is of another format, cut within the header or damaged, or its records step back in time.
    """
    columns, notes, n_bytes = _header(path)
    n_signals = len(columns["label"])
    samples = tuple(
        _number(path, columns, "samples per record", i, least=1) for i in range(n_signals)
    )
    kind, reserved = columns["version"][0], columns["reserved"][0]
    record_s = _decimal(path, columns, "duration of a record")
    layout = _Layout(
        path,
        f"{kind}{reserved[3:5]}" if re.match("[EB]DF[+][CD]", reserved) else kind,
        columns["label"],
        samples,
        record_s,
        0,
    )
    if layout.signals and not record_s > 0:
        raise _damaged(path, "duration of a record", f"{record_s:g}")
    n_records, rest = divmod(n_bytes, sum(samples) * layout.sample_bytes)
    layout = replace(layout, n_records=n_records)
    declared = _number(path, columns, "number of records")
    loss = _loss(declared, n_records, rest, layout.record_s)
    start, odd = _start(columns)
    if recording:
        _check_recording(layout)
    if layout.signals and len(layout.signals) < n_signals and n_records:
        layout, more = _timed(layout)
        notes += more
    header = Header(
        path=path,
        format=layout.form,
        channels=tuple(
            ChannelInfo(columns["label"][i], samples[i] / layout.record_s, columns["unit"][i])
            for i in layout.signals
        ),
        duration_s=layout.duration_s,
        start=start and start + timedelta(seconds=layout.first_s),
        notes=tuple(filter(None, (loss, odd, *notes))),
        simulated="SIMULATED" in "".join(columns["patient"] + columns["recording"]).upper(),
        files=(path,),
        pauses=layout.pauses,
    )

    def annotations() -> tuple[list[Annotation], str]:
        if not layout.signals and (not n_records or n_records < declared):
            raise EegToolError(
                f"The hypnogram {path} is cut off: {n_records} of {declared} records are there.",
                "Fetch it again.",
            )
        return _read_annotations(layout)

    def read(which: Sequence[int]) -> np.ndarray:
        return _read_samples(layout, columns, [layout.signals[i] for i in which])

    return Opened(header, read, annotations, loss)


def _header(path: Path) -> tuple[_Columns, list[str], int]:
    """Return the fields of a header, what is odd about it, and how many bytes follow it."""
    with path.open("rb") as file:
        content = file.read(_BLOCK)
        size = file.seek(0, 2)
        if not content:
            raise EegToolError(f"The recording {path} is empty.", "Fetch it again.")
        if not content.startswith(EDF_MARKS):
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
    columns["version"] = ("BDF" if content[0] == 0xFF else "EDF",)
    odd = "The header is not ASCII as EDF demands; it was read as Latin-1."
    is_odd = any(byte > 127 for byte in content[8:])  # the first byte of BDF is 255
    return columns, [odd] * is_odd, size - header_bytes


def _check_recording(layout: _Layout) -> None:
    """Refuse a file without signals or samples, or whose times cannot be known."""
    path = layout.path
    if not layout.signals:
        raise EegToolError(
            f"{path} holds annotations but no signal.", "It is a hypnogram; give the recording."
        )
    if not layout.n_records:
        raise EegToolError(
            f"The recording {path} holds no data: not one whole record follows its header.",
            "Fetch the file again.",
        )
    if layout.form.endswith("D") and len(layout.signals) == len(layout.labels):
        raise EegToolError(
            f"{path} is an {layout.form} file without annotations: its times are not known.",
            "Export it as one continuous recording.",
        )


def _read_samples(layout: _Layout, columns: _Columns, signals: Sequence[int]) -> np.ndarray:
    """Read signals of one sampling rate in the unit of the file; a straight line goes through pauses."""
    scales = [_scale(columns, i) for i in signals]
    for i, scale in zip(signals, scales, strict=True):
        if scale is None:
            raise EegToolError(
                f"Channel '{layout.labels[i]}' of {layout.path} is not calibrated: its physical or "
                "digital minimum and maximum are the same, or no numbers.",
                "Choose another with --channel, or fix the header (EDFbrowser does that).",
            )
    n = layout.samples[signals[0]]
    data = np.empty((len(signals), layout.n_records * n))
    for row, cells, scale in zip(data, layout.columns(signals), scales, strict=True):
        row[:] = _numbers(cells, layout.sample_bytes).ravel()
        factor, offset = scale or (1.0, 0.0)
        row *= factor
        row += offset
    return _with_pauses(data, layout, n / layout.record_s) if layout.pauses else data


def _read_annotations(layout: _Layout) -> tuple[list[Annotation], str]:
    """Return all annotations, with duration 0 where there is none, and the encoding of their texts."""
    cells = layout.annotations()
    data = np.concatenate(cells, axis=1).tobytes() if cells else b""
    try:
        text, encoding = data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        text, encoding = data.decode("latin-1"), "latin-1"
    return [
        Annotation(
            float(found["onset"]) - layout.first_s, float(found["duration"] or 0), description
        )
        for found in _LIST.finditer(text)
        for description in found["texts"].split("\x14")
        if description.strip()
    ], encoding


def _numbers(cells: np.ndarray, sample_bytes: int) -> np.ndarray:
    """Return the integers of 16 or 24 bits in bytes, lowest byte first."""
    if sample_bytes == 2:
        return np.ascontiguousarray(cells).view("<i2")
    wide = np.zeros((len(cells), cells.shape[1] // 3, 4), np.uint8)
    wide[..., 1:] = cells.reshape(len(cells), -1, 3)
    return wide.view("<i4")[..., 0] >> 8


def _timed(layout: _Layout) -> tuple[_Layout, list[str]]:
    """Find out when each record of an EDF+ file begins: how late the first is, where there are pauses; say so."""
    path, form, record_s = layout.path, layout.form, layout.record_s
    is_discontinuous = form.endswith("D")
    stamps = _stamps(layout, range(layout.n_records) if is_discontinuous else (0, -1))
    if len(stamps) > 1 and stamps[-1] - stamps[0] > layout.duration_s - record_s + _GAP_S:
        stamps = _stamps(layout, range(layout.n_records))
    if not len(stamps):
        return layout, []
    first_s, notes = float(stamps[0]), []
    if abs(first_s) >= 1:
        notes.append(
            f"The first sample was taken {first_s:g} s after the start that the header tells."
        )
    layout = replace(layout, first_s=first_s)
    if len(stamps) < 3:
        return layout, notes
    reached_s = (np.arange(len(stamps)) * record_s)[1:]
    jumps_s = np.diff(stamps) - record_s
    apart = (
        "Export its parts as files of their own (EDFbrowser does that), each with its hypnogram."
    )
    if min(jumps_s) < -_GAP_S:
        at = int(np.argmin(jumps_s))
        raise EegToolError(
            f"{path} is an {form} file with a step back of {-jumps_s[at]:g} s after "
            f"{reached_s[at]:g} s.",
            apart,
        )
    late_s = stamps[1:] - stamps[0]
    pauses = tuple(
        Pause(float(late_s[i] - jumps_s[i]), float(jumps_s[i]))
        for i in np.flatnonzero(jumps_s > _GAP_S)
    )
    if not pauses:
        return layout, notes
    listed = ", ".join(f"{p.duration_s:g} s after {p.onset_s:g} s" for p in pauses[:3])
    more = f" and {len(pauses) - 3} more" if len(pauses) > 3 else ""
    if not is_discontinuous:
        raise EegToolError(
            f"{path} calls itself continuous ({form}), but its records tell of a gap: {listed}{more}.",
            "Write EDF+D into its header (EDFbrowser does that), and gaps are read as unscored time; or "
            "export it again.",
        )
    layout = replace(layout, pauses=pauses)
    if layout.duration_s > _LONGEST_S:
        paused_s = sum(p.duration_s for p in pauses)
        raise EegToolError(f"{path} pauses for {paused_s / 3600:.0f} hours.", apart)
    return layout, [*notes, f"The recording pauses: {listed}{more}. This is unscored time."]


def _stamps(layout: _Layout, records: Sequence[int]) -> np.ndarray:
    """Return the onsets that some records tell, in seconds; empty if these cannot be known."""
    stamps, cells = [], layout.annotations()[0]
    for i in records:
        found = _RECORD_TIME.match(cells[i].tobytes())
        if found is None and layout.form.endswith("D"):
            raise EegToolError(
                f"Record {i + 1} of {layout.path} does not tell its time.", "Fetch the file again."
            )
        if found is None:  # EDF+C is continuous by definition
            return np.empty(0)
        stamps.append(float(found[1]))
    return np.array(stamps)


def _with_pauses(data: np.ndarray, layout: _Layout, sfreq_hz: float) -> np.ndarray:
    """Put a straight line where nothing was recorded, as long as the pause."""
    spread = np.empty((len(data), round(layout.duration_s * sfreq_hz)))
    read = written = 0
    for onset_s, duration_s in (*layout.pauses, Pause(layout.duration_s, 0.0)):
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


def _columns(content: bytes, fields: dict[str, int], n: int) -> _Columns:
    columns: _Columns = {}
    at = 0
    for name, width in fields.items():
        cells = [content[at + i * width : at + (i + 1) * width] for i in range(n)]
        columns[name] = tuple(c.decode("latin-1").split("\0")[0].strip() for c in cells)
        at += n * width
    return columns


def _decimal(path: Path, columns: _Columns, field: str, i: int = 0) -> float:
    text = columns[field][i]
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise _damaged(path, field, text) from None


def _number(path: Path, columns: _Columns, field: str, i: int = 0, least: int = -1) -> int:
    value = _decimal(path, columns, field, i)
    if not (value.is_integer() and value >= least):
        raise _damaged(path, field, columns[field][i])
    return int(value)


def _scale(columns: _Columns, i: int) -> tuple[float, float] | None:
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


def _start(columns: _Columns) -> tuple[datetime | None, str]:
    """Return the start that a header tells, on 1 January 1985 where only the date is junk, and what is odd about it."""
    recording, date, time = (columns[f][0] for f in ("recording", "start date", "start time"))
    clock = re.fullmatch(r"(\d{1,2})\D(\d{1,2})\D(\d{1,2})", time)
    day = re.fullmatch(r"(\d{1,2})\D(\d{1,2})\D(\d{2})", date)
    full = re.match(r"Startdate (\d{1,2})-([A-Z]{3})-(\d{4})\b", recording, re.IGNORECASE)
    candidates = []
    if full and full[2].upper() in _MONTHS:  # EDF+: four digits of the year
        candidates.append((int(full[3]), _MONTHS.index(full[2].upper()) + 1, int(full[1])))
    if day:  # EDF: years before 85 are after 2000
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
