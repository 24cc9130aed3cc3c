from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import yasa

from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.reasons.claims import CLAIM_KINDS, claims_in, holds
from eegtool.reasons.facts import BANDS_HZ, Facts, measure
from eegtool.reasons.words import conclusion, define, reason
from eegtool.recordings.signals import band_pass, resample
from eegtool.simulate.twins import load_twin, simulate_signal
from eegtool.simulate.waveforms import SFREQ_HZ, Floats

FACTS = Facts(
    delta=0.62,
    theta=0.2,
    alpha=0.08,
    sigma=0.05,
    beta=0.05,
    rhythms_hz=(13.1,),
    amplitude_uv=48,
    slow_wave_share=0.09,
    n_slow_waves=3,
    n_k_complexes=1,
    n_spindles=2,
)
N_NOISE = 80


def pink(n_epochs: int, rms_uv: float = 6.0, seed: int = 0) -> Floats:
    """Noise as the background of EEG: its power falls with frequency."""
    rng = np.random.default_rng(seed)
    n = n_epochs * EPOCH_S * SFREQ_HZ
    freqs_hz = np.fft.rfftfreq(n, 1 / SFREQ_HZ)
    freqs_hz[0] = freqs_hz[1]
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) / freqs_hz**0.75, n)
    noise = band_pass(noise, SFREQ_HZ, 0.3, 35.0)
    return np.asarray(noise * rms_uv / noise.std())


