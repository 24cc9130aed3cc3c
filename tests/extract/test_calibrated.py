"""What the vision module alone says: calibrated on its validation subjects, and on nobody else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.probabilities import Scaling
from eegtool.core.records import Epoch
from eegtool.core.stages import STAGES
from eegtool.extract.calibrated import fit_module, scaling_of, stages_and_probabilities
from tests.core.test_probabilities import drawn, mostly_n2

CARD = {"train_subjects": ["S01"], "val_subjects": ["S02", "S03"]}


def epochs_of(stages: list[str], subjects: list[str]) -> list[Epoch]:
    return [
        Epoch(f"{subject}-{i}", "c", "r", subject, 1, i, 30.0 * i, stage, "ft", "x.png")
        for i, (stage, subject) in enumerate(zip(stages, subjects, strict=True))
    ]


@pytest.fixture(scope="module")
def side() -> tuple[list[Epoch], np.ndarray]:
    """Three subjects, 300 epochs each, and what a module trained on other frequencies says of them."""
    scores, stages = drawn(900, 2.0, (0.0, -2.0, 0.0, 0.0, 0.0))
    subjects = [f"S0{1 + i // 300}" for i in range(900)]
    return epochs_of(stages, subjects), Scaling().probabilities(scores).astype(np.float32)


def test_it_is_fitted_on_validation_subjects_alone(side: tuple[list[Epoch], np.ndarray]) -> None:
    epochs, shares = side
    found = fit_module(CARD, epochs, shares, "likelihood")
    assert found is not None
    assert (found["subjects"], found["n"]) == (["S02", "S03"], 600)
    assert found["temperature"] == pytest.approx(2.0, rel=0.2)
    assert found["offsets"]["N1"] < -1
    others = shares.copy()
    others[:300] = others[:300, ::-1]  # what it says of whom it was trained on
    assert fit_module(CARD, epochs, others, "likelihood") == found
    assert scaling_of(found).temperature == found["temperature"]


def test_its_stages_are_those_that_are_decided_for() -> None:
    scores, stages = mostly_n2(1_500, 1)
    epochs = epochs_of(stages, [f"S0{2 + i // 750}" for i in range(1_500)])
    shares = Scaling().probabilities(scores)
    found = fit_module(CARD, epochs, shares, "kappa")
    assert found is not None
    assert (found["decide_for"], found["asked_for"]) == ("kappa", "kappa")
    said, calibrated = stages_and_probabilities(found, shares)
    assert said == [STAGES[i] for i in scaling_of(found).decided(scores)]
    assert np.allclose(calibrated, scaling_of(found).probabilities(scores))
    assert said != [STAGES[i] for i in calibrated.argmax(axis=1)]


def test_without_a_calibration_nothing_is_changed() -> None:
    shares = np.array([[0.5, 0.3, 0.2, 0.0, 0.0], [0.0, 0.0, 0.0, 0.4, 0.6]], np.float32)
    said, same = stages_and_probabilities(None, shares)
    assert said == ["W", "REM"]
    assert np.allclose(same, shares)


def test_where_nobody_validated_the_card_keeps_what_is_on_it(
    side: tuple[list[Epoch], np.ndarray],
) -> None:
    epochs, shares = side
    assert fit_module({"val_subjects": []}, epochs, shares, "likelihood") is None
    assert fit_module({"val_subjects": ["S09"]}, epochs, shares, "likelihood") is None
    given = fit_module(CARD, epochs, shares, "likelihood")
    elsewhere = {"val_subjects": ["S09"], "calibration": given}
    assert fit_module(elsewhere, epochs, shares, "likelihood") == given


def test_what_cannot_be_fitted_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    epochs = epochs_of(["W"] * 4, ["S02"] * 4)
    shares = np.array([[0.8, 0.05, 0.05, 0.05, 0.05]] * 4)
    assert fit_module(CARD, epochs, shares, "likelihood") is None
    assert "not calibrated: No temperature is the best one" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0}, {"temperature": "2"}, {"offsets": [1]}, {"decide_for": "accuracy"}],
)
def test_a_damaged_one_is_refused(
    side: tuple[list[Epoch], np.ndarray], change: dict[str, Any]
) -> None:
    found = fit_module(CARD, *side, "likelihood")
    assert found is not None
    with pytest.raises(EegToolError, match="cannot be read"):
        scaling_of(found | change)
