from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from eegtool.core.errors import EegToolError
from eegtool.core.stages import STAGES
from eegtool.report.measures.compare import as_answers, compare
from eegtool.report.measures.intervals import Sampling
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.protocol import Run

EpochOf = Callable[..., AnsweredEpoch]


def two_runs(epoch: EpochOf, subjects: int = 8) -> tuple[list[AnsweredEpoch], list[AnsweredEpoch]]:
    rng = np.random.default_rng(1)
    runs: list[list[AnsweredEpoch]] = [[], []]
    for i in range(800):
        true = STAGES[int(rng.integers(5))]
        for run, skill in zip(runs, (0.8, 0.6), strict=True):
            said = true if rng.random() < skill else STAGES[int(rng.integers(5))]
            run.append(epoch(i, true, said, subject=f"S{i % subjects}"))
    return runs[0], runs[1]


def test_differences_and_tests_equal_direct_computation(epoch: EpochOf) -> None:
    first, other = two_runs(epoch)
    c = compare(("A", first), ("B", other[::-1]), Sampling())  # joined by id, not by position
    assert (c.n, c.only_first, c.only_other) == (800, 0, 0)
    true = [e.true for e in first]
    kappas = [cohen_kappa_score(true, [e.predicted for e in run]) for run in (first, other)]
    assert c.differences["kappa"].value == pytest.approx(kappas[1] - kappas[0], abs=1e-9)
    low, high = c.differences["kappa"].interval or (0, 0)
    assert low < kappas[1] - kappas[0] < high < 0

    right = np.array([[e.true == e.predicted for e in run] for run in (first, other)])
    b, d = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert c.mcnemar is not None
    assert (c.mcnemar.only_first_right, c.mcnemar.only_other_right) == (b, d)
    assert c.mcnemar.p == pytest.approx(2 * stats.binom.cdf(min(b, d), b + d, 0.5), rel=1e-9)
    by_subject = right.astype(float).reshape(2, -1, 8).mean(1)
    assert c.wilcoxon is not None
    assert c.wilcoxon.p == pytest.approx(stats.wilcoxon(by_subject[1] - by_subject[0]).pvalue)


def test_a_paired_interval_is_narrower_than_two_alone(epoch: EpochOf) -> None:
    first, _ = two_runs(epoch)
    c = compare(("A", first), ("again", first), Sampling())
    assert c.differences["accuracy"].interval == (0.0, 0.0)
    assert c.mcnemar is not None
    assert c.mcnemar.p == 1.0
    assert c.wilcoxon is None


def test_only_common_epochs_count_and_the_rest_is_said(epoch: EpochOf) -> None:
    first, other = two_runs(epoch)
    c = compare(("A", first[:700]), ("B", other[100:]), Sampling(draws=0))
    assert (c.n, c.only_first, c.only_other) == (600, 100, 100)
    assert c.differences["kappa"].interval is None
    nothing = compare(("A", first[:5]), ("B", other[10:20]), Sampling())
    assert (nothing.n, nothing.first_agreement, nothing.differences) == (0, None, {})


def test_another_protocol_is_shown_and_not_ranked(epoch: EpochOf) -> None:
    first, other = two_runs(epoch)
    one = Run("a", None, {"channel": "EEG Fpz-Cz", "style": "waveform", "split": "x"})
    two = Run("b", None, {"channel": "EEG Pz-Oz", "style": "hybrid", "low_hz": 1.0})
    assert one.differs_in(two) == ("channel",)
    c = compare(("A", first), ("B", other), Sampling(), one.differs_in(two))
    assert c.first_agreement is not None
    assert (c.differences, c.mcnemar, c.wilcoxon) == ({}, None, None)


def scored(adapter: str, decide_for: str = "likelihood", **how: Any) -> Run:
    return Run("m", None, {}, {"adapter_sha256": adapter, "decide_for": decide_for, **how})


def test_models_that_were_to_reach_other_figures_are_not_ranked() -> None:
    plain, decided = scored("a"), scored("a", "macro_f1", calibration_subjects=["S1"])
    assert plain.differs_in(scored("b")) == ()
    assert plain.differs_in(scored("b", "kappa")) == ("decide_for",)
    assert plain.differs_in(decided) == ()  # one model: it is compared for just that
    assert plain.decided_otherwise(decided) == ("calibration_subjects", "decide_for")
    assert plain.decided_otherwise(scored("b")) == ()
    written = Run("m", None, {}, {"adapter_sha256": "b", "calibration_subjects": ["S1"]})
    assert plain.differs_in(written) == ()
    assert plain.decided_otherwise(written) == ()


def test_other_labels_are_an_error_naming_both(epoch: EpochOf) -> None:
    with pytest.raises(EegToolError, match="'e0' is W in A and N2 in B"):
        compare(("A", [epoch(0, "W", "W")]), ("B", [epoch(0, "N2", "W")]), Sampling())


def test_few_subjects_have_no_wilcoxon(epoch: EpochOf) -> None:
    first, other = two_runs(epoch, subjects=5)
    assert compare(("A", first), ("B", other), Sampling()).wilcoxon is None


def test_the_vision_module_answers_by_id(epoch: EpochOf) -> None:
    epochs = [epoch(i, "W", "W", text="W") for i in range(3)]
    found = as_answers(epochs, {"e2": "N3", "e0": "W", "elsewhere": "REM"})
    assert [(e.sample_id, e.predicted) for e in found] == [("e0", "W"), ("e2", "N3")]
