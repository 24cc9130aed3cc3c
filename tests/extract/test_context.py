"""Features that know their neighbours: true time, pieces, gaps, training, and the files of `extract --context`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eegtool.core.records import Epoch
from eegtool.core.stages import STAGES
from eegtool.extract.context import (
    ContextEncoder,
    ContextPlan,
    Rows,
    Track,
    add_context,
    in_context,
    pieces,
    tracks,
    train_context,
)
from eegtool.extract.module import VisionModule
from eegtool.extract.weights import load_module, save_module

CPU = torch.device("cpu")


def encoder_of(reach: int, seed: int = 0) -> ContextEncoder:
    torch.manual_seed(seed)
    encoder = ContextEncoder(reach)
    torch.nn.init.normal_(encoder.distance)
    torch.nn.init.normal_(encoder.missing)
    return encoder.eval()


def rows_of(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 1024)).astype(np.float32)


def whole(n: int) -> Track:
    return Track(np.arange(n))


@pytest.mark.parametrize(
    ("onsets_s", "expected"),
    [
        ([0, 30, 60], [[0, 1, 2]]),
        ([60, 0, 30], [[1, 2, 0]]),  # the order of the table decides nothing
        ([15, 75], [[0, -1, 1]]),  # a dropped epoch is a place
        ([0, 30 * 11], [[0], [1]]),  # nobody looks across a longer gap than the reach
        ([0, 30 * 10], [[0, *[-1] * 9, 1]]),
        ([1e9], [[0]]),
    ],
)
def test_epochs_stand_in_true_time(onsets_s: list[float], expected: list[list[int]]) -> None:
    found = tracks(["night"] * len(onsets_s), onsets_s, reach=10)
    assert [track.index.tolist() for track in found] == expected


def test_recordings_are_never_mixed() -> None:
    found = tracks(["b", "a", "b", "a"], [0, 0, 30, 30], reach=10)
    assert [track.index.tolist() for track in found] == [[1, 3], [0, 2]]


@pytest.mark.parametrize("reach", [1, 7, 20])
def test_a_feature_depends_on_its_reach_and_on_nothing_else(reach: int) -> None:
    encoder, rows = encoder_of(reach), rows_of(90)
    before, _ = in_context(encoder, whole(90), rows, CPU)
    changed = rows.copy()
    changed[45] *= -1
    after, _ = in_context(encoder, whole(90), changed, CPU)
    moved = np.flatnonzero(np.abs(after - before).max(axis=1) > 1e-6)
    assert 45 in moved
    assert np.abs(moved - 45).max() <= reach
    assert reach == 1 or np.abs(moved - 45).max() > reach // 2  # further than one layer sees


def test_pieces_of_a_night_are_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, rows = encoder_of(20), rows_of(100)
    expected = in_context(encoder, whole(100), rows, CPU)
    monkeypatch.setattr("eegtool.extract.context._PIECE", 16)
    found = in_context(encoder, whole(100), rows, CPU)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_is_missing_has_its_place() -> None:
    """Without the gap the neighbours would be nearer, and look otherwise."""
    encoder, rows = encoder_of(10), rows_of(6)
    close, _ = in_context(encoder, whole(6), rows, CPU)
    apart, _ = in_context(encoder, Track(np.array([0, 1, 2, -1, -1, 3, 4, 5])), rows, CPU)
    assert apart.shape == (6, 1024)
    assert np.abs(close - apart).max() > 1e-3


def test_one_epoch_alone_has_a_feature() -> None:
    features, logits = in_context(encoder_of(20), whole(1), rows_of(1), CPU)
    assert features.shape == (1, 1024)
    assert np.isfinite(logits).all()


def test_a_night_by_name() -> None:
    ((track, names),) = pieces({"b": 30.0, "a": 0.0, "c": 90.0}, reach=5)
    assert names == ["a", "b", "c"]
    assert track.index.tolist() == [1, 0, -1, 2]


def nights(n_subjects: int, n: int = 160) -> tuple[list[Epoch], np.ndarray]:
    """Return epochs whose own representation hardly tells the stage; that of the neighbours does, together."""
    rng = np.random.default_rng(3)
    axes = rng.standard_normal((len(STAGES), 1024))
    epochs, rows = [], []
    for subject in range(n_subjects):
        for i in range(n):
            stage = (i // 16 + subject) % len(STAGES)
            name, where = f"S{subject}", f"S{subject}E0"
            epochs.append(
                Epoch(
                    f"{where}-{i}", "c", where, name, 1, i, 30.0 * i, STAGES[stage], "ft", "x.png"
                )
            )
            rows.append(0.08 * axes[stage] + rng.standard_normal(1024))
    return epochs, np.array(rows, np.float32)[:, None]


def kappa_of(epochs: list[Epoch], probabilities: np.ndarray) -> float:
    true = [STAGES.index(epoch.stage) for epoch in epochs]
    return float((probabilities.argmax(axis=1) == true).mean())


@pytest.fixture(scope="module")
def learnt() -> tuple[ContextEncoder, dict[str, object]]:
    torch.set_num_threads(1)
    epochs, rows = nights(9)
    plan = ContextPlan(reach=10, steps=80, length=40, seed=1)
    return train_context(plan, epochs, Rows(rows), ["S8"], CPU)


def test_neighbours_in_their_order_tell_the_stage(
    learnt: tuple[ContextEncoder, dict[str, object]],
) -> None:
    """Shuffled within the night, they tell no more than the epoch alone."""
    encoder, known = learnt
    assert isinstance(known["kappa"], float)
    assert known["kappa"] > 0.8
    epochs, rows = nights(10)  # the last one is a new subject
    epochs, rows = epochs[-160:], rows[-160:]
    ordered = kappa_of(epochs, add_context(encoder, epochs, Rows(rows.copy()), CPU))
    places = np.random.default_rng(0).permutation(160)
    shuffled = [replace(e, onset_s=30.0 * int(p)) for e, p in zip(epochs, places, strict=True)]
    mixed = kappa_of(epochs, add_context(encoder, shuffled, Rows(rows.copy()), CPU))
    alone = [replace(e, onset_s=3000.0 * i) for i, e in enumerate(epochs)]
    own = kappa_of(epochs, add_context(encoder, alone, Rows(rows.copy()), CPU))
    assert ordered > 0.85
    assert mixed < ordered - 0.2
    assert mixed < own + 0.1


def test_training_is_the_same_again() -> None:
    epochs, rows = nights(2, 60)
    plan = ContextPlan(reach=4, steps=3, length=20)
    one, other = (
        train_context(plan, epochs, Rows(rows), [], CPU)[0].state_dict() for _ in range(2)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_kept_with_the_module(tmp_path: Path) -> None:
    module = VisionModule("test_resnet", size=64, context=6).eval()
    digest = save_module(tmp_path, module, {})
    again, card = load_module(tmp_path)
    assert (card["context_epochs"], card["weights_sha256"]) == (6, digest)
    assert again.context is not None
    assert again.context.reach == 6
    module.context = None
    assert save_module(tmp_path, module, {}) != digest
    assert load_module(tmp_path)[0].context is None
