from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score

from eegtool.core import probabilities
from eegtool.core.errors import EegToolError
from eegtool.core.probabilities import Scaling, by_stage, ece, fit, indices, nll, of_stages
from eegtool.core.stages import STAGES

OFFSETS = (0.5, -1.0, 0.0, 1.0, -2.0)
NOTHING = (0.0,) * 5


def drawn(
    n: int, temperature: float, offsets: tuple[float, ...] = NOTHING, seed: int = 0
) -> tuple[np.ndarray, list[str]]:
    """Draw scores, and true stages from the probabilities of a scaling: that one is to be found."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-3, 2, (n, 5))
    edges = Scaling(temperature, offsets).probabilities(scores).cumsum(axis=1)
    columns = (rng.random((n, 1)) > edges[:, :-1]).sum(axis=1)
    return scores, [STAGES[column] for column in columns]


def whose(stages: list[str], n_subjects: int = 1) -> list[str]:
    return [f"S{i * n_subjects // len(stages)}" for i in range(len(stages))]


def figures(stages: list[str], said: np.ndarray) -> dict[str, float]:
    true = indices(stages)
    return {
        "macro_f1": f1_score(true, said, average="macro"),
        "kappa": cohen_kappa_score(true, said),
    }


def test_by_default_nothing_is_changed() -> None:
    scores, _ = drawn(50, 1.0)
    exponentials = np.exp(scores)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    assert np.allclose(Scaling().probabilities(scores), expected)
    assert (Scaling().decided(scores) == scores.argmax(axis=1)).all()


def test_scores_become_probabilities_and_these_a_stage() -> None:
    scaling = Scaling(2.0, (0, 0, 0, 0, np.log(3)), "kappa", (0, 1.0, 0, 0, 0))
    scores = np.log([0.16, 0.04, 0.01, 0.01, 0.04])
    assert scaling.probabilities(scores) * 14 == pytest.approx([4, 2, 1, 1, 6])
    assert STAGES[int(Scaling(2.0, scaling.offsets).decided(scores))] == "REM"
    # A third as likely, times e, is less likely still; with a little more it is said.
    assert STAGES[int(scaling.decided(scores))] == "REM"
    more = Scaling(2.0, scaling.offsets, "kappa", (0, 1.2, 0, 0, 0))
    assert STAGES[int(more.decided(scores))] == "N1"


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_temperature_and_offsets_are_found(temperature: float) -> None:
    scores, stages = drawn(20_000, temperature, OFFSETS)
    found = fit(scores, stages, whose(stages)).scaling
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.offsets == pytest.approx(OFFSETS, abs=0.15)
    assert found.offsets[STAGES.index("N2")] == 0
    assert (found.decide_for, found.decision_offsets) == ("likelihood", NOTHING)
    other, truths = drawn(20_000, temperature, OFFSETS, seed=9)
    assert nll(other, truths, found) == pytest.approx(
        nll(other, truths, Scaling(temperature, OFFSETS)), abs=1e-3
    )
    assert ece(found.probabilities(other), truths) < 0.02


def test_only_differences_count() -> None:
    """How likely an epoch makes any label at all changes nothing."""
    scores, stages = drawn(500, 2.0)
    shifted = scores + np.random.default_rng(1).normal(0, 5, (500, 1))
    one, other = (fit(s, stages, whose(stages)).scaling for s in (scores, shifted))
    assert other.temperature == pytest.approx(one.temperature, rel=1e-4)
    assert other.offsets == pytest.approx(one.offsets, abs=1e-3)


def test_a_stage_that_does_not_occur_is_not_ruled_out() -> None:
    scores, stages = drawn(400, 2.0)
    rest = [stage != "N1" for stage in stages]
    kept = [stage for stage in stages if stage != "N1"]
    found = fit(scores[rest], kept, whose(kept)).scaling
    assert -6 < found.offsets[STAGES.index("N1")] < 0


def mostly_n2(n: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Draw scores of nights in which N2 is so common that it is nearly always the likeliest stage."""
    return drawn(n, 2.0, (-2.5, -3.0, 0.0, -2.5, -2.5), seed)


