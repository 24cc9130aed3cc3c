"""Public data sets whose files tell by their names who slept and which files go together: a line each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from eegtool.scorings.codings import parse_codes
from eegtool.scorings.cohorts.night import Found, Night, several_hypnograms
from eegtool.scorings.scoring import ReadAs

_LOOK_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Cohort:
    """How the files of a data set are named and read.

    Attributes
    ----------
    files : str
        Pattern of the last parts of a path in lower case: its name, folders before it where they count. Groups:
        ``key`` is what a recording and its scorings share, ``kind`` which of them a file is.
    recording : str
        Kind of the recordings.
    scorings : tuple of str
        Kinds of scorings, the first choice first.
    experts : bool
        Whether these are several scorers of one night: of them only the first is taken unasked.
    named_like : str
        How its files are named, for messages.
    channels : tuple of str
        EEG channels that are usual in the literature on it, the first choice first.
    upper : bool
        Whether names are spelt in upper case.
    codes : str
        What its numbers mean, where it has numbers; as ``--stage-codes``.
    epoch_s : callable
        ``key -> seconds``: length of the epochs in which it was scored; 0 for 30 s.
    mark : bytes
        What a scoring begins with or holds in its first lines, in lower case, where names alone could be any
        lab's; found without being asked for, such a night counts only with it. Empty: any scoring will do.
        None where names suffice.
    suffix : str
        With this suffix the name of a recording suffices, too.
    called : callable
        ``match -> name`` of the recording, where that is not the group ``recording`` or else the key.
    subject : callable
        ``match -> name`` of who slept, where that is not the group of this name or else the key.
    night : callable
        ``match -> number`` of the night, where that is not the group of this name or else 1.
    """

    files: str
    recording: str
    scorings: tuple[str, ...]
    named_like: str
    channels: tuple[str, ...]
    experts: bool = False
    upper: bool = False
    codes: str = ""
    epoch_s: Callable[[str], float] = lambda key: 0.0
    mark: bytes | None = None
    suffix: str = ""
    called: Callable[[re.Match[str]], str] = lambda m: m.groupdict().get("recording", m["key"])
    subject: Callable[[re.Match[str]], str] = lambda m: m.groupdict().get("subject", m["key"])
    night: Callable[[re.Match[str]], int] = lambda m: int(m.groupdict().get("night", 1))


# shhs1-200001, mesa-sleep-0001, mros-visit1-aa0001, homepap-lab-full-1600001, pats-812345-baseline: study, visit
# or setting, and number of the person (the "polysomnography" folder of each study).
_STUDIES: Final = "shhs mesa mros cfs sof ccshs abc apples bestair chat heartbeat homepap learn numom2b pats wsc".split()
_VISITS: Final = {"baseline": 1, "followup": 2}


def _visit(match: re.Match[str]) -> int:
    """Return the number of a visit: that of visit1 or month09, or the place of its word."""
    words = f"{match['before']}{match['after']}"
    number = re.search(r"\d+", words)
    return int(number[0]) if number else next((n for w, n in _VISITS.items() if w in words), 1)


_SUBGROUP: Final = re.compile(r"group[ _-]?(?:(i{1,3})|([123]))(?![a-z\d])")


def _isruc(match: re.Match[str]) -> tuple[str, int]:
    """Return subject and session; as subgroups number their subjects alike, theirs is part of the name."""
    # Where 1/1/1.rec could also be subject 1 of a subgroup folder "1", two subjects become one:
    # they stay on one side of the split, the other mistake would put one subject on both.
    folders, number = match["key"].split("/")[:-2], int(match["number"])
    session = folders and folders[-1].isdecimal() and number in (1, 2)
    subject, night = (int(folders[-1]), number) if session else (number, 1)
    groups = [m for folder in folders if (m := _SUBGROUP.search(folder))]
    group = str(len(groups[-1][1] or "") or groups[-1][2]) if groups else ""
    return f"isruc{group}-{subject:03d}", night


PUBLIC: Final[dict[str, Cohort]] = {
    # Kemp et al. 2000, PhysioNet: SC4ssNE0 (cassette) and ST7ssNJ0 (telemetry), subject ss, night N; the
    # letters before the dash of a hypnogram name its scorer. R&K, 30 s.
    "sleep-edf": Cohort(
        r"(?P<recording>(?P<key>(?P<subject>(sc4|st7)\d\d)(?P<night>\d))\w\w)-(?P<kind>psg|hypnogram)\.edf",
        "psg",
        ("hypnogram",),
        "SC4001E0-PSG.edf, beside SC4001EC-Hypnogram.edf",
        ("EEG Fpz-Cz", "EEG Pz-Oz"),
        upper=True,
    ),
    # National Sleep Research Resource (sleepdata.org); a visit counts as a night of the same person. Each scoring
    # is there in several dialects, of which its own comes first. R&K or AASM, 30 s.
    "nsrr": Cohort(
        rf"(?P<key>(?P<study>{'|'.join(_STUDIES)})(?P<before>(?:-?(?:[a-z]+-?\d{{0,2}}|[12]))*?)"
        r"-(?P<id>[a-z]{0,2}\d{4,})(?P<after>(?:-(?!nsrr|profusion)[a-z]+\d{0,2})*))"
        r"(?P<kind>\.edf|-nsrr\.xml|-profusion\.xml|(?:-nsrr)?\.annot|\.eannot|\.stg\.txt)",
        ".edf",
        ("-nsrr.xml", "-profusion.xml", ".annot", "-nsrr.annot", ".eannot", ".stg.txt"),
        "shhs1-200001.edf and shhs1-200001-nsrr.xml (or -profusion.xml)",
        ("C4-M1",),
        subject=lambda match: f"{match['study']}-{match['id']}",
        night=_visit,
    ),
    # O'Reilly et al. 2014: 01-0S-NNNN, subset S. SS1 and SS3 AASM in 30 s; SS2, SS4 and SS5 R&K in 20 s.
    "mass": Cohort(
        r"(?P<key>\d\d-0[1-5]-\d{4})[ _](?P<kind>psg|base)\.edf",
        "psg",
        ("base",),
        "'01-03-0001 PSG.edf' and '01-03-0001 Base.edf'",
        ("EEG C4-CLE", "EEG C4-LER"),
        epoch_s=lambda key: 20.0 if key[3:5] in ("02", "04", "05") else 0.0,
    ),
    # Alvarez-Estevez & Rijsman 2021, PhysioNet: one night each. AASM, 30 s.
    "hmc": Cohort(
        r"(?P<key>sn\d{3})(?P<kind>\.edf|_sleepscoring\.edf|_sleepscoring\.txt)",
        ".edf",
        ("_sleepscoring.edf", "_sleepscoring.txt"),
        "SN001.edf and SN001_sleepscoring.edf (or .txt)",
        ("EEG C4-M1", "EEG F4-M1"),
        upper=True,
    ),
    # Perslev et al. 2021: a folder each, relations between them are not known. AASM, 30 s.
    "dcsm": Cohort(
        r"(?P<key>tp[\da-f]{8}(?:_[\da-f]{4}){3}_[\da-f]{12})/(?P<kind>psg|hypnogram)\.(?:h5|edf|ids)",
        "psg",
        ("hypnogram",),
        "tpdbf4cda5_e571_4f0e_be9a_1a48306b1247/psg.h5, beside hypnogram.ids",
        ("C4-M1", "C3-M2"),
    ),
    # Guillot et al. 2020, DOD-H and DOD-O: the scoring is inside. AASM (4 is REM), 30 s.
    "dod": Cohort(
        r"(?P<key>[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12})(?P<kind>\.h5)",
        ".h5",
        (".h5",),
        "1da3544e-dc5c-5795-adc3-f5068959211f.h5",
        ("C3_M2",),
        codes="-1=?,0=W,1=N1,2=N2,3=N3,4=REM",
    ),
    # Ghassemi et al. 2018, PhysioNet: tr has scorings, te has none. AASM, each stage until the next.
    "cinc2018": Cohort(
        r"(?P<key>t[re]\d\d-\d{4})(?P<kind>\.hea|\.arousal)",
        ".hea",
        (".arousal",),
        "tr03-0005.hea, beside tr03-0005.mat and tr03-0005.arousal",
        ("C4-M1", "C3-M2"),
    ),
    # Terzano et al. 2001, PhysioNet: a group and a number, one night each. R&K, 30 s.
    "cap": Cohort(
        r"(?P<key>n(?:1[0-6]|[1-9])|brux[12]|ins[1-9]|narco[1-5]|nfle(?:40|[1-3]?[1-9]|[1-3]0)"
        r"|plm(?:10|[1-9])|rbd(?:2[0-2]|1?[1-9]|10)|sdb[1-4])(?P<kind>\.edf|\.txt)",
        ".edf",
        (".txt",),
        "n1.edf and n1.txt",
        ("C4-A1", "C3-A2"),
        mark=b"sleep-s",
    ),
    # Devuyst 2005: subjects (healthy) and patients, scored twice; the AASM scoring comes first. In 5 s.
    "dreams": Cohort(
        r"(?P<kind>hypnogram(?:aasm|r&k)_(?=.+txt)|(?=.+edf))(?P<key>(?:subject|patient)\d{1,2})\.(?:edf|txt)",
        "",
        ("hypnogramaasm_", "hypnogramr&k_"),
        "subject1.edf and HypnogramAASM_subject1.txt",
        ("CZ-A1", "C3-A1"),
        codes="-3=?,-2=?,-1=MT,0=N3,1=N3,2=N2,3=N1,4=REM,5=W",
        epoch_s=lambda key: 5.0,
        mark=b"[hypnogram]",
    ),
    # Khalighi et al. 2016: a folder per subject, in subgroup II with one for each of two sessions (3/1/1.rec); .rec
    # is EDF by another name, and many rename it: 12/12.edf alone could be anybody's. Two experts, R&K, 30 s.
    "isruc": Cohort(
        r"(?P<key>(?:.*/)?0*(?P<number>\d+)/0*(?P=number))"
        r"(?P<kind>_[12](?=\.txt)|(?=\.(?:rec|edf)))\.(?:rec|edf|txt)",
        "",
        ("_1", "_2"),
        "5/5.rec (or 5/5.edf), beside 5/5_1.txt",
        ("C4-A1", "C3-A2"),
        experts=True,
        codes="0=W,1=N1,2=N2,3=N3,5=REM",
        mark=b"",
        suffix=".rec",
        called=lambda match: "{}-{}".format(*_isruc(match)),
        subject=lambda match: _isruc(match)[0],
        night=lambda match: _isruc(match)[1],
    ),
}


def pair_named(files: Sequence[Path], cohort: str) -> Found:
    """Pair the files of one cohort of `PUBLIC` by the keys in their names, wherever they lie.

    Returns
    -------
    Found
        Of several scorings of one kind the one beside the recording is taken, or else none, and the
        problem of the night says so.
    """
    line = PUBLIC[cohort]
    pattern = re.compile(rf"(?:^|/){line.files}$")
    paths = ((path, path.absolute().as_posix().lower()) for path in files)
    matches = [(path, m) for path, text in paths if (m := pattern.search(text))]
    found: dict[tuple[str, str], list[Path]] = {}
    for path, match in matches:
        found.setdefault((match["key"], match["kind"]), []).append(path)
    spelt = str.upper if line.upper else str.lower
    nights = []
    for path, match in matches:
        if match["kind"] != line.recording:
            continue
        kinds = [of for kind in line.scorings if (of := found.get((match["key"], kind)))]
        of_kind = next(iter(kinds), [])
        chosen = [p for p in of_kind if p.parent == path.parent] or of_kind
        if line.experts and (match["key"], line.scorings[0]) not in found:
            chosen = []
        night = Night(
            cohort,
            spelt(line.called(match)),
            spelt(line.subject(match)),
            line.night(match),
            path,
            chosen[0] if chosen else None,
            rivals=tuple(p for of in kinds for p in of) if line.experts and len(kinds) > 1 else (),
            read_as=ReadAs(parse_codes(line.codes), epoch_s=line.epoch_s(match["key"])),
        )
        if len(chosen) > 1:
            problem = several_hypnograms(path, chosen)
            night = replace(night, hypnogram_path=None, problem=problem, rivals=tuple(chosen))
        nights.append(night)
    keys = {match["key"] for _, match in matches if match["kind"] == line.recording}
    orphans = [p for (key, _), paths in found.items() if key not in keys for p in paths]
    return Found(tuple(nights), tuple(sorted(orphans)), cohort)


def is_marked(night: Night) -> bool:
    """Say whether names and, where these do not suffice, a scoring show that a night is of its cohort."""
    line = PUBLIC.get(night.cohort)
    if line is None or line.mark is None or night.signal_path.suffix.lower() == line.suffix:
        return True
    heads = []
    for path in night.scorings:
        with path.open("rb") as file:
            heads.append(file.read(_LOOK_BYTES).lower())
    return any(line.mark in head for head in heads)
