from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.stages import STAGES
from eegtool.inference.smoothing import Chain, chain_of, smoothed, viterbi
from tests.stage.conftest import SEQUENCE

STICKY = Chain(np.full((5, 5), 0.02) + 0.9 * np.eye(5), np.full(5, 0.2), np.full(5, 0.2))


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
    flat = Chain(np.full((5, 5), 0.2), np.full(5, 0.2), np.array([0.6, 0.1, 0.1, 0.1, 0.1]))
    shares = np.array([[0.5, 0.2, 0.1, 0.1, 0.1]])
    assert smoothed([0], shares, flat) == ("N1",)


def test_what_a_calibration_made_common_is_divided_out_instead() -> None:
    flat = Chain(np.full((5, 5), 0.2), np.full(5, 0.2), np.array([0.6, 0.1, 0.1, 0.1, 0.1]))
    calibrated = flat.of_probabilities([9, 59, 9, 9, 9])
    assert calibrated.trained == pytest.approx([0.1, 0.6, 0.1, 0.1, 0.1])
    assert smoothed([0], np.array([[0.2, 0.5, 0.1, 0.1, 0.1]]), calibrated) == ("W",)


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
