"""Cohorts: how the files of a data set pair up, and how its subjects and nights are named; table of cohorts."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from eegtool.core.errors import EegToolError
from eegtool.core.records import SPLITS
from eegtool.core.registry import check_name
from eegtool.core.workspace import Workspace
from eegtool.recordings.reading import is_recording
from eegtool.scorings.cohorts import generic
from eegtool.scorings.cohorts.night import (
    FETCH,
    PAIRING_FIX,
    Found,
    Night,
    dangling,
    safe_name,
    stem_of,
)
from eegtool.scorings.cohorts.pairs import PAIRS
from eegtool.scorings.cohorts.public import PUBLIC, Cohort, is_marked, pair_named
from eegtool.scorings.cohorts.reviewed import with_reviews
from eegtool.scorings.hypnograms import SUFFIXES, is_hypnogram
from eegtool.scorings.scoring import ReadAs

__all__ = [
    "AUTO",
    "COHORTS",
    "PAIRING_FIX",
    "Found",
    "Night",
    "find_nights",
    "find_recordings",
]


COHORTS: Final[dict[str, Cohort]] = {
    **PUBLIC,
    "generic": Cohort("", "", (), generic.NAMED_LIKE, ()),  # paired by what names have in common
}

AUTO: Final = "auto"
"""The name that stands for whichever cohort the files are of."""


def find_nights(
    paths: Sequence[Path],
    cohort: str = AUTO,
    subject_pattern: str = "",
    read_as: ReadAs | None = None,
) -> Found:
    """Find and pair the recordings among files and folders.

    Hidden files and folders are passed over, what belongs to a workspace, and the continuations of
    split FIF files.

    Parameters
    ----------
    paths : sequence of Path
        Recordings, or folders of them. A recording named alone finds its hypnogram beside it.
    cohort : str
        One of `COHORTS`, or `AUTO`: the one that knows names among the files, else ``generic``
        (always that one where there is a ``pairs.csv`` or a pattern).
    subject_pattern : str
        What names the subject; see `generic.pair`. Only for ``generic``.
    read_as : ReadAs, optional
        What the user says of all scorings; a ``pairs.csv`` may say otherwise of some.

    Raises
    ------
    EegToolError
        If a path does not exist, nothing is found, the files are of several cohorts, two
        recordings share a name or are the same file, or two subjects differ only in case.
    """
    check_name("cohort", cohort, [AUTO, *COHORTS])
    if subject_pattern and cohort not in (AUTO, "generic"):
        raise EegToolError(
            f"--subject-pattern is not for the cohort '{cohort}', whose names tell the subject.",
            "Leave it out, or use --cohort generic.",
        )
    files, named, lost = _files(paths)
    parts = _continuations(files)
    split, named = sorted(parts & named), named - parts
    files = [path for path in files if path not in parts]
    found = _find(files, named, cohort, subject_pattern, read_as)
    if lost and not found.nights:
        raise EegToolError(f"{dangling(lost[0])}, as are {len(lost) - 1} others.", FETCH)
    if not found.nights:
        kind = f" of the cohort '{found.cohort}'" if cohort != AUTO else ""
        ways = [COHORTS[cohort]] if cohort != AUTO else COHORTS.values()
        raise EegToolError(
            f"There is no recording{kind} in {_listing(paths)}.",
            "\n".join(f"Names are like {way.named_like}." for way in ways),
        )
    _check_names(found.nights)
    used = {p for n in found.nights for p in (n.signal_path, n.hypnogram_path)} | {*found.orphans}
    left = [p for p in sorted(named) if p not in used and is_recording(p) and not is_hypnogram(p)]
    unnamed = f"they are not named like those of {found.cohort}"
    unlisted = f"{PAIRS} does not list them" if found.cohort == "generic" else unnamed
    passed_over = (
        (lost, f"they are links to what is not here: {_listing(lost)}. {FETCH}"),
        (split, f"they continue a split recording: {_listing(split)}."),
        (left, f"{unlisted}: {_listing(left)}."),
    )
    notes = [f"Files passed over because {why}" for those, why in passed_over if those]
    nights = tuple(replace(n, read_as=_joined(n.read_as, read_as)) for n in found.nights)
    return replace(found, nights=nights, notes=(*found.notes, *notes))


def find_recordings(paths: Sequence[Path]) -> tuple[Night, ...]:
    """Find recordings that are to be staged, whether or not scorings lie beside them.

    A recording is called as its cohort calls it, else as its file; where several in different folders
    have the same name, each has the folders in front that tell them apart.

    Parameters
    ----------
    paths : sequence of Path
        Recordings, or folders of them.

    Returns
    -------
    tuple of Night
        In the order of their paths, each file once, without hypnograms.

    Raises
    ------
    EegToolError
        If a path does not exist, there is no recording, or two have the same name in one folder.
    """
    files, named, lost = _files(paths)
    chosen: dict[Path, Path] = {}
    for path in sorted(named - _continuations(files)):
        # A file that the user named is judged by what is in it, a folder's by its name, too.
        if (is_recording(path) and not is_hypnogram(path)) or path in paths:
            chosen.setdefault(path.resolve(), path)
    if lost and not chosen:
        raise EegToolError(f"{dangling(lost[0])}.", FETCH)
    if not chosen:
        raise EegToolError(
            f"There is no recording in {_listing(paths)}.", "Give recordings or folders of them."
        )
    known = {
        night.signal_path: night
        for cohort in PUBLIC
        for night in pair_named(files, cohort).nights
        if is_marked(night)
    }
    nights = []
    for path in chosen.values():
        if path in known:
            nights.append(replace(known[path], hypnogram_path=None, problem=""))
        else:
            name = safe_name(stem_of(path), path)
            nights.append(Night("generic", name, name, 1, path, None))
    return _told_apart(nights)


def _told_apart(nights: Sequence[Night]) -> tuple[Night, ...]:
    """Put folders before the names that occur more than once, as many as are needed."""
    named = {night: night.recording for night in nights}
    folders = {night: night.signal_path.absolute().parent.parts[1:] for night in nights}
    for n_folders in range(1, max(map(len, folders.values())) + 2):
        counts = Counter(name.casefold() for name in named.values())
        doubled = [night for night, name in named.items() if counts[name.casefold()] > 1]
        if not doubled:
            break
        for night in doubled:
            words = (*folders[night][-n_folders:], night.recording)
            named[night] = safe_name("-".join(words), night.signal_path)
    else:
        listed = " and ".join(str(night.signal_path) for night in doubled[:2])
        raise EegToolError(
            f"{listed} have the same name: the results of one would replace the other's.",
            "Give only one of them, or name them apart.",
        )
    return tuple(
        replace(
            night,
            recording=name,
            subject=name if night.subject == night.recording else night.subject,
        )
        for night, name in named.items()
    )


def _joined(of_night: ReadAs, of_all: ReadAs | None) -> ReadAs:
    """Return what is said of one scoring, or else of all; the length of epochs the other way round."""
    of_all = of_all or ReadAs()
    return ReadAs(
        of_night.codes or of_all.codes,
        of_night.column or of_all.column,
        of_night.scorer or of_all.scorer,
        of_all.epoch_s or of_night.epoch_s,
    )


def _files(paths: Sequence[Path]) -> tuple[list[Path], set[Path], list[Path]]:
    """Return all files that may take part, sorted; those the user named; links to what is not here."""
    files: set[Path] = set()
    named: set[Path] = set()
    for path in paths:
        if path.is_dir():
            inside = set(_below(path))
            files |= inside
            named |= inside
        elif path.is_file():
            # Its hypnogram lies beside it; its neighbours are not meant.
            names = [p.name for p in path.parent.iterdir()]
            own = _of_workspace(path.parent, names)
            beside = (path.parent / n for n in names if not _hidden(n) and n not in own)
            files |= {path, *(p for p in beside if p.is_file())}
            named.add(path)
        else:
            fix = FETCH if dangling(path) else "Give recordings or folders of them."
            raise EegToolError(f"{dangling(path) or f'{path} does not exist'}.", fix)
    lost = sorted(path for path in files if dangling(path))
    return sorted(files.difference(lost)), named.difference(lost), lost


def _below(folder: Path) -> Iterator[Path]:
    """Walk through a folder, links to folders included (each folder once)."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        here = Path(root)
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        own = _of_workspace(here, names)
        folders[:] = sorted(name for name in folders if not _hidden(name) and name not in own)
        names = [name for name in names if not _hidden(name) and name not in own]
        yield from (p for name in names if (p := here / name).is_file() or _is_lost(p))


