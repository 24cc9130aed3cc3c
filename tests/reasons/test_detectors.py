"""Eyes, chin, alpha and arousals: found where they were put, and nowhere else."""

from __future__ import annotations

import time

import numpy as np
import pytest

from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.reasons.detectors import alpha_and_arousals, chin_db, eye_movements, share_of
from eegtool.reasons.facts import Facts, measure
from eegtool.recordings.signals import band_pass
from eegtool.simulate.twins import load_twin, simulate_psg
from eegtool.simulate.waveforms import SFREQ_HZ, Floats
from tests.reasons.test_words import add, onsets, pink, slow_wave, spindle

N = EPOCH_S * SFREQ_HZ


def saccade(peak_uv: float) -> Floats:
    """A step that a high-pass of 0.3 Hz lets fall."""
    time_s = np.arange(0, 2, 1 / SFREQ_HZ)
    return peak_uv * np.minimum(time_s / 0.08, 1) * np.exp(-np.maximum(time_s - 0.08, 0) / 0.53)


def blink(peak_uv: float) -> Floats:
    time_s = np.arange(-1, 1, 1 / SFREQ_HZ)
    return peak_uv * np.exp(-0.5 * (time_s / 0.08) ** 2)


def eyes(*waves: tuple[float, Floats], n_epochs: int = 4) -> tuple[Floats, Floats]:
    """Return both EOG channels: shared EEG, and waves that are opposite in them."""
    shared, moving = pink(n_epochs), np.zeros(n_epochs * N)
    for at_s, wave_uv in waves:
        add(moving, at_s, wave_uv)
    noise = np.random.default_rng(1).normal(0, 1, (2, n_epochs * N))
    return shared + moving + noise[0], shared - moving + noise[1]


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("two", [True, False])
def test_rapid_movements_and_blinks_are_told_apart(sign: int, two: bool) -> None:
    left, right = eyes(
        *[(at, sign * saccade(180)) for at in (10.0, 20.0, 70.0)],
        *[(at, sign * blink(200)) for at in (40.0, 44.0)],
    )
    found = eye_movements(left, right if two else None)
    np.testing.assert_allclose(found.rapid_s, [10.2, 20.2, 70.2], atol=0.3)
    np.testing.assert_allclose(found.blinks_s, [41, 45], atol=0.2)
    if two:
        assert found.slow is not None
        assert share_of(found.slow, SFREQ_HZ, 90.0) == 0
    else:
        assert found.slow is None


def test_what_both_channels_share_is_no_eye_movement() -> None:
    left, right = eyes()
    for at_s in (10.0, 20.0, 30.0):
        for channel in (left, right):
            add(channel, at_s, slow_wave(250))
            add(channel, at_s + 5, blink(200))
    found = eye_movements(left, right)
    assert not len(found.rapid_s)
    assert not len(found.blinks_s)
    assert found.slow is not None
    assert found.slow.mean() < 0.01


def test_slow_movements_are_no_rapid_ones() -> None:
    time_s = np.arange(0, 20, 1 / SFREQ_HZ)
    left, right = eyes((35.0, 60 * np.sin(2 * np.pi * 0.3 * time_s)))
    found = eye_movements(left, right)
    assert not len(found.rapid_s)
    assert found.slow is not None
    shares = [share_of(found.slow, SFREQ_HZ, 30.0 * i) for i in range(4)]
    assert shares[1] == pytest.approx(20 / 30, abs=0.12)
    assert shares[0] < 0.1
    assert shares[2:] == [0, 0]


def test_alpha_covers_the_part_of_the_epoch_that_it_is_in() -> None:
    signal_uv = pink(60)
    for epoch, lasts_s in ((1, 10), (2, 20), (3, 30)):
        wave = 12 * np.sin(2 * np.pi * 9.5 * np.arange(lasts_s * SFREQ_HZ) / SFREQ_HZ)
        add(signal_uv, 30.0 * epoch, wave)
    facts = measure(signal_uv, SFREQ_HZ, onsets(signal_uv))
    covers = [f.alpha_cover for f in facts]
    assert covers[:4] == [
        pytest.approx(0, abs=0.1),
        pytest.approx(1 / 3, abs=0.1),
        pytest.approx(2 / 3, abs=0.1),
        pytest.approx(1, abs=0.1),
    ]
    assert [f.alpha_over_half for f in facts[:4]] == [False, False, True, True]
    assert np.mean(covers[4:]) < 0.04


