from __future__ import annotations

import json
import logging
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yasa

import eegtool
from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.reasons.claims import CLAIM_KINDS, claims_in, holds
from eegtool.reasons.facts import BANDS_HZ, Facts, measure
from eegtool.reasons.rules import RULES, cited, holding
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
    said = "An alpha rhythm of 10 Hz and a theta rhythm of 6 Hz stand out, over more than half of"
    assert said in reason(facts, "W")


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
    for facts in (FACTS, replace(FACTS, rhythms_hz=()), REM):
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
        n_before=int(rng.integers(0, 2)),
        n_arousals=int(rng.choice([0, 0, 1, 2])),
        alpha_cover=round(float(rng.uniform(0, 1)), 2),
        **drawn_eyes_and_chin(rng),
    )


def drawn_eyes_and_chin(rng: np.random.Generator) -> dict[str, Any]:
    """Two eyes, one, or none; a chin or none."""
    eyes: dict[str, Any] = {}
    if n := int(rng.integers(0, 3)):
        eyes = {"n_rapid": int(rng.choice([0, 1, 14])), "n_blinks": int(rng.choice([0, 3]))}
    if n == 2:
        eyes["slow_eyes"] = float(rng.choice([0.0, 0.05, 0.4]))
    return eyes | ({"chin_db": int(rng.integers(-12, 12))} if rng.random() < 0.7 else {})


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
def test_a_text_is_short_and_its_last_sentence_cites_the_rules(stage: str) -> None:
    rng = np.random.default_rng(4)
    for _ in range(100):
        text = reason(drawn(rng), stage)
        assert text.count(". ") in (3, 4)
        assert len(text.split()) <= 125
        assert "AASM" in text.split(". ")[-1]
        assert conclusion(stage) not in text  # which a template puts before or behind it


def test_observations_do_not_know_the_stage() -> None:
    texts = {reason(FACTS, stage).split("; slow waves")[0] for stage in STAGES}
    assert texts == {
        "Medium-amplitude EEG, about 50 µV peak to peak, of mixed frequencies: delta 60 % of the "
        "power, theta 20 %, alpha 10 %. A sigma rhythm of 13 Hz stands out, and no alpha rhythm. "
        "Spindles, K-complex-like waves"
    }


def test_numbers_come_in_few_forms() -> None:
    """Steps that a language model can learn; beside a limit the one on the right side of it."""
    rng = np.random.default_rng(6)
    said = " ".join(reason(drawn(rng), "N2") for _ in range(300))
    assert {int(n) % 5 for n in re.findall(r"(\d+) %", said)} == {0}
    assert {int(n) % 10 for n in re.findall(r"about (\d+) µV", said)} == {0}
    for share, words in (
        (0.19, "15 % of the epoch, less than"),
        (0.2, "20 % of the epoch, at least"),
    ):
        assert f"cover {words} the 20 %" in reason(replace(FACTS, slow_wave_share=share), "N2")


NOTHING = replace(
    FACTS, n_spindles=0, n_k_complexes=0, slow_wave_share=0.0, n_slow_waves=0, rhythms_hz=()
)
QUIET = replace(NOTHING, amplitude_uv=25)
DEEP = replace(NOTHING, slow_wave_share=0.5, n_slow_waves=15, delta=0.9, amplitude_uv=120)


@pytest.mark.parametrize(
    ("facts", "stage", "said"),
    [
        (
            replace(QUIET, rhythms_hz=(10.0,)),
            "W",
            "Alpha rhythm is what the AASM rule W.1 looks for first",
        ),
        (QUIET, "W", "With no alpha, W rests by the AASM rule W.2 on blinks"),
        (DEEP, "W", "that is N3, unless blinks make it"),
        (FACTS, "W", "they do not speak for W"),
        (QUIET, "N1", "fits the AASM rule N1.1"),
        (replace(QUIET, rhythms_hz=(10.0,)), "N1", "Alpha over less than half of the epoch"),
        (NOTHING, "N1", "this is not quite that"),
        (FACTS, "N1", "what was measured does not speak for N1"),
        (DEEP, "N1", "By the AASM rule N3.1 that is N3"),
        (FACTS, "N2", "Spindles without the slow waves of N3 fit"),
        (replace(FACTS, n_spindles=0), "N2", "without an arousal, fit the AASM rule N2.1"),
        (NOTHING, "N2", "lets N2 go on once it has begun"),
        (DEEP, "N2", "what was measured does not speak for N2"),
        (DEEP, "N3", "That is enough for the AASM rule N3.1"),
        (FACTS, "N3", "falls short of it"),
        (QUIET, "REM", "agrees with the AASM rule R.1, but rapid eye movements"),
        (NOTHING, "REM", "the EEG is not quite that"),
        (FACTS, "REM", "what was measured does not speak for REM"),
        (DEEP, "REM", "that is N3"),
    ],
)
def test_the_rule_that_is_cited(facts: Facts, stage: str, said: str) -> None:
    assert said in reason(facts, stage)


