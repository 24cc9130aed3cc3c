"""What a model that has learnt to stage makes of pictures, features and a temperature."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eegtool.core.probabilities import ece
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace
from tests.e2e.conftest import Walk


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def shares_of(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.array([list(row["metadata"]["stage_probabilities"].values()) for row in rows])


@pytest.fixture(scope="module")
def model(walk: Walk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the trained adapter, to which a calibration may be added."""
    folder = tmp_path_factory.mktemp("model") / "real"
    return Path(shutil.copytree(walk.root / "checkpoints" / "real", folder))


@pytest.fixture(scope="module")
def scored(walk: Walk, model: Path) -> Path:
    path = walk.root / "scored.jsonl"
    asked = ("--model-path", str(model), "--mode", "score", "--answers-file", str(path))
    walk.eegvlm("evaluate", *asked)
    return path


def test_the_likeliest_answer_is_what_the_model_writes(walk: Walk, scored: Path) -> None:
    written = [row["text"] for row in rows_of(Workspace(walk.root).answers)]
    likeliest = [row["text"] for row in rows_of(scored)]
    same = sum(a == b for a, b in zip(written, likeliest, strict=True))
    assert same >= 0.95 * len(written)  # greedy words against the mean over an answer's tokens
    assert np.abs(shares_of(rows_of(scored)).sum(axis=1) - 1).max() < 1e-5


def test_noise_in_place_of_the_picture_changes_the_answers(
    walk: Walk, model: Path, scored: Path, tmp_path: Path
) -> None:
    images = tmp_path / "noise"
    rng = np.random.default_rng(0)
    for path in Workspace(walk.root).images("eval").rglob("*.png"):
        noise = images / path.relative_to(Workspace(walk.root).images("eval"))
        noise.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            size = picture.size
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(noise)
    path = tmp_path / "noise.jsonl"
    asked = ("--model-path", str(model), "--mode", "score", "--answers-file", str(path))
    walk.eegvlm("evaluate", *asked, "--image-folder", str(images))
    moved = np.abs(shares_of(rows_of(path)) - shares_of(rows_of(scored))).max(axis=1)
    assert (moved > 1e-3).mean() > 0.9


def test_a_calibration_fitted_on_one_subject_is_applied_to_the_other(
    walk: Walk, model: Path, scored: Path, tmp_path: Path
) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    asked = ("--model-path", str(model), "--mode", "score")
    said = walk.eegvlm(
        *("evaluate", *asked, "--calibrate", "--subjects", "SC405", "--answers-file", str(one))
    )
    assert "Calibration: temperature" in said
    fitted = json.loads((model / "calibration.json").read_text())
    assert fitted["subjects"] == ["SC405"]
    assert fitted["nll_after"] <= fitted["nll_before"]
    walk.eegvlm("evaluate", *asked, "--subjects", "SC406", "--answers-file", str(other))
    rows = rows_of(other)
    assert {row["metadata"]["subject"] for row in rows} == {"SC406"}
    assert {row["metadata"]["calibration_temperature"] for row in rows} == {fitted["temperature"]}
    assert not any("calibrated_on" in row["metadata"] for row in rows)
    plain = {row["question_id"]: row for row in rows_of(scored)}
    before = [plain[row["question_id"]] for row in rows]
    assert [row["text"] for row in rows] == [STAGES[i] for i in shares_of(rows).argmax(axis=1)]
    stages = [row["label"] for row in rows]
    figures = [ece(shares_of(some), stages) for some in (before, rows)]
    assert all(0 <= figure < 0.5 for figure in figures)
    print(f"temperature {fitted['temperature']:.3f}; ECE {figures[0]:.3f} → {figures[1]:.3f}")
    assert set(stages) <= set(STAGES)
