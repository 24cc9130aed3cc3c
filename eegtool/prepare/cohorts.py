"""Cohorts: how the files of a data set pair up, and how its subjects and nights are named."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eegtool.core.errors import EegToolError


@dataclass(frozen=True, slots=True)
class Night:
    """One recording with its hypnogram, before anything is read."""

    cohort: str
    recording: str
    subject: str
    night: int
    signal_path: Path
    hypnogram_path: Path | None
    """None where no hypnogram was found."""


# SC4ssNE0-PSG.edf (cassette) and ST7ssNJ0-PSG.edf (telemetry): ss is the subject, N the night
# (PhysioNet, Sleep-EDF Database Expanded, file naming). The hypnogram differs in the last letters
# before the dash, which name the scorer.
_SLEEP_EDF: Final = re.compile(
    r"(?P<key>(?P<subject>(SC4|ST7)\d\d)(?P<night>\d))\w\w-(?P<kind>PSG|HYPNOGRAM)\.EDF"
)


def sleep_edf(files: Iterable[Path]) -> list[Night]:
    """Pair the files of Sleep-EDF by the first six characters of their names.

    Raises
    ------
    EegToolError
        If a recording has two hypnograms beside it, or none beside it and two elsewhere.
    """
    named = [(path, m) for path in files if (m := _SLEEP_EDF.fullmatch(path.name.upper()))]
    hypnograms: dict[str, list[Path]] = {}
    for path, match in named:
        if match["kind"] == "HYPNOGRAM":
            hypnograms.setdefault(match["key"], []).append(path)
    nights = []
    for path, match in named:
        if match["kind"] == "PSG":
            hypnogram = _nearest(path, hypnograms.get(match["key"], []))
            recording, subject = path.name[:8].upper(), match["subject"]
            nights.append(
                Night("sleep-edf", recording, subject, int(match["night"]), path, hypnogram)
            )
    return nights


def _nearest(recording: Path, hypnograms: list[Path]) -> Path | None:
    """Return the one beside the recording, or else the only one there is."""
    beside = [path for path in hypnograms if path.parent == recording.parent]
    found = beside or hypnograms
    if len(found) > 1:
        raise EegToolError(
            f"{recording} has more than one hypnogram: {', '.join(str(p) for p in found)}.",
            "Leave the right one beside the recording.",
        )
    return found[0] if found else None


COHORTS: Final[dict[str, Callable[[Iterable[Path]], list[Night]]]] = {"sleep-edf": sleep_edf}


def find_nights(paths: Sequence[Path], cohort: str) -> list[Night]:
    """Find and pair the recordings among files and folders.

    Raises
    ------
    EegToolError
        If a path does not exist, nothing is found, or two recordings share a name.
    """
    named: set[Path] = set()
    files: set[Path] = set()
    for path in paths:
        if path.is_dir():
            found = {p for p in path.rglob("*") if p.is_file()}
            named |= found
            files |= found
        elif path.is_file():
            # A recording named alone finds its hypnogram beside it, without its neighbours.
            named.add(path)
            files.update(p for p in path.parent.iterdir() if p.is_file())
        else:
            raise EegToolError(f"{path} does not exist.", "Give recordings or folders of them.")
    nights = [night for night in COHORTS[cohort](sorted(files)) if night.signal_path in named]
    if not nights:
        raise EegToolError(
            f"No recording of the cohort '{cohort}' in {', '.join(str(p) for p in paths)}.",
            "Sleep-EDF recordings are named like SC4001E0-PSG.edf, beside SC4001EC-Hypnogram.edf.",
        )
    seen: dict[str, Path] = {}
    for night in nights:
        if night.recording in seen:
            raise EegToolError(
                f"Two recordings are named {night.recording}: {seen[night.recording]} and "
                f"{night.signal_path}.",
                "Every sample id would occur twice; give only one of them.",
            )
        seen[night.recording] = night.signal_path
    return nights
