"""The rules by which stages are scored: each with a stable id, and what it makes of the facts of an epoch.

They are those of the AASM Manual 2.6 (Berry et al. 2020), chapter IV, part 1, "Scoring Stage W", "N1", "N2",
"N3" and "R", in our words and numbering, as far as one epoch and the end of the one before can tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from eegtool.reasons.facts import Facts


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of scoring.

    Attributes
    ----------
    stage : str
        What it scores.
    text : str
        What it says.
    holds : callable
        Whether it holds by the facts; None where what it needs was not measured.
    """

    stage: str
    text: str
    holds: Callable[[Facts], bool | None]


def _low_and_mixed(facts: Facts) -> bool:
    return facts.amplitude == "low" and not facts.delta_dominates


def _signs_of_n2(facts: Facts) -> bool:
    return facts.n_spindles + facts.n_k_complexes > 0


def _awake_eyes(facts: Facts) -> bool | None:
    if facts.n_blinks is None or facts.n_rapid is None:
        return None
    return facts.n_blinks > 0 or (facts.n_rapid > 0 and facts.chin in ("medium", "high"))


def _rem(facts: Facts) -> bool | None:
    """Low and mixed activity, low tone and rapid eyes: what is not so rules it out, whatever is not measured."""
    if not _low_and_mixed(facts) or _signs_of_n2(facts) or facts.n_rapid == 0:
        return False
    if facts.chin in ("medium", "high"):
        return False
    return True if facts.n_rapid and facts.chin else None


def _goes_on_in_rem(facts: Facts) -> bool | None:
    if not _low_and_mixed(facts) or _signs_of_n2(facts) or facts.n_arousals:
        return False
    return facts.chin == "low" if facts.chin else None


RULES: Final[dict[str, Rule]] = {
    "W.1": Rule("W", "Alpha rhythm over more than half of the epoch.", lambda f: f.alpha_over_half),
    "W.2": Rule(
        "W", "Blinks, or rapid eye movements with the chin tone of somebody awake.", _awake_eyes
    ),
    "N1.1": Rule(
        "N1",
        "Low-amplitude activity of mixed frequencies over more than half of the epoch, instead of alpha.",
        lambda f: _low_and_mixed(f) and not f.alpha_over_half and not _signs_of_n2(f),
    ),
    "N1.2": Rule(
        "N1",
        "Slow eye movements with such activity.",
        lambda f: None if f.slow_eyes is None else f.has_slow_eyes and not _signs_of_n2(f),
    ),
    "N2.1": Rule(
        "N2",
        "A spindle, or a K-complex without an arousal, in the first half of the epoch or the last half of the "
        "one before. (Here: anywhere in the epoch.)",
        lambda f: (
            not f.enough_slow_waves
            and (f.n_spindles > 0 or (f.n_k_complexes > 0 and not f.n_arousals) or f.n_before > 0)
        ),
    ),
    "N2.2": Rule(
        "N2",
        "N2 goes on without spindles and K-complexes until an arousal, or another stage, ends it.",
        lambda f: (
            False
            if f.enough_slow_waves or f.n_arousals or not _low_and_mixed(f) or _signs_of_n2(f)
            else None
        ),
    ),
    "N3.1": Rule(
        "N3",
        "Slow waves, 0.5-2 Hz and more than 75 µV peak to peak, over at least 20 % of the epoch.",
        lambda f: f.enough_slow_waves,
    ),
    "R.1": Rule(
        "REM",
        "Low-amplitude activity of mixed frequencies, low chin tone and rapid eye movements.",
        _rem,
    ),
    "R.2": Rule(
        "REM",
        "REM goes on without rapid eye movements as long as the chin stays low and nothing else begins.",
        _goes_on_in_rem,
    ),
}
"""By id. An id never changes its meaning."""


def holding(facts: Facts) -> tuple[str, ...]:
    """Return the ids of the rules that hold by what was measured."""
    return tuple(name for name, rule in RULES.items() if rule.holds(facts))


def cited(text: str) -> tuple[str, ...]:
    """Return the ids of the rules that a text names, each once, in their order."""
    return tuple(dict.fromkeys(name for name in _ID.findall(text) if name in RULES))


_ID: Final = re.compile(r"\b(?:W|N1|N2|N3|R)\.\d\b")


def verdict(facts: Facts, stage: str) -> str:
    """Return the sentence that says what the rules make of the facts, for a stage.

    Every such sentence names the AASM: that is how `claims` tells a rule from a claim about the epoch.
    """
    return next(text for holds, text in _VERDICTS[stage] if holds(facts))


_Verdict = tuple[Callable[[Facts], bool], str]


def _n3_instead_of(stage: str) -> _Verdict:
    text = f"By the AASM rule N3.1 that is N3; what was measured does not speak for {stage}."
    return lambda f: f.enough_slow_waves, text


def _n2_instead_of(stage: str) -> _Verdict:
    text = "By the AASM rule N2.1 spindles and K-complexes belong to N2; what was measured does not speak"
    return _signs_of_n2, f"{text} for {stage}."


