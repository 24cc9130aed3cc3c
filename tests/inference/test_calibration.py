from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.probabilities import Fit, Scaling, by_stage
from eegtool.core.records import Answer
from eegtool.core.stages import STAGES
from eegtool.inference.calibration import (
    Calibration,
    CertaintyCheck,
    calibrate,
    calibrated,
    read_calibration,
    sentences,
    with_ending,
    write_calibration,
)
from tests.core.test_probabilities import drawn, mostly_n2

WEIGHTS = "cd" * 32
TEXTS = tuple(f"The stage is {stage}." for stage in STAGES)


def test_what_is_fitted_and_what_it_changes() -> None:
    log_likelihood, stages = drawn(20_000, 4.0, (0.0, -1.0, 0.0, 0.0, 0.0))
    found, _ = calibrate(
        log_likelihood,
        stages,
        mode="score",
        subjects=["S02", "S01", "", "S02"] * 5_000,
        adapter_sha256=WEIGHTS,
    )
    assert (found.mode, found.subjects, found.n) == ("score", ("S01", "S02"), 20_000)
    assert found.adapter_sha256 == WEIGHTS
    assert found.scaling.temperature == pytest.approx(4, rel=0.05)
    assert found.scaling.offsets[1] == pytest.approx(-1, abs=0.1)
    assert found.nll_after < found.nll_before - 0.1
    assert found.ece_before > 0.2
    assert found.ece_after < 0.02


def test_what_is_said_of_it() -> None:
    calibration = Calibration(2.5, "score", ("S03",), 900, 1.2, 1.1, 0.2, 0.1, WEIGHTS)
    plain = sentences(calibration, Fit(Scaling(2.5)), "likelihood")
    assert len(plain) == 1
    assert "temperature 2.500" in plain[0]
    assert "900 epochs of 1 subject;" in plain[0]
    helped = Fit(Scaling(2.5), 0.6, 0.65)
    assert "Decided for macro-F1" in sentences(calibration, helped, "macro_f1")[1]
    assert "0.600 → 0.650" in sentences(calibration, helped, "macro_f1")[1]
    said = sentences(calibration, replace(helped, decided=0.6), "kappa")[1]
    assert "Not decided for Cohen's κ" in said


def test_decisions_are_fitted_on_request() -> None:
    log_likelihood, stages = mostly_n2(1_500, 1)
    subjects = [f"S{i // 500}" for i in range(1_500)]
    given: dict[str, Any] = {"mode": "score", "subjects": subjects, "adapter_sha256": WEIGHTS}
    plain, _ = calibrate(log_likelihood, stages, **given)
    decided, found = calibrate(log_likelihood, stages, **given, decide_for="macro_f1")
    assert found.is_kept
    assert decided.decide_for == "macro_f1"
    assert decided.decision_offsets[1] > 0.1  # N1 is said more often
    unlike: dict[str, Any] = {
        "decide_for": "likelihood",
        "decision_offsets": plain.decision_offsets,
    }
    assert replace(decided, **unlike) == plain


# --- rows -----------------------------------------------------------------------------------------

SCORES = (-1.0, -1.5, -2.0, -3.0, -3.0)
FITTED = Calibration(2.0, "score", ("S03",), 9, 1, 1, 1, 1, WEIGHTS)
TOWARDS_N1 = replace(FITTED, offsets=(0.0, 2.0, 0.0, 0.0, 0.0))
FOR_REM = replace(FITTED, decide_for="kappa", decision_offsets=(0.0, 0.0, 0.0, 0.0, 9.0))


def row(mode: str = "score", text: str = TEXTS[0], subject: str = "S04") -> Answer:
    metadata = {"mode": mode, "subject": subject, "log_likelihoods": by_stage(SCORES)}
    return Answer("q", "?", text, "N1", "a", "m", metadata)


