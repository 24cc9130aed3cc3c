"""The reasons a sleep scorer would give for a stage, out of what was measured in the epoch.

Nothing is said that was not measured: where the facts do not speak for the stage, the text says so.
`claims` reads such texts back and holds them against the facts.
"""

from __future__ import annotations

from typing import Final

from eegtool.reasons.facts import Facts
from eegtool.reasons.rules import verdict

AMPLITUDE_STEP_UV: Final = 10
SHARE_STEP: Final = 0.05
"""Numbers are quoted in few forms, which a language model can learn: our choice."""

LEAD: Final = "The stage is "
"""Words with which every conclusion begins, be it before or behind the reasons."""


def conclusion(stage: str) -> str:
    """Return the sentence that names the stage, before the reasons or behind them."""
    return f"{LEAD}{stage}."


def reason(facts: Facts, stage: str) -> str:
    """Return the reasons for a stage, step by step: background, rhythm, events, eyes and chin, rule.

    All sentences before the rule are the same whatever the stage; that of eyes and chin is left out where
    neither was measured. Which rule is said follows from the facts, see `eegtool.reasons.rules`.
    """
    parts = [_background(facts), _rhythm(facts), _events(facts), _eyes_and_chin(facts)]
    return " ".join(filter(None, [*parts, verdict(facts, stage)]))


def define(stage: str) -> str:
    """Return how the AASM Manual describes a stage: reasons that claim nothing of any epoch."""
    return _DEFINITIONS[stage]


def _background(facts: Facts) -> str:
    amplitude_uv = AMPLITUDE_STEP_UV * round(facts.amplitude_uv / AMPLITUDE_STEP_UV)
    height = f"{facts.amplitude.capitalize()}-amplitude EEG, about {amplitude_uv} µV peak to peak"
    delta, theta, alpha = map(_percent, (facts.delta, facts.theta, facts.alpha))
    if facts.delta_dominates:
        return f"{height}, in which delta dominates with {delta} of the power."
    return (
        f"{height}, of mixed frequencies: delta {delta} of the power, theta {theta}, alpha {alpha}."
    )


def _rhythm(facts: Facts) -> str:
    if not facts.rhythms:
        return "No rhythm stands out."
    seen = [
        f"{'an' if band == 'alpha' else 'a'} {band} rhythm of {hz:.0f} Hz"
        for band, hz in facts.rhythms.items()
    ]
    stand = "stands" if len(seen) == 1 else "stand"
    missing = "" if "alpha" in facts.rhythms else ", and no alpha rhythm"
    half = ", over more than half of the epoch" if facts.alpha_over_half else ""
    text = f"{' and '.join(seen)} {stand} out{missing}{half if 'alpha' in facts.rhythms else ''}."
    return text[0].upper() + text[1:]


def _events(facts: Facts) -> str:
    k_complexes = "K-complex-like waves" if facts.n_k_complexes else "no K-complex-like waves"
    found = f"{'Spindles' if facts.n_spindles else 'No spindles'}, {k_complexes}"
    if facts.n_arousals:
        found += ", an arousal"
    if facts.slow_wave_share == 0:
        return f"{found}, no slow wave over 75 µV."
    share = facts.slow_wave_share if facts.enough_slow_waves else min(facts.slow_wave_share, 0.17)
    than = "at least" if facts.enough_slow_waves else "less than"
    covered = f"slow waves over 75 µV cover {_percent(share)} of the epoch"
    return f"{found}; {covered}, {than} the 20 % of N3."


def _percent(share: float) -> str:
    """Return such as ``65 %``; what is nearly nothing is the smallest step."""
    return f"{100 * SHARE_STEP * max(round(share / SHARE_STEP), 1):.0f} %"


def _eyes_and_chin(facts: Facts) -> str:
    """Return what eyes and chin do, of those that were measured."""
    said = []
    if facts.n_rapid is not None and facts.n_blinks is not None:
        rapid = "rapid eye movements" if facts.n_rapid else "no rapid eye movements"
        said.append(f"{rapid}, {'blinks' if facts.n_blinks else 'no blinks'}")
    if facts.slow_eyes is not None:
        said.append("slow eye movements" if facts.has_slow_eyes else "no slow eye movements")
    text = ", ".join(said)
    if facts.chin:
        against = {"low": "below", "medium": "near", "high": "above"}[facts.chin]
        chin = f"chin tone is {facts.chin}, {against} the level of the night"
        text = f"{text}; {chin}" if text else chin
    return f"{text[0].upper()}{text[1:]}." if text else ""


_DEFINITIONS: Final = {
    "W": "The AASM rule for W wants alpha rhythm over more than half of an epoch, or blinks, eye "
    "movements and muscle tone of somebody awake.",
    "N1": "The AASM rule for N1 wants alpha to have given way, for more than half of an epoch, to "
    "low-amplitude activity of mixed frequencies, mostly 4-7 Hz. Vertex waves and slow eye movements "
    "may go with it by the AASM rules, spindles may not.",
    "N2": "The AASM rule for N2 wants a spindle, 11-16 Hz for at least half a second, or a K-complex "
    "that no arousal goes with. By the AASM rules N2 then goes on until another stage begins.",
    "N3": "The AASM rule for N3 wants slow waves, 0.5-2 Hz and more than 75 µV peak to peak, over at "
    "least 20 % of an epoch. By the AASM rules spindles may go on in it.",
    "REM": "The AASM rule for REM wants low-amplitude activity of mixed frequencies, rapid eye "
    "movements and low chin tone. By the AASM rules neither spindles nor K-complexes belong to it.",
}
