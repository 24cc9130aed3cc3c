"""Any lab's files: paired by a ``pairs.csv``, or else by what their names have in common."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, takewhile
from pathlib import Path
from typing import Final, TypeAlias

from eegtool.core.errors import EegToolError
from eegtool.recordings.reading import is_recording
from eegtool.scorings.cohorts.night import Found, Night, safe_name, several_hypnograms, stem_of
from eegtool.scorings.cohorts.pairs import PAIRS, read_pairs
from eegtool.scorings.hypnograms import holds_scoring, is_hypnogram

NAMED_LIKE: Final = (
    "night1.edf beside night1_hypnogram.csv; for other names, a pairs.csv in the folder with the "
    "columns recording, hypnogram, subject, night"
)

_Words: TypeAlias = tuple[str, ...]
_Likeness: TypeAlias = tuple[int, int]  # words and numbers in common, and minus those that are not
_Pair: TypeAlias = tuple[Path, Path | None, str]  # recording, hypnogram, problem
_Name: TypeAlias = tuple[str, ...]  # folders that are part of a name, and the stem of the file

# Words that say what a file is, not which night.
_ROLES: Final = frozenset(
    "psg eeg edf bdf fif rec recording raw signal signals data "
    "hyp hypno hypnogram stage stages staging sleepstages score scores scored scoring scorer expert "
    "label labels annot annotation annotations event events epoch epochs nsrr profusion".split()
)
# Words that say which night, not who slept.
_NIGHTS: Final = frozenset("n night nights nacht nuit sleep nap ses session visit day run".split())

# Entities of BIDS names: sub-01_ses-2_task-sleep_eeg.edf, in sub-01/ses-2/eeg.
_SUB: Final = re.compile(r"(?:^|_)sub-([^\W_]+)", re.IGNORECASE)
_SES: Final = re.compile(r"(?:^|_)ses-([^\W_]+)", re.IGNORECASE)
_BIDS_FOLDERS: Final = 3

_NO_SUBJECTS: Final = (
    "Subjects are not named: each recording counts as a subject of its own. Where somebody has "
    "several nights, name subjects with --subject-pattern or in pairs.csv; otherwise the same "
    "person may be on both sides of the split."
)


def pair(
    files: Sequence[Path], subject_pattern: str = "", meant: Collection[Path] | None = None
) -> Found:
    """Pair recordings with hypnograms.

    Recordings in or below a folder that has a ``pairs.csv`` are those that it lists. All others
    are paired within their folder by names: without the words that say what a file is (psg,
    hypnogram, ...), a hypnogram goes to the recording with which its name shares the longest
    beginning, counted in words and numbers. Names that both go on after it are of different nights
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
    pairs: list[_Pair] = []
    orphans: list[Path] = []
    by_name.sort(
        key=lambda path: path.parent
    )  # files of a folder have those of others between them
    for _, beside in groupby(by_name, key=lambda path: path.parent):
        found, left_over = _pair_by_name(list(beside))
        pairs += found
        orphans += left_over
    names = _names([path for path, _, _ in pairs])
    named = []
    strangers = {}
    for recording, hypnogram, problem in pairs:
        name = safe_name("-".join(names[recording]), recording)
        subject = _subject(recording, names[recording], subject_pattern)
        named.append(Night("generic", name, subject or name, 1, recording, hypnogram, problem))
        if subject is None and (meant is None or recording in meant):
            strangers[recording] = names[recording]
    _check_strangers(strangers)
    notes = (_NO_SUBJECTS,) if strangers else ()
    nights = sorted([*nights, *_numbered(named)], key=lambda night: night.signal_path)
    return Found(tuple(nights), tuple(orphans), "generic", notes)


