"""Any lab's files: paired by a ``pairs.csv``, or else by what their names have in common."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, takewhile
from pathlib import Path
from typing import Final, TypeAlias

from eegtool.core.errors import EegToolError
from eegtool.recordings.reading import is_recording
from eegtool.scorings.annotations import holds_scoring
from eegtool.scorings.cohorts.night import Found, Night, safe_name, several_hypnograms, stem_of
from eegtool.scorings.cohorts.pairs import PAIRS, read_pairs
from eegtool.scorings.cohorts.persons import (
    SES,
    Name,
    Words,
    check_unrecognised,
    entity,
    subject_of,
    words_of,
)
from eegtool.scorings.hypnograms import SUFFIXES, is_hypnogram, why_no_hypnogram
from eegtool.scorings.scoring import ReadAs

NAMED_LIKE: Final = (
    "night1.edf beside night1_hypnogram.csv; for other names, a pairs.csv in the folder with the "
    "columns recording, hypnogram, subject, night"
)

_Likeness: TypeAlias = tuple[int, int]  # words and numbers in common, and minus those that are not

_NOT_READ: Final = (".mat", ".xls", ".xlsx", ".npy", ".npz", ".sco", ".doc", ".docx", ".pdf")
_SIDECARS: Final = ("channels", "electrodes", "scans", "sessions", "coordsystem")

_NO_SUBJECTS: Final = (
    "Subjects are not named: each recording counts as a subject of its own. Where somebody has "
    "several nights, name subjects with --subject-pattern or in pairs.csv; otherwise the same "
    "person may be on both sides of the split."
)


def pair(
    files: Sequence[Path],
    subject_pattern: str = "",
    meant: Collection[Path] | None = None,
    read_as: ReadAs | None = None,
) -> Found:
    """Pair recordings with hypnograms.

    Recordings in or below a folder that has a ``pairs.csv`` are those that it lists. All others
    are paired within their folder by names: without the words that say what a file is (psg,
    hypnogram, ...), a hypnogram goes to the recording with which its name shares the longest
    beginning, counted in words and numbers. Names that both continue after it are of different nights
    or conditions (S01_drug, S01_placebo). A recording that is left without one may carry the
    scoring itself; where there are several, or only some of the same beginning, its problem says so.

    A recording is called as its file. Where one name occurs in two folders, all names begin with
    the folders, as in ``pairs.csv``. The night is the number of the BIDS session, or else a count.

    Parameters
    ----------
    files : sequence of Path
        All files there are, sorted.
    subject_pattern : str
        Regular expression whose group ``subject``, or else the first group, is the subject; looked
        for in the name of the recording, and if it is not there, in that of its folder. If empty,
        the subject is the ``sub-XX`` of BIDS; without that, each recording outside ``pairs.csv`` is
        a subject of its own, which a note says.
    meant : collection of Path, optional
        Recordings to use, all if not given; the others are only neighbours.
    read_as : ReadAs, optional
        What the user says of scorings: its codes make a file one.

    Raises
    ------
    EegToolError
        If names without pattern look like several nights of one person, ``pairs.csv`` has a mistake
        (its line is named), or the pattern is wrong or finds no subject.
    """
    tables = [path for path in files if path.name.casefold() == PAIRS]
    if tables and subject_pattern:
        raise EegToolError(
            f"{tables[0]} names the subjects already.", "Leave out --subject-pattern."
        )
    nights = [night for table in tables for night in read_pairs(table, files)]
    listed = {table.parent for table in tables}
    by_name = [p for p in files if p not in tables and listed.isdisjoint(p.parents)]
    by_name.sort(key=lambda path: path.parent)  # a folder's files have those of others between them
    found: list[Night] = []
    orphans: list[Path] = []
    for _, beside in groupby(by_name, key=lambda path: path.parent):
        of_folder, left_over = _pair_by_name(list(beside), read_as)
        found += of_folder
        orphans += left_over
    found, orphans = _from_other_folders(found, orphans)
    likely = _like_scorings(by_name)
    names = _names([night.signal_path for night in found])
    named = []
    unrecognised = {}
    for night in found:
        path = night.signal_path
        name = safe_name("-".join(names[path]), path)
        subject = subject_of(path, names[path], subject_pattern)
        problem = night.problem or ("" if night.hypnogram_path else _unread(path, likely))
        named.append(replace(night, recording=name, subject=subject or name, problem=problem))
        if subject is None and (meant is None or path in meant):
            unrecognised[path] = names[path]
    check_unrecognised(unrecognised)
    notes = (_NO_SUBJECTS,) if unrecognised else ()
    nights = sorted([*nights, *_numbered(named)], key=lambda night: night.signal_path)
    return Found(tuple(nights), tuple(orphans), "generic", notes)


def _pair_by_name(beside: Sequence[Path], read_as: ReadAs | None) -> tuple[list[Night], list[Path]]:
    """Return the nights of one folder, as yet without names, and hypnograms of no recording."""
    hypnograms = {p for p in beside if is_hypnogram(p, read_as)}
    recordings = [p for p in beside if is_recording(p) and p not in hypnograms]
    # By every beginning of their names: comparing each with each takes minutes for a large cohort.
    beginning: dict[Words, list[tuple[Words, Path]]] = {}
    for recording in recordings:
        words = words_of(stem_of(recording))
        for n in range(len(words) + 1):
            beginning.setdefault(words[:n], []).append((words, recording))
    claims: dict[Path, list[tuple[_Likeness, Path]]] = {path: [] for path in recordings}
    orphans = []
    for hypnogram in sorted(hypnograms):
        best, alike = _most_alike(words_of(stem_of(hypnogram)), beginning)
        if len(alike) == 1:
            claims[alike[0]].append((best, hypnogram))
        else:
            orphans.append(hypnogram)
    nights = []
    for recording, claim in claims.items():
        best = max((likeness for likeness, _ in claim), default=(0, 0))
        alike = [path for likeness, path in claim if likeness == best]
        orphans += [path for _, path in claim if path not in alike]
        inside = recording if not alike and holds_scoring(recording) else None
        night = Night("generic", "", "", 1, recording, alike[0] if len(alike) == 1 else inside)
        if len(alike) > 1:
            problem = several_hypnograms(recording, alike)
            night = replace(night, problem=problem, rivals=tuple(alike))
        nights.append(night)
    akin: dict[Words, list[str]] = {}
    for path in sorted(orphans):
        akin.setdefault(_up_to_number(words_of(stem_of(path))), []).append(path.name)
    for i, night in enumerate(nights):
        start = _up_to_number(words_of(stem_of(night.signal_path)))
        if not (night.hypnogram_path or night.problem) and start in akin and start:
            problem = (
                f"No hypnogram is named like {night.signal_path}; {', '.join(akin[start])} may be of "
                "another night or condition."
            )
            nights[i] = replace(night, problem=problem)
    return nights, sorted(orphans)


def _from_other_folders(
    nights: Sequence[Night], orphans: Sequence[Path]
) -> tuple[list[Night], list[Path]]:
    """Give recordings without any the hypnogram of their very name in a folder of scorings, if there is one."""
    homes = {night.signal_path.parent for night in nights}
    homeless: dict[Words, list[Path]] = {}
    for path in orphans:
        if path.parent not in homes:  # there, it would be of a recording that is missing
            homeless.setdefault(words_of(stem_of(path)), []).append(path)
    wanting = Counter(words_of(stem_of(night.signal_path)) for night in nights)
    found = []
    for night in nights:
        words = words_of(stem_of(night.signal_path))
        theirs = homeless.get(words, [])
        if night.hypnogram_path is None and words and len(theirs) == 1 == wanting[words]:
            night = replace(night, hypnogram_path=theirs[0], problem="")
        elif night.hypnogram_path is None and theirs and not night.problem:
            listed = ", ".join(map(str, theirs))
            problem = f"In other folders, {listed} may belong to {night.signal_path}."
            night = replace(night, problem=problem)
        found.append(night)
    taken = {night.hypnogram_path for night in found}
    return found, [path for path in orphans if path not in taken]


def _like_scorings(files: Sequence[Path]) -> dict[tuple[Path, str], list[Path]]:
    """Return the files that may be meant as scorings, by folder and first word of their names."""
    likely: dict[tuple[Path, str], list[Path]] = {}
    for path in files:
        sidecar = stem_of(path).casefold().rpartition("_")[2] in _SIDECARS
        if path.suffix.casefold() in (*SUFFIXES, *_NOT_READ) and not sidecar:
            words = words_of(stem_of(path))
            likely.setdefault((path.parent, words[0] if words else ""), []).append(path)
    return likely


def _unread(recording: Path, likely: Mapping[tuple[Path, str], Sequence[Path]]) -> str:
    """Say why the files that look like scorings of a recording are none."""
    words = words_of(stem_of(recording))
    reasons = [
        f"{path.name}: {why_no_hypnogram(path)}"
        for path in likely.get((recording.parent, words[0] if words else ""), ())
        if words_of(stem_of(path))[: len(words)] == words and not is_hypnogram(path)
    ]
    return f"{recording} has no hypnogram that can be read. {' '.join(reasons)}" if reasons else ""


def _up_to_number(words: Words) -> Words:
    """Return the words up to and with the first number; none if there is no number."""
    numbers = [i for i, word in enumerate(words) if word.isdecimal()]
    return words[: numbers[0] + 1] if numbers else ()


def _most_alike(
    name: Words, beginning: Mapping[Words, Sequence[tuple[Words, Path]]]
) -> tuple[_Likeness, list[Path]]:
    """Find the recordings, given by every beginning of their names, that go with a name best."""
    for n in range(len(name), -1, -1):
        ranked = [(_likeness(words, name), path) for words, path in beginning.get(name[:n], ())]
        best = max((likeness for likeness, _ in ranked if likeness), default=None)
        if best:
            return best, [path for likeness, path in ranked if likeness == best]
    return (0, 0), []


def _likeness(one: Words, other: Words) -> _Likeness | None:
    """Rank how well two names go together; None where they are of different nights."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    rests = (one[same:], other[same:])
    if all(rests) or (not same and any(rests)):
        return None
    return same + 1, -sum(map(len, rests))


