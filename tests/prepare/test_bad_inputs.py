"""What prepare says and does about bad input: every case through the command line, beside good recordings.

``pytest -rP tests/prepare/test_bad_inputs.py | grep '^said'`` prints one line each. The case that is not
here, a run that is killed half-way, is in ``tests/e2e/test_prepare_killed.py``.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import edfio
import numpy as np
import pytest
from typer.testing import CliRunner

from eegtool.cli import app
from eegtool.core.records import read_epochs
from eegtool.simulate.twins import load_twin

GOOD = ("SC4012E0", "SC4021E0")
EPOCHS = 10
START = load_twin("SC4001E0").start
RUNS = [(r.onset_s, r.duration_s, r.text) for r in load_twin("SC4001E0").condensed(2).hypnogram]
PSG = "SC4001E0-PSG.edf"
SCORING = "SC4001EC-Hypnogram.edf"

# Where fields stand in the header of the bad recording, which has two signals, and what follows it.
RESERVED, N_RECORDS, LABEL, UNIT = 192, 236, 256, 448
PHYSICAL_MIN, PHYSICAL_MAX = 464, 480
HEADER_BYTES = 768
RECORD_BYTES = 12_000  # 30 s at 100 Hz, two signals, two bytes each

Spoil = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A way to spoil a folder of good recordings, and what is to come of it.

    Attributes
    ----------
    spoil : callable
        Gets the folder; spoils the recording SC4001E0.
    outcome : str
        ``"left out"``: exit code 0 without it; ``"used"``: exit code 0 with it; ``"error"``: exit code
        1, and nothing is written.
    words : str
        A pattern of what is said; empty for nothing at all.
    kept : int
        Pictures of the recording.
    options : sequence of str
        Options of the command; ``{folder}`` is that of the recordings.
    breakage : callable or None
        Spoils the machine.
    """

    name: str
    spoil: Spoil
    outcome: Literal["left out", "used", "error"]
    words: str
    kept: int = 0
    options: Sequence[str] = ()
    breakage: Callable[[pytest.MonkeyPatch], None] | None = None


def patched(*changes: tuple[int, bytes]) -> Spoil:
    """Overwrite bytes of the recording."""

    def spoil(folder: Path) -> None:
        content = bytearray((folder / PSG).read_bytes())
        for at, new in changes:
            content[at : at + len(new)] = new
        (folder / PSG).write_bytes(content)

    return spoil


def cut_to(n_bytes: int) -> Spoil:
    return lambda folder: os.truncate(folder / PSG, n_bytes)


def noise_uv(sfreq_hz: float, seconds: float = 30.0 * EPOCHS) -> np.ndarray:
    return np.random.default_rng(4).standard_normal(round(sfreq_hz * seconds)) * 20


def recorded(
    data_uv: np.ndarray, sfreq_hz: float = 100.0, annotations: Sequence[edfio.EdfAnnotation] = ()
) -> Spoil:
    """Put one channel in the place of the recording."""

    def spoil(folder: Path) -> None:
        signal = edfio.EdfSignal(
            np.clip(data_uv, -200, 200),
            sfreq_hz,
            label="EEG Fpz-Cz",
            physical_dimension="uV",
            physical_range=(-200, 200),
        )
        edfio.Edf(
            [signal],
            recording=edfio.Recording(startdate=START.date()),
            starttime=START.time(),
            data_record_duration=30,
            annotations=annotations,
        ).write(folder / PSG)

    return spoil


def edf_plus_d_with_a_gap(folder: Path) -> None:
    """Let the records after half of the time begin 30 s later than they should."""
    recorded(noise_uv(100), annotations=[edfio.EdfAnnotation(0, None, "Lights off")])(folder)
    content = (folder / PSG).read_bytes()
    content = content[:RESERVED] + b"EDF+D" + content[RESERVED + 5 :]
    for onset in range(270, 120, -30):
        before, after = (b"+%d\x14\x14" % s for s in (onset, onset + 30))
        assert content.count(before) == 1
        content = content.replace(before, after)
    (folder / PSG).write_bytes(content)


def flat(folder: Path) -> None:
    patched((HEADER_BYTES, bytes(EPOCHS * RECORD_BYTES)))(folder)


def saturated() -> np.ndarray:
    """Return a signal that is at its limits for nine tenths of the time."""
    data_uv = noise_uv(100)
    return np.where(np.abs(data_uv) > 2.5, np.sign(data_uv) * 200, data_uv)


