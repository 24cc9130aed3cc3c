from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict

import pytest
from sklearn import metrics as sk

from eegtool.core.stages import STAGES
from eegtool.report.measures.metrics import ANSWERS, UNREADABLE, Metrics, measure
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.protocol import Run

MetricsOf = Callable[..., Metrics]

# 10 epochs worked by hand: 4 W, 3 N2, 2 N3, 1 without a readable answer among the N2 (unreadable).
#          true        predicted
BY_HAND = [
    ("W", "W"), ("W", "W"), ("W", "W"), ("W", "N2"),
    ("N2", "N2"), ("N2", "N2"), ("N2", "N3"), ("N2", None),
    ("N3", "N3"), ("N3", "N2"),
]  # fmt: skip


def test_hand_worked_case(metrics_of: MetricsOf) -> None:
    m = metrics_of(BY_HAND)
    assert m.n == 10
    assert m.accuracy == pytest.approx(0.6)
    assert m.unreadable == 1
    # W: 3 of 3 answers right, 3 of 4 found. N2: 2 of 4, 2 of 4. N3: 1 of 2, 1 of 2.
    w, n2, n3 = (m.per_stage[s] for s in ("W", "N2", "N3"))
    assert (w.precision, w.recall, w.f1) == pytest.approx((1, 3 / 4, 6 / 7))
    assert (n2.precision, n2.recall, n2.f1) == pytest.approx((0.5, 0.5, 0.5))
    assert (n3.precision, n3.recall, n3.f1) == pytest.approx((0.5, 0.5, 0.5))
    assert [m.per_stage[s].support for s in STAGES] == [4, 0, 4, 2, 0]
    assert m.macro_f1_stages == ("W", "N2", "N3")
    assert m.macro_f1 == pytest.approx((6 / 7 + 0.5 + 0.5) / 3)
    # Cohen: observed 0.6; by chance 0.4*0.3 (W) + 0.4*0.4 (N2) + 0.2*0.2 (N3) + 0*0.1 = 0.32
    assert m.kappa == pytest.approx((0.6 - 0.32) / (1 - 0.32))
    assert m.chance is not None
    assert m.chance.random_accuracy == pytest.approx(0.32)
    # W and N2 tie as commonest; the first in the order of the stages is taken.
    assert (m.chance.stage, m.chance.accuracy, m.chance.kappa) == ("W", 0.4, 0.0)
    assert m.chance.macro_f1 == pytest.approx((2 * 0.4 / 1.4) / 3)
    assert m.confusion == (
        (3, 0, 1, 0, 0, 0),
        (0, 0, 0, 0, 0, 0),
        (0, 0, 2, 1, 0, 1),
        (0, 0, 1, 1, 0, 0),
        (0, 0, 0, 0, 0, 0),
    )
    assert m.confusion_labels == (*STAGES, UNREADABLE)
    assert (m.most_common_answer, m.most_common_answer_share) == ("N2", 0.4)
    assert not m.one_sided


def test_equals_scikit_learn_called_directly(epoch: Callable[..., AnsweredEpoch]) -> None:
    rng = random.Random(3)
    true = rng.choices(STAGES, weights=(5, 1, 8, 3, 4), k=600)
    said = [t if rng.random() < 0.7 else rng.choice(ANSWERS) for t in true]
    epochs = [
        epoch(i, t, None if p == UNREADABLE else p, subject=f"S{i % 3}")
        for i, (t, p) in enumerate(zip(true, said, strict=True))
    ]
    m = measure(epochs, Run("m", None, {}))

    assert m.accuracy == pytest.approx(sk.accuracy_score(true, said), abs=1e-12)
    assert m.kappa == pytest.approx(sk.cohen_kappa_score(true, said), abs=1e-12)
    assert m.macro_f1 == pytest.approx(
        sk.f1_score(true, said, labels=list(STAGES), average="macro"), abs=1e-12
    )
    for name in ("precision", "recall", "f1"):
        direct = getattr(sk, f"{name}_score")(true, said, labels=list(STAGES), average=None)
        assert [getattr(m.per_stage[s], name) for s in STAGES] == pytest.approx(list(direct))
    assert [list(row) for row in m.confusion] == sk.confusion_matrix(
        true, said, labels=list(ANSWERS)
    )[:5].tolist()
    assert m.chance is not None
    assert m.chance.macro_f1 == pytest.approx(
        sk.f1_score(true, ["N2"] * 600, labels=list(STAGES), average="macro", zero_division=0)
    )
    assert sum(score.n for score in m.per_subject.values()) == m.n
    assert m.per_subject["S1"].kappa == pytest.approx(sk.cohen_kappa_score(true[1::3], said[1::3]))


