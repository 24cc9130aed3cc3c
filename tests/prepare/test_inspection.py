from __future__ import annotations

import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from eegtool.core.console import console
from eegtool.core.errors import EegToolError
from eegtool.prepare import inspection, step
from eegtool.prepare.inspection import clock
from eegtool.prepare.options import InspectSettings, PrepareSettings


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    out = io.StringIO()
    monkeypatch.setattr(inspection, "console", Console(file=out, width=100, highlight=False))
    return out


@pytest.fixture(autouse=True)
def _console(monkeypatch: pytest.MonkeyPatch) -> None:
    """--json turns the console of the process to the error stream; back again."""
    monkeypatch.setattr(console, "stderr", False)


def facts(capsys: pytest.CaptureFixture[str], *files: Path, **settings: Any) -> list[Any]:
    capsys.readouterr()
    inspection.run(InspectSettings(list(files), json=True, **settings))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return list(json.loads(out)["files"])


def test_a_recording(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recordings / "SC4001E0-PSG.edf"
    (fact,) = facts(capsys, path)
    assert fact == {
        "file": str(path),
        "format": "EDF",
        "start": "1989-04-24 16:13:00",
        "duration_s": 300.0,
        "simulated": True,
        "channels": [
            {"name": "EEG Fpz-Cz", "sfreq_hz": 100.0, "unit": "uV"},
            {"name": "EEG Pz-Oz", "sfreq_hz": 100.0, "unit": "uV"},
        ],
        "notes": [],
        "montages": {
            "eeg": {"eeg:EEG Fpz-Cz": "EEG Fpz-Cz"},
            "psg": {
                "eeg:EEG Fpz-Cz": "EEG Fpz-Cz",
                **dict.fromkeys(("eog:E1-M2", "eog:E2-M2", "emg:chin")),
            },
            "aasm": {
                "eeg:F4-M1": "EEG Fpz-Cz",
                "eeg:C4-M1": None,
                "eeg:O2-M1": "EEG Pz-Oz",
                **dict.fromkeys(("eog:E1-M2", "eog:E2-M2", "emg:chin")),
            },
        },
        "prepare": {
            "cohort": "sleep-edf",
            "recording": "SC4001E0",
            "subject": "SC400",
            "night": 1,
            "hypnogram": str(recordings / "SC4001EC-Hypnogram.edf"),
            "stages": dict.fromkeys(("W", "N1", "N2", "N3", "REM"), 2),
            "first_onset_s": 0.0,
            "first_sleep_s": 30.0,
            "kept": dict.fromkeys(("W", "N1", "N2", "N3", "REM"), 2),
            "dropped": {},
            "trimmed": 0,
            "notes": [],
        },
    }


def test_a_hypnogram(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recordings / "SC4001EC-Hypnogram.edf"
    (fact,) = facts(capsys, path)
    assert fact == {
        "file": str(path),
        "format": "hypnogram",
        "start": "1989-04-24 16:13:00",
        "duration_s": 300.0,
        "stages": dict.fromkeys(("W", "N1", "N2", "N3", "REM"), 2),
        "first_sleep_s": 30.0,
        "last_sleep_s": 270.0,
    }


def test_a_table_of_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scoring.csv"
    path.write_text("onset,duration,stage\n0,600,W\n600,60,N2\n660,30,?\n690,30,R\n")
    (fact,) = facts(capsys, path)
    assert fact["stages"] == {"W": 20, "N2": 2, "REM": 1, "unscored": 1}
    assert (fact["first_sleep_s"], fact["last_sleep_s"]) == (600.0, 720.0)


def test_what_is_said(recordings: Path, printed: io.StringIO) -> None:
    path = recordings / "SC4001E0-PSG.edf"
    inspection.run(InspectSettings([path], wake_margin=0.0))
    lines = [" ".join(line.split()) for line in printed.getvalue().splitlines() if line.strip()]
    assert lines == [
        str(path),
        "format EDF, simulated",
        "start 1989-04-24 16:13:00",
        "duration 0:05:00",
        "channel EEG Fpz-Cz 100 Hz uV",
        "channel EEG Pz-Oz 100 Hz uV",
        "montage eeg 1 of 1: eeg:EEG Fpz-Cz ← EEG Fpz-Cz",
        "montage psg 1 of 4: eeg:EEG Fpz-Cz ← EEG Fpz-Cz; no eog:E1-M2, eog:E2-M2, emg:chin",
        "montage aasm 2 of 6: eeg:F4-M1 ← EEG Fpz-Cz, eeg:O2-M1 ← EEG Pz-Oz; no eeg:C4-M1, eog:E1-M2,",
        "eog:E2-M2, emg:chin",
        *re.findall("hypnogram .*", "\n".join(lines)),
        "subject SC400, night 1 (sleep-edf)",
        "epochs W 2 N1 2 N2 2 N3 2 REM 2",
        "first sleep after 0:00:30",
        "prepare would keep 8: N1 2 N2 2 N3 2 REM 2 (2 trimmed, 0 dropped)",
    ]


def test_what_is_said_of_a_hypnogram(recordings: Path, printed: io.StringIO) -> None:
    inspection.run(InspectSettings([recordings / "SC4001EC-Hypnogram.edf"]))
    text = " ".join(printed.getvalue().split())
    assert (
        "format hypnogram start 1989-04-24 16:13:00 duration 0:05:00 epochs W 2 N1 2 N2 2 N3 2 REM 2"
        in text
    )
    assert text.endswith("first sleep after 0:00:30")


def test_a_folder(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recordings / "readme.txt").write_text("What this is.")
    found = facts(capsys, recordings)
    assert [Path(fact["file"]) for fact in found] == sorted(recordings.glob("*.edf"))
    assert [fact["format"] for fact in found] == ["EDF", "hypnogram"] * 3
    assert [fact["prepare"]["subject"] for fact in found[::2]] == ["SC400", "SC401", "SC402"]


def test_it_says_what_prepare_does(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.truncate(recordings / "SC4001E0-PSG.edf", 768 + 8 * 12_000)
    (recordings / "SC4021E0-PSG.edf").write_text("not EDF")
    said = {
        Path(fact["file"]).name[:8]: fact.get("prepare") or fact
        for fact in facts(capsys, recordings, wake_margin=0.0)
        if "PSG" in fact["file"]
    }
    settings = PrepareSettings([recordings], tmp_path / "ws", size=32, wake_margin=0.0)
    step.run(settings)
    results = json.loads((tmp_path / "ws" / "prepare.json").read_text())["results"]
    for name, result in results["recordings"].items():
        assert said[name]["kept"] == result["stages"]
        assert said[name]["trimmed"] == result["trimmed"]
        assert said[name]["notes"] == result["notes"]
    assert results["left_out"] == {"SC4021E0": said["SC4021E0"]["error"]}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"channel": ["C3"]}, "There is no channel 'C3'"),
        ({"strict": True}, None),
        ({"cohort": "isruc"}, "There is no recording of the cohort 'isruc'"),
    ],
)
def test_what_prepare_would_leave_out(
    recordings: Path,
    capsys: pytest.CaptureFixture[str],
    printed: io.StringIO,
    settings: dict[str, Any],
    reason: str | None,
) -> None:
    path = recordings / "SC4001E0-PSG.edf"
    (fact,) = facts(capsys, path, **settings)
    assert [channel["name"] for channel in fact["channels"]] == ["EEG Fpz-Cz", "EEG Pz-Oz"]
    inspection.run(InspectSettings([path], **settings))
    said = " ".join(printed.getvalue().split())
    assert ("would leave it out" in said) == bool(reason)
    if reason:
        assert reason in fact["prepare"]["error"]
        assert reason in said


