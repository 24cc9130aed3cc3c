"""Who slept: told by a pattern or by names, and asked for where look-alike names could be one person."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from eegtool.core.errors import EegToolError
from eegtool.scorings.cohorts.night import safe_name, stem_of
from eegtool.scorings.cohorts.pairs import PAIRS

Words: TypeAlias = tuple[str, ...]
Name: TypeAlias = tuple[str, ...]
"""Folders that are part of a name, and the stem of the file."""

# Words that say what a file is, not which night.
_ROLES: Final = frozenset(
    "psg eeg edf bdf fif rec recording raw signal signals data "
    "hyp hypno hypnogram stage stages staging sleepstages score scores scored scoring scorer expert "
    "label labels annot annotation annotations event events epoch epochs nsrr profusion "
    "sleepscoring sleepscore sleepscores sleepstage schlafprofil profil base".split()
)
# Words that say which night, not who slept; a number behind them counts nights.
_NIGHTS: Final = frozenset("n night nights nacht nuit sleep nap ses session visit day run".split())
_VISITS: Final = _NIGHTS | frozenset(
    "v t baseline followup follow up pre post before after week month year screening retest test repeat "
    "drug placebo sham stim recovery deprivation morning evening lab home full split first second".split()
)
_NUMBER_OF_A_PERSON: Final = 4  # digits from which on a number is nobody else's
_DATE: Final = re.compile(
    r"(19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d(?!\d)|(?<!\d)[0-3]?\d[-_.][0-3]?\d[-_.](19|20)\d\d"
)
_YEAR: Final = re.compile(r"(19|20)\d\d")
# How data sets name persons, where that looks like nights of one: MASS's 01-02-0007, CinC 2018's tr03-0005.
_KNOWN_PERSONS: Final = re.compile(r"(0[1-5]-\d\d-\d{4}|t[re]\d\d-\d{4})(?!\d)")

# Entities of BIDS names: sub-01_ses-2_task-sleep_eeg.edf, in sub-01/ses-2/eeg.
_SUB: Final = re.compile(r"(?:^|_)sub-([^\W_]+)", re.IGNORECASE)
SES: Final = re.compile(r"(?:^|_)ses-([^\W_]+)", re.IGNORECASE)
_BIDS_FOLDERS: Final = 3


def subject_of(path: Path, name: Name, subject_pattern: str) -> str | None:
    """Return who slept, by the pattern or else by BIDS; None where that does not tell."""
    if not subject_pattern:
        label = entity(_SUB, path)
        known = _KNOWN_PERSONS.match(name[-1])
        return (label and f"sub-{label}") or (known and known[1])
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


def entity(pattern: re.Pattern[str], path: Path) -> str | None:
    """Return the label of an entity of BIDS, from the name of the file or else of its folders."""
    folders = [folder.name for folder in path.absolute().parents]
    matches = map(pattern.search, [stem_of(path), *folders[:_BIDS_FOLDERS]])
    return next((match[1] for match in matches if match), None)


def check_unrecognised(names: Mapping[Path, Name]) -> None:
    """Refuse recordings that count as subjects of their own but seem to be nights of one person."""
    alike: dict[Words, dict[str, Path]] = {}
    for path, name in names.items():
        called = safe_name(
            "-".join(name), path
        ).casefold()  # two of one name: that is refused later
        for key in _persons(name):
            alike.setdefault(key, {}).setdefault(called, path)
    clashes = {key: list(group.values()) for key, group in alike.items() if len(group) > 1}
    if not clashes:
        return
    order = list(names)
    key, (one, other, *_) = min(clashes.items(), key=lambda c: order.index(c[1][1]))
    pattern = _advice(names, one, list(clashes.values()))
    way = f"such as --subject-pattern '{pattern}', or write" if pattern else "by"
    raise EegToolError(
        f"{one} and {other} may be nights of one person, '{''.join(key)}', who could then be on both "
        "sides of the split.",
        f"Say what in the names is the person, {way} a {PAIRS}; --subject-pattern '(.+)' makes each "
        "recording a subject of its own.",
    )


def _persons(name: Name) -> set[Words]:
    """Return all that may name the person in the name of a recording."""
    name = tuple(filter(None, (_DATE.sub("", part).strip("-_. ") for part in name))) or name
    # In P01-night1, P01 is who slept; in night1-P01, too.
    who = next((part for part in reversed(name) if _names_somebody(part)), "-".join(name))
    number = re.match(r"(\D*)\d+", who)
    words = words_of("-".join(name))
    rest = tuple(
        word
        for before, word in zip(("", *words), words, strict=False)
        if word not in _VISITS
        and not (before in _VISITS and word.isdecimal() and len(word) < _NUMBER_OF_A_PERSON)
    )
    long = (w for w in rest if w.isdecimal() and len(w) >= _NUMBER_OF_A_PERSON)
    keys = {(w,) for w in long if not _YEAR.fullmatch(w)} | {rest}
    if number or not rest:
        keys.add(((number[0] if number else who).casefold(),))
    return keys - {()}


def _advice(names: Mapping[Path, Name], one: Path, alike: Sequence[Sequence[Path]]) -> str:
    """Return a pattern that fits all names and keeps those together that look alike, but if it can not all."""
    texts = {path: "-".join(name) for path, name in names.items()}
    who = next((part for part in reversed(names[one]) if _names_somebody(part)), names[one][0])
    prefix = re.escape(re.sub(r"\d.*", "", who))
    ways = [r"^(\D*\d+)", rf"(?:^|-)({prefix}\d+)", r"(\d{4,})", "^([^-]+)", "([^-]+)$"]
    ways += [r"^([^-_\s]+)", r"([^-_\s]+)$"]
    fitting = []
    for pattern in ways:
        found = {path: m[1] for path, text in texts.items() if (m := re.search(pattern, text))}
        if len(found) == len(texts) and all(len({found[p] for p in g}) == 1 for g in alike):
            fitting.append((len(set(found.values())) < 2, ways.index(pattern), pattern))
    return min(fitting)[2] if fitting else ""


def _names_somebody(part: str) -> bool:
    """Say whether a part of a name could be a person; ``night1`` and ``psg`` are not."""
    words = words_of(part)
    of_night = any(word in _NIGHTS for word in words)
    return bool(words) and not (of_night and all(w.isdecimal() or w in _NIGHTS for w in words))


def words_of(text: str) -> Words:
    """Split a name into words and numbers (without leading zeros), less the words for roles."""
    words = re.findall(r"\d+|[^\W\d_]+", text.casefold())
    return tuple(w.lstrip("0") or w[-1] for w in words if w not in _ROLES)