def test_unreadable_answers_are_wrong_and_never_dropped(metrics_of: MetricsOf) -> None:
    clean = [(s, s) for s in STAGES] * 4
    full, with_gaps = metrics_of(clean), metrics_of([*clean, *((s, None) for s in STAGES)])
    assert (full.accuracy, full.macro_f1, full.kappa) == (1.0, 1.0, 1.0)
    assert with_gaps.n == 25
    assert with_gaps.accuracy == pytest.approx(0.8)
    assert with_gaps.macro_f1 == pytest.approx(8 / 9)
    assert with_gaps.kappa is not None
    assert with_gaps.kappa < 0.8
    assert all(row[-1] == 1 for row in with_gaps.confusion)


def test_all_answers_unreadable(metrics_of: MetricsOf) -> None:
    m = metrics_of([("W", None), ("N2", None)])
    assert (m.accuracy, m.macro_f1, m.kappa) == (0.0, 0.0, 0.0)
    assert m.one_sided
    assert m.most_common_answer == UNREADABLE


def test_epochs_without_a_label_are_counted_and_in_no_figure(metrics_of: MetricsOf) -> None:
    m = metrics_of([("W", "W"), ("N2", "N2"), (None, "N3"), (None, None)])
    assert (m.n, m.unlabelled, m.unreadable, m.accuracy) == (2, 2, 0, 1.0)
    assert m.per_subject["SC403"].n == 2


def test_one_stage_throughout_has_no_kappa_and_no_nan(metrics_of: MetricsOf) -> None:
    m = metrics_of([("N2", "N2")] * 5)
    assert m.kappa is None
    assert m.macro_f1 == 1.0
    assert m.per_stage["N1"].recall is None
    assert m.per_stage["N1"].precision is None
    json.dumps(asdict(m), allow_nan=False)


@pytest.mark.parametrize(("same", "one_sided"), [(95, False), (96, True)])
def test_nearly_equal_answers_are_flagged(
    metrics_of: MetricsOf, same: int, one_sided: bool
) -> None:
    pairs = [("W", "N2")] * same + [("W", "W")] * (100 - same)
    assert metrics_of(pairs).one_sided is one_sided


def test_subjects_are_told_apart_and_nameless_ones_left_out(
    epoch: Callable[..., AnsweredEpoch],
) -> None:
    epochs = [
        epoch(0, "W", "W", subject="B"),
        epoch(1, "W", "N1", subject="A"),
        epoch(2, "N2", "N2", subject=""),
    ]
    m = measure(epochs, Run("m", None, {}))
    assert list(m.per_subject) == ["A", "B"]
    assert (m.per_subject["A"].accuracy, m.per_subject["B"].accuracy) == (0.0, 1.0)
    assert m.n == 3


def test_row_has_the_promised_keys(metrics_of: MetricsOf) -> None:
    row = asdict(metrics_of(BY_HAND))
    promised = (
        "n accuracy macro_f1 kappa per_stage confusion confusion_labels unreadable unlabelled chance "
        "per_subject most_common_answer_share protocol model_id features"
    )
    assert set(promised.split()) <= set(row)
    assert row["per_stage"]["W"].keys() == {"precision", "recall", "f1", "support"}
    assert row["per_subject"]["SC403"].keys() == {
        *("n", "accuracy", "macro_f1", "weighted_f1", "kappa", "mcc", "balanced_accuracy")
    }