def _names(recordings: Sequence[Path]) -> dict[Path, Name]:
    """Name recordings as their files, with folders in front where that does not tell them apart."""
    names: dict[Path, Name] = {}
    folders: dict[str, set[Path]] = {}
    for path in recordings:
        stem, folder = stem_of(path), path.absolute().parent
        # P01/psg.edf has its name from the folder.
        names[path] = (stem,) if words_of(stem) else (folder.name, stem)
        key = safe_name("-".join(names[path]), path).casefold()
        folders.setdefault(key, set()).add(folder.resolve())
    if all(len(homes) == 1 for homes in folders.values()):
        return names
    # All of them, for otherwise one person could be named with the folder and without it.
    top = os.path.commonpath([path.absolute().parent for path in recordings])
    for path, name in names.items():
        within = path.absolute().parent.relative_to(top).parts
        names[path] = (*within, name[-1]) if within else name
    return names


def _numbered(nights: Sequence[Night]) -> list[Night]:
    """Number the nights of each subject by session, or else in the order of their names (10 follows 9)."""
    of_subject: dict[str, list[Night]] = {}
    for night in sorted(
        nights,
        key=lambda n: [(int(i or 0), t) for t, i in re.findall(r"(\D*)(\d*)", n.recording)],
    ):
        of_subject.setdefault(night.subject, []).append(night)
    numbered = []
    for theirs in of_subject.values():
        labels = [entity(SES, night.signal_path) or "" for night in theirs]
        numbers = [int(label) if label.isdecimal() else 0 for label in labels]
        if 0 in numbers or len(set(numbers)) < len(numbers):  # sessions do not tell nights apart
            numbers = list(range(1, len(theirs) + 1))
        numbered += [replace(n, night=i) for n, i in zip(theirs, numbers, strict=True)]
    return numbered