# Of a night with two EOG channels and a chin.
STILL = replace(QUIET, n_rapid=0, n_blinks=0, slow_eyes=0.0, chin_db=0)
REM = replace(QUIET, n_rapid=3, n_blinks=0, slow_eyes=0.0, chin_db=-10)
ALPHA = replace(QUIET, rhythms_hz=(10.0,), alpha_cover=0.7)


@pytest.mark.parametrize(
    ("facts", "stage", "said"),
    [
        (ALPHA, "W", "Alpha over more than half of the epoch is the AASM rule W.1"),
        (replace(STILL, n_blinks=2), "W", "are the AASM rule W.2"),
        (replace(STILL, n_rapid=2, chin_db=8), "W", "are the AASM rule W.2"),
        (REM, "W", "what was measured is not quite that"),
        (replace(DEEP, n_blinks=4, n_rapid=0), "W", "unless the blinks of W.2 make it"),
        (ALPHA, "N1", "By the AASM rule W.1 alpha over more than half of the epoch is W"),
        (REM, "N1", "By the AASM rule R.1 that is REM"),
        (replace(STILL, slow_eyes=0.4), "N1", "fit the AASM rule N1.2"),
        (STILL, "N1", "or what makes REM (R.1) fits the AASM rule N1.1"),
        (replace(STILL, n_before=1), "N2", "in the last half of the epoch before counts"),
        (replace(STILL, n_arousals=1), "N2", "an arousal ends N2"),
        (replace(STILL, n_arousals=1, n_k_complexes=1), "N2", "does not speak for N2"),
        (REM, "REM", "are the AASM rule R.1"),
        (replace(REM, n_rapid=0), "REM", "the AASM rule R.2 lets REM go on"),
        (replace(REM, chin_db=0), "REM", "want a chin that is low"),
        (replace(REM, n_rapid=None, n_blinks=None), "REM", "but rapid eye movements, which decide, were not"),
        (replace(REM, chin_db=None), "REM", "chin tone, which it wants low, was not measured"),
    ],
)  # fmt: skip
def test_the_rule_that_eyes_and_chin_decide(facts: Facts, stage: str, said: str) -> None:
    assert said in reason(facts, stage)


def test_eyes_and_chin_are_spoken_of_as_far_as_they_were_measured() -> None:
    assert (
        "Rapid eye movements, no blinks, no slow eye movements; chin tone is low, below the level of the "
        "night." in reason(REM, "N2")
    )
    one = replace(REM, slow_eyes=None, chin_db=None)
    assert "Rapid eye movements, no blinks. " in reason(one, "N2")
    alone = replace(QUIET, chin_db=5)
    assert " Chin tone is high, above the level of the night. " in reason(alone, "N2")
    assert "eye movements" not in reason(QUIET, "N2")


def test_rules_that_hold_and_rules_that_are_cited() -> None:
    assert holding(REM) == ("N1.1", "R.1", "R.2")
    assert holding(ALPHA) == ("W.1",)
    assert holding(DEEP) == ("N3.1",)
    assert holding(FACTS) == ("N2.1",)
    assert holding(QUIET) == ("N1.1",)  # what was not measured holds for nothing
    assert holding(replace(STILL, n_blinks=1)) == ("W.2", "N1.1")
    assert cited(reason(REM, "REM")) == ("R.1",)
    assert cited("Neither W.1, N2.1 nor R.9 or W.1; 1.5 N2.") == ("W.1", "N2.1")
    rng = np.random.default_rng(1)
    named = Counter(
        name for _ in range(300) for s in STAGES for name in cited(reason(drawn(rng), s))
    )
    assert set(named) == set(RULES)
    assert all(cited(reason(drawn(rng), stage)) for stage in STAGES)


