"""Cohorts: how the files of a data set pair up, and how its subjects and nights are named."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
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
_SLEEP_EDF: Final = re.compile(r"(?P<subject>(SC4|ST7)\d\d)(?P<night>\d)[A-Z]\w-PSG\.edf", re.I)


def sleep_edf(files: Iterable[Path]) -> list[Night]:
    """Pair the files of Sleep-EDF by the first six characters of their names."""
    files = sorted(files)
    hypnograms = {p.name[:6].upper(): p for p in files if p.stem.endswith("-Hypnogram")}
    nights = []
    for path in files:
        match = _SLEEP_EDF.fullmatch(path.name)
        if match:
            nights.append(
                Night(
                    "sleep-edf",
                    path.name.removesuffix(path.name[path.name.rindex("-") :]),
                    match["subject"].upper(),
                    int(match["night"]),
                    path,
                    hypnograms.get(path.name[:6].upper()),
                )
            )
    return nights


COHORTS: Final[dict[str, Callable[[Iterable[Path]], list[Night]]]] = {"sleep-edf": sleep_edf}


def find_nights(paths: Iterable[Path], cohort: str) -> list[Night]:
    """Find and pair the recordings among files and folders.

    Raises
    ------
    EegToolError
        If a path does not exist, nothing is found, or two recordings share a name.
    """
    files: set[Path] = set()
    folders = []
    for path in paths:
        if path.is_dir():
            folders.append(path)
            files.update(p for p in path.rglob("*") if p.is_file())
        elif path.is_file():
            # A recording named alone brings its folder's hypnograms along.
            files.update({path, *path.parent.glob("*-Hypnogram.edf")})
        else:
            raise EegToolError(f"{path} does not exist.", "Give recordings or folders of them.")
    nights = COHORTS[cohort](files)
    if not nights:
        where = ", ".join(str(p) for p in paths)
        raise EegToolError(
            f"No recording of the cohort '{cohort}' in {where}.",
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