def _pair_by_name(beside: Sequence[Path]) -> tuple[list[_Pair], list[Path]]:
    """Pair the files of one folder; return pairs, and hypnograms that belong to no recording."""
    hypnograms = {p for p in beside if is_hypnogram(p)}
    recordings = [p for p in beside if is_recording(p) and p not in hypnograms]
    # By every beginning of their names: comparing each with each takes minutes for a large cohort.
    beginning: dict[_Words, list[tuple[_Words, Path]]] = {}
    for recording in recordings:
        words = _words(stem_of(recording))
        for n in range(len(words) + 1):
            beginning.setdefault(words[:n], []).append((words, recording))
    claims: dict[Path, list[tuple[_Likeness, Path]]] = {path: [] for path in recordings}
    orphans = []
    for hypnogram in sorted(hypnograms):
        best, alike = _most_alike(_words(stem_of(hypnogram)), beginning)
        if len(alike) == 1:
            claims[alike[0]].append((best, hypnogram))
        else:
            orphans.append(hypnogram)
    unclear: dict[Path, list[Path]] = {}
    taken: dict[Path, Path | None] = {}
    for recording, claim in claims.items():
        best = max((likeness for likeness, _ in claim), default=(0, 0))
        alike = [path for likeness, path in claim if likeness == best]
        orphans += [path for _, path in claim if path not in alike]
        if len(alike) > 1:
            unclear[recording] = alike
        inside = recording if not alike and holds_scoring(recording) else None
        taken[recording] = alike[0] if len(alike) == 1 else inside
    akin: dict[_Words, list[Path]] = {}
    for path in sorted(orphans):
        akin.setdefault(_up_to_number(_words(stem_of(path))), []).append(path)
    pairs: list[_Pair] = []
    for recording, chosen in taken.items():
        problem = ""
        if recording in unclear:
            problem = several_hypnograms(recording, unclear[recording])
        elif chosen is None and (start := _up_to_number(_words(stem_of(recording)))):
            problem = _not_taken(recording, akin.get(start, ()))
        pairs.append((recording, chosen, problem))
    return pairs, sorted(orphans)


def _not_taken(recording: Path, akin: Sequence[Path]) -> str:
    """Return the problem that hypnograms of the same beginning may be of something else."""
    if not akin:
        return ""
    return (
        f"No hypnogram is named like {recording}; {', '.join(path.name for path in akin)} may be of "
        "another night or condition."
    )


def _up_to_number(words: _Words) -> _Words:
    """Return the words up to and with the first number; none if there is no number."""
    numbers = [i for i, word in enumerate(words) if word.isdecimal()]
    return words[: numbers[0] + 1] if numbers else ()


def _most_alike(
    name: _Words, beginning: Mapping[_Words, Sequence[tuple[_Words, Path]]]
) -> tuple[_Likeness, list[Path]]:
    """Find the recordings, given by every beginning of their names, that go with a name best."""
    for n in range(len(name), -1, -1):
        ranked = [(_likeness(words, name), path) for words, path in beginning.get(name[:n], ())]
        best = max((likeness for likeness, _ in ranked if likeness), default=None)
        if best:
            return best, [path for likeness, path in ranked if likeness == best]
    return (0, 0), []


def _words(text: str) -> _Words:
    """Split a name into words and numbers (without leading zeros), less the words for roles."""
    words = re.findall(r"\d+|[^\W\d_]+", text.casefold())
    return tuple(w.lstrip("0") or w[-1] for w in words if w not in _ROLES)