# Per stage what the rules make of the facts; the first that holds is said.
_VERDICTS: Final[dict[str, tuple[_Verdict, ...]]] = {
    "W": (
        (
            lambda f: f.enough_slow_waves and bool(f.n_blinks),
            "By the AASM rule N3.1 that is N3, unless the blinks of W.2 make it, which look like slow waves at "
            "the front of the head.",
        ),
        (
            lambda f: f.enough_slow_waves and f.n_blinks is None,
            "By the AASM rule N3.1 that is N3, unless blinks make it, which look like slow waves at the "
            "front of the head; eye movements were not measured.",
        ),
        _n3_instead_of("W"),
        (
            lambda f: f.alpha_over_half,
            "Alpha over more than half of the epoch is the AASM rule W.1.",
        ),
        (
            lambda f: bool(_awake_eyes(f)),
            "Blinks, or rapid eye movements with such a chin, are the AASM rule W.2.",
        ),
        (
            lambda f: f.n_spindles > 0,
            "By the AASM rule N2.1 spindles belong to N2; they do not speak for W.",
        ),
        (
            lambda f: "alpha" in f.rhythms and f.n_rapid is None,
            "Alpha rhythm is what the AASM rule W.1 looks for first, over more than half of an epoch; it is not "
            "quite that, and blinks and eye movements (W.2) were not measured.",
        ),
        (
            lambda f: f.n_rapid is None,
            "With no alpha, W rests by the AASM rule W.2 on blinks, eye movements and muscle tone, "
            "which were not measured.",
        ),
        (
            lambda f: True,
            "The AASM rules W.1 and W.2 want alpha over more than half of an epoch, or blinks and the eye movements "
            "of somebody awake; what was measured is not quite that.",
        ),
    ),
    "N1": (
        _n3_instead_of("N1"),
        _n2_instead_of("N1"),
        (
            lambda f: f.alpha_over_half,
            "By the AASM rule W.1 alpha over more than half of the epoch is W; it does not speak for N1.",
        ),
        (
            lambda f: bool(_rem(f)),
            "By the AASM rule R.1 that is REM; what was measured does not speak for N1.",
        ),
        (
            lambda f: f.has_slow_eyes,
            "Slow eye movements without signs of N2 fit the AASM rule N1.2.",
        ),
        (
            lambda f: _low_and_mixed(f) and "alpha" in f.rhythms,
            "Alpha over less than half of the epoch, and low and mixed activity, fit the AASM rule N1.1.",
        ),
        (
            lambda f: _low_and_mixed(f) and f.n_rapid is None,
            "Low and mixed activity without alpha or signs of N2 fits the AASM rule N1.1; REM (R.1) "
            "looks the same but for rapid eye movements, which were not measured.",
        ),
        (
            _low_and_mixed,
            "Low and mixed activity without alpha, signs of N2 or what makes REM (R.1) fits the AASM rule N1.1.",
        ),
        (
            lambda f: True,
            "Neither alpha nor signs of N2 are left, but the AASM rule N1.1 describes low-amplitude "
            "activity of mixed frequencies, and this is not quite that.",
        ),
    ),
    "N2": (
        _n3_instead_of("N2"),
        (
            lambda f: f.n_spindles > 0,
            "Spindles without the slow waves of N3 fit the AASM rule N2.1.",
        ),
        (
            lambda f: f.n_k_complexes > 0 and not f.n_arousals,
            "K-complexes without the slow waves of N3, and without an arousal, fit the AASM rule N2.1.",
        ),
        (
            lambda f: f.n_before > 0 and not f.n_arousals,
            "A spindle or K-complex in the last half of the epoch before counts by the AASM rule N2.1.",
        ),
        (
            lambda f: f.n_arousals > 0,
            "By the AASM rules N2.1 and N2.2 an arousal ends N2, and a K-complex that goes with one does not count; "
            "what was measured does not speak for N2.",
        ),
        (
            lambda f: True,
            "With no spindle or K-complex the AASM rule N2.2 lets N2 go on once it has begun; whether it "
            "had begun, this epoch and the one before do not show.",
        ),
    ),
    "N3": (
        (
            lambda f: f.enough_slow_waves,
            "That is enough for the AASM rule N3.1, with or without spindles.",
        ),
        (
            lambda f: True,
            "The AASM rule N3.1 wants 20 %; what was measured falls short of it.",
        ),
    ),
    "REM": (
        _n3_instead_of("REM"),
        _n2_instead_of("REM"),
        (
            lambda f: bool(_rem(f)),
            "Low and mixed activity, rapid eye movements and low chin tone are the AASM rule R.1.",
        ),
        (
            lambda f: f.chin in ("medium", "high"),
            "The AASM rules R.1 and R.2 want a chin that is low; what was measured does not speak for REM.",
        ),
        (
            lambda f: bool(_goes_on_in_rem(f)) and f.n_rapid == 0,
            "Without rapid eye movements the AASM rule R.2 lets REM go on where it has begun, as long as the "
            "chin stays low.",
        ),
        (
            lambda f: _low_and_mixed(f) and f.n_rapid is None and not f.chin,
            "Such an EEG agrees with the AASM rule R.1, but rapid eye movements and low chin "
            "tone, which decide, were not measured.",
        ),
        (
            lambda f: _low_and_mixed(f) and f.n_rapid is None,
            "Such an EEG and chin agree with the AASM rule R.1, but rapid eye movements, which decide, were not "
            "measured.",
        ),
        (
            lambda f: _low_and_mixed(f) and not f.chin,
            "Such an EEG agrees with the AASM rule R.1; chin tone, which it wants low, was not measured.",
        ),
        (
            lambda f: f.n_rapid is None or not f.chin,
            "The AASM rule R.1 wants low-amplitude activity of mixed frequencies, rapid eye "
            "movements and low chin tone; the EEG is not quite that, and not all others were measured.",
        ),
        (
            lambda f: True,
            "The AASM rule R.1 wants low-amplitude activity of mixed frequencies with rapid eye movements and "
            "low chin tone; what was measured is not quite that.",
        ),
    ),
}