def _is_lost(path: Path) -> bool:
    return (is_recording(path) or path.suffix.casefold() in SUFFIXES) and bool(dangling(path))


def _hidden(name: str) -> bool:
    return name.startswith(".")  # what macOS and data managers keep beside the files themselves


def _of_workspace(folder: Path, names: Collection[str]) -> set[str]:
    """Return what the tool itself wrote into a workspace, where much would pass for hypnograms."""
    own = Workspace(folder)
    if not (own.prepare_stamp.name in names or {own.split.name, own.epochs.name}.issubset(names)):
        return set()
    # Not "nights": its cards are never taken for anything, and a lab may call its folder so.
    paths = [
        *(own.epochs, own.prepare_stamp, own.split, own.conversations, own.questions),
        *(own.staging_dir, own.vision_module, own.checkpoints, own.answers.parent, own.report),
        *map(own.images, SPLITS),
    ]
    return {path.name for path in paths}


# x_raw.fif continues in x_raw-1.fif (MNE and Neuromag), and x_split-01_eeg.fif in x_split-02_eeg.fif
# (BIDS). Readers follow from the first part to the others.
_NEUROMAG: Final = re.compile(r"(.+)-([1-9]\d*)(\.fif(?:\.gz)?)", re.IGNORECASE)
_BIDS: Final = re.compile(r"(.+_split-)(\d+)((?:_.+)?\.fif(?:\.gz)?)", re.IGNORECASE)