def test_what_supports_a_stage_holds() -> None:
    """A text that says a rule is met, names one that holds by the facts."""
    rng = np.random.default_rng(2)
    for _ in range(500):
        facts = drawn(rng)
        for stage in STAGES:
            said = reason(facts, stage)
            if any(
                word in said for word in (" is the AASM", " are the AASM", "enough for", " fit ")
            ):
                names = cited(said)
                assert any(RULES[n].stage == stage and n in holding(facts) for n in names), said


@pytest.mark.parametrize("stage", STAGES)
def test_a_definition_claims_nothing_of_the_epoch(stage: str) -> None:
    text = define(stage)
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
        ("Three rapid eye movements, no blinks.", [("rapid_eye_movements", True, 3), ("blinks", False, None)]),
        ("Slow rolling eye movements are seen.", [("slow_eye_movements", True, None)]),
        ("The chin tone is low.", [("low_chin", True, None)]),
        ("High muscle tone.", [("high_chin", True, None)]),
        ("An alpha rhythm covers more than half of the epoch.", [("alpha_rhythm", True, None), ("alpha_over_half", True, None)]),
        ("One arousal.", [("arousals", True, 1)]),
        ("This is rapid eye movement sleep.", []),
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
        ("Three spindles are seen.", True),
        ("Four spindles are seen.", False),
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
        ("Delta holds 70 % of the power.", True),
        ("Delta holds 75 % of the power.", False),
        ("Low amplitude.", False),
        ("Medium-amplitude EEG, 58 µV peak to peak.", True),
        ("Medium-amplitude EEG, 62 µV peak to peak.", False),
        ("A sigma rhythm of 14 Hz.", True),
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


@pytest.mark.parametrize(
    ("near", "clear", "text"),
    [
        ({"amplitude_uv": 39}, {"amplitude_uv": 50}, "Low-amplitude EEG."),
        ({"amplitude_uv": 70}, {"amplitude_uv": 60}, "High-amplitude EEG."),
        ({"amplitude_uv": 36}, {"amplitude_uv": 30}, "Medium-amplitude EEG."),
        (
            {"slow_wave_share": 0.17},
            {"slow_wave_share": 0.1},
            "Slow waves over more than 20 % of it.",
        ),
        ({"delta": 0.77}, {"delta": 0.6}, "Delta dominates."),
        ({"alpha_cover": 0.3}, {"alpha_cover": 0.0}, "An alpha rhythm."),
    ],
)
def test_of_a_close_call_either_is_true(
    near: dict[str, float], clear: dict[str, float], text: str
) -> None:
    (claim, *_) = claims_in(text)
    denied = replace(claim, present=False)
    close, far = replace(FACTS, **near), replace(FACTS, **clear)  # type: ignore[arg-type]
    assert holds(claim, close)
    assert holds(denied, close)
    assert not holds(claim, far)
    assert holds(denied, far)


@pytest.mark.parametrize(
    ("text", "true"),
    [
        ("Three rapid eye movements.", True),
        ("Five rapid eye movements.", False),
        ("No blinks.", True),
        ("Slow eye movements.", False),
        ("Chin tone is low.", True),
        ("Chin tone is high.", False),
    ],
)
def test_claims_about_eyes_and_chin_are_true_only_where_they_were_measured(
    text: str, true: bool
) -> None:
    (claim,) = claims_in(text)
    assert holds(claim, REM) is true
    assert not holds(claim, QUIET)


def test_every_kind_can_be_true_and_its_number_wrong() -> None:
    (claim,) = claims_in("Four spindles.")
    assert claim.text == "Four spindles"
    assert not holds(claim, FACTS)
    assert holds(replace(claim, value=None), FACTS)
    rng = np.random.default_rng(5)
    many = [drawn(rng) for _ in range(300)]
    assert all(any(kind.true(facts) for facts in many) for kind in CLAIM_KINDS.values())


def test_reasons_of_one_epoch_are_found_false_in_another() -> None:
    deep = claims_in(reason(DEEP, "N3"))
    assert sum(holds(claim, QUIET) for claim in deep) <= len(deep) / 2


def test_the_documents_list_the_rules() -> None:
    page = Path(eegtool.__file__).parents[1] / "docs" / "your_data.md"
    text = page.read_text(encoding="utf-8")
    for name, rule in RULES.items():
        assert f"| {name} | {rule.stage} | {rule.text} |" in text
