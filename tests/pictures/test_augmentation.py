from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from eegtool.pictures.augmentation import Augmentation, vary
from eegtool.pictures.signals import StoredNight, quantise
from eegtool.pictures.spec import Strip

NOTHING = Augmentation(gain_db=0, shift_s=0, noise_uv=0, lost=0)


def night_of(*names: str) -> StoredNight:
    """Return two minutes of ramps, in which every sample tells where it is."""
    ramps = [(name, np.arange(-6000.0, 6000.0) / 10, 100.0) for name in names]
    return quantise("n", "", 0.0, ramps)


def varied(how: Augmentation, onset_s: float, seed: int = 0, n: int = 1) -> list[np.ndarray]:
    signals, _ = vary(night_of(*"abc"[:n]), onset_s, how, np.random.default_rng(seed))
    assert [sfreq_hz for _, sfreq_hz in signals] == [100.0] * n
    return [epoch_uv for epoch_uv, _ in signals]


def test_nothing_changes_nothing() -> None:
    night = night_of("a", "b")
    for found, (epoch_uv, _) in zip(varied(NOTHING, 30.0, n=2), night.cut_uv(30.0), strict=True):
        np.testing.assert_array_equal(found, epoch_uv)


def test_gain_is_of_each_channel_and_within_its_bounds() -> None:
    how = Augmentation(gain_db=2, shift_s=0, noise_uv=0, lost=0)
    true = night_of("a").cut_uv(30.0)[0][0]
    gains = np.array(
        [[np.ptp(x) / np.ptp(true) for x in varied(how, 30.0, seed, n=2)] for seed in range(200)]
    )
    assert 0.794 <= gains.min() < 0.8  # ±2 dB
    assert 1.25 < gains.max() <= 1.259
    assert abs(np.corrcoef(gains.T)[0, 1]) < 0.2


@pytest.mark.parametrize("onset_s", [0.0, 30.0, 90.0])
def test_a_shift_brings_in_what_was_recorded_there(onset_s: float) -> None:
    """The edge is not repeated: a ramp stays one; at the ends of the recording it stops."""
    how = Augmentation(gain_db=0, shift_s=5, noise_uv=0, lost=0)
    starts = []
    for seed in range(200):
        (epoch_uv,) = varied(how, onset_s, seed)
        assert len(epoch_uv) == 3000
        np.testing.assert_allclose(np.diff(epoch_uv), 0.1, atol=1 / 32)
        starts.append((epoch_uv[0] + 600) / 10 - onset_s)
    assert min(starts) == pytest.approx(-5 if onset_s else 0, abs=0.2)
    assert max(starts) == pytest.approx(5 if onset_s < 90 else 0, abs=0.2)


def test_noise_is_white_and_no_stronger_than_asked() -> None:
    how = Augmentation(gain_db=0, shift_s=0, noise_uv=3, lost=0)
    true = night_of("a").cut_uv(30.0)[0][0]
    noise = [varied(how, 30.0, seed)[0] - true for seed in range(100)]
    assert 2.8 < max(x.std() for x in noise) < 3.1
    assert min(x.std() for x in noise) < 0.2
    assert abs(np.corrcoef(noise[0][1:], noise[0][:-1])[0, 1]) < 0.1


def test_a_channel_is_lost_now_and_then_and_never_the_only_one() -> None:
    how = Augmentation(gain_db=0, shift_s=0, noise_uv=1, lost=0.5)
    assert all(x.any() for seed in range(50) for x in varied(how, 30.0, seed))
    flat = [[not x.any() for x in varied(how, 30.0, seed, n=3)] for seed in range(300)]
    assert max(map(sum, flat)) == 1
    assert 0.4 < np.mean([any(row) for row in flat]) < 0.6
    assert np.ptp(np.sum(flat, axis=0)) < 40  # each as often as the others


