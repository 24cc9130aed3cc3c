"""What a text claims about an epoch, and whether that is true of what was measured there.

Reads the reasons of `words`, and free text that speaks of the same things in plain English.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from eegtool.reasons.facts import (
    DOMINANT_SHARE,
    HIGH_UV,
    LOW_UV,
    N3_SHARE,
    Facts,
)
from eegtool.reasons.words import AMPLITUDE_STEP_UV

NUMBERS: Final = tuple("no one two three four five six seven eight nine ten eleven twelve".split())


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of a text.

    Attributes
    ----------
    kind : str
        One of `CLAIM_KINDS`.
    present : bool
        False where the text denies it ("no spindles").
    value : float or None
        The number that goes with it, if any. ``replace(claim, value=None)`` asks less of the text.
    text : str
        Where it was read from.
    """

    kind: str
    present: bool
    value: float | None
    text: str


@dataclass(frozen=True, slots=True)
class ClaimKind:
    """How a kind of claim is worded, and when it is true.

    Attributes
    ----------
    pattern : re.Pattern
        Finds it in a clause; the first group that matches is its number.
    true : callable
        Whether it is true of an epoch; None where that is a close call, which two scorers might make either way.
    value : callable, or None
        Its number, where it has one.
    tolerance : float
        By how much the number may differ, for two scorers to call it the same.
    relative : float
        The same as a part of the measured number; the larger of both counts.
    measured : callable
        Whether it was measured in an epoch; what was not is not true, whatever is claimed.
    """

    pattern: re.Pattern[str]
    true: Callable[[Facts], bool | None]
    value: Callable[[Facts], float | None] | None = None
    tolerance: float = 1.0
    relative: float = 0.0
    measured: Callable[[Facts], bool] = lambda facts: True


def claims_in(text: str) -> tuple[Claim, ...]:
    """Return what a text claims about its epoch, in its order.

    Sentences that cite a rule ("AASM", "rule", "definition") claim nothing about the epoch. A denial
    reaches as far as its clause: "no spindles or K-complexes" denies both.
    """
    claims = []
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        if _RULE.search(sentence):
            continue
        for clause in _CLAUSE_END.split(sentence):
            found = [
                (kind, match)
                for kind, how in CLAIM_KINDS.items()
                for match in how.pattern.finditer(clause)
            ]
            # "Slow waves do not reach 20 %" denies that they are enough, not that there are any.
            if {"enough_slow_waves", "few_slow_waves"} & {kind for kind, _ in found}:
                found = [(kind, m) for kind, m in found if kind != "slow_waves" or m.group(1)]
            for kind, match in sorted(found, key=lambda item: item[1].start()):
                before, after = clause[: match.end()], clause[match.end() :]
                denied = _DENIED_BEFORE.search(before) or _DENIED_AFTER.search(after)
                number = next((group for group in match.groups() if group), None)
                value = None if number is None else _number(number)
                claims.append(Claim(kind, not denied, value, clause.strip(" .")))
    return tuple(claims)


def holds(claim: Claim, facts: Facts) -> bool:
    """Return whether a claim is true of an epoch; its number, if it has one, must be true too."""
    kind = CLAIM_KINDS[claim.kind]
    if not kind.measured(facts) or kind.true(facts) not in (claim.present, None):
        return False
    if claim.value is None or kind.value is None or not claim.present:
        return True
    measured = kind.value(facts)
    if measured is None:
        return False
    allowed = max(kind.tolerance, kind.relative * measured)
    return abs(measured - claim.value) <= allowed + 1e-9


def _number(word: str) -> float:
    return float(NUMBERS.index(word.lower()) if word.lower() in NUMBERS else word)


_NUMBER = rf"(?<![\w.-])({'|'.join(NUMBERS[1:])}|\d+(?:\.\d+)?)"
_SHARE = r"(\d+(?:\.\d+)?)\s?%"
_LESS = r"less than|below|under|short of"
_MORE = r"at least|more than|over|above|exceeding"

