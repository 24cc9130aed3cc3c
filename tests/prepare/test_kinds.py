"""What real exports look like, a table: files, and the stages that come of them, or the words of the refusal.

Every recording is 60 min of noise that starts on 1 March 2020 at 22:13:20; its truth is `NIGHT`. A row names
the kind, writes its files, and says what is right. Nothing is drawn: `outline` reads header and scoring.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import groupby
from operator import add
from pathlib import Path

import mne
import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.stages import UNSCORED
from eegtool.prepare.nights import Outline, outline
from eegtool.prepare.options import PrepareSettings
from eegtool.prepare.step import read_as_of, recipe_of
from eegtool.scorings.cohorts import find_nights

START = datetime(2020, 3, 1, 22, 13, 20)
CYCLE = ["N1"] * 3 + ["N2"] * 12 + ["N3"] * 10 + ["N2"] * 6 + ["REM"] * 9 + ["W"] * 2
NIGHT = (["W"] * 8 + CYCLE * 3)[:114] + ["W"] * 6
RUNS = [
    (group[0], len(group), stage)
    for stage, numbered in groupby(range(120), key=NIGHT.__getitem__)
    for group in [list(numbered)]
]
RK = [{"N3": "N3"}.get(s, s) for s in NIGHT]
PLUS = {"W": "Sleep stage W", "REM": "Sleep stage R"} | {
    f"N{i}": f"Sleep stage N{i}" for i in (1, 2, 3)
}

Write = Callable[[Path], None]


@cache
def samples(n_records: int) -> bytes:
    noise = np.random.default_rng(0).normal(0, 3000, (n_records, 100)).astype("<i2")
    return noise.tobytes()


def edf(
    name: str = "P01.edf",
    label: str = "C4-M1",
    start: datetime = START,
    form: str = "",
    stamps: Callable[[int], float] | None = None,
    events: Iterable[tuple[float, float, str]] = (),
    codes: Sequence[int] = (),
    **fields: str,
) -> Write:
    """Write a recording in records of 1 s; `codes` become a signal `hypnogram` of 1 Hz."""

    def write(folder: Path) -> None:
        signals = [
            (
                label,
                "uV",
                "-3276.8",
                "3276.7",
                "100",
                np.frombuffer(samples(3600), np.uint8).reshape(3600, -1),
            )
        ]
        if codes:
            numbers = np.repeat(np.array(codes, "<i2"), 30)[:, None].view(np.uint8)
            signals.append(("hypnogram", "", "-32768", "32767", "1", numbers))
        if form:
            tals = [f"+{(stamps or float)(i):.10g}\x14\x14\0" for i in range(3600)]
            for i, (onset_s, duration_s, text) in enumerate(events):
                tals[i] += f"+{onset_s:.10g}\x15{duration_s:g}\x14{text}\x14\0"
            width = max(map(len, tals)) // 2 * 2 + 2
            cells = np.frombuffer("".join(t.ljust(width, "\0") for t in tals).encode(), np.uint8)
            signals.append(
                ("EDF Annotations", "", "-1", "1", str(width // 2), cells.reshape(3600, -1))
            )
        head = f"{'0':8}{'X X X X':80}{'X':80}{start:%d.%m.%y%H.%M.%S}{256 * (1 + len(signals)):<8}{form:44}"
        head += f"{3600:<8}{fields.get('record', '1'):8}{len(signals):<4}"
        columns = [
            (16, 0),
            (80, ""),
            (8, 1),
            (8, 2),
            (8, 3),
            (8, "-32768"),
            (8, "32767"),
            (80, ""),
            (8, 4),
            (32, ""),
        ]
        for wide, value in columns:
            head += "".join(
                f"{s[value] if isinstance(value, int) else value:{wide}}" for s in signals
            )
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(head.encode() + np.hstack([s[-1] for s in signals]).tobytes())

    return write


def text(name: str, lines: Iterable[object], head: str = "", encoding: str = "utf-8") -> Write:
    def write(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + "".join(f"{line}\n" for line in lines), encoding=encoding)

    return write


def fif(folder: Path) -> None:
    info = mne.create_info(["C4-M1"], 100.0, "eeg")
    noise = np.frombuffer(samples(3600), "<i2")[None] * 1e-7
    raw = mne.io.RawArray(noise, info, verbose="ERROR")
    raw.set_annotations(
        mne.Annotations(
            [30 * a for a, _, _ in RUNS], [30 * n for _, n, _ in RUNS], [PLUS[s] for *_, s in RUNS]
        )
    )
    raw.save(folder / "P01_raw.fif", verbose="ERROR")


def clock(epoch: float, form: str = "%H:%M:%S", hours: float = 0) -> str:
    return f"{START + timedelta(hours=hours, seconds=30 * epoch):{form}}"


def coded(**codes: int) -> list[str]:
    return [str(codes[stage]) for stage in NIGHT]


def said(words: str) -> list[str]:
    """Return the night in the words for W, N1, N2, N3, REM."""
    return [
        dict(zip("W N1 N2 N3 REM".split(), words.split("|"), strict=True))[stage] for stage in NIGHT
    ]


def nsrr(words: dict[str, str]) -> list[str]:
    events = (
        f"<ScoredEvent><EventType>Stages|Stages</EventType><EventConcept>{words[s]}|1</EventConcept>"
        f"<Start>{30 * a}</Start><Duration>{30 * n}</Duration></ScoredEvent>"
        for a, n, s in RUNS
    )
    return [f"<PSGAnnotation><ScoredEvents>{''.join(events)}</ScoredEvents></PSGAnnotation>"]


NSRR = nsrr(
    {
        "W": "Wake",
        "N1": "Stage 1 sleep",
        "N2": "Stage 2 sleep",
        "N3": "Stage 3 sleep",
        "REM": "REM sleep",
    }
)
OTHER = ["N1" if s == "W" else s for s in NIGHT]


@dataclass(frozen=True)
class Row:
    kind: str
    name: str
    files: Sequence[Write]
    right: Sequence[str] | None = tuple(NIGHT)
    """Stages of the 120 epochs; None if it is to be refused."""
    words: str = ""
    """What notes or refusal say."""
    options: dict[str, str] = field(default_factory=dict)
    shift_s: float = 0.0
    channel: str = "C4-M1"


def table(rows: Iterable[str], head: str = "onset,duration,stage", name: str = "P01.csv") -> Write:
    return text(name, rows, head + "\n")


def changed(where: range, to: str = UNSCORED) -> list[str]:
    return [to if i in where else s for i, s in enumerate(NIGHT)]


E = range(120)
RECORDING = edf()
ROWS = [
    # --- silent wrongs: codings of numbers
    *(
        Row("coding", name, [RECORDING, text("P01_hypnogram.txt", coded(**codes))], words="Numbers are read as")
        for name, codes in {
            "R&K from 1": {"W": 1, "N1": 2, "N2": 3, "N3": 4, "REM": 6},
            "deep to awake": {"W": 5, "N1": 3, "N2": 2, "N3": 1, "REM": 4},
            "REM first, AASM": {"W": 0, "N1": 2, "N2": 3, "N3": 4, "REM": 1},
            "ISRUC": {"W": 0, "N1": 1, "N2": 2, "N3": 3, "REM": 5},
            "yasa's": {"W": 0, "N1": 1, "N2": 2, "N3": 3, "REM": 4},
        }.items()
    ),
    *(
        Row("coding", name, [RECORDING, text("P01_hypnogram.txt", coded(**codes))], None, "--stage-codes")
        for name, codes in {
            "upside down": {"W": 4, "N1": 2, "N2": 1, "N3": 0, "REM": 3},
            "of no program": {"W": 2, "N1": 0, "N2": 4, "N3": 1, "REM": 3},
            "two digits": {"W": 10, "N1": 11, "N2": 12, "N3": 13, "REM": 14},
        }.items()
    ),
    Row("coding", "an hour unscored", [RECORDING, text("P01.txt", ["9" if i in range(40, 60) else c for i, c in enumerate(coded(W=0, N1=1, N2=2, N3=3, REM=5))])], changed(range(40, 60))),
    Row("coding", "numbers beside words", [RECORDING, text("P01.txt", [{"W": "W", "REM": "R"}.get(s, s[-1]) for s in NIGHT])]),
    # --- silent wrongs: time bases
    *(
        Row("hours off", f"{hours:g} h", [RECORDING, table(f"{clock(i, '%Y-%m-%dT%H:%M:%S', hours)},30,{s}" for i, s in enumerate(NIGHT))], None, "hour")
        for hours in (-1, 1, -5)
    ),
    Row("hours off", "shorter than the recording, EDF+D too", [edf(form="EDF+D"), table(f"{clock(i, hours=0.75)},30,{s}" for i, s in enumerate(NIGHT) if i < 30)], words="own start is 45 min", right=["?"] * 90 + NIGHT[:30]),
    *(
        Row("first record", f"{form} {late:g} s late, {where}", [edf(form=form, stamps=partial(add, late), events=inside(late)), *files(late)])
        for form, late in (("EDF+D", 90.0), ("EDF+C", 0.5), ("EDF+D", 3600.0))
        for where, inside, files in (
            ("inside", lambda late: [(late + 30 * a, 30 * n, PLUS[s]) for a, n, s in RUNS], lambda late: []),
            ("dates", lambda late: [], lambda late: [table(f"{clock(i + late / 30, '%Y-%m-%dT%H:%M:%S.%f')},30,{s}" for i, s in enumerate(NIGHT))]),
        )
    ),
    *(
        Row("pause", name, [edf(form="EDF+D", stamps=lambda i: i + 600.0 * (i >= 1800), events=events), *files], right, words)
        for name, events, files, right, words in (
            ("inside", [(30 * i + 600 * (i >= 60), 30, PLUS[s]) for i, s in enumerate(NIGHT)], [], [*NIGHT[:60], *["?"] * 20, *NIGHT[60:]], "pauses: 600 s after 1800 s"),
            ("clock", [], [table(f"{clock(i + 20 * (i >= 60))},30,{s}" for i, s in enumerate(NIGHT))], [*NIGHT[:60], *["?"] * 20, *NIGHT[60:]], "unscored time"),
            ("list", [], [text("P01.txt", NIGHT)], None, "may or may not count that pause"),
            ("seconds", [], [table(f"{30 * i},30,{s}" for i, s in enumerate(NIGHT))], None, "may or may not count that pause"),
        )
    ),
    Row("gap in EDF+C", "many", [edf(form="EDF+C", stamps=lambda i: i + i // 900 * 30.0), text("P01.txt", NIGHT)], None, "calls itself continuous .* gap"),
    Row("gap in EDF+C", "jitter is none", [edf(form="EDF+C", stamps=lambda i: i + 0.01 * (i % 2)), text("P01.txt", NIGHT)]),
    Row("gap in EDF+C", "a slow clock is none", [edf(form="EDF+C", stamps=lambda i: i * 1.0001), text("P01.txt", NIGHT)]),
    Row("summer time", "with dates", [edf(start=datetime(2020, 3, 29, 1, 30)), table(f"{datetime(2020, 3, 29, 1, 30) + timedelta(seconds=30 * i, hours=i >= 60):%Y-%m-%dT%H:%M:%S},30,{s}" for i, s in enumerate(NIGHT))], None, "jump by an hour"),
    Row("summer time", "its end, with dates", [edf(start=datetime(2020, 10, 25, 2, 30)), table(f"{datetime(2020, 10, 25, 2, 30) + timedelta(seconds=30 * i, hours=-(i >= 60)):%Y-%m-%dT%H:%M:%S},30,{s}" for i, s in enumerate(NIGHT))], None, "the clock was set back"),
    Row("summer time", "a date that stays at midnight", [RECORDING, table(f"2020-03-01T{clock(i + 200)},30,{s}" for i, s in enumerate(NIGHT))], None, "does not change at midnight"),
    Row("summer time", "its end, times of day", [edf(start=datetime(2020, 10, 25, 2, 30)), table(f"{datetime(2020, 10, 25, 2, 30) + timedelta(seconds=30 * i, hours=-(i >= 60)):%H:%M:%S},30,{s}" for i, s in enumerate(NIGHT))], None, "not in order of time"),
    Row("origin", "orig_time", [RECORDING, text("P01.txt", (f"{30 * a}.0,{30 * n}.0,{PLUS[s]}" for a, n, s in RUNS), "# MNE-Annotations\n# orig_time : 2020-03-01 22:18:20+00:00\n# onset, duration, description\n")], ["?"] * 10 + NIGHT[:110], "5 min 0 s after"),
    Row("origin", "1970 with fractions", [RECORDING, table((f"{datetime(1970, 1, 1) + timedelta(seconds=30 * a):%Y-%m-%d %H:%M:%S}.000000,{30 * n}.0,{PLUS[s]}" for a, n, s in RUNS), "onset,duration,description")]),
    Row("origin", "dates of MNE", [RECORDING, table((f"{clock(a, '%Y-%m-%d %H:%M:%S')}.000000,{30 * n}.0,{PLUS[s]}" for a, n, s in RUNS), "onset,duration,description")]),
    *(
        Row("local dates", form, [RECORDING, table(f"{clock(i, form)},30,{s}" for i, s in enumerate(NIGHT))])
        for form in ("%d.%m.%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%d/%m/%Y %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%d-%m-%y-%H:%M:%S")
    ),
    Row("lost clock", "date and time beside seconds", [edf(start=datetime(1985, 1, 1)), table((f"{clock(i, '%d.%m.%Y')},{clock(i)},{30 * i},{s}" for i, s in enumerate(NIGHT)), "date,time,onset,stage")]),
    Row("lost clock", "date and time apart", [RECORDING, table((f"{clock(i, '%Y-%m-%d')},{clock(i)},{s}" for i, s in enumerate(NIGHT)), "Date,Time,Stage")]),
    Row("lost clock", "nothing but a clock", [edf(start=datetime(1985, 1, 1)), table(f"{clock(i)},30,{s}" for i, s in enumerate(NIGHT))], None, "does not say when it starts"),
    # --- a reason that helps
    Row("reason", "unknown words", [RECORDING, text("P01_stages.txt", ["light" if s == "N1" else "heavy" for s in NIGHT])], None, "P01_stages.txt: .*unknown stage in line 1: 'heavy'"),
    Row("reason", "minutes", [RECORDING, table((f"{i / 2},{s}" for i, s in enumerate(NIGHT)), "onset (min),stage", "P01_scoring.csv")], None, r"P01_scoring.csv: .*has no column of onsets; it has: onset \(min\), stage"),
    Row("reason", "a format that is not read", [RECORDING, text("P01_hypno.mat", ["MATLAB"])], None, "P01_hypno.mat: files of the kind .mat are not read; export it as text"),
    Row("reason", "several columns", [RECORDING, table((f"{i},{s},{o}" for i, (s, o) in enumerate(zip(NIGHT, OTHER, strict=True))), "epoch,expert_1,expert_2")], None, "several columns of stages: expert_1, expert_2.*--scoring-column expert_1"),
    # --- ways out without editing files
    Row("option", "--stage-codes", [RECORDING, text("P01.txt", coded(W=10, N1=11, N2=12, N3=13, REM=14))], options={"stage_codes": "10=W,11=N1,12=N2,13=N3,14=REM"}),
    Row("option", "--stage-codes, words", [RECORDING, text("P01.txt", said("up|dozing|light|heavy|dream"))], None, "P01.txt"),
    Row("option", "--stage-codes of annotations", [edf(form="EDF+C", events=[(30 * a, 30 * n, f"Stadie {s}") for a, n, s in RUNS], stamps=float), text("pairs.csv", ["P01.edf,P01.edf,a,1,StadieW=W;"], "")], None, "lacks the columns"),
    Row("option", "pairs.csv: stage_codes", [RECORDING, text("P01.txt", coded(W=4, N1=2, N2=1, N3=0, REM=3)), text("pairs.csv", ['P01.edf,P01.txt,a,1,"4=W,2=N1,1=N2,0=N3,3=REM"'], "recording,hypnogram,subject,night,stage_codes\n")]),
    Row("option", "pairs.csv: scorer", [RECORDING, table((f"{i},{s},{o}" for i, (s, o) in enumerate(zip(NIGHT, OTHER, strict=True))), "epoch,stage_a,stage_b"), text("pairs.csv", ["P01.edf,P01.csv,a,1,a"], "recording,hypnogram,subject,night,scorer\n")]),
    Row("option", "--scoring-column", [RECORDING, table((f"{i},{s},{o}" for i, (s, o) in enumerate(zip(NIGHT, OTHER, strict=True))), "epoch,stage_a,stage_b")], OTHER, options={"scoring_column": "Stage_B"}),
    Row("option", "--scoring-column, none such", [RECORDING, text("P01.txt", NIGHT, "stage\n")], None, "no column 'x'.*Its columns are stage", {"scoring_column": "x"}),
    Row("option", "--scorer, of two files", [RECORDING, text("P01_anna.txt", NIGHT), text("P01_bob.txt", OTHER)], OTHER, options={"scorer": "bob"}),
    Row("option", "--scorer, one scoring", [RECORDING, text("P01_anna.txt", NIGHT)], words="whether it is of bob is not known", options={"scorer": "bob"}),
    Row("option", "--scorer, ISRUC's second expert", [edf("5/5.rec"), *(text(f"5/5_{i}.txt", [str("W N1 N2 N3 x REM".split().index(s)) for s in night]) for i, night in ((1, NIGHT), (2, OTHER)))], OTHER, options={"scorer": "2"}),
    Row("option", "ISRUC's first expert otherwise", [edf("5/5.rec"), *(text(f"5/5_{i}.txt", [str("W N1 N2 N3 x REM".split().index(s)) for s in night]) for i, night in ((1, NIGHT), (2, OTHER)))]),
    Row("option", "--scorer, none such", [RECORDING, text("P01_anna.txt", NIGHT), text("P01_bob.txt", OTHER)], None, "--scorer eve is in the names of 0", {"scorer": "eve"}),
    Row("option", "consensus of three files", [RECORDING, text("P01_a.txt", NIGHT), text("P01_b.txt", OTHER), text("P01_c.txt", ["?", *NIGHT[1:]])], ["?", *NIGHT[1:]], "kappa 0.87; 1 ties are unscored", {"scorer": "consensus"}),
    Row("option", "consensus of columns", [RECORDING, table((f"{30 * i},{s},{o},{s}" for i, (s, o) in enumerate(zip(NIGHT, OTHER, strict=True))), "onset,stage_a,stage_b,stage_c")], words="they agree on 8", options={"scorer": "consensus"}),
    Row("option", "two who differ", [RECORDING, text("P01_a.txt", NIGHT), text("P01_b.txt", OTHER)], None, "more than one hypnogram: P01_a.txt, P01_b.txt; they agree on 8.*--scorer consensus"),
    # --- readers
    Row("reader", "RemLogic", [RECORDING, text("P01.txt", [f"{s}\tSupine\t{clock(i)}\tSLEEP-{s.replace('N', 'S')}\t30\tROC-LOC" for i, s in enumerate(NIGHT)], "RemLogic Event Export\nPatient:\tX\nRecording Date:\t01/03/2020\n\nSignal type:\tSLEEP\n\nSleep Stage\tPosition\tTime [hh:mm:ss]\tEvent\tDuration[s]\tLocation\n")]),
    Row("reader", "CAP: events beside stages", [RECORDING, text("P01.txt", [line for i, s in enumerate(NIGHT) for line in (f"{s}\t{clock(i)}\tSLEEP-{s.replace('N', 'S')}\t30\tC4A1", f"{s}\t{clock(i + 0.3)}\tMCAP-A1\t7\tC4A1")], "Sleep Stage\tTime [hh:mm:ss]\tEvent\tDuration[s]\tLocation\n")]),
    Row("reader", "DOMINO", [RECORDING, text("P01_SchlafProfil.txt", [f"{clock(i)},000; {'Wach' if s == 'W' else s}" for i, s in enumerate(NIGHT)], "Signal ID: SchlafProfil\\profil\nStart Time: 01.03.2020 22:13:20\nUnit: \nSignal Type: Discret\nEvents list: N4,N3,N2,N1,Rem,Wach,Bewegung\nRate: 30 s\n\n")]),
    Row("reader", "DOMINO with dates", [RECORDING, text("P01.txt", [f"{clock(i, '%d.%m.%Y %H:%M:%S')},000; {s}" for i, s in enumerate(NIGHT)], "Signal ID: SchlafProfil\\profil\nStart Time: 01.03.2020 22:13:20\n\n")]),
    Row("reader", "Visbrain", [RECORDING, text("P01.txt", [f"{s}\t{30 * (a + n)}" for a, n, s in RUNS], "*Duration_sec\t3600\n*Datafile\tP01.edf\n")]),
    Row("reader", "a preamble above a list", [RECORDING, text("P01.txt", NIGHT, "".join(f"Field {i}: value\n" for i in range(70)))]),
    Row("reader", "DREAMS, R&K in words", [RECORDING, text("P01_hypno.txt", NIGHT, "[HypnogramAASM]\n")]),
    Row("reader", "Natus", [RECORDING, table((f"{clock(i, '%I:%M:%S %p')},{'Stage - No Stage' if i in range(9) else 'Stage - ' + s}" for i, s in enumerate(NIGHT)), "Time,Stage")], changed(range(9))),
    Row("reader", "BOAS", [RECORDING, table((f"{30 * i}\t30\t{8 if i in range(9) else c}" for i, c in enumerate(coded(**{"W": 0, "N1": 1, "N2": 2, "N3": 3, "REM": 4}))), "onset\tduration\tstage_hum", "P01_events.tsv")], changed(range(9)), "4 REM"),
    Row("reader", "EDFbrowser", [RECORDING, table((f"+{30 * a:012.4f},{30 * n},{PLUS[s]}" for a, n, s in RUNS), "Onset,Duration,Annotation")]),
    Row("reader", "a preamble above a table", [RECORDING, text("P01.csv", (f"{i + 1};{s}" for i, s in enumerate(NIGHT)), "Compumedics export\nStudy;X\n" + "Montage;Y\n" * 40 + "\nEpoch;Stage\n")]),
    Row("reader", "a misspelt stage is no preamble", [RECORDING, text("P01_hyp.txt", ["Wakee", *NIGHT[1:]])], None, "unknown stage in line 1: 'Wakee'"),
    Row("reader", "stage and end", [RECORDING, table((f"{s},{30 * (a + n)}" for a, n, s in RUNS), "stage,end")]),
    Row("reader", "stage and duration", [RECORDING, table((f"{s},{30 * n}" for _, n, s in RUNS), "stage,duration")]),
    Row("reader", "stage and duration, of another night", [RECORDING, table((f"{s},{60 * n}" for _, n, s in RUNS), "stage,duration")], None, "has 240 epochs, 120 min"),
    Row("reader", "without names, ends first", [RECORDING, text("P01.txt", (f"{30 * i + 30};30;{s};{30 * i}" for i, s in enumerate(NIGHT)))]),
    Row("reader", "without names, ends alone", [RECORDING, text("P01_hyp.txt", (f"{30 * i + 30};30;{s}" for i, s in enumerate(NIGHT)))], None, "when each stage begins, or when it ends"),
    Row("reader", "onset and next onset", [RECORDING, table((f"{30 * a},{s}" for a, _, s in RUNS), "onset,stage")], words="lasts until the next"),
    Row("reader", "clock of changes", [RECORDING, table((f"{clock(a)},{s}" for a, _, s in RUNS), "time,stage")], words="lasts until the next"),
    Row("reader", "changes that leave something out", [RECORDING, table((f"{60 * a},{s}" for a, s in enumerate(NIGHT[:60])), "onset,stage")], None, "followed by a gap"),
    Row("reader", "full half minutes, epoch by epoch", [RECORDING, table((f"{clock(t)},{s}" for t, s in [(0, "W"), *((i + 1 / 3, s) for i, s in enumerate(NIGHT[:119]))]), "time,stage")], NIGHT[:119], shift_s=10),
    Row("reader", "full half minutes, in runs", [RECORDING, table([f"{clock(0)},250,W", *(f"{clock(a + 1 / 3)},{30 * n},{s}" for a, n, s in RUNS[1:-1])])], [*NIGHT[:114], *"?" * 5], shift_s=10),
    Row("reader", "full minutes", [RECORDING, table([f"{clock(0)},40,W", *(f"{clock(i + 4 / 3)},30,{s}" for i, s in enumerate(NIGHT[1:118]))])], [*NIGHT[:118], "?"], shift_s=10),
    Row("reader", "numbered epochs, some missing", [RECORDING, table((f"{i + 1},{s}" for i, s in enumerate(NIGHT) if i not in range(50, 60)), "epoch,stage")], changed(range(50, 60)), "10 epochs are missing in its count"),
    Row("reader", "numbered epochs of 20 s, some missing", [RECORDING, table((f"{i + 1},{s}" for i, s in enumerate(NIGHT * 2) if i % 9 != 4), "epoch,stage")], None, "steps of 15 s would fit"),
    Row("reader", "numbered epochs, one twice", [RECORDING, table((f"{i + (i < 50)},{s}" for i, s in enumerate(NIGHT)), "epoch,stage")], None, "should be 51 or more"),
    Row("reader", "DREAMS: a signal of stages", [edf(codes=[{"W": 5, "N1": 3, "N2": 2, "N3": 1, "REM": 4}[s] for s in NIGHT])], words="Numbers are read as"),
    Row("reader", "a signal of stages, R&K", [edf(codes=[{"W": 0, "N1": 1, "N2": 2, "N3": 3, "REM": 5}[s] for s in NIGHT])]),
    Row("reader", "FIF", [fif]),
    Row("reader", "U-Sleep, spaces", [RECORDING, text("P01.ids", (f"{30 * a}, {30 * n}, {s}" for a, n, s in RUNS))]),
    Row("reader", "onset, end, stage", [RECORDING, text("P01.txt", (f"{30 * a}\t{30 * (a + n)}\t{s}" for a, n, s in RUNS))]),
    Row("reader", "clock, stage", [RECORDING, text("P01.txt", (f"{clock(i)}\t{s}" for i, s in enumerate(NIGHT)))]),
    Row("reader", "stage, clock, seconds", [RECORDING, text("P01.tsv", (f"{s}\t{clock(a)}\t{30 * n}" for a, n, s in RUNS))]),
    Row("reader", "numbers in the third column", [RECORDING, text("P01.csv", (f"{30 * i},30,{c}" for i, c in enumerate(coded(W=0, N1=1, N2=2, N3=3, REM=5))))]),
    Row("reader", "one time that may be two things", [RECORDING, text("P01_hyp.txt", (f"{30 * (a + n)}\t{s}" for a, n, s in RUNS))], None, "when each stage begins, or when it ends"),
    Row("reader", "Luna .eannot", [RECORDING, text("P01.eannot", [{"W": "wake", "REM": "REM"}.get(s, s.replace("N", "NREM")) for s in NIGHT])]),
    Row("reader", "Luna, epochs", [RECORDING, text("P01.annot", (f"{s}\t.\t.\te:{a + 1}\te:{a + n}\t." for a, n, s in RUNS), "# a comment\nclass\tinstance\tchannel\tstart\tstop\tmeta\n")]),
    Row("reader", "Luna, with dates and other events", [RECORDING, text("P01.annot", [line for i, s in enumerate(NIGHT) for line in (f"{s}\t.\t.\t{clock(i, '%d-%m-%y-%H:%M:%S')}\t{clock(i + 1, '%d-%m-%y-%H:%M:%S')}\t.", f"arousal\t1\tC4\t{clock(i, '%d-%m-%y-%H:%M:%S')}\t{clock(i + 0.2, '%d-%m-%y-%H:%M:%S')}\t.")], "class\tinstance\tchannel\tstart\tstop\tmeta\n")]),
    *(
        Row("reader", f"Philips, {who}", [RECORDING, text("P01.rml", [f'<PatientStudy xmlns="x"><ScoringData><StagingData><{who}><{rules}>{"".join(f"""<Stage Type="{words[s]}" Start="{30 * a}"/>""" for a, _, s in RUNS)}</{rules}></{who}></StagingData></ScoringData></PatientStudy>'])])
        for who, rules, words in (
            ("UserStaging", "NeuroAdultAASMStaging", {"W": "Wake", "N1": "NonREM1", "N2": "NonREM2", "N3": "NonREM3", "REM": "REM"}),
            ("MachineStaging", "NeuroAdultAASMStaging", {"W": "Wake", "N1": "NonREM1", "N2": "NonREM2", "N3": "NonREM3", "REM": "REM"}),
            ("UserStaging", "RespAdultRKStaging", {"W": "Wake", "N1": "NonREM1", "N2": "NonREM2", "N3": "NonREM4", "REM": "REM"}),
        )
    ),
    # --- where scorings lie
    Row("twice the same", "list and table", [RECORDING, text("P01_a.txt", NIGHT), table((f"{30 * a},{30 * n},{s}" for a, n, s in RUNS), name="P01_b.csv")], words="hold the same scoring"),
    Row("twice the same", "XML and list", [RECORDING, text("P01-nsrr.xml", NSRR), text("P01.txt", NIGHT)], words="hold the same scoring"),
    Row("twice the same", "NSRR's in two folders", [edf("a/shhs1-200001.edf"), text("b/shhs1-200001-nsrr.xml", NSRR), text("c/shhs1-200001-nsrr.xml", NSRR)], words="hold the same scoring"),
    Row("other folder", "of the same name", [edf("edf/P01.edf"), text("hypnograms/P01.txt", NIGHT)]),
    Row("other folder", "with a word for what it is", [edf("data/P01_psg.edf"), text("scoring/P01_hypnogram.csv", NIGHT)]),
    Row("other folder", "two of the name", [edf("edf/P01.edf"), text("a/P01.txt", NIGHT), text("b/P01.txt", OTHER)], None, "In other folders, .*a/P01.txt, .*b/P01.txt"),
    # --- words
    *(
        Row("words", words, [RECORDING, text("P01.txt", said(words))])
        for words in (
            "Waak|Stadium 1|Stadium 2|Stadium 3|REM-slaap",
            "Vigília|Estágio 1|Estágio 2|Estágio 3|Sono REM",
            "Veglia|Stadio 1|Stadio 2|Stadio 3|REM",
            "覚醒|睡眠段階1|睡眠段階2|睡眠段階3|レム睡眠",
            "觉醒|N1期|N2期|N3期|快速眼动期",
            "Vigilia|Fase 1|Fase 2|Fase 3|MOR",
            "Éveil|Stade N1|Stade N2|Sommeil lent profond|SP REM".replace("SP REM", "Sommeil paradoxal"),
            "Wachheit|Schlafstadium 1|Schlafstadium 2|Tiefschlaf|REM-Schlaf",
            "SLEEP-S0|SLEEP-S1|SLEEP-S2|SLEEP-S3|SLEEP-REM",
            "Stage: W|Stage: N1|Stage: N2|Stage: N3|Stage: R",
            "Stage - W|Stage - N1|Stage - N2|Stage - N3|Stage - R",
            "W [AASM]|N1 [AASM]|N2 [AASM]|N3 [AASM]|REM [AASM]",
            "wk|NREM 1|NREM 2|NREM 3|SREM",
            "Sleep_stage_W|Sleep_stage_1|Sleep_stage_2|Sleep_stage_3|Sleep_stage_R",
        )
    ),
    # --- channels
    *(
        Row("channel", f"{wanted} in {label}", [edf(label=label), text("P01.txt", NIGHT)], channel=wanted)
        for wanted, label in (
            ("C4-M1", "C4A1"), ("C4-M1", "EEG C4A1"), ("C4-M1", "C4_M1"), ("C4-A1", "EEG C4M1"), ("C4", "C4-Org"),
            ("C4", "EEG C4-LER"), ("C4", "C4_AVG"), ("Cz-A1", "CZ2-A1"), ("E1-M2", "EOG E1-A2"), ("E1-M2", "LOC-A2"),
            ("E1", "EOG left"), ("E2", "EOG(R)"), ("EMG chin", "EMG Submental"), ("Fpz-Cz", "EEG FpzCz"), ("O2-M1", "O2A1"),
        )
    ),
    *(
        Row("channel", f"{wanted} in {label}", [edf(label=label), text("P01.txt", NIGHT)], None, words, channel=wanted)
        for wanted, label, words in (
            ("C4-M1", "C4-M2", "mean 'C4-M2'. The same electrode, but another"),
            ("C4-M1", "C3-M2", "no channel 'C4-M1'"),
            ("C4-M1", "EEG C4-LE", "mean 'EEG C4-LE'. The same electrode, but another"),
        )
    ),
    # --- odds
    Row("odds", "a name of 234 bytes", [edf("P01" + "x" * 231 + ".edf"), text("P01" + "x" * 231 + ".txt", NIGHT)]),
    Row("odds", "a name of 78 characters in Chinese", [edf("夜" * 78 + ".edf"), text("夜" * 78 + ".txt", NIGHT)]),
    Row("odds", "1,000 s", [edf(record="1,000"), text("P01.txt", NIGHT)]),
    Row("odds", "1.0 s", [edf(record="1.0"), text("P01.txt", NIGHT)]),
    Row("odds", "+1 s", [edf(record="+1"), text("P01.txt", NIGHT)]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}: {row.name}"[:70])
def test_kind(row: Row, tmp_path: Path) -> None:
    for write in row.files:
        write(tmp_path)
    settings = replace(
        PrepareSettings([tmp_path], channel=[row.channel], wake_margin=1e4),
        **row.options,  # type: ignore[arg-type]
    )

    def read() -> Outline:
        (night,) = find_nights([tmp_path], read_as=read_as_of(settings)).nights
        return outline(night, recipe_of(settings))

    if row.right is None:
        with pytest.raises(EegToolError) as raised:
            read()
        said = str(raised.value).replace("\n", " ").replace(str(tmp_path), "")
        assert re.search(row.words, said), said
        return
    plan = read()
    assert re.search(row.words, " ".join(plan.notes)), plan.notes
    assert plan.first_onset_s == row.shift_s
    assert list(plan.stages) == [UNSCORED if s == "?" else s for s in row.right]


def test_every_kind_has_three_rows() -> None:
    kinds = [row.kind for row in ROWS]
    assert {kind: kinds.count(kind) for kind in kinds if kinds.count(kind) < 3} == {}


@pytest.mark.parametrize(
    ("names", "persons"),
    [
        ("chat-baseline-300001 chat-followup-300001 chat-baseline-300002", 2),
        ("abc-baseline-900001 abc-month09-900001 abc-month18-900002", 2),
        ("wsc-visit1-10119 wsc-visit2-10119", 1),
        ("mros-visit1-aa0001 mros-visit2-aa0001 mesa-sleep-0001", 2),
        ("homepap-lab-full-1600001 homepap-home-1600001", 1),
        ("pats-812345-baseline pats-812345-followup", 1),
        ("shhs1-200001 shhs2-200001 cfs-visit5-800002", 2),
        ("01-01-0001_PSG 01-01-0002_PSG 01-02-0001_PSG", 3),
        ("tr03-0005 tr03-0029 te03-0005", 3),
        ("baseline_300001 followup_300001", "300001"),
        ("300001_T1 300001_T2", "300001"),
        ("anna_pre anna_post bob_pre", "anna"),
        ("study_v1_s17 study_v2_s17", "studys17"),
        ("2020-03-01_P01 2020-03-02_P01", None),
        ("2020-03-01_P01 2020-03-02_P02", 2),
        ("20200301_anna 20200301_bob", 2),
        ("n1 n2 rbd1 ins1", 4),
        ("subject1_of_2024 subject2_of_2024", 2),
        ("baseline_2001 followup_2001", "2001"),
        ("subject1 subject2 patient1", 3),
    ],
)
def test_persons(tmp_path: Path, names: str, persons: int | str | None) -> None:
    """A number of persons, or who seems to be on both sides (None: whoever)."""
    for name in names.split():
        (tmp_path / f"{name}.edf").touch()
    if isinstance(persons, int):
        assert len({night.subject for night in find_nights([tmp_path]).nights}) == persons
        return
    with pytest.raises(EegToolError, match="may be nights of one person") as raised:
        find_nights([tmp_path])
    if persons:
        assert f"'{persons}'" in raised.value.what
        pattern = re.search("--subject-pattern '([^']+)', or", raised.value.fix)
        assert pattern
        nights = find_nights([tmp_path], subject_pattern=pattern[1]).nights
        alike = [n.subject for n in nights if persons[-4:] in n.recording.replace("_", "")]
        assert len(set(alike)) <= 1
