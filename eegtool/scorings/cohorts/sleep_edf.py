"""Sleep-EDF Database Expanded, cassette and telemetry (PhysioNet)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from eegtool.scorings.cohorts.night import Found, pair_by_key

NAMED_LIKE: Final = "SC4001E0-PSG.edf, beside SC4001EC-Hypnogram.edf"

# SC4ssNE0-PSG.edf (cassette) and ST7ssNJ0-PSG.edf (telemetry): ss is the subject, N the night
# (PhysioNet, Sleep-EDF Database Expanded, file naming). The hypnogram differs in the last letters
# before the dash, which name the scorer.
_FILE: Final = re.compile(
    r"(?P<key>(?P<subject>(sc4|st7)\d\d)(?P<night>\d))\w\w-(?P<kind>psg|hypnogram)\.edf"
)


def pair(files: Sequence[Path]) -> Found:
    """Pair files by the first six characters of their names."""
    return pair_by_key(files, "sleep-edf", _FILE, "psg", ["hypnogram"], _named)


def _named(match: re.Match[str]) -> tuple[str, str, int]:
    return match[0][:8].upper(), match["subject"].upper(), int(match["night"])