_RULE: Final = re.compile(r"\bAASM\b|\brules?\b|\bdefin(?:ed|ition)", re.IGNORECASE)
_CLAUSE_END: Final = re.compile(
    rf"[;:]|,(?! (?:{_LESS}|{_MORE})\b)"
    r"|\b(?:but|while|whereas|although|though|however)\b"
    rf"|\band(?= (?:an?|the|some|several|many|slow|\d+|{'|'.join(NUMBERS[1:])})\b)",
    re.IGNORECASE,
)
_DENIED_BEFORE: Final = re.compile(
    r"\b(?:no|not|without|neither|nor|never|none|lack(?:s|ing)?|absence|free)\b|n't\b",
    re.IGNORECASE,
)
_DENIED_AFTER: Final = re.compile(r"\b(?:not|never|absent|missing|lacking)\b|n't\b", re.IGNORECASE)


_SHARE_POINTS: Final = 10.0
_AMPLITUDE_PART: Final = 0.25
_RHYTHM_HZ: Final = 1.0
"""What two scorers would call the same: shares in percent, the amplitude, a rhythm; of counts, one more or less. Our
choice."""

_CLOSE_UV: Final = 0.1
_CLOSE_SHARE: Final = 0.05
_FEW_WAVES: Final = 0.03
"""Close calls: an amplitude within a tenth of a limit, a share within 5 % of the epoch or of the power; a slow wave
of a second. Our choice."""


def _reaches(value: float, limit: float, margin: float) -> bool | None:
    """Say whether a value reaches a limit; None where it is nearer to it than the margin."""
    return None if abs(value - limit) < margin - 1e-9 else value >= limit


def _not(holds: bool | None) -> bool | None:
    return None if holds is None else not holds


def _has_amplitude(facts: Facts, height: str) -> bool | None:
    above_low, above_medium = (
        _reaches(facts.amplitude_uv, limit_uv, _CLOSE_UV * limit_uv)
        for limit_uv in (LOW_UV, HIGH_UV)
    )
    if height == "medium":
        return False if above_low is False or above_medium else _both(above_low, _not(above_medium))
    return _not(above_low) if height == "low" else above_medium


def _both(one: bool | None, other: bool | None) -> bool | None:
    return None if one is None or other is None else one and other


def _enough_slow_waves(facts: Facts) -> bool | None:
    return _reaches(facts.slow_wave_share, N3_SHARE, _CLOSE_SHARE)


def _delta_dominates(facts: Facts) -> bool | None:
    return _reaches(facts.delta, DOMINANT_SHARE, _CLOSE_SHARE)


def _has_rhythm(facts: Facts, band: str) -> bool | None:
    """Say whether a rhythm stands out; of alpha, which is sought in another way, too, only where both agree."""
    stands_out = band in facts.rhythms
    if band == "alpha" and stands_out != (facts.alpha_cover >= _ALPHA_SEEN):
        return None
    return stands_out


_ALPHA_SEEN: Final = 0.1
"""Of the epoch, 3 s: from there on alpha that is found in time counts as seen. Our choice."""


def _kind(
    pattern: str,
    true: Callable[[Facts], bool | None],
    value: Callable[[Facts], float | None] | None = None,
    tolerance: float = 1.0,
    measured: Callable[[Facts], bool] = lambda facts: True,
    *,
    relative: float = 0.0,
) -> ClaimKind:
    found = re.compile(pattern, re.IGNORECASE)
    return ClaimKind(found, true, value, tolerance, relative, measured)


def _rhythm_kind(band: str) -> ClaimKind:
    return _kind(
        rf"(?:{_NUMBER}[\s-]?Hz\s+)?\b{band}\s+(?:rhythm|activity|waves)\b"
        rf"(?:\s+(?:of|at|around)\s+(?:about\s+)?{_NUMBER}\s?Hz)?",
        lambda f: _has_rhythm(f, band),
        lambda f: f.rhythms.get(band),
        _RHYTHM_HZ,
    )


def _share_kind(band: str) -> ClaimKind:
    return _kind(
        rf"\b{band}\b(?!\s+(?:rhythm|waves))(?:\s+[a-z]+){{0,3}}\s+{_SHARE}",
        lambda f: True,
        lambda f: 100 * float(getattr(f, band)),
        _SHARE_POINTS,
    )


def _height_kind(height: str) -> ClaimKind:
    return _kind(
        rf"\b{height}[\s-](?:amplitude|voltage)\b|\bamplitude\s+is\s+{height}\b",
        lambda f: _has_amplitude(f, height),
    )


def _chin_kind(tone: str) -> ClaimKind:
    return _kind(
        rf"\b{tone}\s+(?:chin|muscle)\s+tone\b|\b(?:chin|muscle)\s+tone\s+is\s+(?:not\s+)?{tone}\b",
        lambda f: f.chin == tone,
        measured=lambda f: bool(f.chin),
    )


