from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import mne
import pytest

from eegtool.core.answers import read_stage
from eegtool.core.stages import STAGES
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.nights import lay_out
from eegtool.report.showing import exports
from eegtool.report.showing.exports import ScoredEpoch, scored_epochs
from eegtool.report.showing.hypnogram import picture
from eegtool.scorings.hypnograms import read_hypnogram, stage_per_epoch

STAGES_OF = ("W", "W", "N1", "N2", None, "N3", "REM", "REM")


@pytest.fixture
def scored() -> list[ScoredEpoch]:
    epochs = [ScoredEpoch(i + 2, 30.0 * (i + 2), s) for i, s in enumerate(STAGES_OF)]
    return [e for e in epochs if e.epoch_index != 7]  # a gap where N3 was


def test_edf_is_read_back_by_mne_and_by_prepare(tmp_path: Path, scored: list[ScoredEpoch]) -> None:
    path = tmp_path / "x_hypnogram.edf"
    exports.write_annotations(path, scored)
    told = mne.read_annotations(path)
    assert list(zip(told.onset, told.duration, told.description, strict=True)) == [
        (60, 60, "Sleep stage W"),
        (120, 30, "Sleep stage N1"),
        (150, 30, "Sleep stage N2"),
        (180, 60, "Sleep stage ?"),
        (240, 60, "Sleep stage R"),
    ]
    back = stage_per_epoch(read_hypnogram(path, None, 10 * 30.0), 10)
    expected = ["unscored", "unscored", "W", "W", "N1", "N2", "unscored", "unscored", "REM", "REM"]
    assert list(back) == expected


def test_events_are_bids_and_read_back_by_prepare(
    tmp_path: Path, scored: list[ScoredEpoch]
) -> None:
    path = tmp_path / "x_events.tsv"
    exports.write_events(path, scored)
    rows = list(csv.DictReader(io.StringIO(path.read_text()), delimiter="\t"))
    assert rows[0] == {"onset": "60.000", "duration": "30", "trial_type": "W"}
    assert [r["trial_type"] for r in rows] == ["W", "W", "N1", "N2", "n/a", "R", "R"]
    back = stage_per_epoch(read_hypnogram(path, None, 10 * 30.0), 10)
    assert [back[i] for i in (2, 3, 4, 5, 8, 9)] == ["W", "W", "N1", "N2", "REM", "REM"]
    assert back[6] == "unscored"


def test_table_holds_everything(tmp_path: Path) -> None:
    shares = (0.1, 0.2, 0.6, 0.05, 0.05)
    epochs = [
        ScoredEpoch(0, 12.5, "N2", "N3", shares, "stage\n2"),
        ScoredEpoch(1, 42.5, None, "W"),
        ScoredEpoch(2, 72.5, None, missing=True),
    ]
    path = tmp_path / "x.csv"
    exports.write_table(path, epochs)
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    assert list(rows[0])[:5] == ["epoch_index", "onset_s", "stage", "true", "certainty"]
    assert [float(rows[0][f"prob_{s}"]) for s in STAGES] == list(shares)
    assert (rows[0]["onset_s"], rows[0]["certainty"], rows[0]["read"]) == (
        "12.5",
        "0.600000",
        "stage 2",
    )
    assert [r["read"] for r in rows[1:]] == ["unreadable", "missing"]
    assert rows[1]["prob_W"] == ""


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b", "..", "", ".hidden", "a\x00b", "日本", "睡" * 300]
)
def test_file_names_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    (safe,) = exports.file_names([name])
    (tmp_path / f".{safe}_hypnogram.edf.0123abcd.tmp").touch()  # no longer than a name may be
    assert (tmp_path / f"{safe}.csv").resolve().parent == tmp_path.resolve()
    assert not safe.startswith(".")
    assert "\x00" not in safe


@pytest.mark.parametrize(
    "names",
    [
        ["a b", "a/b", "a_b"],
        ["a b", "a/b", "a_b-2"],  # as the second one would be called
        ["a_b-2", "a b", "a/b"],
        ["Night", "NIGHT", "night"],  # one file where case does not count
        ["", ".", "..", "recording"],
        ["u\u0308", "\u00fc"],  # one file on a Mac
        ["x" * 300, "x" * 299],
    ],
)
def test_recordings_whose_file_names_become_equal_are_kept_apart(names: list[str]) -> None:
    found = exports.file_names(names)
    assert len({name.casefold() for name in found}) == len(names)


def test_texts_in_a_table_are_no_formulas(tmp_path: Path) -> None:
    epochs = [
        ScoredEpoch(0, 0.0, "N2", read="=N2", why="", words=" =HYPERLINK(1)"),
        ScoredEpoch(1, 30.0, "W", read="W", words="-2+3"),
        ScoredEpoch(2, 60.0, None, why="+1+1", missing=True),
    ]
    exports.write_table(tmp_path / "x.csv", epochs)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "x.csv").read_text("utf-8"), newline="")))
    assert [row["words"] for row in rows] == ["' =HYPERLINK(1)", "'-2+3", ""]
    assert [row["read"] for row in rows] == ["'=N2", "W", ""]
    assert rows[2]["unstaged_because"] == "'+1+1"


def test_a_night_is_exported_with_its_grid_and_gaps(
    epoch: Callable[..., AnsweredEpoch],
) -> None:
    text = "The stage is N2."
    epochs = [
        epoch(4, "W", None, onset_s=125.0),
        epoch(6, "N2", None, onset_s=185.0, text=text, reading=read_stage(text)),
    ]
    (night,), _ = lay_out(epochs)
    found = scored_epochs(night)
    assert [(e.epoch_index, e.onset_s, e.missing) for e in found] == [
        (4, 125.0, False),
        (5, 155.0, True),
        (6, 185.0, False),
    ]
    assert found[2].read == "N2"


def test_picture_has_probabilities_and_is_a_file_of_its_own(
    epoch: Callable[..., AnsweredEpoch],
) -> None:
    shares = (0.1, 0.1, 0.7, 0.05, 0.05)
    told = [epoch(i, "N2", "N2", probabilities=shares) for i in range(900)]
    (night,), _ = lay_out(told)
    drawn = picture(night)
    assert drawn.png.startswith(b"\x89PNG")
    assert drawn.svg.startswith("<?xml")
    assert "probability" in drawn.inline
    assert len(drawn.inline) < 150_000
    (plain,), _ = lay_out([epoch(i, None, "N2") for i in range(90)])
    without = picture(plain)
    assert "probability" not in without.inline
    assert "errors" not in without.inline
