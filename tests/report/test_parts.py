"""Transitions, calibration and coverage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, cohen_kappa_score, log_loss

from eegtool.core.stages import STAGES
from eegtool.report.measures.metrics import Metrics, measure, surroundings
from eegtool.report.reading.epochs import AnsweredEpoch, probabilities_of
from eegtool.report.reading.protocol import Run

EpochOf = Callable[..., AnsweredEpoch]
RUN = Run("m", None, {})


def measured(epochs: list[AnsweredEpoch]) -> Metrics:
    return measure(epochs, RUN)


def test_transition_is_a_neighbour_of_another_stage(epoch: EpochOf) -> None:
    stages = ["W", "W", "N1", "N2", "N2", "N2"]
    epochs = [epoch(i, s, s) for i, s in enumerate(stages)]
    epochs += [epoch(9, "N3", "N3")]  # alone
    epochs += [epoch(0, "REM", "REM", recording="other")]  # no neighbour of the first night
    epochs = epochs[::-1]  # the order of the file does not matter
    found = {k: v[::-1].tolist() for k, v in surroundings(epochs).items()}
    assert found["transition"] == [False, True, True, True, False, False, False, False]
    assert found["stable"] == [True, False, False, False, True, True, False, False]
    m = measured(epochs)
    assert {k: p.agreement.n for k, p in m.surroundings.items()} == {"transition": 3, "stable": 3}


def test_without_places_there_are_no_surroundings(epoch: EpochOf) -> None:
    epochs = [epoch(i, "W", "W", recording="") for i in range(3)]
    assert measured(epochs).surroundings == {}


def random_epochs(epoch: EpochOf, n: int = 800) -> list[AnsweredEpoch]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(n):
        shares = rng.dirichlet([0.5] * 5)
        said = STAGES[int(shares.argmax())] if rng.random() < 0.9 else None
        true = STAGES[int(rng.choice(5, p=shares))]
        told = tuple(shares.tolist())
        found.append(epoch(i, true, said, subject=f"S{i % 8}", probabilities=told))
    return found


def test_calibration_equals_independent_computation(epoch: EpochOf) -> None:
    epochs = random_epochs(epoch)
    c = measured(epochs).calibration
    assert c is not None
    shares = np.array([e.probabilities for e in epochs])
    true = [e.true for e in epochs]
    index = np.array([STAGES.index(t or "") for t in true])
    sure, right = shares.max(1), shares.argmax(1) == index
    gap = 0.0
    for i in range(15):
        inside = (sure > i / 15) & (sure <= (i + 1) / 15)
        if inside.any():
            gap += inside.sum() * abs(right[inside].mean() - sure[inside].mean())
    assert c.ece == pytest.approx(gap / len(epochs), abs=1e-9)
    assert c.nll == pytest.approx(log_loss(index, shares, labels=range(5)), abs=1e-6)
    one_hot = np.eye(5)[index]
    by_class = [brier_score_loss(one_hot[:, k], shares[:, k]) for k in range(5)]
    assert c.brier == pytest.approx(sum(by_class), abs=1e-9)
    assert c.accuracy == pytest.approx(right.mean())
    assert c.differing == sum(e.predicted is None for e in epochs)
    assert sum(b.n for b in c.bins) == c.n == len(epochs)
    assert c.ece_interval is not None
    assert c.ece_interval[0] <= c.ece <= c.ece_interval[1]


def test_coverage_sends_the_least_certain_first(epoch: EpochOf) -> None:
    epochs = random_epochs(epoch)
    points = measured(epochs).coverage
    assert [p.to_human for p in points][:3] == [0.0, 0.05, 0.1]
    unreadable = sum(e.predicted is None for e in epochs)
    order = sorted(epochs, key=lambda e: -1.0 if e.predicted is None else e.certainty or 0)
    for point in points:
        kept = order[round(point.to_human * len(order)) :]
        assert point.n_kept == len(kept)
        true, said = ([e.true for e in kept], [e.predicted or "unreadable" for e in kept])
        assert point.kappa == pytest.approx(cohen_kappa_score(true, said), abs=1e-9)
        human = [e.true for e in order[: len(order) - len(kept)]]
        together = cohen_kappa_score([*human, *true], [*human, *said])
        assert point.kappa_together == pytest.approx(together, abs=1e-9)
    assert points[-1].n_kept < len(epochs) - unreadable
    assert (points[-1].kappa or 0) > (points[0].kappa or 0) + 0.1


def test_no_probabilities_no_calibration(epoch: EpochOf) -> None:
    m = measured([epoch(0, "W", "W"), epoch(1, "N2", "W")])
    assert (m.calibration, m.coverage) == (None, ())
    some = measured([epoch(0, "W", "W", probabilities=(1.0, 0, 0, 0, 0)), epoch(1, "N2", "W")])
    assert some.calibration is not None
    assert some.calibration.n == 1
    assert some.coverage == ()


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"W": 1.0}, "each stage"),
        ([0.2] * 5, "each stage"),
        (dict.fromkeys(STAGES, "x"), "not numbers"),
        (dict.fromkeys(STAGES, True), "not numbers"),
        (dict.fromkeys(STAGES, float("nan")), "between"),
        ({**dict.fromkeys(STAGES, 0.5), "W": -1.0}, "between"),
        (dict.fromkeys(STAGES, 0.5), "sum is 2.5"),
    ],
)
def test_probabilities_that_are_none(told: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        probabilities_of(told)


def test_probabilities_come_in_the_order_of_the_stages() -> None:
    told = {"REM": 0.5, "N3": 0.2, "N2": 0.1, "N1": 0.1, "W": 0.1}
    assert probabilities_of(told) == (0.1, 0.1, 0.1, 0.2, 0.5)
    assert probabilities_of(None) is None


def test_no_label_at_all(epoch: EpochOf) -> None:
    m = measured([epoch(0, None, "W"), epoch(1, None, None), epoch(2, None, "W")])
    assert (m.n, m.answered, m.unlabelled, m.unreadable) == (0, 3, 3, 1)
    assert (m.accuracy, m.kappa, m.chance, m.calibration) == (None, None, None, None)
    assert (m.per_stage, m.per_subject, m.surroundings) == ({}, {}, {})
    assert m.most_common_answer == "W"
    assert m.most_common_answer_share == pytest.approx(2 / 3)


def test_one_stage_throughout_and_five_epochs_in_all(epoch: EpochOf) -> None:
    m = measured([epoch(i, "N2", "N2" if i else "N3") for i in range(5)])
    assert m.accuracy == 0.8
    assert m.per_subject["SC403"].kappa == 0.0
    assert m.intervals.basis.unit == "none"
    assert set(m.intervals.figures.values()) == {None}
