"""One recording's hypnogram for other programs: a table, BIDS events, EDF+ annotations.

Files are written of plain records, which know nothing of answers or metrics.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import edfio
import pandas as pd

from eegtool.core.errors import EegToolError
from eegtool.core.sheets import safe_cell
from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.core.workspace import atomic_path, write_json
from eegtool.report.reading.lights import Lights
from eegtool.report.reading.nights import Night
from eegtool.report.reading.sources import AnswerSet

_MISSING: Final = "n/a"
"""What BIDS writes for a value that is not there."""

_MAX_BYTES: Final = 180
"""Of the name of a file, which may have 255, before its endings."""

_AASM_NAMES: Final = {stage: stage for stage in STAGES} | {"REM": "R"}

_EDF_NAMES: Final = {stage: f"Sleep stage {name}" for stage, name in _AASM_NAMES.items()}
_EDF_UNKNOWN: Final = "Sleep stage ?"
"""The texts that EDF+ (Kemp & Olivan 2003, and its list of standard texts) has for AASM stages."""


@dataclass(frozen=True, slots=True)
class ScoredEpoch:
    """One epoch of a hypnogram.

    Attributes
    ----------
    epoch_index : int
        Index of the epoch in the whole recording, from 0.
    onset_s : float
        Seconds from the first sample of the recording.
    stage : str or None
        Stage that is exported; None where there is none.
    true : str or None
        Stage of a human scorer, where it is known.
    probabilities : tuple of float, shape (5,), or None
        Of the stages, in the order of `eegtool.core.stages.STAGES`.
    read : str
        Words that the stage was read from, where it was read.
    missing : bool
        Whether nobody has looked at the epoch: it is written only so that there is no gap.
    why : str
        Why the epoch was not staged, where that was found out before anybody looked.
    smoothed : str or None
        Its stage in the likeliest sequence of stages, where that was sought.
    words : str
        What the model wrote about it, where that is wanted.
    """

    epoch_index: int
    onset_s: float
    stage: str | None
    true: str | None = None
    probabilities: tuple[float, ...] | None = None
    read: str = ""
    missing: bool = False
    why: str = ""
    smoothed: str | None = None
    words: str = ""


def scored_epochs(night: Night) -> list[ScoredEpoch]:
    """Return a night as its exports have it: every epoch from the first to the last, gaps without a stage."""
    known = next(e for e in night.epochs if e is not None)
    shift_s = 0.0  # recordings whose grid does not begin with the first sample
    if known.onset_s is not None and known.epoch_index is not None:
        shift_s = known.onset_s - known.epoch_index * EPOCH_S
    found = []
    for index, epoch in enumerate(night.epochs, start=night.first_epoch):
        onset_s = index * EPOCH_S + shift_s
        if epoch is None:
            found.append(ScoredEpoch(index, onset_s, None, missing=True))
            continue
        found.append(
            ScoredEpoch(
                epoch_index=index,
                onset_s=onset_s if epoch.onset_s is None else epoch.onset_s,
                stage=epoch.predicted,
                true=epoch.true,
                probabilities=epoch.probabilities,
                read=epoch.reading.words(epoch.text),
            )
        )
    return found


def file_names(names: Sequence[str]) -> list[str]:
    """Return a file name for each recording: it stays in its folder, and no two are the same.

    Those that become equal when made safe, on disks that do not tell case either, are numbered.

    Examples
    --------
    >>> file_names(["a b", "a/b", "A_B", "a_b-2"])
    ['a_b', 'a_b-2', 'A_B-3', 'a_b-2-2']
    """
    taken: set[str] = set()
    found = []
    for name in names:
        safe = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", name)).lstrip(".")
        safe = safe.encode()[:_MAX_BYTES].decode(errors="ignore") or "recording"
        numbered = (f"{safe}-{i}" for i in count(2))
        free = next(n for n in chain([safe], numbered) if n.casefold() not in taken)
        taken.add(free.casefold())
        found.append(free)
    return found


def write_table(path: Path, epochs: Sequence[ScoredEpoch]) -> None:
    """Write a table with one row per epoch: stage, certainty, probabilities.

    Smoothed stages, reasons for what is not staged and the model's words have a column where there
    are any.
    """
    shares = _shares(epochs, "")
    columns: dict[str, Sequence[Any]] = {
        "epoch_index": [epoch.epoch_index for epoch in epochs],
        "onset_s": [f"{e.onset_s:g}" if e.onset_s < 1e5 else f"{e.onset_s:.3f}" for e in epochs],
        "stage": [epoch.stage or "" for epoch in epochs],
        "true": [epoch.true or "" for epoch in epochs],
        "certainty": [max(row) for row in shares],
        **{f"prob_{s}": [row[k] for row in shares] for k, s in enumerate(STAGES)},
        "read": [safe_cell(_reading(epoch)) for epoch in epochs],
    }
    further = {
        "stage_smoothed": [epoch.smoothed or "" for epoch in epochs],
        "unstaged_because": [safe_cell(epoch.why) for epoch in epochs],
        "words": [safe_cell(epoch.words) for epoch in epochs],
    }
    _write_csv(path, columns | {name: cells for name, cells in further.items() if any(cells)})


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
    names = ("question_id", "text", "stage", "words", "begin", "end", "rule", "answers")
    rows = [
        (
            *(safe_cell(text) for text in (epoch.sample_id, epoch.text)),
            *(epoch.predicted or "", safe_cell(epoch.reading.words(epoch.text))),
            *(*(epoch.reading.span or ("", "")), epoch.reading.rule, safe_cell(one.name)),
        )
        for one in sets
        for epoch in one.epochs
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_csv(path, dict(zip(names, zip(*rows, strict=True), strict=True)))
    except OSError as error:
        raise EegToolError(
            f"{path} cannot be written: {error.strerror}.", "Give another file by --how-read."
        ) from error


def _write_csv(path: Path, columns: Mapping[str, Sequence[Any]], separator: str = ",") -> None:
    with atomic_path(path) as tmp:
        frame = pd.DataFrame(columns, dtype=object)
        frame.to_csv(tmp, sep=separator, index=False, lineterminator="\n", encoding="utf-8")


def write_events(path: Path, epochs: Sequence[ScoredEpoch]) -> None:
    """Write ``events.tsv`` of BIDS, and the ``.json`` beside it that says what its columns are.

    Stages are named as the AASM does, with ``R`` for REM; an epoch without one has ``n/a``.
    """
    columns = {"trial_type": _stage_column("Sleep stage, by eegvlm", [e.stage for e in epochs])}
    shares = _shares(epochs, _MISSING)
    for k, stage in enumerate(STAGES):
        about = {"Description": f"Probability of stage {stage}"}
        columns[f"prob_{stage}"] = about, [row[k] for row in shares]
    what = "Sleep stage in the likeliest sequence of stages (Viterbi)"
    columns["trial_type_smoothed"] = _stage_column(what, [e.smoothed for e in epochs])
    _write_bids(path, epochs, columns)


def write_hypnogram(
    path: Path, epochs: Sequence[ScoredEpoch], lights: Lights | None = None
) -> None:
    """Write ``hypnogram.tsv`` and its ``.json`` beside the events: stage, certainty and the human's stage.

    The ``.json`` also has the length of an epoch and, where known, lights off and on in seconds from the
    first sample.
    """
    sure = {"Description": "Probability of the likeliest stage"}
    columns = {
        "stage": _stage_column("Sleep stage, by eegvlm", [e.stage for e in epochs]),
        "certainty": (sure, [max(row) for row in _shares(epochs, _MISSING)]),
        "human": _stage_column("Sleep stage of the scoring", [e.true for e in epochs]),
    }
    about: dict[str, Any] = {"EpochLength": EPOCH_S, "ScoringRules": "AASM", "Software": "eegvlm"}
    if lights:
        about |= {"LightsOff": lights.off_s, "LightsOn": lights.on_s}
    _write_bids(path, epochs, columns, about)


_Column = tuple[dict[str, Any], Sequence[str]]
"""What the ``.json`` says of a column, and its cells."""


def _stage_column(what: str, stages: Sequence[str | None]) -> _Column:
    levels = {name: f"AASM stage {name}" for name in _AASM_NAMES.values()}
    cells = [_AASM_NAMES.get(stage or "", _MISSING) for stage in stages]
    return {"Description": what, "Levels": levels}, cells


def _write_bids(
    path: Path,
    epochs: Sequence[ScoredEpoch],
    columns: Mapping[str, _Column],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write columns and what they are; of those behind the first only those that have something."""
    first = next(iter(columns))
    columns = {k: c for k, c in columns.items() if k == first or set(c[1]) != {_MISSING}}
    table: dict[str, Sequence[Any]] = {
        "onset": [f"{epoch.onset_s:.3f}" for epoch in epochs],
        "duration": [EPOCH_S] * len(epochs),
        **{name: cells for name, (_, cells) in columns.items()},
    }
    _write_csv(path, table, "\t")
    write_json(
        path.with_suffix(".json"), {k: d for k, (d, _) in columns.items()} | dict(about or {})
    )