def test_a_row_says_by_what_it_was_calibrated() -> None:
    metadata = calibrated(row(), None, TEXTS).metadata
    assert metadata["calibration_temperature"] == 1
    assert "calibration_offsets" not in metadata
    assert metadata["decide_for"] == "likelihood"
    metadata = calibrated(row(), TOWARDS_N1, TEXTS).metadata
    assert metadata["calibration_temperature"] == 2
    assert metadata["calibration_offsets"] == by_stage(TOWARDS_N1.offsets)
    assert metadata["calibration_subjects"] == ["S03"]
    assert "calibrated_on" not in metadata
    expected = np.exp(np.array(SCORES) / 2 + TOWARDS_N1.offsets)
    shares = list(metadata["stage_probabilities"].values())
    assert shares == pytest.approx((expected / expected.sum()).tolist(), abs=2e-6)
    assert calibrated(row(subject="S03"), FITTED, TEXTS).metadata["calibrated_on"] is True
    metadata = calibrated(row(), FOR_REM, TEXTS).metadata
    assert metadata["decide_for"] == "kappa"
    assert metadata["decision_offsets"] == by_stage(FOR_REM.decision_offsets)


def test_a_scored_row_says_the_stage_that_is_decided_for() -> None:
    first = row(text=f"Slow waves. {TEXTS[0]}")
    for calibration, stage in ((None, "W"), (TOWARDS_N1, "N1"), (FOR_REM, "REM"), (FITTED, "W")):
        again = calibrated(first, calibration, TEXTS)
        assert again.text == f"Slow waves. The stage is {stage}."
        # Whatever was decided before, nothing of it is left.
        assert calibrated(again, None, TEXTS) == calibrated(first, None, TEXTS)


def test_what_the_model_wrote_stays() -> None:
    found = calibrated(row("both"), FOR_REM, TEXTS)
    assert found.text == row("both").text
    assert "decide_for" not in found.metadata
    assert found.metadata["calibration_temperature"] == 2


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("N2", "REM"),
        ("Because. N2", "Because. REM"),
        ("not REM", "REM"),
        ("who knows", "who knows"),
    ],
)
def test_an_ending_is_exchanged(text: str, ending: str) -> None:
    assert with_ending(text, ("W", "REM", "N2", "not REM"), 1) == ending


def test_certainty_is_checked_on_what_nothing_was_fitted_on() -> None:
    check = CertaintyCheck()
    check.add(calibrated(row(subject="S03"), FITTED, TEXTS))
    check.add(replace(calibrated(row(), FITTED, TEXTS), label=""))
    check.add(replace(row(), metadata={"log_likelihoods": by_stage(SCORES)}))
    odd = {"log_likelihoods": by_stage(SCORES), "stage_probabilities": by_stage([1.0] * 5)}
    check.add(replace(row(), metadata=odd))
    assert check.figures() == {}
    check.add(calibrated(row(), TOWARDS_N1, TEXTS))
    plain, shares = (c.probabilities(np.array(SCORES)) for c in (Scaling(), TOWARDS_N1.scaling))
    assert check.figures() == {
        "n": 1,
        "before": pytest.approx(plain[0]),  # W, and wrong
        "after": pytest.approx(1 - shares[1], abs=1e-5),  # N1, and right
    }
    uncalibrated = CertaintyCheck()
    uncalibrated.add(calibrated(row(), None, TEXTS))
    assert set(uncalibrated.figures()) == {"n", "before"}


# --- the file -------------------------------------------------------------------------------------


@pytest.fixture
def calibration() -> Calibration:
    log_likelihood, stages = drawn(200, 2.0)
    own: dict[str, Any] = {"mode": "both", "subjects": ["S01"] * 200, "adapter_sha256": WEIGHTS}
    return calibrate(log_likelihood, stages, **own)[0]


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


def test_one_that_knows_no_offsets_is_read(calibration: Calibration, tmp_path: Path) -> None:
    write_calibration(tmp_path, calibration)
    path = tmp_path / "calibration.json"
    raw = json.loads(path.read_text())
    earlier = {k: v for k, v in raw.items() if not k.startswith(("offsets", "deci", "stages"))}
    path.write_text(json.dumps(earlier))
    found = read_calibration(tmp_path)
    assert found is not None
    assert found.scaling == Scaling(calibration.temperature)


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
        ({"offsets": [0, 0, 0, 0, 0]}, "one number for each stage"),
        ({"decision_offsets": {"W": 1.0}}, "one number for each stage"),
        ({"stages": {"W": 1.0}}, "one number for each stage"),
        ({"decide_for": "accuracy"}, "decides for 'accuracy'"),
        ({"decide_for": ["kappa"]}, "decides for"),
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
