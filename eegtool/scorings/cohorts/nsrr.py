"""Studies of the National Sleep Research Resource (sleepdata.org): SHHS, MESA, and others named in their way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from eegtool.scorings.cohorts.night import Found, pair_by_key

NAMED_LIKE: Final = "shhs1-200001.edf and shhs1-200001-nsrr.xml (or -profusion.xml)"

# shhs1-200001, mesa-sleep-0001, mros-visit1-aa0001, homepap-lab-full-1600001, pats-812345-baseline: study, visit
# or setting, and number of the person (the "polysomnography" folder of each study).
_STUDIES: Final = "shhs mesa mros cfs sof ccshs abc apples bestair chat heartbeat homepap learn numom2b pats wsc".split()
_FILE: Final = re.compile(
    rf"(?P<key>(?P<study>{'|'.join(_STUDIES)})(?P<before>(?:-?(?:[a-z]+-?\d{{0,2}}|[12]))*?)"
    r"-(?P<id>[a-z]{0,2}\d{4,})(?P<after>(?:-(?!nsrr|profusion)[a-z]+\d{0,2})*))"
    r"(?P<kind>\.edf|-nsrr\.xml|-profusion\.xml|(?:-nsrr)?\.annot|\.eannot|\.stg\.txt)"
)
_VISITS: Final = {"baseline": 1, "followup": 2}


_SCORINGS: Final = ("-nsrr.xml", "-profusion.xml", ".annot", "-nsrr.annot", ".eannot", ".stg.txt")


def pair(files: Sequence[Path]) -> Found:
    """Pair files by study, visit and number; a visit counts as a night of the same person.

    NSRR gives each scoring in several dialects; its own is taken first.
    """
    return pair_by_key(files, "nsrr", _FILE, ".edf", _SCORINGS, _named)


def _named(match: re.Match[str]) -> tuple[str, str, int]:
    subject = f"{match['study']}-{match['id']}"
    return match["key"], subject, _visit(f"{match['before']}{match['after']}")


def _visit(words: str) -> int:
    """Return the number of a visit: that of visit1 or month09, or the place of its word."""
    number = re.search(r"\d+", words)
    return int(number[0]) if number else next((n for w, n in _VISITS.items() if w in words), 1)
