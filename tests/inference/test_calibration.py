from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.stages import STAGES
from eegtool.inference.calibration import (
    Calibration,
    calibrate,
    ece,
    fit_temperature,
    nll,
    read_calibration,
    write_calibration,
)
from eegtool.inference.scoring import probabilities

WEIGHTS = "cd" * 32


def drawn(n: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Draw scores, and true stages from their softmax at `temperature`: that one is to be found."""
    rng = np.random.default_rng(seed)
    log_likelihood = rng.normal(-3, 2, (n, 5))
    edges = probabilities(log_likelihood, temperature).cumsum(axis=1)
    columns = (rng.random((n, 1)) > edges[:, :-1]).sum(axis=1)
    return log_likelihood, [STAGES[column] for column in columns]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_is_found(temperature: float) -> None:
    log_likelihood, stages = drawn(20_000, temperature)
    found = fit_temperature(log_likelihood, stages)
    assert found == pytest.approx(temperature, rel=0.05)
    least = nll(log_likelihood, stages, found)
    for other in (0.9 * found, 1.1 * found, temperature):
        assert least <= nll(log_likelihood, stages, other)


def test_only_differences_count() -> None:
    """How likely an epoch makes any label at all changes nothing."""
    log_likelihood, stages = drawn(500, 2.0)
    shifted = log_likelihood + np.random.default_rng(1).normal(0, 5, (500, 1))
    assert fit_temperature(shifted, stages) == pytest.approx(
        fit_temperature(log_likelihood, stages), rel=1e-4
    )


def test_calibration_makes_it_as_sure_as_it_is_right() -> None:
    log_likelihood, stages = drawn(20_000, 4.0)
    found = calibrate(
        log_likelihood,
        stages,
        mode="score",
        subjects=["S02", "S01", "S02"],
        adapter_sha256=WEIGHTS,
    )
    assert (found.mode, found.subjects, found.n) == ("score", ("S01", "S02"), 20_000)
    assert found.adapter_sha256 == WEIGHTS
    assert found.nll_after < found.nll_before - 0.1
    assert found.ece_before > 0.2
    assert found.ece_after < 0.02
    other, truths = drawn(20_000, 4.0, seed=9)
    assert ece(probabilities(other, found.temperature), truths) < 0.02
    assert ece(probabilities(other), truths) > 0.2


def surely(*sure: float) -> np.ndarray:
    """Return rows in which W has these probabilities, and the others share what is left."""
    return np.array([[p, *[(1 - p) / 4] * 4] for p in sure])


W, X = "W", "N2"
# Rows, true stages, bins, and the error worked out by hand.
ECE: dict[str, tuple[np.ndarray, list[str], int, float]] = {
    "sure and right": (surely(1, 1), [W, W], 15, 0.0),
    "sure and wrong": (surely(1, 1), [X, X], 15, 1.0),
    "as sure as right": (surely(0.75, 0.75, 0.75, 0.75), [W, W, W, X], 15, 0.0),
    "within a bin errors cancel": (surely(0.88, 0.92), [W, X], 5, 0.4),
    "between bins they do not": (surely(0.5, 0.9), [W, X], 2, (0.5 + 0.9) / 2),
    "a bin has its upper end": (surely(0.6, 0.61), [X, W], 5, (0.6 + 0.39) / 2),
    "the least sure": (surely(0.2, 0.2), [W, X], 5, 0.3),
    "bins count by their epochs": (surely(0.9, 0.9, 0.9, 0.5), [W] * 4, 10, (0.3 + 0.5) / 4),
}


@pytest.mark.parametrize(("rows", "stages", "bins", "error"), ECE.values(), ids=ECE.keys())
def test_ece(rows: np.ndarray, stages: list[str], bins: int, error: float) -> None:
    assert ece(rows, stages, bins) == pytest.approx(error)


def test_nll() -> None:
    assert nll(np.log(surely(0.8, 0.6)), [W, X]) == pytest.approx(-np.log(0.8 * 0.1) / 2)
    assert nll(np.log(surely(0.8)), [W], 1e9) == pytest.approx(np.log(5))


def without_epochs() -> tuple[np.ndarray, list[str]]:
    return np.zeros((0, 5)), []


def not_finite() -> tuple[np.ndarray, list[str]]:
    log_likelihood, stages = drawn(9, 1.0)
    log_likelihood[4, 2] = np.nan
    return log_likelihood, stages


def of_unknown_stage() -> tuple[np.ndarray, list[str]]:
    log_likelihood, stages = drawn(9, 1.0)
    return log_likelihood, ["", *stages[1:]]


def all_right() -> tuple[np.ndarray, list[str]]:
    return np.log(surely(0.8, 0.9, 0.7)), [W] * 3


def all_wrong() -> tuple[np.ndarray, list[str]]:
    return np.log(surely(0.8, 0.9, 0.7)), [X] * 3


WITHOUT_OPTIMUM = {
    without_epochs: "there are no epochs",
    not_finite: "not finite",
    of_unknown_stage: "'' is no stage",
    all_right: "right by a margin",
    all_wrong: "tell nothing about the stages",
}


@pytest.mark.parametrize(
    ("given", "message"), WITHOUT_OPTIMUM.items(), ids=[f.__name__ for f in WITHOUT_OPTIMUM]
)
def test_what_cannot_be_calibrated(given: Any, message: str) -> None:
    with pytest.raises(EegToolError, match=message) as caught:
        fit_temperature(*given())
    assert "Calibrate on" in caught.value.fix


@pytest.fixture
def calibration() -> Calibration:
    log_likelihood, stages = drawn(200, 2.0)
    return calibrate(log_likelihood, stages, mode="both", subjects=["S01"], adapter_sha256=WEIGHTS)


def test_it_is_stored_beside_the_adapter(calibration: Calibration, tmp_path: Path) -> None:
    assert read_calibration(tmp_path) is None
    write_calibration(tmp_path, calibration)
    assert read_calibration(tmp_path) == calibration
    assert read_calibration(tmp_path, WEIGHTS) == calibration
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]
    write_calibration(tmp_path, replace(calibration, n=7))
    found = read_calibration(tmp_path)
    assert found is not None
    assert found.n == 7


def test_it_belongs_to_its_weights(calibration: Calibration, tmp_path: Path) -> None:
    write_calibration(tmp_path, calibration)
    with pytest.raises(EegToolError, match="belongs to other weights") as caught:
        read_calibration(tmp_path, "ef" * 32)
    assert "--no-calibration" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "has the temperature 0"),
        ({"temperature": float("nan")}, "has the temperature nan"),
        ({"temperature": float("inf")}, "has the temperature inf"),
        ({"temperature": 10**400}, "has the temperature 1000"),
        ({"temperature": True}, "not readable"),
        ({"temperature": "warm"}, "not readable"),
        ({"temperature": None}, "not readable"),
        ({"subjects": 3}, "not readable"),
        ({"another": 1}, "not readable"),
    ],
)
def test_a_damaged_one_is_refused(
    calibration: Calibration, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write_calibration(tmp_path, calibration)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(EegToolError, match=message):
        read_calibration(tmp_path)


def test_a_torn_one_is_refused(calibration: Calibration, tmp_path: Path) -> None:
    write_calibration(tmp_path, calibration)
    path = tmp_path / "calibration.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(EegToolError, match="cannot be read"):
        read_calibration(tmp_path)
