"""The reasons a sleep scorer would give for a stage, out of what was measured in the epoch.

Nothing is said that was not measured: where the facts do not speak for the stage, the text says so.
`claims` reads such texts back and holds them against the facts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from eegtool.reasons.facts import N3_SHARE, Facts

NUMBERS: Final = tuple("no one two three four five six seven eight nine ten eleven twelve".split())

LEAD: Final = "The stage is "
"""Words with which every conclusion begins."""


def conclusion(stage: str) -> str:
    """Return the sentence that ends every rationale."""
    return f"{LEAD}{stage}."


def reason(facts: Facts, stage: str) -> str:
    """Return the reasons for a stage, step by step: background, rhythm, events, rule, conclusion.

    The first three sentences are the same whatever the stage. The rules are those of the AASM Manual
    2.6 (Berry et al. 2020), chapter IV, part 1, "Scoring Stage W", "N1", "N2", "N3" and "R", as far
    as one EEG channel and one epoch can tell.
    """
    rule = next(text for holds, text in _RULES[stage] if holds(facts))
    parts = [_background(facts), _rhythm(facts), _events(facts), rule, conclusion(stage)]
    return " ".join(parts)


def define(stage: str) -> str:
    """Return how the AASM Manual describes a stage: reasons that claim nothing of any epoch."""
    return f"{_DEFINITIONS[stage]} {conclusion(stage)}"


def _background(facts: Facts) -> str:
    height = (
        f"{facts.amplitude.capitalize()}-amplitude EEG, about {facts.amplitude_uv} µV peak to peak"
    )
    delta, theta, alpha = (f"{100 * s:.0f} %" for s in (facts.delta, facts.theta, facts.alpha))
    if facts.delta_dominates:
        return f"{height}, in which delta dominates with {delta} of the power."
    return (
        f"{height}, of mixed frequencies: delta {delta} of the power, theta {theta}, alpha {alpha}."
    )


def _rhythm(facts: Facts) -> str:
    if not facts.rhythms:
        return "No rhythm stands out."
    seen = [
        f"{'an' if band == 'alpha' else 'a'} {band} rhythm of {hz} Hz"
        for band, hz in facts.rhythms.items()
    ]
    stand = "stands" if len(seen) == 1 else "stand"
    missing = "" if "alpha" in facts.rhythms else ", and no alpha rhythm"
    text = f"{' and '.join(seen)} {stand} out{missing}."
    return text[0].upper() + text[1:]


def _events(facts: Facts) -> str:
    spindles = count(facts.n_spindles, "spindle", "spindles")
    k_complexes = count(facts.n_k_complexes, "K-complex-like wave", "K-complex-like waves")
    found = f"{spindles.capitalize()}, {k_complexes}"
    if facts.slow_wave_share == 0:
        return f"{found}, no slow wave over 75 µV."
    than = "more than" if facts.slow_wave_share > N3_SHARE else "just"
    than = than if facts.enough_slow_waves else "less than"
    share = f"{100 * facts.slow_wave_share:.0f} %"
    return f"{found}; slow waves over 75 µV cover {share} of the epoch, {than} the 20 % of N3."


def count(n: int, one: str, more: str) -> str:
    """Return such as ``no spindle``, ``one spindle``, ``two spindles``, ``13 spindles``."""
    word = NUMBERS[n] if n < len(NUMBERS) else str(n)
    return f"{word} {one if n <= 1 else more}"


# Per stage what the rule makes of the facts; the first that holds is said. Every sentence names the
# AASM: that is how `claims` tells a rule from a claim about the epoch.
_RULES: Final[dict[str, tuple[tuple[Callable[[Facts], bool], str], ...]]] = {
    "W": (
        (
            lambda f: f.enough_slow_waves,
            "By the AASM rules that is N3, unless blinks make it, which look like slow waves at the "
            "front of the head; eye movements were not measured.",
        ),
        (
            lambda f: f.n_spindles > 0,
            "By the AASM rules spindles belong to N2; they do not speak for W.",
        ),
        (
            lambda f: "alpha" in f.rhythms,
            "Alpha rhythm is what the AASM rule for W looks for first.",
        ),
        (
            lambda f: True,
            "With no alpha, the AASM rule for W rests on blinks, eye movements and muscle tone, "
            "which were not measured.",
        ),
    ),
    "N1": (
        (
            lambda f: f.enough_slow_waves,
            "By the AASM rules that is N3; what was measured does not speak for N1.",
        ),
        (
            lambda f: f.n_spindles + f.n_k_complexes > 0,
            "By the AASM rules spindles and K-complexes belong to N2; what was measured does not "
            "speak for N1.",
        ),
        (
            lambda f: "alpha" in f.rhythms,
            "The AASM rule for N1 wants alpha in less than half of the epoch; how long it lasts "
            "was not measured.",
        ),
        (
            lambda f: f.amplitude == "low" and not f.delta_dominates,
            "Low and mixed activity without alpha or signs of N2 fits the AASM rule for N1; REM "
            "looks the same but for rapid eye movements, which were not measured.",
        ),
        (
            lambda f: True,
            "Neither alpha nor signs of N2 are left, but the AASM rule for N1 describes low-amplitude "
            "activity of mixed frequencies, and this is not quite that.",
        ),
    ),
    "N2": (
        (
            lambda f: f.enough_slow_waves,
            "By the AASM rules that is N3; what was measured does not speak for N2.",
        ),
        (
            lambda f: f.n_spindles > 0,
            "Spindles without the slow waves of N3 fit the AASM rule for N2.",
        ),
        (
            lambda f: f.n_k_complexes > 0,
            "K-complexes without the slow waves of N3 fit the AASM rule for N2, if no arousal goes "
            "with them.",
        ),
        (
            lambda f: True,
            "With no spindle or K-complex the AASM rules let N2 go on once it has begun; whether it "
            "had begun, this epoch alone does not show.",
        ),
    ),
    "N3": (
        (
            lambda f: f.enough_slow_waves,
            "That is enough for the AASM rule for N3, with or without spindles.",
        ),
        (
            lambda f: True,
            "The AASM rule for N3 wants 20 %; what was measured falls short of it.",
        ),
    ),
    "REM": (
        (
            lambda f: f.enough_slow_waves,
            "By the AASM rules that is N3; what was measured does not speak for REM.",
        ),
        (
            lambda f: f.n_spindles + f.n_k_complexes > 0,
            "By the AASM rules spindles and K-complexes belong to N2; what was measured does not "
            "speak for REM.",
        ),
        (
            lambda f: f.amplitude == "low" and not f.delta_dominates,
            "Such an EEG agrees with the AASM rule for REM, but rapid eye movements and low chin "
            "tone, which decide, were not measured.",
        ),
        (
            lambda f: True,
            "The AASM rule for REM wants low-amplitude activity of mixed frequencies, rapid eye "
            "movements and low chin tone; the EEG is not quite that, the others were not measured.",
        ),
    ),
}

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
