"""BIDS: what entries mean stands in a JSON file beside the table, or further up in the data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.stages import UNSCORED
from eegtool.scorings.cohorts import find_nights
from eegtool.scorings.hypnograms import is_hypnogram, read_hypnogram, stage_per_epoch
from eegtool.scorings.levels import level_files, levels_of
from eegtool.scorings.scoring import ReadAs

# A coding that no other table has: without its Levels nobody could read it.
LEVELS = {
    "10": "Wakefulness",
    "11": {"Description": "NREM stage 1"},
    "12": "Stage N2 (AASM)",
    "13": "Non-REM 3",
    "14": "REM sleep",
    "99": "unscored",
    "lights": "Lights were turned off",
}
CODES = ("10", "11", "12", "99", "13", "14")
STAGES = ["W", "N1", "N2", UNSCORED, "N3", "REM"]


def lay(folder: Path, kind: str, column: str, levels: dict[str, Any], where: str = "") -> Path:
    """Make a data set of one night, its levels described beside it or in `where`."""
    (folder / "dataset_description.json").write_text("{}")
    table = folder / f"sub-01/ses-2/eeg/sub-01_ses-2_task-sleep_{kind}.tsv"
    table.parent.mkdir(parents=True)
    rows = "".join(f"{i * 30}\t30\t{code}\n" for i, code in enumerate(CODES))
    table.write_text(f"onset\tduration\t{column}\n{rows}")
    sidecar = folder / where if where else table.with_suffix(".json")
    sidecar.write_text(json.dumps({column: {"Levels": levels}, "onset": {"Units": "s"}}))
    return table


@pytest.mark.parametrize(
    "where",
    [
        "",
        "task-sleep_{}.json",
        "{}.json",
        "sub-01/sub-01_task-sleep_{}.json",
        "sub-01/ses-2/sub-01_ses-2_{}.json",
    ],
)
@pytest.mark.parametrize(
    ("kind", "column"), [("events", "trial_type"), ("events", "stage"), ("hypnogram", "stage")]
)
def test_entries_are_read_by_their_levels(
    tmp_path: Path, kind: str, column: str, where: str
) -> None:
    table = lay(tmp_path, kind, column, LEVELS, where.format(kind))
    assert is_hypnogram(table)
    hypnogram = read_hypnogram(table, None, 180.0)
    assert stage_per_epoch(hypnogram, 6) == STAGES
    assert f"The meaning of '{column}' is that of the Levels in its JSON file." in hypnogram.notes
    table.with_name("sub-01_ses-2_task-sleep_eeg.edf").touch()
    assert [n.hypnogram_path for n in find_nights([tmp_path]).nights] == [table]


def test_the_nearest_file_counts(tmp_path: Path) -> None:
    table = lay(tmp_path, "events", "trial_type", LEVELS)
    above = tmp_path / "task-sleep_events.json"
    above.write_text(json.dumps({"trial_type": {"Levels": {"10": "REM", "15": "N2"}}}))
    (tmp_path / "task-nap_events.json").write_text("no JSON, but of another task")
    assert level_files(table) == [table.with_suffix(".json"), above]
    codes = dict(levels_of(table)["trial_type"])
    assert (codes["10"], codes["15"], codes["12"]) == ("W", "N2", "N2")
    assert "lights" not in codes


def test_levels_above_the_data_set_are_of_another_one(tmp_path: Path) -> None:
    (tmp_path / "events.json").write_text(json.dumps({"trial_type": {"Levels": LEVELS}}))
    inner = tmp_path / "inner"
    inner.mkdir()
    table = lay(inner, "events", "trial_type", {})
    assert levels_of(table) == {}
    assert not is_hypnogram(table)


def test_what_the_user_says_counts_more(tmp_path: Path) -> None:
    table = lay(tmp_path, "hypnogram", "stage", LEVELS)
    told = (("10", "REM"), ("11", "W"), ("12", "N2"), ("13", "N3"), ("14", "N1"), ("99", UNSCORED))
    hypnogram = read_hypnogram(table, None, 180.0, ReadAs(codes=told))
    assert stage_per_epoch(hypnogram, 6) == ["REM", "W", "N2", UNSCORED, "N3", "N1"]


def test_words_keep_their_meaning(tmp_path: Path) -> None:
    table = lay(tmp_path, "events", "trial_type", {"N2": "REM sleep", "R": "AASM stage R"})
    table.write_text("onset\tduration\ttrial_type\n0\t30\tN2\n30\t30\tR\n")
    assert stage_per_epoch(read_hypnogram(table, None, 60.0), 2) == ["N2", "REM"]


@pytest.mark.parametrize(
    ("levels", "what"),
    [
        ({"10": "Wake", "12": "N2"}, r"unknown stage in line 3: '11'"),
        ({**LEVELS, "13": "light sleep"}, r"unknown stage in line 6: '13'"),
    ],
)
def test_a_level_that_is_missing_is_refused(
    tmp_path: Path, levels: dict[str, Any], what: str
) -> None:
    table = lay(tmp_path, "hypnogram", "stage", levels)
    with pytest.raises(EegToolError, match=what):
        read_hypnogram(table, None, 180.0)


def test_a_broken_json_file_is_named(tmp_path: Path) -> None:
    table = lay(tmp_path, "events", "trial_type", LEVELS)
    table.with_suffix(".json").write_text("{")
    assert not is_hypnogram(table)
    with pytest.raises(EegToolError, match=r"sub-01_ses-2_task-sleep_events\.json"):
        read_hypnogram(table, None, 180.0)
