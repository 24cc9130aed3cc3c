from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.probabilities import by_stage
from eegtool.core.records import Answer
from eegtool.core.stages import STAGES
from eegtool.inference import smoothing
from eegtool.inference.smoothing import (
    Chain,
    chain_of,
    fitted_weight,
    smoothed_stages,
    viterbi,
)
from tests.stage.conftest import SEQUENCE

EVEN = np.full(5, 0.2)
STICKY = Chain(np.full((5, 5), 0.02) + 0.9 * np.eye(5), EVEN, EVEN, short=0)


@pytest.mark.parametrize("seed", range(20))
def test_viterbi_finds_the_best_of_all_paths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 7)), int(rng.integers(2, 5))
    seen, moves = np.log(rng.random((n, k))), np.log(rng.random((k, k)))
    start = np.log(rng.random(k))

    def score(path: tuple[int, ...]) -> float:
        steps = sum(moves[a, b] for a, b in pairwise(path))
        return float(start[path[0]] + steps + sum(seen[t, s] for t, s in enumerate(path)))

    best = max(product(range(k), repeat=n), key=score)
    assert tuple(viterbi(seen, moves, start)) == best


def smoothed(indices: Sequence[int], shares: np.ndarray, chain: Chain) -> tuple[str, ...]:
    """Smooth the epochs of one recording."""
    return tuple(smoothing.smoothed([("night", i) for i in indices], shares, chain))


def one_hot(stages: list[str], sure: float) -> np.ndarray:
    rest = (1 - sure) / (len(STAGES) - 1)
    return np.array([[sure if s == stage else rest for s in STAGES] for stage in stages])


def test_a_doubtful_outlier_gives_way_and_a_sure_one_stays() -> None:
    stages = ["N2"] * 4 + ["REM"] + ["N2"] * 4
    assert smoothed(range(9), one_hot(stages, 0.5), STICKY) == ("N2",) * 9
    assert smoothed(range(9), one_hot(stages, 0.999999), STICKY) == tuple(stages)


def test_a_gap_begins_again() -> None:
    """What stood before it does not reach across: each side is what it would be alone."""
    shares = np.concatenate([one_hot(["N3"] * 4, 0.9), one_hot(["REM", "REM"], 0.5)])
    apart = [0, 1, 2, 3, 9, 10]
    alone = smoothed([0, 1], shares[4:], STICKY)
    assert smoothed(apart, shares, STICKY) == ("N3",) * 4 + alone
    assert smoothed(range(6), shares, STICKY)[4:] != alone


def test_how_common_a_stage_was_in_training_is_divided_out() -> None:
    """Probabilities that say no more than the training's shares leave it to the sequence."""
    flat = Chain(np.full((5, 5), 0.2), EVEN, np.array([0.6, 0.1, 0.1, 0.1, 0.1]), short=0)
    shares = np.array([[0.5, 0.2, 0.1, 0.1, 0.1]])
    assert smoothed([0], shares, flat) == ("N1",)


def test_what_a_calibration_made_common_is_divided_out_instead() -> None:
    flat = Chain(np.full((5, 5), 0.2), EVEN, np.array([0.6, 0.1, 0.1, 0.1, 0.1]), short=0)
    calibrated = flat.of_probabilities([9, 59, 9, 9, 9])
    assert calibrated.trained == pytest.approx([0.1, 0.6, 0.1, 0.1, 0.1])
    assert smoothed([0], np.array([[0.2, 0.5, 0.1, 0.1, 0.1]]), calibrated) == ("W",)


def test_a_sequence_without_weight_leaves_each_epoch_to_itself() -> None:
    stages = ["N2"] * 4 + ["REM"] + ["N2"] * 4
    skewed = replace(STICKY, trained=np.array([0.6, 0.1, 0.1, 0.1, 0.1]), weight=0.0)
    assert smoothed(range(9), one_hot(stages, 0.3), skewed) == tuple(stages)


def test_a_short_recording_trusts_the_sequence_less() -> None:
    stages = ["N2"] * 4 + ["REM"] + ["N2"] * 4
    nap = replace(STICKY, short=60)
    assert smoothed(range(9), one_hot(stages, 0.6), nap) == tuple(stages)
    whole = [*stages, *["N2"] * 800]
    assert smoothed(range(809), one_hot(whole, 0.6), nap) == ("N2",) * 809


def test_the_weight_is_the_best_on_validation_nights() -> None:
    rng = np.random.default_rng(3)
    calm = ["N2"] * 40 + ["REM"] * 40
    restless = [str(s) for s in rng.choice(STAGES, 80)]
    for true, sure, right in ((calm, 0.4, (0.3, 1.0)), (restless, 0.5, (0.0, 0.2))):
        said = [s if rng.random() < 0.8 else "N1" for s in true]
        places = [("night", i) for i in range(80)]
        weight = fitted_weight(places, one_hot(said, sure), true, STICKY)
        assert right[0] <= weight <= right[1]
    assert fitted_weight([("night", 0)], one_hot(["W"], 0.9), ["W"], STICKY) == STICKY.weight


def test_recordings_are_smoothed_each_by_itself_and_in_time() -> None:
    """In whatever order their epochs come, and however many of them change."""
    stages = ["N2", "REM", "N2", "N2", "N2", "REM"]
    places = [("a", 0), ("a", 1), ("a", 2), ("b", 2), ("b", 1), ("b", 0)]
    rows = [
        Answer(f"{place}", "?", "?", "", "?", "?", {"stage_probabilities": by_stage(shares)})
        for place, shares in zip(places, one_hot(stages, 0.4), strict=True)
    ]
    for row, (recording, index) in zip(rows, places, strict=True):
        row.metadata.update(recording=recording, epoch_index=index)
    found, changed = smoothed_stages([*rows, replace(rows[0], metadata={})], STICKY)
    assert found == {row.question_id: "N2" for row in rows}
    assert changed == pytest.approx({"a": 1 / 3, "b": 1 / 3})


def test_no_epoch_and_probabilities_of_zero() -> None:
    assert smoothed([], np.empty((0, 5)), STICKY) == ()
    certain = np.array([[1.0, 0, 0, 0, 0], [0, 0, 1.0, 0, 0]])
    assert smoothed([0, 1], certain, STICKY) == ("W", "N2")


def test_a_chain_is_the_counts_with_one_added() -> None:
    chain = chain_of(SEQUENCE, "model")
    np.testing.assert_allclose(chain.transitions[0], np.array([51, 6, 2, 1, 2]) / 62)
    np.testing.assert_allclose(chain.transitions.sum(axis=1), 1)
    assert (chain.transitions > 0).all()
    np.testing.assert_allclose(chain.trained, np.array([61, 36, 111, 51, 51]) / 310)
    assert chain.start.sum() == pytest.approx(1)


@pytest.mark.parametrize("sequence", [{}, {"transitions": [[1] * 5] * 5}, {"stages": [1] * 5}])
def test_a_model_that_knows_no_sequences_is_refused(sequence: dict[str, Any]) -> None:
    with pytest.raises(EegToolError, match=r"--smooth: m/ does not say") as caught:
        chain_of(sequence, "m/")
    assert "finetune" in caught.value.fix