def write_annotations(
    path: Path, epochs: Sequence[ScoredEpoch], start: datetime | None = None
) -> None:
    """Write EDF+ with nothing but annotations, one per run of a stage.

    Time that has no stage, between two epochs too, is ``Sleep stage ?``.

    Parameters
    ----------
    path : Path
        The ``.edf`` file.
    epochs : sequence of ScoredEpoch
        Of one recording.
    start : datetime or None
        Local time of the recording's first sample, by which a viewer lays the two side by side.
    """
    header: dict[str, Any] = {}
    if start is not None:
        header["starttime"] = start.time().replace(microsecond=0)
        header["recording"] = edfio.Recording(startdate=start.date(), equipment_code="eegvlm")
    annotations = [
        edfio.EdfAnnotation(onset_s, duration_s, _EDF_NAMES.get(stage or "", _EDF_UNKNOWN))
        for stage, onset_s, duration_s in _runs(epochs)
    ]
    with atomic_path(path) as tmp:
        edfio.Edf([], annotations=annotations, **header).write(tmp)


def _shares(epochs: Sequence[ScoredEpoch], missing: str) -> list[list[str]]:
    none = [missing] * len(STAGES)
    return [[f"{p:.6f}" for p in e.probabilities] if e.probabilities else none for e in epochs]


def _reading(epoch: ScoredEpoch) -> str:
    """Say what the stage was read from, or why there is none."""
    if epoch.why:
        return ""
    if epoch.missing:
        return "missing"
    return " ".join(epoch.read.split()) if epoch.stage else "unreadable"


def _runs(epochs: Sequence[ScoredEpoch]) -> Iterator[tuple[str | None, float, float]]:
    """Yield stage, onset and duration of each run of equal epochs, gaps among them."""
    pieces: list[tuple[str | None, float, float]] = []
    for epoch in sorted(epochs, key=lambda e: e.onset_s):
        end = pieces[-1][2] if pieces else epoch.onset_s
        if epoch.onset_s > end + 1e-6:
            pieces.append((None, end, epoch.onset_s))
        pieces.append((epoch.stage, epoch.onset_s, epoch.onset_s + EPOCH_S))
    for stage, run in groupby(pieces, key=itemgetter(0)):
        members = list(run)
        yield stage, members[0][1], members[-1][2] - members[0][1]
