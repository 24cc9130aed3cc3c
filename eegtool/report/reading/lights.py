"""When the lights went off and on again: from options, a table, or annotations of recordings."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from eegtool.core.errors import EegToolError
from eegtool.recordings.edf import open_edf
from eegtool.recordings.reading import is_recording, open_recording
from eegtool.scorings.moments import parse_moment

_DAY: Final = timedelta(days=1)
_ANNOTATION: Final = re.compile(r"lights?[\s_-]*(off|out|on)\b", re.IGNORECASE)
_HELP: Final = "Write seconds from the start of the recording (5400), a time of day (22:45:00), or a date with it."


@dataclass(frozen=True, slots=True)
class Lights:
    """Seconds from the first sample of the recording; None where it is not known."""

    off_s: float | None = None
    on_s: float | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """What is known of a recording: when it began, and which seconds of it were staged."""

    start: datetime | None
    first_s: float
    stop_s: float


def read_lights(
    spans: Mapping[str, Span], off: str, on: str, sources: Sequence[Path]
) -> dict[str, Lights]:
    """Find out when the lights went off and on in each recording.

    Parameters
    ----------
    spans : mapping of str to Span
        The recordings.
    off, on : str
        For all of them, where no source says otherwise; empty for the ends of the recording.
    sources : sequence of Path
        Tables with the columns recording, lights_off, lights_on; or recordings (and EDF+ files) whose names
        begin with that of a recording and whose annotations say it.

    Returns
    -------
    dict of str to Lights
        Only recordings of which something is known.

    Raises
    ------
    EegToolError
        If a time cannot be read, lights go on before they go off or outside what was staged, or a source
        cannot be used.
    """
    given = dict.fromkeys(spans, ("--lights-off/--lights-on", off, on))
    for path in sources:
        if is_recording(path):
            name = max((n for n in spans if path.stem.startswith(n)), key=len, default="")
            if name:
                own_off, own_on = annotated_lights(path)
                given[name] = (str(path), own_off or given[name][1], own_on or given[name][2])
        else:
            given |= _table(path, given)
    found = {}
    for name, (where, *texts) in given.items():
        if any(texts):
            pairs = zip(("off", "on"), texts, strict=True)
            whats = [(f"lights {word} of {name}", text) for word, text in pairs]
            found[name] = Lights(*(_seconds(where, *w, spans[name].start) for w in whats))
            _check(where, name, found[name], spans[name])
    return found


def annotated_lights(path: Path) -> tuple[str, str]:
    """Return the first lights-off and the last lights-on among a recording's annotations, in seconds, or nothing."""
    is_edf = path.suffix.casefold() == ".edf"
    opened = open_edf(path, recording=False) if is_edf else open_recording(path)
    annotations, _ = opened.annotations()
    marks = [(m[1].casefold(), a[0]) for a in annotations if (m := _ANNOTATION.search(a[2]))]
    off = min((s for word, s in marks if word != "on"), default="")
    on = max((s for word, s in marks if word == "on"), default="")
    return str(off), str(on)


def _table(
    path: Path, known: Mapping[str, tuple[str, str, str]]
) -> dict[str, tuple[str, str, str]]:
    """Read a table; rows of other recordings are passed over."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EegToolError(f"{path} cannot be read: {error}.", "Give a table as CSV.") from error
    first = text.partition("\n")[0]
    rows = list(csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=first.count)))
    names = {re.sub(r"[\W_]", "", (name or "").casefold()): name for name in (rows or [{}])[0]}
    if not {"recording", "lightsoff", "lightson"} <= names.keys():
        raise EegToolError(
            f"{path} has not the columns recording, lights_off and lights_on.", "Name them so."
        )
    cells = ([(row[names[n]] or "").strip() for n in ("recording", "lightsoff", "lightson")] for row in rows)  # fmt: skip
    return {name: (str(path), off, on) for name, off, on in cells if name in known}


def _seconds(where: str, what: str, text: str, start: datetime | None) -> float | None:
    if not text:
        return None
    try:
        moment = parse_moment(text)
    except ValueError as error:
        raise EegToolError(f"{where}: {what}, '{text}': {error}.", _HELP) from error
    if isinstance(moment, float):
        return moment
    if start is None:
        raise EegToolError(
            f"{where}: {what} is a time of day, '{text}', and when the recording began is not known.",
            "Write seconds from its start.",
        )
    if isinstance(moment, timedelta):
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
        return ((midnight + moment - start) % _DAY).total_seconds()
    return (moment - start).total_seconds()


def _check(where: str, name: str, lights: Lights, span: Span) -> None:
    off_s = span.first_s if lights.off_s is None else lights.off_s
    on_s = span.stop_s if lights.on_s is None else lights.on_s
    if off_s >= on_s:
        raise EegToolError(
            f"{where}: the lights of {name} go on after {on_s:g} s, and off after {off_s:g} s.",
            "Lights go off before they go on; check the two, and the date.",
        )
    if off_s < 0 or off_s >= span.stop_s or on_s <= span.first_s:
        raise EegToolError(
            f"{where}: the lights of {name} are off from {off_s:g} to {on_s:g} s, and it was staged from "
            f"{span.first_s:g} to {span.stop_s:g} s.",
            "Check that they are of this recording. " + _HELP,
        )