def scored(*runs: tuple[float, float, str], start: datetime = START) -> Spoil:
    """Put other annotations into the hypnogram."""

    def spoil(folder: Path) -> None:
        edfio.Edf(
            [],
            recording=edfio.Recording(startdate=start.date()),
            starttime=start.time(),
            annotations=[edfio.EdfAnnotation(*run) for run in runs],
        ).write(folder / SCORING)

    return spoil


def shifted(seconds: float) -> Sequence[tuple[float, float, str]]:
    return [(onset + seconds, duration, text) for onset, duration, text in RUNS]


def tabulated(content: bytes) -> Spoil:
    """Score the recording by a table, as another lab would; a ``pairs.csv`` says so."""

    def spoil(folder: Path) -> None:
        (folder / "scoring.csv").write_bytes(content)
        rows = [f"{PSG},scoring.csv,SC400,1"]
        for name in GOOD:
            (hypnogram,) = folder.glob(f"{name[:7]}*-Hypnogram.edf")
            rows.append(f"{name}-PSG.edf,{hypnogram.name},{name[:5]},1")
        lines = ["recording,hypnogram,subject,night", *rows]
        (folder / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")

    return spoil


def table(rows: Sequence[tuple[float, float, str]] = RUNS) -> str:
    lines = [f"{onset:g},{duration:g},{text}" for onset, duration, text in rows]
    return "\n".join(["onset,duration,stage", *lines]) + "\n"


def nothing(folder: Path) -> None:
    """Leave the recordings as they are: it is the machine that is not."""


def fails(method: str, code: int, after: int = 0) -> Callable[[pytest.MonkeyPatch], None]:
    """Let a method of paths fail within the staging_dir, as the system would."""
    original = getattr(Path, method)

    def breakage(patch: pytest.MonkeyPatch) -> None:
        calls = []

        def fail(path: Path, *args: Any, **kwargs: Any) -> Any:
            if ".prepare.tmp" in path.parts:
                calls.append(path)
                if len(calls) > after:
                    raise OSError(code, os.strerror(code), str(path))
            return original(path, *args, **kwargs)

        patch.setattr(Path, method, fail)

    return breakage


RATES_HZ = (200, 250, 256, 512, 199.9)

CASES = [
    # The recording
    Case("empty file", cut_to(0), "left out", r"recording .*PSG\.edf is empty"),
    Case(
        "text renamed .edf",
        lambda folder: (folder / PSG).write_text("time,Fpz-Cz\n0.00,12.5\n" * 500),
        "left out",
        r"PSG\.edf is no EDF or BDF file: it begins with b'time,Fpz-Cz",
    ),
    Case("header cut", cut_to(700), "left out", "is cut off: 700 of 768 bytes are there"),
    Case("header cut in its first block", cut_to(100), "left out", "is cut off: 100 of "),
    Case(
        "data cut mid-record",
        cut_to(HEADER_BYTES + 8 * RECORD_BYTES + 5_001),
        "used",
        r"cut off: the last 60 s of 300 s are missing.*"
        r"60 s of scored time after the end of the recording are left out",
        kept=8,
    ),
    Case(
        "data cut mid-record, --strict",
        cut_to(HEADER_BYTES + 8 * RECORD_BYTES + 5_001),
        "left out",
        r"PSG\.edf: The file is cut off: the last 60 s of 300 s are missing.*--strict",
        options=["--strict"],
    ),
    Case("zero records", cut_to(HEADER_BYTES), "left out", "holds no data: not one whole record"),
    Case(
        "number of records 0 in header and file",
        lambda folder: (patched((N_RECORDS, b"0 "))(folder), cut_to(HEADER_BYTES)(folder)),
        "left out",
        "holds no data: not one whole record",
    ),
    Case(
        "number of records -1",
        patched((N_RECORDS, b"-1")),
        "used",
        r"does not say how long the recording is: .* The file holds 300 s",
        kept=10,
    ),
    Case(
        "EDF+D gap",
        edf_plus_d_with_a_gap,
        "used",
        r"The recording pauses: 30 s after 150 s\. This is unscored time",
        kept=9,
    ),
    Case(
        "unknown channel",
        patched((LABEL, b"EEG Fpz-Oz")),
        "left out",
        r"There is no channel 'EEG Fpz-Cz', and no 'EEG Fpz' to derive it\. Present: EEG Fpz-Oz, EEG Pz-Oz\..*mean 'EEG Fpz-Oz'. The same electrode, but another",
    ),
    Case(
        "unknown channel, in all",
        nothing,
        "error",
        r"error: No recording can be used \(3 left out\).*no channel .*'C3-M2'.*--channel",
        options=["--channel", "C3-M2"],
    ),
    Case(
        "duplicate channel names",
        patched((LABEL + 16, b"EEG Fpz-Cz")),
        "left out",
        r"PSG\.edf: 'EEG Fpz-Cz' can mean 2 channels",
    ),
    Case("flat signal", flat, "left out", r"Channel 'EEG Fpz-Cz' of .*PSG\.edf: .* flat"),
    Case(
        "saturated signal",
        recorded(saturated()),
        "left out",
        r"Channel 'EEG Fpz-Cz' of .*: The signal is saturated: 9\d% of all samples",
    ),
    Case(
        "values 10^6 too large",
        patched((PHYSICAL_MIN, b"-8E8"), (PHYSICAL_MAX, b"8E8")),
        "left out",
        r"Channel 'EEG Fpz-Cz' of .*: The amplitude of the signal is .* µV: it is not EEG\..*unit",
    ),
    Case(
        "values 10^6 too large, as the unit is wrong",
        patched((UNIT, b"V ")),
        "used",
        r"Channel 'EEG Fpz-Cz': its unit 'V' was read as uV",
        kept=10,
    ),
    Case(
        "1-Hz EEG",
        recorded(noise_uv(1), 1),
        "left out",
        r"'EEG Fpz-Cz' of .*: The signal is sampled at 1 Hz: too slow",
    ),
    *(
        Case(f"{rate:g} Hz", recorded(noise_uv(rate), rate), "used", "", kept=10)
        for rate in RATES_HZ
    ),
    # The hypnogram
    Case(
        "hypnogram longer than the recording",
        scored(*RUNS, (300.0, 600.0, "Sleep stage 2")),
        "used",
        "10.0 min of scored time after the end of the recording are left out",
        kept=10,
    ),
    Case(
        "hypnogram shorter than the recording",
        scored(*RUNS[:4]),
        "used",
        "2.0 min at the end of the recording are unscored",
        kept=6,
    ),
    Case(
        "hypnogram shifted by 15 s",
        scored(*shifted(15.0)),
        "used",
        "begin 15 s after those of the recording",
        kept=9,
    ),
    Case(
        "hypnogram that starts 15 s later",
        scored(*RUNS, start=START.replace(second=15)),
        "used",
        "own start is 15 s after the recording's.*begin 15 s after those of the recording",
        kept=9,
    ),
    Case(
        "overlapping",
        scored(*RUNS[:3], (110.0, 70.0, "Sleep stage 3"), *RUNS[4:]),
        "left out",
        r"scores some time twice: annotation 3 \(N2 from 90 to 120 s\) and annotation 4 \(N3 from "
        "110 s",
    ),
    Case(
        "overlapping, table",
        tabulated(table([*RUNS[:3], (90.0, 60.0, "N3"), *RUNS[4:]]).encode()),
        "left out",
        r"scoring\.csv scores some time twice: line 4 .* and line 5 ",
    ),
    Case(
        "hypnogram on no grid",
        scored(*RUNS[:5], (217.0, 53.0, "Sleep stage R")),
        "left out",
        r"do not lie on one grid of 30-s epochs: .* at 217 s",
    ),
    Case(
        "empty hypnogram",
        lambda folder: os.truncate(folder / SCORING, 0),
        "left out",
        r"hypnogram .*Hypnogram\.edf is empty",
    ),
    Case(
        "hypnogram without stages",
        scored((0.0, 300.0, "Lights off")),
        "left out",
        r"No annotation of .*Hypnogram\.edf is a sleep stage; it has 'Lights off'",
    ),
    Case(
        "unknown stage word",
        scored(*RUNS[:3], (120.0, 60.0, "Sleep stage N7"), *RUNS[4:]),
        "left out",
        "has an unknown stage in annotation 4.*: 'Sleep stage N7'.*Did you mean",
    ),
    Case(
        "unknown stage word, table",
        tabulated(table().replace("Sleep stage 3", "tief").encode()),
        "left out",
        r"scoring\.csv has an unknown stage in line 5.*: 'tief'.*Known are W, N1",
    ),
    Case(
        "wrong encoding, unmarked UTF-16",
        tabulated(table().encode("utf-16-le")),
        "left out",
        r"scoring\.csv cannot be read: it is not text \(or UTF-16 without a byte order mark\)",
    ),
    Case(
        "wrong encoding, Latin-1",
        tabulated(f"# geprüft von Böse\n{table()}".encode("latin-1")),
        "used",
        "read as Latin-1",
        kept=10,
    ),
    Case(
        "no sleep",
        scored((0.0, 300.0, "Sleep stage W")),
        "left out",
        r"Hypnogram\.edf scores no sleep",
    ),
    Case(
        "hypnogram of another night",
        lambda folder: shutil.copy(folder / "SC4012EC-Hypnogram.edf", folder / SCORING),
        "left out",
        "is of another night: it starts on 1989-03-30 17:00:00, the recording on 1989-04-24 16:13:00",
    ),
    # Their files
    Case(
        "recording without hypnogram",
        lambda folder: (folder / SCORING).unlink(),
        "left out",
        r"There is no hypnogram for .*PSG\.edf\.",
    ),
    Case(
        "hypnogram without recording",
        lambda folder: (folder / SCORING).rename(folder / "SC4091EC-Hypnogram.edf"),
        "left out",
        r"no recording for the hypnogram .*SC4091EC-Hypnogram\.edf.*There is no hypnogram for",
    ),
    Case(
        "same sample id twice",
        lambda folder: shutil.copytree(folder, folder / "again"),
        "error",
        r"Two recordings are named SC4001E0: .*PSG\.edf and .*again/.*PSG\.edf\..*sample id",
    ),
    # The machine
    Case(
        "output folder below a file",
        nothing,
        "error",
        r"The workspace .*/ws cannot be written: Not a directory\..*--workspace",
        options=["-w", f"{{folder}}/{PSG}/ws"],
    ),
    Case(
        "read-only output folder (simulated)",
        nothing,
        "error",
        r"The workspace .*/ws cannot be written: Read-only file system\..*--workspace",
        breakage=fails("mkdir", errno.EROFS),
    ),
    Case(
        "disk full (simulated)",
        nothing,
        "error",
        r"The workspace .*/ws cannot be written: No space left on device\..*what is drawn is kept",
        breakage=fails("write_bytes", errno.ENOSPC, after=15),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(
    case: Case, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.spoil(recordings)
    if case.breakage:
        case.breakage(monkeypatch)
    code, said = prepare(recordings, tmp_path / "ws", case.options, monkeypatch)
    brief = said.replace(f"{tmp_path}/", "") or "(nothing)"
    print(f"said: {case.name} [{case.outcome}, {case.kept} of {EPOCHS} pictures]: {brief}")

    assert re.search(case.words, said) if case.words else said == ""
    assert code == (1 if case.outcome == "error" else 0)
    if case.outcome == "error":
        assert "error: " in said
        assert not (tmp_path / "ws" / "prepare.json").exists()
        return
    results = json.loads((tmp_path / "ws" / "prepare.json").read_text(encoding="utf-8"))["results"]
    names = {name[:8]: name for name in (*results["recordings"], *results["left_out"])}
    bad = names["SC4001E0"]
    assert (bad in results["left_out"]) == (case.outcome == "left out")
    kept = {name: row["kept"] for name, row in results["recordings"].items()}
    assert kept.pop(bad, 0) == case.kept
    assert kept == {names[name]: EPOCHS for name in GOOD}
    if case.outcome == "left out":
        what, fix = results["left_out"][bad].split("\n", 1)
        assert what.endswith(".")
        assert fix
    else:
        notes = results["recordings"][bad]["notes"]
        assert all(f"note {bad}: {note}" in said for note in notes)  # what is said is kept, too
        assert bool(notes) == bool(case.words)
    epochs = read_epochs(tmp_path / "ws" / "epochs.csv")
    assert len(epochs) == case.kept + len(GOOD) * EPOCHS
    pictures = [tmp_path / "ws" / f"eeg_images_{e.split}" / e.image for e in epochs]
    assert all(path.stat().st_size for path in pictures)


def prepare(
    recordings: Path, workspace: Path, options: Sequence[str], patch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """Run the command; return its exit code and what it said of the recordings, on one line."""
    patch.setenv("COLUMNS", "1000")
    command = ["prepare", str(recordings), "-w", str(workspace), "--size", "32"]
    command += ["--eval-subjects", "SC402", *(o.format(folder=recordings) for o in options)]
    result = CliRunner().invoke(app, command)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    usual = r"Drawing |  Preparing: |recording +subject|SC4\S+ +SC4|all +\d|Left out|Workspace: |$"
    lines = [line for line in result.output.splitlines() if not re.match(usual, line)]
    return result.exit_code, " ".join(lines)
