from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from eegtool.core.stages import STAGES
from eegtool.report.measures import scores
from eegtool.report.measures.intervals import FEWEST, Bootstrap, Sampling
from eegtool.report.measures.metrics import ANSWERS
from eegtool.report.reading.epochs import AnsweredEpoch

EpochOf = Callable[..., AnsweredEpoch]


def bootstrap_of(epoch: EpochOf, subjects: int, draws: int = 1000, seed: int = 1) -> Bootstrap:
    epochs = [epoch(i, "W", "W", subject=f"S{i}") for i in range(subjects)]
    return Bootstrap(epochs, Sampling(draws, seed))


@pytest.mark.parametrize("seed", range(4))
def test_formulas_equal_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stages = STAGES if seed else STAGES[1:4]  # also where some stages do not occur
    true = rng.choice(stages, 700)
    said = np.where(rng.random(700) < 0.6, true, rng.choice(ANSWERS, 700))
    counts = sk.confusion_matrix(true, said, labels=ANSWERS)[:5].astype(float)
    stack = np.stack([counts, 2 * counts])  # many at a time, and figures do not hang on the number
    there = [s for s in STAGES if s in true]
    f1 = {"labels": there, "zero_division": 0.0}
    expected = {
        "accuracy": sk.accuracy_score(true, said),
        "macro_f1": sk.f1_score(true, said, average="macro", **f1),
        "weighted_f1": sk.f1_score(true, said, average="weighted", **f1),
        "kappa": sk.cohen_kappa_score(true, said),
        "mcc": sk.matthews_corrcoef(true, said),
        "balanced_accuracy": sk.recall_score(true, said, average="macro", **f1),
    }
    for name, figure in scores.FIGURES.items():
        assert figure(stack).tolist() == pytest.approx([expected[name]] * 2, abs=1e-9), name
    columns = sk.precision_recall_fscore_support(true, said, labels=STAGES, zero_division=np.nan)
    for figure, column in zip(scores.STAGE_FIGURES.values(), columns, strict=False):
        assert figure(counts) == pytest.approx(column, abs=1e-9, nan_ok=True)


def test_undefined_figures_are_nan_and_warn_of_nothing() -> None:
    nothing = np.zeros((5, 6))
    for name, figure in scores.FIGURES.items():
        assert np.isnan(figure(nothing)), name
    constant = nothing.copy()
    constant[2, 2] = 9
    assert np.isnan(scores.kappa(constant))
    assert (float(scores.accuracy(constant)), float(scores.mcc(constant))) == (1, 0)


def test_interval_is_the_standard_error_of_the_mean_times_t(epoch: EpochOf) -> None:
    values = np.random.default_rng(3).normal(0.5, 0.05, 20)
    bootstrap = bootstrap_of(epoch, 20, draws=20_000)
    draws = bootstrap.draw(values[:, None])
    low, high = bootstrap.interval(draws[:, 0] / 20, float(values.mean())) or (0, 0)
    by_t = stats.t.interval(0.95, 19, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(by_t, abs=4e-4)


@pytest.mark.parametrize("subjects", [6, 12])
def test_intervals_hold_the_true_mean(epoch: EpochOf, subjects: int) -> None:
    rng = np.random.default_rng(subjects)
    bootstrap = bootstrap_of(epoch, subjects, draws=300)
    held = 0
    for _ in range(1000):
        values = rng.beta(8, 3, subjects)  # accuracies of subjects of equal length; true mean 8/11
        draws = bootstrap.draw(values[:, None])
        low, high = bootstrap.interval(draws[:, 0] / subjects, float(values.mean())) or (2, 2)
        held += low <= 8 / 11 <= high
    assert 0.90 <= held / 1000 <= 0.98


def test_draws_are_seeded_and_whole_subjects(epoch: EpochOf) -> None:
    per_unit = np.eye(8)
    one, same, other = (bootstrap_of(epoch, 8, seed=s).draw(per_unit) for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert (one.sum(1) == 8).all()
    assert one.mean(0) == pytest.approx(np.ones(8), abs=0.15)


def test_few_subjects_fall_back_to_blocks_and_few_blocks_to_nothing(epoch: EpochOf) -> None:
    enough = bootstrap_of(epoch, FEWEST)
    assert (enough.basis.unit, enough.basis.units) == ("subjects", FEWEST)
    two = [epoch(i, "W", "W", subject=f"S{i % 2}", recording=f"R{i % 2}") for i in range(900)]
    blocks = Bootstrap(two, Sampling())
    assert (blocks.basis.unit, blocks.basis.units) == ("blocks", 30)
    few = Bootstrap(two[:5], Sampling())
    assert few.basis.unit == "none"
    assert few.draw(np.ones((few.basis.units, 1))).shape == (0, 1)
    assert few.interval(np.empty(0), 0.5) is None
    assert bootstrap_of(epoch, 20, draws=0).basis.unit == "none"


def test_ends_stay_within_what_a_figure_can_be(epoch: EpochOf) -> None:
    bootstrap = bootstrap_of(epoch, 6)
    draws = np.linspace(0, 1, 1000)
    low, high = bootstrap.interval(draws, 0.9) or (0.0, 0.0)
    assert low == pytest.approx(0.9 - 0.813, abs=0.01)
    assert high == 1.0
    assert bootstrap.interval(np.where(draws < 0.2, np.nan, draws), 0.5) is None
    assert bootstrap.interval(draws, None) is None
