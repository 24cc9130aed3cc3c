"""Any lab's files: paired by a ``pairs.csv``, or else by what their names have in common."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby, takewhile
from pathlib import Path
from typing import Final, TypeAlias

from eegtool.core.errors import EegToolError
from eegtool.prepare.cohorts.night import Found, Night, safe_name, several_hypnograms, stem_of
from eegtool.prepare.cohorts.pairs import PAIRS, read_pairs
from eegtool.prepare.hypnograms import holds_scoring, is_hypnogram
from eegtool.prepare.recordings import is_recording

NAMED_LIKE: Final = (
    "night1.edf beside night1_hypnogram.csv; for other names, a pairs.csv in the folder with the "
    "columns recording, hypnogram, subject, night"
)

_Words: TypeAlias = tuple[str, ...]
_Likeness: TypeAlias = tuple[int, int]  # words and numbers in common, and minus those that are not

# Words that say what a file is, not which night.
_ROLES: Final = frozenset(
    "psg eeg edf bdf fif rec recording raw signal signals data "
    "hyp hypno hypnogram stage stages staging sleepstages score scores scored scoring scorer expert "
    "label labels annot annotation annotations event events epoch epochs nsrr profusion".split()
)

_NO_SUBJECTS: Final = (
    "Subjects are not named: each recording counts as a subject of its own. Where somebody has "
    "several nights, name subjects with --subject-pattern or in pairs.csv; otherwise the same "
    "person may be on both sides of the split."
)


def pair(files: Sequence[Path], subject_pattern: str = "") -> Found:
    """Pair recordings with hypnograms.

    Recordings in or below a folder that has a ``pairs.csv`` are those that it lists. All others
    are paired within their folder by names: without the words that say what a file is (psg,
    hypnogram, ...), a hypnogram goes to the recording with which its name shares the longest
    beginning, counted in words and numbers. Names that go on with different numbers, or that share
    no number and go on with different words, are of different nights. A recording that is left
    without one may carry the scoring itself.

    Parameters
    ----------
    files : sequence of Path
        All files there are, sorted.
    subject_pattern : str
        Regular expression whose group ``subject``, or else the first group, is the subject; looked
        for in the name of the recording, and if it is not there, in that of its folder. If empty,
        each recording outside ``pairs.csv`` is a subject of its own, which a note says.

    Raises
    ------
    EegToolError
        If it is not clear which hypnogram is meant, ``pairs.csv`` has a mistake (its line is
        named), or the pattern is wrong or finds no subject.
    """
    tables = [path for path in files if path.name.casefold() == PAIRS]
    if tables and subject_pattern:
        raise EegToolError(
            f"{tables[0]} names the subjects already.", "Leave out --subject-pattern."
        )
    nights = [night for table in tables for night in read_pairs(table, files)]
    listed = {table.parent for table in tables}
    by_name = [p for p in files if p not in tables and listed.isdisjoint(p.parents)]
    pairs: list[tuple[Path, Path | None]] = []
    orphans: list[Path] = []
    by_name.sort(
        key=lambda path: path.parent
    )  # files of a folder have those of others between them
    for _, beside in groupby(by_name, key=lambda path: path.parent):
        found, left_over = _pair_by_name(list(beside))
        pairs += found
        orphans += left_over
    named = [_night(path, hypnogram, subject_pattern) for path, hypnogram in pairs]
    notes = (_NO_SUBJECTS,) if named and not subject_pattern else ()
    nights = sorted([*nights, *_numbered(named)], key=lambda night: night.signal_path)
    return Found(tuple(nights), tuple(orphans), "generic", notes)


def _pair_by_name(beside: Sequence[Path]) -> tuple[list[tuple[Path, Path | None]], list[Path]]:
    """Pair the files of one folder; return pairs, and hypnograms that belong to no recording."""
    hypnograms = {p for p in beside if is_hypnogram(p)}
    recordings = [p for p in beside if is_recording(p) and p not in hypnograms]
    # By every beginning of their names: comparing each with each takes minutes for a large cohort.
    beginning: dict[_Words, list[tuple[_Words, Path]]] = {}
    for recording in recordings:
        words = _words(recording)
        for n in range(len(words) + 1):
            beginning.setdefault(words[:n], []).append((words, recording))
    claims: dict[Path, list[tuple[_Likeness, Path]]] = {path: [] for path in recordings}
    orphans = []
    for hypnogram in sorted(hypnograms):
        best, alike = _most_alike(_words(hypnogram), beginning)
        if len(alike) == 1:
            claims[alike[0]].append((best, hypnogram))
        else:
            orphans.append(hypnogram)
    pairs: list[tuple[Path, Path | None]] = []
    for recording, claim in claims.items():
        best = max((likeness for likeness, _ in claim), default=(0, 0))
        alike = [path for likeness, path in claim if likeness == best]
        if len(alike) > 1:
            raise several_hypnograms(recording, alike)
        orphans += [path for _, path in claim if path not in alike]
        inside = recording if not alike and holds_scoring(recording) else None
        pairs.append((recording, alike[0] if alike else inside))
    return pairs, sorted(orphans)


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


def _words(path: Path) -> _Words:
    """Split a name into words and numbers (without leading zeros), less the words for roles."""
    words = re.findall(r"\d+|[^\W\d_]+", stem_of(path).casefold())
    return tuple(w.lstrip("0") or w[-1] for w in words if w not in _ROLES)


def _likeness(one: _Words, other: _Words) -> _Likeness | None:
    """Rank how well two names go together; None where they are of different nights."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    rests = (one[same:], other[same:])
    if not same and any(rests):
        return None
    if all(rests):
        share_a_number = any(word.isdecimal() for word in one[:same])
        numbers_differ = all(any(word.isdecimal() for word in rest) for rest in rests)
        if numbers_differ or not share_a_number:
            return None
    return same + 1, -sum(map(len, rests))


def _night(path: Path, hypnogram: Path | None, subject_pattern: str) -> Night:
    stem = stem_of(path)
    # P01/psg.edf has its name from the folder.
    name = safe_name(stem if _words(path) else f"{path.absolute().parent.name}-{stem}", path)
    subject = _subject(path, subject_pattern) if subject_pattern else name
    return Night("generic", name, subject, 1, path, hypnogram)


def _subject(path: Path, subject_pattern: str) -> str:
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
    match = pattern.search(path.name) or pattern.search(path.absolute().parent.name)
    group: int | str = "subject" if "subject" in pattern.groupindex else 1
    if not match or not match[group]:
        raise EegToolError(
            f"--subject-pattern '{subject_pattern}' finds no subject in {path}.",
            "It must fit the name of every recording, or of its folder.",
        )
    return safe_name(match[group], path)


def _numbered(nights: Sequence[Night]) -> list[Night]:
    """Number the nights of each subject in the order of their names, in which 10 follows 9."""
    seen: Counter[str] = Counter()
    numbered = []
    for night in sorted(nights, key=lambda night: _natural(night.recording)):
        seen[night.subject] += 1
        numbered.append(replace(night, night=seen[night.subject]))
    return numbered


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(n or 0), text) for text, n in re.findall(r"(\D*)(\d*)", name)]