CLAIM_KINDS: Final[dict[str, ClaimKind]] = {
    "spindles": _kind(
        rf"(?:{_NUMBER}\s+)?\b(?:sleep\s+)?spindles?\b",
        lambda f: f.n_spindles > 0,
        lambda f: f.n_spindles,
    ),
    "k_complexes": _kind(
        rf"(?:{_NUMBER}\s+)?\bK[\s-]?complex(?:es)?\b",
        lambda f: f.n_k_complexes > 0,
        lambda f: f.n_k_complexes,
    ),
    "slow_waves": _kind(
        r"\bslow[\s-]waves?\b(?![\s-]sleep)"
        rf"(?:[^%]*?\b(?:cover|occupy|fill|make up)(?:s|ing)?\s+(?:about\s+)?{_SHARE})?",
        lambda f: None if 0 < f.slow_wave_share <= _FEW_WAVES else f.slow_wave_share > 0,
        lambda f: 100 * f.slow_wave_share,
        _SHARE_POINTS,
    ),
    "enough_slow_waves": _kind(
        rf"\bslow[\s-]waves?\b.*?\b(?:{_MORE})\s+(?:the\s+)?20\s?%",
        _enough_slow_waves,
    ),
    "few_slow_waves": _kind(
        rf"\bslow[\s-]waves?\b.*?\b(?:{_LESS})\s+(?:the\s+)?20\s?%",
        lambda f: _not(_enough_slow_waves(f)),
    ),
    "delta_dominant": _kind(
        r"\bdelta(?:\s+(?!not|never)[a-z]+){0,3}\s+(?:pre)?domina(?:tes?|nt)\b"
        r"|\b(?:pre)?domina(?:nt|nce|ted)(?:\s+(?:by|of))?\s+delta\b|\bdelta\s+dominance\b",
        _delta_dominates,
    ),
    "mixed_frequencies": _kind(
        r"\bmixed[\s-]frequenc(?:y|ies)\b", lambda f: _not(_delta_dominates(f))
    ),
    "any_rhythm": _kind(
        r"(?<!theta )(?<!alpha )(?<!sigma )\brhythm stands out\b",
        lambda f: (
            None
            if not {*f.rhythms} - {"alpha"} and _has_rhythm(f, "alpha") is None
            else bool(f.rhythms)
        ),
    ),
    **{f"{band}_rhythm": _rhythm_kind(band) for band in ("theta", "alpha", "sigma")},
    **{f"{band}_share": _share_kind(band) for band in ("delta", "theta", "alpha", "sigma", "beta")},
    "amplitude": _kind(
        r"(\d+(?:\.\d+)?)\s?[µμu]V\s+peak[\s-]to[\s-]peak",
        lambda f: True,
        lambda f: f.amplitude_uv,
        AMPLITUDE_STEP_UV / 2,
        relative=_AMPLITUDE_PART,
    ),
    "arousals": _kind(
        rf"(?:{_NUMBER}\s+)?\barousals?\b", lambda f: f.n_arousals > 0, lambda f: f.n_arousals
    ),
    "alpha_over_half": _kind(
        rf"\balpha\b[^;.]*?\b(?:{_MORE})\s+half\b", lambda f: f.alpha_over_half
    ),
    "rapid_eye_movements": _kind(
        rf"(?:{_NUMBER}\s+)?\brapid\s+eye\s+movements?\b(?!\s+sleep)",
        lambda f: bool(f.n_rapid),
        lambda f: f.n_rapid,
        measured=lambda f: f.n_rapid is not None,
    ),
    "blinks": _kind(
        rf"(?:{_NUMBER}\s+)?\b(?:eye\s+)?blinks?\b",
        lambda f: bool(f.n_blinks),
        lambda f: f.n_blinks,
        measured=lambda f: f.n_blinks is not None,
    ),
    "slow_eye_movements": _kind(
        r"\bslow(?:ly)?\s+(?:rolling\s+)?eye\s+movements?\b",
        lambda f: f.has_slow_eyes,
        measured=lambda f: f.slow_eyes is not None,
    ),
    **{f"{tone}_chin": _chin_kind(tone) for tone in ("low", "medium", "high")},
    **{f"{height}_amplitude": _height_kind(height) for height in ("low", "medium", "high")},
}