def _continuations(files: Sequence[Path]) -> set[Path]:
    """Return the parts that continue another; night-2.fif without night-1.fif is another night."""
    known = set(files)

    def follows(path: Path) -> bool:
        if match := _BIDS.fullmatch(path.name):
            before, number, after = match.groups()
            first = f"{before}{1:0{len(number)}}{after}"
            return int(number) > 1 and path.with_name(first) in known
        if match := _NEUROMAG.fullmatch(path.name):
            before, number, after = match.groups()
            earlier = [f"{before}{after}", *(f"{before}-{i}{after}" for i in range(1, int(number)))]
            return all(path.with_name(name) in known for name in earlier)
        return False

    return {path for path in files if follows(path)}


def _find(
    files: Sequence[Path],
    named: set[Path],
    cohort: str,
    subject_pattern: str,
    read_as: ReadAs | None,
) -> Found:
    if cohort == AUTO:
        if subject_pattern or any(path.name.casefold() == PAIRS for path in files):
            return _find(files, named, "generic", subject_pattern, read_as)
        known = [_find(files, named, name, "", read_as) for name in PUBLIC]
        fitting = [found for found in known if any(map(is_marked, found.nights))]
        if len(fitting) > 1:
            examples = ", ".join(f"{f.nights[0].signal_path} ({f.cohort})" for f in fitting)
            raise EegToolError(
                f"The files are of {len(fitting)} cohorts, such as {examples}.",
                "Give one folder at a time, or choose with --cohort.",
            )
        return fitting[0] if fitting else _find(files, named, "generic", "", read_as)
    if cohort == "generic":
        found = generic.pair(files, subject_pattern, meant=named, read_as=read_as)
    else:
        found = pair_named(files, cohort)
        found = replace(found, nights=with_reviews(found.nights, files))
    return replace(
        found,
        nights=tuple(night for night in found.nights if night.signal_path in named),
        orphans=tuple(path for path in found.orphans if path in named),
    )


def _check_names(nights: Sequence[Night]) -> None:
    recordings: dict[str, Path] = {}
    files: dict[Path, Path] = {}
    subjects: dict[str, Night] = {}
    for night in nights:
        path = night.signal_path
        other = files.setdefault(path.resolve(), path)
        if other != path:
            raise EegToolError(f"{other} and {path} are the same file.", "Give only one of them.")
        # Compared without case: for some file systems A1 and a1 are one folder.
        other = recordings.setdefault(night.recording.casefold(), path)
        if other != path:
            raise EegToolError(
                f"Two recordings are named {night.recording}: {other} and {path}.",
                "Every sample id would occur twice; give only one of them, or name them apart.",
            )
        namesake = subjects.setdefault(night.subject.casefold(), night)
        if namesake.subject != night.subject:
            raise EegToolError(
                f"The subjects '{namesake.subject}' ({namesake.signal_path}) and "
                f"'{night.subject}' ({path}) differ only in case.",
                "Spell one subject in one way.",
            )


def _listing(paths: Sequence[Path]) -> str:
    shown = ", ".join(str(path) for path in paths[:5])
    return f"{shown}, ... ({len(paths)} in all)" if len(paths) > 5 else shown