def test_flips_only_where_asked() -> None:
    how = Augmentation(gain_db=0, shift_s=0, noise_uv=0, lost=0, flip=True)
    signs = [np.sign(x[1] - x[0]) for seed in range(100) for x in varied(how, 30.0, seed)]
    assert 20 < signs.count(-1) < 80
    true = night_of("a").cut_uv(30.0)[0][0]
    forms = {tuple(varied(how, 30.0, seed)[0][:2]) for seed in range(100)}
    assert forms == {tuple(x[:2]) for x in (true, -true, true[::-1], -true[::-1])}


def test_a_seed_draws_the_same() -> None:
    one, same, other = (varied(Augmentation(), 30.0, seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_neighbours_are_changed_as_the_epoch_is() -> None:
    """They follow each other in time, as strong as each other; at the edge of the recording there is none."""
    how = Augmentation(gain_db=2, shift_s=5, noise_uv=0, lost=0)
    for seed in range(20):
        signals, around = vary(night_of("a"), 60.0, how, np.random.default_rng(seed), 1)
        (epoch_uv, _), (before_uv, _) = signals[0], (around[0] or signals)[0]
        step = np.diff(epoch_uv).mean()
        assert step != pytest.approx(0.1, rel=1e-3)
        assert np.diff(before_uv).mean() == pytest.approx(step, rel=1e-3)
        assert epoch_uv[0] - before_uv[-1] == pytest.approx(step, abs=0.05)
    _, (none, _) = vary(night_of("a"), 0.0, how, np.random.default_rng(3), context_epochs=1)
    assert none is None


def test_channels_are_dropped_as_often_as_asked_and_one_stays() -> None:
    how = Augmentation(gain_db=0, shift_s=0, noise_uv=0, lost=0, channel_dropout=0.4)
    gone = np.array([[not len(x) for x in varied(how, 30.0, seed, n=3)] for seed in range(500)])
    assert 0.33 < gone.mean() < 0.42
    assert gone.sum(axis=1).max() == 2
    assert set(gone.sum(axis=1)) == {0, 1, 2}
    assert np.ptp(gone.sum(axis=0)) < 60


def test_a_montage_is_often_eeg_alone() -> None:
    how = Augmentation(gain_db=0, shift_s=0, noise_uv=0, lost=0, channel_dropout=0.3)
    strips = [Strip("wrapped", 100.0, kind=kind) for kind in ("eeg", "eog", "emg")]
    night, there = night_of("a", "b", "c"), Counter[tuple[bool, ...]]()
    for seed in range(1000):
        signals, _ = vary(night, 30.0, how, np.random.default_rng(seed), strips=strips)
        there[tuple(len(signal_uv) > 0 for signal_uv, _ in signals)] += 1
    assert there[True, False, False] == pytest.approx(1000 * (0.3 + 0.7 * 0.7 * 0.3**2), abs=60)
    assert there[True, True, True] == pytest.approx(1000 * 0.7 * 0.7**3, abs=60)
    assert there[False, True, True] == pytest.approx(1000 * 0.7 * 0.3 * 0.7**2, abs=40)
    assert (False, False, False) not in there


def test_a_channel_that_is_missing_stays_missing() -> None:
    night = quantise("n", "", 0.0, [("a", np.arange(12e3), 100.0), ("-", np.empty(0), 1.0)])
    for seed in range(20):
        how = Augmentation(channel_dropout=0.9)
        (there, _), (missing, _) = vary(night, 30.0, how, np.random.default_rng(seed))[0]
        assert (len(there), len(missing)) == (3000, 0)


def test_noise_does_not_drown_a_chin_at_rest() -> None:
    rest = np.random.default_rng(0).normal(0, 1.0, 12_000)
    night = quantise("n", "", 0.0, [("chin", rest, 100.0)])
    how = Augmentation(gain_db=0, shift_s=0, noise_uv=5, lost=0)
    noises = []
    for seed in range(50):
        (signal_uv, _), *_ = vary(night, 30.0, how, np.random.default_rng(seed))[0]
        noises.append((signal_uv - night.cut_uv(30.0)[0][0]).std())
    assert 0.05 < max(noises) < 0.11
