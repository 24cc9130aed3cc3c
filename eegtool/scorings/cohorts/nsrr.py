"""Studies of the National Sleep Research Resource (sleepdata.org): SHHS, MESA, and others named in their way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from eegtool.scorings.cohorts.night import Found, Night, nearest

NAMED_LIKE: Final = "shhs1-200001.edf and shhs1-200001-nsrr.xml (or -profusion.xml)"

# shhs1-200001, mesa-sleep-0001, mros-visit1-aa0001, cfs-visit5-800002, sof-visit-8-00001,
# ccshs-trec-1800005: study, visit and number (the "polysomnography" folder of each study).
_FILE: Final = re.compile(
    r"(?P<key>(?P<study>shhs|mesa|mros|cfs|sof|ccshs)-?(?P<visit>[12]|sleep|trec|visit-?\d)"
    r"-(?P<id>[a-z]{0,2}\d+))(?P<kind>\.edf|-nsrr\.xml|-profusion\.xml)"
)


def pair(files: Sequence[Path]) -> Found:
    """Pair files by study, visit and number, wherever they lie; a visit counts as a night.

    NSRR gives each scoring in two dialects; its own is taken before Profusion's. Where there are
    several copies of a hypnogram, and none or several of them beside the recording, it gets none,
    and its problem says so.
    """
    named = [(path, m) for path in files if (m := _FILE.fullmatch(path.name.lower()))]
    hypnograms: dict[str, dict[str, list[Path]]] = {}
    for path, match in named:
        if match["kind"] != ".edf":
            hypnograms.setdefault(match["key"], {}).setdefault(match["kind"], []).append(path)
    nights = []
    for path, match in named:
        if match["kind"] == ".edf":
            dialects = hypnograms.get(match["key"], {})
            scoring = dialects.get("-nsrr.xml") or dialects.get("-profusion.xml", [])
            hypnogram, problem = nearest(path, scoring)
            visit = re.sub(r"\D", "", match["visit"])
            nights.append(
                Night(
                    cohort="nsrr",
                    recording=match["key"],
                    subject=f"{match['study']}-{match['id']}",
                    night=int(visit or 1),
                    signal_path=path,
                    hypnogram_path=hypnogram,
                    problem=problem,
                )
            )
    keys = {night.recording for night in nights}
    orphans = [p for k, d in hypnograms.items() if k not in keys for ps in d.values() for p in ps]
    return Found(tuple(nights), tuple(sorted(orphans)), "nsrr")
