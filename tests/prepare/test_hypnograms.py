from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.stages import MOVEMENT, STAGES, UNSCORED
from eegtool.prepare.hypnograms import ScoredRun, read_hypnogram, stage_per_epoch
from eegtool.prepare.signals import trim_wake

DATA = Path(__file__).parents[1] / "data"
REAL = sorted((DATA / "sleep_edf_hypnograms").glob("*-Hypnogram.edf"))


@pytest.fixture(scope="module")
def truth() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Stage indices and epoch indices per night, read from the same nights by other means."""
    with np.load(DATA / "sleep_edf_stages.npz", allow_pickle=False) as file:
        nights = {key.removesuffix("_stage") for key in file if key.endswith("_stage")}
        return {
            night[:6]: (file[f"{night}_stage"], file[f"{night}_epoch_index"]) for night in nights
        }


def test_all_nights_are_there(truth: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    assert len(REAL) == 14
    assert {path.name[:6] for path in REAL} == set(truth)


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.name[:6])
def test_real_hypnograms(path: Path, truth: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    stage, epoch_index = truth[path.name[:6]]
    n_epochs = int(epoch_index[-1]) + 1
    stages = stage_per_epoch(read_hypnogram(path), n_epochs)
    assert len(stages) == n_epochs
    assert [stages[i] for i in epoch_index] == [STAGES[s] for s in stage]
    # Whatever the other reading has no stage for, this one has none for either.
    rest = set(range(n_epochs)) - set(epoch_index.tolist())
    assert {stages[i] for i in rest} <= {MOVEMENT, UNSCORED}


def test_sc4001_keeps_841_epochs() -> None:
    runs = read_hypnogram(REAL[0])
    assert REAL[0].name == "SC4001EC-Hypnogram.edf"
    stages = stage_per_epoch(runs, 2650)
    kept = [stages[i] for i in trim_wake(stages, 30) if stages[i] in STAGES]
    assert {stage: kept.count(stage) for stage in STAGES} == {
        "W": 188,
        "N1": 58,
        "N2": 250,
        "N3": 220,
        "REM": 125,
    }
    assert len(kept) == 841


def test_stages_3_and_4_are_n3(write_hypnogram: Callable[..., Path]) -> None:
    path = write_hypnogram(
        [(60.0, 30.0, "Sleep stage 4"), (0.0, 30.0, "Sleep stage R"), (30.0, 30.0, "Sleep stage 3")]
    )
    assert read_hypnogram(path) == (
        ScoredRun(0.0, 30.0, "REM"),
        ScoredRun(30.0, 30.0, "N3"),
        ScoredRun(60.0, 30.0, "N3"),
    )


def test_other_annotations_are_passed_over(write_hypnogram: Callable[..., Path]) -> None:
    path = write_hypnogram(
        [(0.0, None, "Lights off"), (0.0, 30.0, "Sleep stage 2"), (10.0, 3.0, "EEG arousal")]
    )
    assert read_hypnogram(path) == (ScoredRun(0.0, 30.0, "N2"),)


def run(onset_s: float, duration_s: float, stage: str) -> ScoredRun:
    return ScoredRun(onset_s, duration_s, stage)


@pytest.mark.parametrize(
    ("runs", "stages"),
    [
        pytest.param([], "? ? ? ?", id="nothing"),
        pytest.param([run(0, 120, "W")], "W W W W", id="whole"),
        pytest.param([run(0, 30, "W"), run(90, 30, "N2")], "W ? ? N2", id="gap"),
        pytest.param([run(0, 45, "W"), run(45, 75, "N1")], "W ? N1 N1", id="change-in-an-epoch"),
        pytest.param([run(0, 15, "N2"), run(15, 15, "N2")], "? ? ? ?", id="halves"),
        pytest.param([run(10, 100, "REM")], "? REM REM ?", id="partly-covered"),
        pytest.param([run(0, 29, "REM")], "? ? ? ?", id="too-short"),
        pytest.param([run(30, 0, "REM")], "? ? ? ?", id="no-duration"),
        pytest.param([run(-60, 90, "W"), run(30, 30, "N1")], "W N1 ? ?", id="before-recording"),
        pytest.param([run(90, 3000, "W")], "? ? ? W", id="longer-than-recording"),
        pytest.param([run(600, 30, "W")], "? ? ? ?", id="after-recording"),
        pytest.param(
            [run(0, 30, "movement time"), run(30, 30, "unscored")], "M ? ? ?", id="dropped-kinds"
        ),
        pytest.param(
            [run(0, 30 - 1e-9, "W"), run(30 + 1e-9, 60, "N1")], "W N1 N1 ?", id="rounding-errors"
        ),
    ],
)
def test_epochs_of_runs(runs: list[ScoredRun], stages: str) -> None:
    words = {"?": UNSCORED, "M": MOVEMENT}
    assert stage_per_epoch(runs, 4) == [words.get(word, word) for word in stages.split()]


@pytest.mark.parametrize(
    "annotations",
    [
        [(0.0, 30.0, "Lights off")],
        [(0.0, 30.0, "Sleep stage ?"), (30.0, 30.0, "Movement time")],
        [(0.0, 900.0, "Sleep stage W")],
    ],
)
def test_no_scored_sleep_is_an_error(
    write_hypnogram: Callable[..., Path], annotations: list[tuple[float, float, str]]
) -> None:
    path = write_hypnogram(annotations)
    with pytest.raises(EegToolError) as raised:
        read_hypnogram(path)
    assert raised.value.what == f"The hypnogram {path} scores no sleep."
    assert "'Sleep stage 2'" in raised.value.fix


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.edf", None, "does not exist"),
        ("empty.edf", b"", "is not an EDF"),
        ("text.edf", b"time,stage\n0,W\n", "is not an EDF"),
        ("short.edf", b"0       " + b" " * 100, "cannot be read|scores no sleep"),
        ("x.hyp", b"0       " + b" " * 300, "Unknown annotation file format"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EegToolError, match=message) as raised:
        read_hypnogram(path)
    assert str(path) in raised.value.what
    assert raised.value.fix