@pytest.mark.parametrize(
    ("lasts_s", "at_s", "n"),
    [(5.0, 47.0, 1), (2.0, 47.0, 0), (10.0, 47.0, 1), (25.0, 47.0, 0), (5.0, 4.0, 0)],
)
def test_an_arousal_lasts_three_seconds_after_ten_of_sleep(
    lasts_s: float, at_s: float, n: int
) -> None:
    signal_uv = pink(4)
    time_s = np.arange(0, lasts_s, 1 / SFREQ_HZ)
    add(signal_uv, at_s, 12 * np.sin(2 * np.pi * 10 * time_s) + 6 * np.sin(2 * np.pi * 22 * time_s))
    _, arousals_s = alpha_and_arousals(signal_uv)
    assert len(arousals_s) == n
    if n:
        assert arousals_s[0] == pytest.approx(at_s, abs=1.5)


def test_spindles_are_no_arousals() -> None:
    signal_uv = pink(4)
    for at_s in range(20, 100, 4):
        add(signal_uv, at_s, spindle(peak_uv=30))
    assert not len(alpha_and_arousals(signal_uv)[1])


def test_signs_of_n2_in_the_last_half_of_the_epoch_before() -> None:
    signal_uv = pink(40)
    add(signal_uv, 50.0, spindle(peak_uv=40))
    add(signal_uv, 95.0, spindle(peak_uv=40))  # in the first half
    add(signal_uv, 140.0, slow_wave(200))
    facts = measure(signal_uv, SFREQ_HZ, onsets(signal_uv))
    assert [f.n_before for f in facts[:6]] == [0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("sfreq_hz", [200.0, 1.0])
def test_chin_tone_is_held_against_the_night(sfreq_hz: float) -> None:
    """As a signal, and as an envelope of 1 Hz; a twitch does not lift a whole epoch."""
    rng = np.random.default_rng(0)
    n = round(EPOCH_S * sfreq_hz)
    uv = np.concatenate([rng.normal(0, level, n) for level in (5, 5, 5, 1, 20)])
    uv = uv if sfreq_hz > 1 else np.repeat([5.0, 5.0, 5.0, 1.0, 20.0], n)
    uv[3 * n + n // 2 : 3 * n + n // 2 + max(n // 60, 1)] *= 20
    found = chin_db(uv, sfreq_hz, np.arange(5) * 30.0)
    assert found == [pytest.approx(x, abs=1) for x in (0, 0, 0, -14, 12)]


@pytest.fixture(scope="module")
def night() -> tuple[list[Facts], list[str], float]:
    """Return what was measured in a simulated night, its stages, and the CPU time per epoch."""
    twin = load_twin("SC4001E0").condensed(15)
    psg = simulate_psg(twin, seed=1)
    eeg, _, left, right, chin = psg.values()
    eeg, left, right = (band_pass(x, SFREQ_HZ, 0.3, 35.0) for x in (eeg, left, right))
    chin = band_pass(chin, SFREQ_HZ, 10.0, 45.0)
    others = ([(left, SFREQ_HZ), (right, SFREQ_HZ)], (chin, SFREQ_HZ))
    measure(eeg[: 4 * N], SFREQ_HZ, [0.0, 30.0], *others)  # imports
    began = time.process_time()
    facts = measure(eeg, SFREQ_HZ, onsets(eeg), *others)
    return facts, list(twin.stages()), (time.process_time() - began) / len(facts)


def test_eyes_and_chin_speak_for_the_stages_of_a_night(
    night: tuple[list[Facts], list[str], float],
) -> None:
    facts, stages, _ = night
    of = {s: [f for f, stage in zip(facts, stages, strict=True) if stage == s] for s in STAGES}
    share = {
        "rapid": {s: np.mean([bool(f.n_rapid) for f in of[s]]) for s in STAGES},
        "blinks": {s: np.mean([bool(f.n_blinks) for f in of[s]]) for s in STAGES},
        "slow": {s: np.mean([f.has_slow_eyes for f in of[s]]) for s in STAGES},
        "low chin": {s: np.mean([f.chin == "low" for f in of[s]]) for s in STAGES},
    }
    assert min(share["rapid"]["REM"], share["blinks"]["W"]) > 0.5
    assert share["slow"]["N1"] > 0.7
    assert share["low chin"]["REM"] > 0.9
    for name, own in (("rapid", "REM"), ("blinks", "W"), ("slow", "N1"), ("low chin", "REM")):
        others = [s for s in STAGES if s != own and (name, s) != ("rapid", "W")]
        assert max(share[name][s] for s in others) < 0.2, (name, share[name])
    assert not any(f.n_rapid or f.n_blinks or f.has_slow_eyes for f in of["N2"] + of["N3"])


def test_facts_are_quick(night: tuple[list[Facts], list[str], float]) -> None:
    assert night[2] < 0.025
