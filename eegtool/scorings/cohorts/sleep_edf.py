"""Sleep-EDF Database Expanded, cassette and telemetry (PhysioNet)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from eegtool.scorings.cohorts.night import Found, Night, nearest

NAMED_LIKE: Final = "SC4001E0-PSG.edf, beside SC4001EC-Hypnogram.edf"

# SC4ssNE0-PSG.edf (cassette) and ST7ssNJ0-PSG.edf (telemetry): ss is the subject, N the night
# (PhysioNet, Sleep-EDF Database Expanded, file naming). The hypnogram differs in the last letters
# before the dash, which name the scorer.
_FILE: Final = re.compile(
    r"(?P<key>(?P<subject>(SC4|ST7)\d\d)(?P<night>\d))\w\w-(?P<kind>PSG|HYPNOGRAM)\.EDF"
)


def pair(files: Sequence[Path]) -> Found:
    """Pair files by the first six characters of their names.

    A recording with two hypnograms beside it, or none beside it and two elsewhere, gets none, and
    its problem says so.
    """
    named = [(path, m) for path in files if (m := _FILE.fullmatch(path.name.upper()))]
    hypnograms: dict[str, list[Path]] = {}
    for path, match in named:
        if match["kind"] == "HYPNOGRAM":
            hypnograms.setdefault(match["key"], []).append(path)
    recordings = [(path, match) for path, match in named if match["kind"] == "PSG"]
    nights = []
    for path, match in recordings:
        hypnogram, problem = nearest(path, hypnograms.get(match["key"], []))
        nights.append(
            Night(
                cohort="sleep-edf",
                recording=path.name[:8].upper(),
                subject=match["subject"],
                night=int(match["night"]),
                signal_path=path,
                hypnogram_path=hypnogram,
                problem=problem,
            )
        )
    keys = {match["key"] for _, match in recordings}
    orphans = [p for key, paths in hypnograms.items() if key not in keys for p in paths]
    return Found(tuple(nights), tuple(orphans), "sleep-edf")