def onsets(signal_uv: Floats, sfreq_hz: float = SFREQ_HZ) -> list[float]:
    return [float(EPOCH_S * i) for i in range(int(len(signal_uv) / sfreq_hz + 1e-3) // EPOCH_S)]


def add(signal_uv: Floats, at_s: float, wave_uv: Floats) -> None:
    start = round(at_s * SFREQ_HZ)
    signal_uv[start : start + len(wave_uv)] += wave_uv


def spindle(hz: float = 13.0, peak_uv: float = 25.0) -> Floats:
    time_s = np.arange(-0.6, 0.6, 1 / SFREQ_HZ)
    return peak_uv * np.exp(-0.5 * (time_s / 0.25) ** 2) * np.sin(2 * np.pi * hz * time_s)


def slow_wave(height_uv: float) -> Floats:
    """One period of 1 Hz, trough first: as high from trough to peak as asked."""
    return -height_uv / 2 * np.sin(2 * np.pi * np.arange(0, 1, 1 / SFREQ_HZ))


@pytest.fixture(scope="module")
def measured() -> list[Facts]:
    """Noise with: an alpha rhythm, two spindles, ten and five slow waves, one large one, noise."""
    signal_uv = pink(N_NOISE)
    alpha = 8 * np.sin(2 * np.pi * 10 * np.arange(EPOCH_S * SFREQ_HZ) / SFREQ_HZ)
    signal_uv[: EPOCH_S * SFREQ_HZ] += alpha
    for at_s in (40.0, 52.0):
        add(signal_uv, at_s, spindle())
    for i in range(10):
        add(signal_uv, 61 + 2.5 * i, slow_wave(140))
    for i in range(4):
        add(signal_uv, 91 + 6 * i, slow_wave(140))
    add(signal_uv, 130, slow_wave(180))
    return measure(signal_uv, SFREQ_HZ, onsets(signal_uv))


def test_rhythm(measured: list[Facts]) -> None:
    assert measured[0].rhythms == {"alpha": pytest.approx(10, abs=0.3)}
    assert measured[0].alpha > 0.25
    assert measured[5].alpha < 0.1


def test_two_rhythms_the_higher_one_first() -> None:
    signal_uv = pink(3)
    time_s = np.arange(len(signal_uv)) / SFREQ_HZ
    signal_uv += 5 * np.sin(2 * np.pi * 5.5 * time_s) + 10 * np.sin(2 * np.pi * 10 * time_s)
    (facts,) = measure(signal_uv, SFREQ_HZ, [30.0])
    assert list(facts.rhythms) == ["alpha", "theta"]
    assert facts.rhythms["theta"] == pytest.approx(5.5, abs=0.3)
    assert "An alpha rhythm of 10.1 Hz and a theta rhythm of 5.5 Hz stand out." in reason(
        facts, "W"
    )


def test_noise_has_no_rhythm_and_no_waves(measured: list[Facts]) -> None:
    noise = measured[5:]
    assert sum(bool(f.rhythms) for f in noise) <= 0.05 * len(noise)
    # yasa judges by the spread of the signal it is given: noise alone looks like a few spindles.
    assert sum(f.n_spindles for f in noise) <= 0.1 * len(noise)
    assert sum(f.n_slow_waves for f in noise) == 0
    assert {f.amplitude for f in noise} == {"low"}
    assert all(sum(getattr(f, b) for b in BANDS_HZ) == pytest.approx(1, abs=0.03) for f in noise)


def test_spindles_are_counted_in_their_epoch(measured: list[Facts]) -> None:
    assert [f.n_spindles for f in measured[:4]] == [0, 2, 0, 0]


def test_slow_waves_and_their_share(measured: list[Facts]) -> None:
    assert [f.n_slow_waves for f in measured[:6]] == [0, 0, 10, 4, 1, 0]
    assert measured[2].slow_wave_share == pytest.approx(10 / EPOCH_S, abs=0.05)
    assert measured[2].enough_slow_waves
    assert measured[2].delta_dominates
    assert measured[3].slow_wave_share == pytest.approx(4 / EPOCH_S, abs=0.03)
    assert not measured[3].enough_slow_waves
    # A single wave stands out from low noise, one of many does not.
    assert measured[4].n_k_complexes == 1
    assert measured[2].n_k_complexes == 0


def test_band_powers_are_yasas() -> None:
    signal_uv = pink(3)
    (facts,) = measure(signal_uv, SFREQ_HZ, [30.0])
    bands = [(low, high, name) for name, (low, high) in BANDS_HZ.items()]
    table = yasa.bandpower(signal_uv[3000:6000], SFREQ_HZ, bands=bands)
    for band in BANDS_HZ:
        assert getattr(facts, band) == pytest.approx(table[band].iloc[0], abs=0.02)


@pytest.mark.parametrize("sfreq_hz", [64.0, 128.0, 199.9, 256.0, 512.0])
def test_any_sampling_rate_gives_the_same_facts(sfreq_hz: float, measured: list[Facts]) -> None:
    signal_uv = pink(4)
    signal_uv[:3000] += 8 * np.sin(2 * np.pi * 10 * np.arange(3000) / SFREQ_HZ)
    add(signal_uv, 40.0, spindle(peak_uv=40))
    for i in range(10):
        add(signal_uv, 61 + 2.5 * i, slow_wave(140))
    there = resample(signal_uv, SFREQ_HZ, sfreq_hz)
    for at_100, here in zip(
        measure(signal_uv, SFREQ_HZ, onsets(signal_uv)),
        measure(there, sfreq_hz, onsets(there, sfreq_hz)),
        strict=True,
    ):
        # The very end of the signal is cut in another way.
        assert at_100.n_spindles == here.n_spindles
        assert at_100.n_slow_waves == here.n_slow_waves
        assert at_100.rhythms.keys() == here.rhythms.keys()
        assert at_100.delta == pytest.approx(here.delta, abs=0.02)
        assert at_100.amplitude_uv == pytest.approx(here.amplitude_uv, abs=2)


def test_too_low_a_sampling_rate_is_refused() -> None:
    with pytest.raises(EegToolError, match="sampled at 50 Hz"):
        measure(np.zeros(50 * 60), 50.0, [0.0])


def test_onsets_in_any_order_and_between_whole_epochs() -> None:
    signal_uv = pink(6)
    add(signal_uv, 100.0, slow_wave(180))
    early, late = measure(signal_uv, SFREQ_HZ, [15.0, 75.0])
    assert (early.n_slow_waves, late.n_slow_waves) == (0, 1)
    assert measure(signal_uv, SFREQ_HZ, [75.0, 15.0]) == [late, early]
    assert measure(signal_uv, SFREQ_HZ, []) == []


@pytest.mark.parametrize("flat", [slice(3000, 6000), slice(None)])
def test_flat_stretches_are_measured_quietly(
    flat: slice, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    signal_uv = pink(4)
    signal_uv[flat] = 0.0
    with caplog.at_level(logging.INFO):
        facts = measure(signal_uv, SFREQ_HZ, onsets(signal_uv))
    assert facts[1].amplitude_uv == 0
    assert facts[1].n_spindles == facts[1].n_slow_waves == 0
    assert facts[1].rhythms_hz == ()
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_blocks_find_the_spindles_that_yasa_finds_in_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twin = load_twin("SC4001E0").cropped_around_sleep(5).cropped(100, 300)
    signal_uv = band_pass(simulate_signal(twin, seed=1)[0], SFREQ_HZ, 0.3, 35.0)
    peaks_s = yasa.spindles_detect(signal_uv, SFREQ_HZ).summary()["Peak"]
    whole = np.bincount((peaks_s // EPOCH_S).astype(int), minlength=twin.n_epochs)
    monkeypatch.setattr("eegtool.reasons.facts._BLOCK_SAMPLES", 40 * 3000)
    in_blocks = [f.n_spindles for f in measure(signal_uv, SFREQ_HZ, onsets(signal_uv))]
    assert whole.sum() > 50
    assert np.abs(whole - in_blocks).sum() <= 0.03 * whole.sum()


def test_facts_speak_for_the_stages_of_a_night() -> None:
    twin = load_twin("SC4001E0").condensed(12)
    signal_uv = band_pass(simulate_signal(twin, seed=1)[0], SFREQ_HZ, 0.3, 35.0)
    facts = measure(signal_uv, SFREQ_HZ, onsets(signal_uv))
    of = {
        s: [f for f, stage in zip(facts, twin.stages(), strict=True) if s == stage] for s in STAGES
    }
    assert sum(f.enough_slow_waves for f in of["N3"]) >= 9
    assert sum(f.enough_slow_waves for f in of["REM"] + of["N1"]) <= 1
    assert sum(f.n_spindles > 0 for f in of["N2"]) >= 6
    assert sum(f.n_spindles > 0 for f in of["REM"]) <= 1
    assert sum("alpha" in f.rhythms for f in of["W"]) > sum("alpha" in f.rhythms for f in of["REM"])
    for stage, rows in of.items():
        for row in rows:
            check_true(row, stage)


def test_facts_survive_json() -> None:
    for facts in (FACTS, replace(FACTS, rhythms_hz=())):
        assert Facts.from_row(json.loads(json.dumps(facts.to_row()))) == facts
    with pytest.raises(ValueError, match="n_spindles"):
        Facts.from_row({"delta": 0.5})


# --- reasons ----------------------------------------------------------------------------------------


def drawn(rng: np.random.Generator) -> Facts:
    """Facts of any combination, also of those that no brain makes."""
    delta, theta, alpha, sigma, beta = map(float, rng.dirichlet([8, 2, 1, 1, 1]).round(2))
    share = round(float(rng.choice([0, rng.uniform(0, 0.3), 0.2, rng.uniform(0, 1)])), 2)
    n_slow_waves = 0 if share == 0 else int(rng.integers(1, 20))
    return Facts(
        delta=delta,
        theta=theta,
        alpha=alpha,
        sigma=sigma,
        beta=beta,
        rhythms_hz=tuple(rng.permutation([5.5, 9.8, 13.1])[: rng.integers(0, 4)].tolist()),
        amplitude_uv=int(rng.integers(5, 200)),
        slow_wave_share=share,
        n_slow_waves=n_slow_waves,
        n_k_complexes=int(rng.integers(0, min(n_slow_waves, 14) + 1)),
        n_spindles=int(rng.choice([0, 1, 2, 15])),
    )


def check_true(facts: Facts, stage: str) -> None:
    text = reason(facts, stage)
    claims = claims_in(text)
    false = [claim for claim in claims if not holds(claim, facts)]
    assert not false, f"{text}\n{false}"
    # Amplitude twice, delta, a rhythm, spindles, K-complexes and slow waves are always spoken of.
    assert len(claims) >= 7, text
    kinds = {claim.kind for claim in claims}
    assert {"spindles", "k_complexes", "slow_waves", "delta_share", "amplitude"} <= kinds, text


def test_every_claim_of_every_text_is_true() -> None:
    rng = np.random.default_rng(3)
    for _ in range(400):
        facts = drawn(rng)
        for stage in STAGES:
            check_true(facts, stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_text_is_short_and_concludes_with_the_stage(stage: str) -> None:
    rng = np.random.default_rng(4)
    for _ in range(100):
        text = reason(drawn(rng), stage)
        assert text.endswith(f" The stage is {stage}.")
        assert text.count(". ") == 4
        assert len(text.split()) <= 110
        # Only the last two sentences depend on the stage: reasons come before the answer.
        assert text.split(". ")[-1] == conclusion(stage)


def test_observations_do_not_know_the_stage() -> None:
    texts = {reason(FACTS, stage).split("; slow waves")[0] for stage in STAGES}
    assert texts == {
        "Medium-amplitude EEG, about 48 µV peak to peak, of mixed frequencies: delta 62 % of the "
        "power, theta 20 %, alpha 8 %. A sigma rhythm of 13.1 Hz stands out, and no alpha rhythm. "
        "Two spindles, one K-complex-like wave"
    }


NOTHING = replace(
    FACTS, n_spindles=0, n_k_complexes=0, slow_wave_share=0.0, n_slow_waves=0, rhythms_hz=()
)
QUIET = replace(NOTHING, amplitude_uv=25)
DEEP = replace(NOTHING, slow_wave_share=0.5, n_slow_waves=15, delta=0.9, amplitude_uv=120)


@pytest.mark.parametrize(
    ("facts", "stage", "said"),
    [
        (replace(QUIET, rhythms_hz=(10.0,)), "W", "Alpha rhythm is what the AASM rule for W"),
        (QUIET, "W", "With no alpha, the AASM rule for W rests on blinks"),
        (DEEP, "W", "that is N3, unless blinks make it"),
        (FACTS, "W", "they do not speak for W"),
        (QUIET, "N1", "fits the AASM rule for N1"),
        (replace(QUIET, rhythms_hz=(10.0,)), "N1", "alpha in less than half of the epoch"),
        (NOTHING, "N1", "this is not quite that"),
        (FACTS, "N1", "what was measured does not speak for N1"),
        (DEEP, "N1", "By the AASM rules that is N3"),
        (FACTS, "N2", "Spindles without the slow waves of N3 fit"),
        (replace(FACTS, n_spindles=0), "N2", "K-complexes without the slow waves of N3 fit"),
        (NOTHING, "N2", "let N2 go on once it has begun"),
        (DEEP, "N2", "what was measured does not speak for N2"),
        (DEEP, "N3", "That is enough for the AASM rule for N3"),
        (FACTS, "N3", "falls short of it"),
        (QUIET, "REM", "agrees with the AASM rule for REM, but rapid eye movements"),
        (NOTHING, "REM", "the EEG is not quite that"),
        (FACTS, "REM", "what was measured does not speak for REM"),
        (DEEP, "REM", "that is N3"),
    ],
)
def test_the_rule_that_is_cited(facts: Facts, stage: str, said: str) -> None:
    assert said in reason(facts, stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_definition_claims_nothing_of_the_epoch(stage: str) -> None:
    text = define(stage)
    assert text.endswith(conclusion(stage))
    assert claims_in(text) == ()
    assert len({define(s) for s in STAGES}) == len(STAGES)


# --- claims -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sleep spindles are visible.", [("spindles", True, None)]),
        ("There are 12-14 Hz spindles.", [("spindles", True, None)]),
        ("There are no spindles or K-complexes.", [("spindles", False, None), ("k_complexes", False, None)]),
        ("No spindles, but three K complexes.", [("spindles", False, None), ("k_complexes", True, 3)]),
        ("Spindles are absent; delta dominates.", [("spindles", False, None), ("delta_dominant", True, None)]),
        ("The EEG is dominated by delta activity.", [("delta_dominant", True, None)]),
        ("A 10.1-Hz alpha rhythm is seen.", [("alpha_rhythm", True, 10.1)]),
        ("Alpha activity isn't seen.", [("alpha_rhythm", False, None)]),
        ("Low-voltage, mixed-frequency activity.", [("low_amplitude", True, None), ("mixed_frequencies", True, None)]),
        ("Slow waves occupy more than 20 % of the epoch.", [("enough_slow_waves", True, None)]),
        ("Slow waves do not fill at least 20% of it.", [("enough_slow_waves", False, None)]),
        ("This looks like slow-wave sleep.", []),
        ("The AASM rule asks for spindles.", []),
        ("The stage is N2.", []),
        ("", []),
    ],
)  # fmt: skip
def test_claims_are_read_from_plain_english(
    text: str, expected: list[tuple[str, bool, float | None]]
) -> None:
    found = [(claim.kind, claim.present, claim.value) for claim in claims_in(text)]
    assert found == expected


@pytest.mark.parametrize(
    ("text", "true"),
    [
        ("Two spindles are seen.", True),
        ("Three spindles are seen.", False),
        ("Spindles are seen.", True),
        ("No spindle is seen.", False),
        ("One K-complex.", True),
        ("Slow waves cover 9 % of the epoch.", True),
        ("Slow waves cover 30 % of the epoch.", False),
        ("Slow waves cover less than 20 % of the epoch.", True),
        ("Slow waves cover more than 20 % of the epoch.", False),
        ("Delta dominates.", False),
        ("Mixed frequencies.", True),
        ("Delta holds 62 % of the power.", True),
        ("Delta holds 70 % of the power.", False),
        ("Low amplitude.", False),
        ("Medium-amplitude EEG, 48 µV peak to peak.", True),
        ("A sigma rhythm of 13.1 Hz.", True),
        ("A sigma rhythm of 12.0 Hz.", False),
        ("An alpha rhythm.", False),
        ("No alpha rhythm.", True),
        ("No rhythm stands out.", False),
    ],
)
def test_claims_are_held_against_the_facts(text: str, true: bool) -> None:
    claims = claims_in(text)
    assert claims
    assert all(holds(claim, FACTS) for claim in claims) is true


def test_every_kind_can_be_true_and_its_number_wrong() -> None:
    (claim,) = claims_in("Three spindles.")
    assert claim.text == "Three spindles"
    assert not holds(claim, FACTS)
    assert holds(replace(claim, value=None), FACTS)
    rng = np.random.default_rng(5)
    many = [drawn(rng) for _ in range(300)]
    assert all(any(kind.true(facts) for facts in many) for kind in CLAIM_KINDS.values())


def test_reasons_of_one_epoch_are_found_false_in_another() -> None:
    deep = claims_in(reason(DEEP, "N3"))
    assert sum(holds(claim, QUIET) for claim in deep) <= len(deep) / 2