@pytest.mark.parametrize(("aim", "n_subjects"), [("macro_f1", 1), ("kappa", 3)])
def test_decisions_reach_more_of_what_they_are_for(aim: Any, n_subjects: int) -> None:
    scores, stages = mostly_n2(1_500, 1)
    found = fit(scores, stages, whose(stages, n_subjects), aim)
    assert found.is_kept
    assert found.scaling.decide_for == aim
    assert found.scaling.decision_offsets[STAGES.index("N2")] == 0
    plain = fit(scores, stages, whose(stages)).scaling
    other, truths = mostly_n2(20_000, 2)
    decided = figures(truths, found.scaling.decided(other))
    likeliest = figures(truths, plain.decided(other))
    assert decided[aim] > likeliest[aim] + 0.05
    # Probabilities are those of likelihood alone.
    assert np.allclose(found.scaling.probabilities(other), plain.probabilities(other))
    assert fit(scores, stages, whose(stages, n_subjects), aim) == found


@pytest.mark.parametrize("n_subjects", [1, 3])
def test_decisions_that_do_not_help_elsewhere_are_left_out(
    n_subjects: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probabilities, "_decision_offsets", lambda *_: (9.0, 0.0, 0.0, 0.0, 0.0))
    scores, stages = drawn(300, 1.0)
    found = fit(scores, stages, whose(stages, n_subjects), "macro_f1")
    assert not found.is_kept
    assert found.likeliest is not None
    assert found.decided is not None
    assert found.decided < 0.1 < found.likeliest
    assert (found.scaling.decide_for, found.scaling.decision_offsets) == ("likelihood", NOTHING)