def _likeness(one: _Words, other: _Words) -> _Likeness | None:
    """Rank how well two names go together; None where they are of different nights."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    rests = (one[same:], other[same:])
    if all(rests) or (not same and any(rests)):
        return None
    return same + 1, -sum(map(len, rests))


def _names(recordings: Sequence[Path]) -> dict[Path, _Name]:
    """Name recordings as their files, with folders in front where that does not tell them apart."""
    names: dict[Path, _Name] = {}
    folders: dict[str, set[Path]] = {}
    for path in recordings:
        stem, folder = stem_of(path), path.absolute().parent
        # P01/psg.edf has its name from the folder.
        names[path] = (stem,) if _words(stem) else (folder.name, stem)
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


def _subject(path: Path, name: _Name, subject_pattern: str) -> str | None:
    """Return who slept, by the pattern or else by BIDS; None where that does not tell."""
    if not subject_pattern:
        label = _entity(_SUB, path)
        return label and f"sub-{label}"
    try:
        pattern = re.compile(subject_pattern)
    except re.error as error:
        raise EegToolError(
            f"--subject-pattern '{subject_pattern}' is not a regular expression: {error}.",
            r"For P01_night2.edf it could be '^(P\d+)'.",
        ) from error
    if not pattern.groups:
        raise EegToolError(
            f"--subject-pattern '{subject_pattern}' has no group.",
            r"Put parentheses around what names the subject, such as '^(P\d+)'.",
        )
    texts = ("-".join(name), path.name, path.absolute().parent.name)
    match = next(filter(None, map(pattern.search, texts)), None)
    group: int | str = "subject" if "subject" in pattern.groupindex else 1
    if not match or not match[group]:
        raise EegToolError(
            f"--subject-pattern '{subject_pattern}' finds no subject in {path}.",
            "It must fit the name of every recording, or of its folder.",
        )
    return safe_name(match[group], path)


def _entity(pattern: re.Pattern[str], path: Path) -> str | None:
    """Return the label of an entity of BIDS, from the name of the file or else of its folders."""
    folders = [folder.name for folder in path.absolute().parents]
    matches = map(pattern.search, [stem_of(path), *folders[:_BIDS_FOLDERS]])
    return next((match[1] for match in matches if match), None)


def _check_strangers(names: Mapping[Path, _Name]) -> None:
    """Refuse recordings that count as subjects of their own but seem to be nights of one person."""
    first: dict[str, Path] = {}
    for path, name in names.items():
        # In P01-night1, P01 is who slept; in night1-P01, too.
        who = next((part for part in reversed(name) if _names_somebody(part)), "-".join(name))
        number = re.match(r"(\D*)\d+", who)
        start = number[0] if number else who
        other = first.setdefault(start.casefold(), path)
        if other == path or names[other] == name:  # of one name: that is refused later
            continue
        if who in (name[0], "-".join(name)):
            pattern = r"^(\D*\d+)" if number else "^([^-]+)"
        else:
            pattern = rf"(?:^|-)({re.escape(number[1])}\d+)" if number else "([^-]+)$"
        raise EegToolError(
            f"{other} and {path} may be nights of one person, '{start}', who could then be on both "
            "sides of the split.",
            f"Say what in the names is the person, such as --subject-pattern '{pattern}', or write "
            f"a {PAIRS}; --subject-pattern '(.+)' makes each recording a subject of its own.",
        )


def _names_somebody(part: str) -> bool:
    """Say whether a part of a name could be a person; ``night1`` and ``psg`` are not."""
    words = _words(part)
    of_night = any(word in _NIGHTS for word in words)
    return bool(words) and not (of_night and all(w.isdecimal() or w in _NIGHTS for w in words))


def _numbered(nights: Sequence[Night]) -> list[Night]:
    """Number the nights of each subject by session, or else in the order of their names.

    In this order, 10 follows 9.
    """
    of_subject: dict[str, list[Night]] = {}
    for night in sorted(nights, key=lambda night: _natural(night.recording)):
        of_subject.setdefault(night.subject, []).append(night)
    numbered = []
    for theirs in of_subject.values():
        labels = [_entity(_SES, night.signal_path) or "" for night in theirs]
        numbers = [int(label) if label.isdecimal() else 0 for label in labels]
        if 0 in numbers or len(set(numbers)) < len(numbers):  # sessions do not tell nights apart
            numbers = list(range(1, len(theirs) + 1))
        numbered += [replace(n, night=i) for n, i in zip(theirs, numbers, strict=True)]
    return numbered


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(n or 0), text) for text, n in re.findall(r"(\D*)(\d*)", name)]
