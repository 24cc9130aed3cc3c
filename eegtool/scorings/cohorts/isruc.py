"""ISRUC-Sleep (Khalighi et al. 2016): a folder per subject, scored by two experts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from eegtool.scorings.cohorts.night import Found, Night
from eegtool.scorings.scoring import ReadAs

NAMED_LIKE: Final = "5/5.rec (or 5/5.edf), beside 5/5_1.txt"

_SIGNAL_SUFFIXES: Final = (".rec", ".edf")  # .rec is EDF by another name; many rename it
_EXPERT_1: Final = re.compile(r"(\d+)_1\.txt", re.IGNORECASE)
_SUBGROUP: Final = re.compile(r"group[ _-]?(?:(I{1,3})|([123]))(?![a-z\d])", re.IGNORECASE)
_SESSIONS: Final = (1, 2)
_CODES: Final = ReadAs(codes=(("0", "W"), ("1", "N1"), ("2", "N2"), ("3", "N3"), ("5", "REM")))


def pair(files: Sequence[Path]) -> Found:
    """Pair ``N/N.rec`` with ``N/N_1.txt``, the scoring of the first expert; that of the second is there for ``--scorer``.

    Subgroups I and III have a folder per subject. In subgroup II, a subject's folder has a folder
    for each of two sessions, such as ``3/1/1.rec``. Subgroups number their subjects alike, so the
    folder of the subgroup, where the path has one, becomes part of the name.
    """
    known = set(files)
    signals = [p for p in files if p.suffix.lower() in _SIGNAL_SUFFIXES and _at_home(p, p.stem)]
    nights = []
    for path in signals:
        scoring, other = (path.with_name(f"{path.stem}_{expert}.txt") for expert in (1, 2))
        experts = tuple(p for p in (scoring, other) if p in known)
        # 12/12.edf alone could be anybody's; .rec or the expert's file make it ISRUC.
        if scoring in known or path.suffix.lower() == ".rec":
            subject, night = _subject_and_night(path)
            nights.append(
                Night(
                    cohort="isruc",
                    recording=f"{subject}-{night}",
                    subject=subject,
                    night=night,
                    signal_path=path,
                    hypnogram_path=scoring if scoring in known else None,
                    rivals=experts if len(experts) > 1 else (),
                    read_as=_CODES,
                )
            )
    paired = {night.hypnogram_path for night in nights}
    firsts = [p for p in files if (m := _EXPERT_1.fullmatch(p.name)) and _at_home(p, m[1])]
    return Found(tuple(nights), tuple(p for p in firsts if p not in paired), "isruc")


def _at_home(path: Path, number: str) -> bool:
    """Say whether the file lies in the folder of its number."""
    home = path.absolute().parent.name
    return number.isdecimal() and home.isdecimal() and int(number) == int(home)  # 001 is 1


def _subject_and_night(path: Path) -> tuple[str, int]:
    number, above = int(path.stem), path.absolute().parents[1].name
    # Where 1/1/1.rec could also be subject 1 of a subgroup folder "1", two subjects become one:
    # they stay on one side of the split, the other mistake would put one subject on both.
    session = above.isdecimal() and number in _SESSIONS
    subject, night = (int(above), number) if session else (number, 1)
    groups = [m for part in path.absolute().parts if (m := _SUBGROUP.search(part))]
    group = str(len(groups[-1][1] or "") or groups[-1][2]) if groups else ""
    return f"isruc{group}-{subject:03d}", night