def test_offsets_are_tried_on_other_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On subjects that had no part in them, and of a single subject on every other half hour."""
    sought: list[list[int]] = []

    def seek(rows: np.ndarray, present: set[int], aim: str) -> tuple[float, ...]:
        sought.append(sorted(np.flatnonzero(np.isin(scores[:, 0], fed[-1])).tolist()))
        return NOTHING

    fed: list[np.ndarray] = []
    own = probabilities._scaling

    def scale(some: np.ndarray, true: np.ndarray) -> Scaling:
        fed.append(some[:, 0])
        return own(some, true)

    scores, stages = drawn(300, 2.0)
    monkeypatch.setattr(probabilities, "_decision_offsets", seek)
    monkeypatch.setattr(probabilities, "_scaling", scale)
    fit(scores, stages, whose(stages, 3), "kappa")
    thirds = [set(range(i * 100, i * 100 + 100)) for i in range(3)]
    left_out = [set(range(300)) - set(rows) for rows in sought]
    assert sorted(map(sorted, left_out)) == [sorted(third) for third in thirds]
    sought.clear()
    fit(scores, stages, whose(stages), "kappa")
    assert sorted(map(len, sought)) == [120, 180]
    assert {*range(60), *range(120, 180), *range(240, 300)} in [set(rows) for rows in sought]


@pytest.mark.parametrize("aim", ["macro_f1", "kappa"])
def test_the_figures_are_scikit_learns(aim: Any) -> None:
    rng = np.random.default_rng(3)
    true, said = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    stages = [STAGES[i] for i in true]
    counts = probabilities._counts(true, said)
    figure = probabilities._figure(*counts, {0, 1, 2, 3}, aim)
    assert figure == pytest.approx(figures(stages, said)[aim])
    one_stage = probabilities._counts(true * 0, said * 0)
    assert probabilities._figure(*one_stage, {0}, aim) == (aim == "macro_f1")


def with_certainty(*certainty: float) -> np.ndarray:
    """Return rows in which W has these probabilities, and the others share what is left."""
    return np.array([[p, *[(1 - p) / 4] * 4] for p in certainty])


W, X = "W", "N2"
# Rows, true stages, bins, and the error worked out by hand.
ECE: dict[str, tuple[np.ndarray, list[str], int, float]] = {
    "certain and right": (with_certainty(1, 1), [W, W], 15, 0.0),
    "certain and wrong": (with_certainty(1, 1), [X, X], 15, 1.0),
    "as certain as right": (with_certainty(0.75, 0.75, 0.75, 0.75), [W, W, W, X], 15, 0.0),
    "within a bin errors cancel": (with_certainty(0.88, 0.92), [W, X], 5, 0.4),
    "between bins they do not": (with_certainty(0.5, 0.9), [W, X], 2, (0.5 + 0.9) / 2),
    "a bin has its upper end": (with_certainty(0.6, 0.61), [X, W], 5, (0.6 + 0.39) / 2),
    "the least certain": (with_certainty(0.2, 0.2), [W, X], 5, 0.3),
    "bins count by their epochs": (
        with_certainty(0.9, 0.9, 0.9, 0.5),
        [W] * 4,
        10,
        (0.3 + 0.5) / 4,
    ),
}


@pytest.mark.parametrize(("rows", "stages", "bins", "error"), ECE.values(), ids=ECE.keys())
def test_ece(rows: np.ndarray, stages: list[str], bins: int, error: float) -> None:
    assert ece(rows, stages, bins) == pytest.approx(error)


def test_nll() -> None:
    assert nll(np.log(with_certainty(0.8, 0.6)), [W, X]) == pytest.approx(-np.log(0.8 * 0.1) / 2)
    assert nll(np.log(with_certainty(0.8)), [W], Scaling(1e9)) == pytest.approx(np.log(5))


def without_epochs() -> tuple[np.ndarray, list[str]]:
    return np.zeros((0, 5)), []


def not_finite() -> tuple[np.ndarray, list[str]]:
    scores, stages = drawn(9, 1.0)
    scores[4, 2] = np.nan
    return scores, stages


def of_unknown_stage() -> tuple[np.ndarray, list[str]]:
    scores, stages = drawn(9, 1.0)
    return scores, ["", *stages[1:]]


def all_right() -> tuple[np.ndarray, list[str]]:
    return np.log(with_certainty(0.8, 0.9, 0.7)), [W] * 3


def all_wrong() -> tuple[np.ndarray, list[str]]:
    return np.log(with_certainty(0.8, 0.9, 0.7)), [X] * 3


WITHOUT_OPTIMUM = {
    without_epochs: "there are no epochs",
    not_finite: "not finite",
    of_unknown_stage: "'' is not a stage",
    all_right: "right by a margin",
    all_wrong: "tell nothing about the stages",
}


@pytest.mark.parametrize(
    ("given", "message"), WITHOUT_OPTIMUM.items(), ids=[f.__name__ for f in WITHOUT_OPTIMUM]
)
def test_what_cannot_be_calibrated(given: Any, message: str) -> None:
    scores, stages = given()
    with pytest.raises(EegToolError, match=message) as caught:
        fit(scores, stages, ["S01"] * len(stages))
    assert "Calibrate on" in caught.value.fix


def test_one_number_for_each_stage() -> None:
    assert by_stage([1, 2, 3, 4, 5.123456789])["REM"] == 5.123457
    assert of_stages(dict(reversed(by_stage([1, 2, 3, 4, 5]).items()))) == (1, 2, 3, 4, 5)
    for other in (None, [1, 2, 3, 4, 5], {"W": 1}, by_stage([1, 2, 3, 4, float("nan")])):
        assert of_stages(other) is None


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.5])
def test_probabilities(temperature: float) -> None:
    log_likelihood = np.array([[-1.0, -2.0, -3.0, -4.0, -5.0], [-1e5, 0.0, -1e5, -1e5, -1e5]])
    found = Scaling(temperature).probabilities(log_likelihood)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(found[0, 0] / found[0, 2], np.exp(2 / temperature))
    assert found[1].tolist() == [0, 1, 0, 0, 0]
    assert found.argmax(axis=1).tolist() == log_likelihood.argmax(axis=1).tolist()