def test_a_recording_without_hypnogram(
    recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recordings / "SC4001EC-Hypnogram.edf").unlink()
    (fact,) = facts(capsys, recordings / "SC4001E0-PSG.edf")
    assert "There is no hypnogram" in fact["prepare"]["error"]
    assert fact["duration_s"] == 300.0


def test_strict(recordings: Path, capsys: pytest.CaptureFixture[str], printed: io.StringIO) -> None:
    path = recordings / "SC4001E0-PSG.edf"
    os.truncate(path, 768 + 8 * 12_000)
    (fact,) = facts(capsys, path)
    lost = "The file is cut off: the last 60 s of 300 s are missing."
    assert fact["notes"] == [lost]
    inspection.run(InspectSettings([path]))
    assert " ".join(printed.getvalue().split()).count(lost) == 1  # header and plan say it both
    with pytest.raises(EegToolError, match="None of 1 files could be read"):
        inspection.run(InspectSettings([path], strict=True))
    assert f"cannot be read {path}: {lost}" in printed.getvalue()


def test_a_broken_file_does_not_hide_the_others(
    recordings: Path, printed: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = recordings / "SC4001E0-PSG.edf"
    broken.write_text("not [EDF]")
    files = [broken, recordings / "SC4012E0-PSG.edf"]
    first, second = facts(capsys, *files)
    assert set(first) == {"file", "error"}
    assert second["format"] == "EDF"
    inspection.run(InspectSettings(files))
    assert f"cannot be read {broken} is no EDF" in printed.getvalue()
    assert "would keep 10" in printed.getvalue()


def test_if_nothing_can_be_read(recordings: Path, printed: io.StringIO) -> None:
    path = recordings / "SC4001E0-PSG.edf"
    path.write_text("not EDF")
    with pytest.raises(EegToolError, match="None of 1 files could be read"):
        inspection.run(InspectSettings([path]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere.edf", "nowhere.edf does not exist"),
        (
            lambda folder: (folder / "new").mkdir() or folder / "new",
            "There is no recording in .*new",
        ),
    ],
)
def test_nothing_to_look_at(recordings: Path, make: Any, message: str) -> None:
    with pytest.raises(EegToolError, match=message) as raised:
        inspection.run(InspectSettings([make(recordings)]))
    assert raised.value.fix


def test_nothing_is_written(recordings: Path, printed: io.StringIO) -> None:
    before = {path: path.read_bytes() for path in recordings.rglob("*") if path.is_file()}
    inspection.run(InspectSettings([recordings]))
    after = {path: path.read_bytes() for path in recordings.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3599.4, "0:59:59"), (79_500, "22:05:00")],
)
def test_clock(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected


def test_settings_are_those_of_prepare() -> None:
    """What inspect says prepare would do holds for prepare's own defaults."""
    one, other = InspectSettings([]), PrepareSettings([])
    for name in ("cohort", "channel", "wake_margin", "strict", "json"):
        assert getattr(one, name) == getattr(other, name)
    assert replace(one, json=True).json


def test_another_channel_is_looked_at_where_the_usual_one_is_missing(
    tmp_path: Path,
    write_edf: Any,
    printed: io.StringIO,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Who has never seen the tool shall see that the scoring fits, and what to type."""
    data_uv = np.random.default_rng(0).normal(0, 30, 10 * 3000)
    labels = ("EOG left", "F3-M2", "C4A1")
    path = write_edf([(label, data_uv, 100.0) for label in labels], name="P01.edf")
    path.with_suffix(".txt").write_text("W\nW\nN1\nN2\nN2\nN2\nN3\nN3\nREM\nREM\n")
    (fact,) = facts(capsys, path)
    assert fact["suggested_channel"] == "C4A1"
    assert sum(fact["prepare"]["kept"].values()) == 10
    inspection.run(InspectSettings([path]))
    said = " ".join(printed.getvalue().split())
    assert "with --channel 'C4A1' (there is no 'EEG Fpz-Cz', its default) it would keep 10" in said
    (fact,) = facts(capsys, path, channel=["EEG Pz-Oz"])
    assert "suggested_channel" not in fact
    assert "There is no channel 'EEG Pz-Oz'" in fact["prepare"]["error"]


def test_links_to_what_is_not_here_are_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "P01.edf").symlink_to("../annex/P01")
    with pytest.raises(EegToolError, match=r"P01\.edf is a link to .*annex/P01, which is not here"):
        inspection.run(InspectSettings([tmp_path / "data"]))
