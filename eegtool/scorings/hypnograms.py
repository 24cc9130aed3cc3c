"""Hypnograms: what a scoring says, laid onto the time of its recording, as one stage per 30-s epoch.

`scorings` reads the files; here is what all kinds have in common: where the scoring begins, whether it
fits the recording, and where its epochs lie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from eegtool.core.errors import EegToolError, brief
from eegtool.core.stages import EPOCH_S, UNSCORED
from eegtool.recordings.header import Pause
from eegtool.recordings.reading import is_recording, paused_epochs
from eegtool.scorings.annotations import (
    holds_annotations_alone,
    is_edf,
    read_beside,
    read_inside,
)
from eegtool.scorings.fit import TOLERANCE_S, Fit
from eegtool.scorings.scorers import agreement, chosen, majority, own_parts
from eegtool.scorings.scoring import CONSENSUS, Entry, Hypnogram, ReadAs, Scoring, decode
from eegtool.scorings.tables import (
    is_table_of_stages,
    read_table,
    scorers_of,
)
from eegtool.scorings.xml_scorings import XML_ROOTS, read_xml

_EDF_SUFFIXES: Final = (".edf", ".bdf", ".rec")
_XML_SUFFIXES: Final = (".xml", ".rml")
_TEXT_SUFFIXES: Final = (".txt", ".csv", ".tsv", ".eannot", ".annot", ".hyp", ".ids")
SUFFIXES: Final = (*_XML_SUFFIXES, *_TEXT_SUFFIXES)
"""Of files that hold nothing but a scoring."""
_WFDB_SUFFIX: Final = ".arousal"
"""Of the annotations of CinC 2018."""
_LOOK_BYTES: Final = 1 << 16
_KINDS: Final = (
    "A hypnogram is an EDF+ file with annotations, NSRR, Profusion or Philips XML, or text (UTF-8) with "
    "one stage per line or the columns onset, duration and stage."
)


def is_hypnogram(path: Path, read_as: ReadAs | None = None) -> bool:
    """Say, from the name and the first bytes, whether a file is a scoring without signals.

    A recording that holds its own scoring is no such file: see `holds_scoring`. What `read_as` says of
    codes makes them stages.
    """
    suffix = path.suffix.casefold()
    if suffix not in (*_EDF_SUFFIXES, *SUFFIXES):
        return False
    try:
        if suffix in _EDF_SUFFIXES:
            return holds_annotations_alone(path)
        with path.open("rb") as file:
            data = file.read(_LOOK_BYTES)
        text, _ = decode(data, whole=len(data) < _LOOK_BYTES)
    except (OSError, ValueError):
        return False
    if suffix in _XML_SUFFIXES:
        return any(root in text for root in XML_ROOTS)
    whole = len(data) < _LOOK_BYTES
    return is_table_of_stages(path, text if whole else text.rpartition("\n")[0], read_as)


def why_no_hypnogram(path: Path) -> str:
    """Say why a file that stands where scorings stand is not taken for one."""
    suffix = path.suffix.casefold()
    if suffix not in SUFFIXES:
        return f"files of the kind {suffix or 'without suffix'} are not read; export it as text"
    try:
        read_hypnogram(path, None)
    except EegToolError as error:
        return str(error).replace("\n", " ").removeprefix(f"The hypnogram {path} ")
    return "less than half of its entries are stages"


def read_hypnogram(
    path: Path | Sequence[Path],
    recording_start: datetime | None,
    duration_s: float = math.inf,
    read_as: ReadAs | None = None,
    pauses: Sequence[Pause] = (),
) -> Hypnogram:
    """Read a scoring, of any kind that this room knows, and lay it onto a recording.

    Parameters
    ----------
    path : Path or sequence of Path
        EDF+ annotations, a recording with its own scoring, NSRR, Profusion or Philips XML, one stage per
        line, or a table of onsets, durations and stages. They are told apart by content. Several files of
        one night must agree, unless `read_as` names the scorer, or the majority.
    recording_start : datetime or None
        Local time of the first sample, where it is known.
    duration_s : float
        Length of the recording; infinite where there is none.
    read_as : ReadAs, optional
        What the user says of codes, columns and scorers.
    pauses : sequence of Pause
        Time within the recording in which nothing was recorded.

    Raises
    ------
    EegToolError
        If the file cannot be read, does not fit the recording, has overlaps, no single 30-s grid, or
        scores no sleep; or scorers differ.
    """
    read_as = read_as or ReadAs()
    paths = [path] if isinstance(path, Path) else list(path)
    paths = [paths[i] for i in chosen([p.stem for p in paths], read_as.scorer)]
    same = len({p.name for p in paths}) < len(paths)
    read = {
        f"{p if same else p.name}{c and f' ({c})'}": Fit(
            p,
            _read(p, replace(read_as, column=c), recording_start),
            read_as.epoch_s or float(EPOCH_S),
            recording_start,
            duration_s,
            pauses,
        ).hypnogram()
        for p in paths
        for c in _columns(p, read_as)
    }
    if len(read) > 1:
        return _of_all(read, own_parts([p.stem for p in paths])[0], read_as.scorer == CONSENSUS)
    ((name, hypnogram),) = read.items()
    if read_as.scorer.casefold() in ("", CONSENSUS) or read_as.scorer.casefold() in name.casefold():
        return hypnogram
    note = (
        f"{name} is the only scoring, and is used; whether it is of {read_as.scorer} is not known."
    )
    return replace(hypnogram, notes=(*hypnogram.notes, note))


def _of_all(read: Mapping[str, Hypnogram], one: str, vote: bool) -> Hypnogram:
    """Return the scoring that all scorers agree on, or their majority; `one` names one of them."""
    names, first = ", ".join(read), next(iter(read.values()))
    grids = {hypnogram.first_onset_s for hypnogram in read.values()}
    ends_s = (h.runs[-1].end_s for h in read.values())
    n_epochs = int((max(ends_s) - min(grids)) // EPOCH_S)
    stages = {name: stage_per_epoch(h, n_epochs) for name, h in read.items()}
    if len(grids) == 1 and len({tuple(s) for s in stages.values()}) == 1:
        note = f"{names} hold the same scoring; the first is used."
        return replace(first, notes=(*first.notes, note))
    if not vote or len(grids) > 1:
        raise EegToolError(
            f"There is more than one hypnogram: {names}; {agreement(stages)}.",
            f"Choose with --scorer, such as --scorer {one}, or take the majority with --scorer "
            f"{CONSENSUS}.",
        )
    voted, n_ties = majority(stages)
    runs = tuple(
        Entry(first.first_onset_s + i * EPOCH_S, EPOCH_S, stage)
        for i, stage in enumerate(voted)
        if stage != UNSCORED
    )
    note = f"The majority of {len(read)} scorers ({names}): {agreement(stages)}; {n_ties} ties are unscored."
    return Hypnogram(runs, first.first_onset_s, (*first.notes, note))


def _columns(path: Path, read_as: ReadAs) -> Sequence[str]:
    """Return the columns to read: all that hold stages for the majority, else what the user says."""
    if (
        read_as.scorer != CONSENSUS
        or read_as.column
        or _is_binary(path)
        or path.suffix.casefold() in (*_XML_SUFFIXES, _WFDB_SUFFIX)
    ):
        return (read_as.column,)
    names = scorers_of(path, _text(path)[0])
    return names if len(names) > 1 else ("",)


def stage_per_epoch(hypnogram: Hypnogram, n_epochs: int, pauses: Sequence[Pause] = ()) -> list[str]:
    """Cut a scoring into epochs.

    An epoch has a stage only if one run covers it whole; gaps and epochs in which the scoring
    changes are unscored.

    Parameters
    ----------
    hypnogram : Hypnogram
        The scoring.
    n_epochs : int
        Number of epochs; epoch ``i`` begins at ``first_onset_s + 30 i`` seconds.
    pauses : sequence of Pause
        Epochs that are not recorded throughout are unscored.

    Returns
    -------
    list of str
        One of `STAGES` or a dropped kind, per epoch.
    """
    stages = [UNSCORED] * n_epochs
    for run in hypnogram.runs:
        onset_s = run.onset_s - hypnogram.first_onset_s
        first = math.ceil((onset_s - TOLERANCE_S) / EPOCH_S)
        stop = math.floor((onset_s + run.duration_s + TOLERANCE_S) / EPOCH_S)
        for i in range(max(first, 0), min(stop, n_epochs)):
            stages[i] = run.stage
    for i in paused_epochs(pauses, n_epochs, hypnogram.first_onset_s):
        stages[i] = UNSCORED
    return stages


def _read(path: Path, read_as: ReadAs, recording_start: datetime | None) -> Scoring:
    """Find out by its content what kind of file this is, and read it."""
    if not path.is_file():
        raise EegToolError(f"The hypnogram {path} does not exist.", "Check the path.")
    if path.suffix.casefold() == _WFDB_SUFFIX:
        return read_beside(path, read_as)
    if _is_binary(path):
        return read_inside(path, read_as)
    text, encoding = _text(path)
    if not text.strip():
        raise EegToolError(f"The hypnogram {path} is empty.", "Fetch or export it again.")
    if text.startswith("Brain"):  # "Brain Vision Data Exchange Header File"
        raise EegToolError(f"{path} is the header of a recording and no hypnogram.", _KINDS)
    if text.lstrip().startswith("<"):
        scoring = read_xml(path, text)
    else:
        scoring = read_table(path, text, read_as, recording_start)
    if encoding == "latin-1":
        return replace(scoring, notes=(*scoring.notes, "The hypnogram is read as Latin-1."))
    return scoring


def _is_binary(path: Path) -> bool:
    """Say whether a file is EDF or BDF by its content, or a recording of another format by its name."""
    return is_edf(path) or (is_recording(path) and path.suffix.casefold() not in _EDF_SUFFIXES)


def _text(path: Path) -> tuple[str, str]:
    """Return the text of a file, and its encoding."""
    try:
        with path.open("rb") as file:
            data = file.read(_LOOK_BYTES)
            decode(data, whole=len(data) < _LOOK_BYTES)  # of a large binary file no more is read
            data += file.read()
        return decode(data)
    except OSError as error:
        raise EegToolError(
            f"The hypnogram {path} cannot be read: {brief(error)}.", "Check its permissions."
        ) from error
    except ValueError as error:
        raise EegToolError(f"The hypnogram {path} cannot be read: {error}.", _KINDS) from error
