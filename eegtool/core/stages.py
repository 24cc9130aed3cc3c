"""Sleep stages: the five AASM stages, their order and colours everywhere, and how scorings spell them."""

from __future__ import annotations

import difflib
import re
import unicodedata
from typing import Final

from eegtool.core.registry import closest

STAGES: Final = ("W", "N1", "N2", "N3", "REM")
"""The AASM stages in the order used by every table, matrix and class index."""

EPOCH_S: Final = 30
"""Length of a scoring epoch in seconds (R&K 1968 and the AASM Manual alike)."""

SLEEP_STAGES: Final = STAGES[1:]

STAGE_INDEX: Final = {stage: i for i, stage in enumerate(STAGES)}

STAGE_COLOURS: Final = {
    "W": "#e8a33d",
    "N1": "#8fc1e3",
    "N2": "#4a86c5",
    "N3": "#1f3f77",
    "REM": "#c2455d",
}

MOVEMENT: Final = "movement time"
UNSCORED: Final = "unscored"
DROPPED: Final = (MOVEMENT, UNSCORED)
"""Kinds of scored time that are no stage: such epochs are dropped, and counted by kind."""

# How scorings spell the stages. Rechtschaffen & Kales (1968) stages 3 and 4 are both AASM N3 (AASM
# Manual, Berry et al. 2012). All words are compared by `_fold`: without case, accents, blanks, hyphens, the
# words for "sleep" and "stage" in any language, and the name of the rules.
_WORDS: Final = {
    "W": "w wk wake awake wakefulness swake wach wachheit eveil eveille veille vigilia despierto acordado "
    "waak wakker veglia s0 清醒 觉醒 覚醒",
    "N1": "n1 nrem1 nonrem1 s1 ノンレム1",
    "N2": "n2 nrem2 nonrem2 s2 ノンレム2",
    "N3": "n3 n4 nrem3 nrem4 nonrem3 nonrem4 s3 s4 sws slowwave deep tiefschlaf profond lentprofond "
    "profundo 深睡 ノンレム3",
    "REM": "r rem srem rapideyemovement rapideyemovements paradoxical paradoxal paradojico remschlaf remslaap "
    "mor 快速眼动 レム",
    MOVEMENT: "movementtime",
    UNSCORED: "unscored",
}
"""Mean a stage wherever they stand."""

_SLEEP_IN: Final = "sleep schlaf sommeil sueno sono sonno slaap 睡眠"
_STAGE_IN: Final = (
    "stage sleepstage stade stadium schlafstadium slaapstadium stadio fase etapa estadio estagio "
    "期 段階 ステージ"
)
_RULES: Final = re.compile(r"[(\[](?:aasm|r ?& ?k|rk)[)\]]|\baasm\b")

_TRIGGERS: Final = ("s0", "s1", "s2", "s3", "s4")
"""Written with blanks, as BrainVision's ``S  1``, these are stimuli, unless behind the word "stage"."""

_STAGE_WORDS: Final = {
    MOVEMENT: "movement mt m mouvement bewegung movimiento",
    UNSCORED: "? unknown undefined undetermined indeterminate notscored unstaged uns u n/a nan none "
    "artifact artefact artefakt artefacto art lightson l no",
}
"""Mean scored time that is no stage, but only behind the word "stage" or in a column of stages."""

_NUMBERED: Final = {"W": "0", "N1": "1 i", "N2": "2 ii", "N3": "3 4 iii iv"}
"""Numbers of Rechtschaffen & Kales: only behind the word "stage"."""

CODES: Final = {
    **{0: "W", 1: "N1", 2: "N2", 3: "N3", 4: "N3", 5: "REM", 6: MOVEMENT, 7: UNSCORED, 9: UNSCORED},
    **{-1: UNSCORED, -2: UNSCORED},
}
"""Numbers in a column of stages: those of Profusion and the NSRR (SHHS, MESA: 5 is REM), which ISRUC
shares; -1 (artefact) and -2 (unscored) are yasa's."""

TYPICAL_SPELLINGS: Final = (
    *("W", "Wake", "N1", "N2", "N3", "R", "REM", "S1", "S2", "S3", "S4", "?", "Unscored"),
    *("Stage 1", "Stage 2", "Stage 3", "Stage 4", "REM sleep", "NREM 1", "NREM 2", "NREM 3"),
    *("Sleep stage W", "Sleep stage 1", "Sleep stage 2", "Sleep stage 3", "Sleep stage 4"),
    *("Sleep stage N1", "Sleep stage N2", "Sleep stage N3", "Sleep stage R", "Sleep stage ?"),
    "Movement time",
)
"""What an unknown word is compared with."""


def _inverted(table: dict[str, str]) -> dict[str, str]:
    return {word: stage for stage, words in table.items() for word in words.split()}


_STAGE_OF_WORD: Final = _inverted(_WORDS)
_STAGE_BEHIND_STAGE: Final = _STAGE_OF_WORD | _inverted(_STAGE_WORDS) | _inverted(_NUMBERED)
_STAGE_IN_COLUMN: Final = _STAGE_OF_WORD | _inverted(_STAGE_WORDS)
_FOLDED_TYPICAL: Final = tuple(s.casefold() for s in TYPICAL_SPELLINGS if len(s) > 3)


def stage_of(description: str) -> str | None:
    """Translate one scoring annotation.

    Parameters
    ----------
    description : str
        Text of the annotation, such as ``"Sleep stage 4"``, ``"Stage 4 sleep"`` or ``"N3"``.

    Returns
    -------
    str or None
        One of `STAGES` or `DROPPED`; None for an annotation that is not about sleep stages
        (an arousal, lights off).
    """
    word, behind_stage = _fold(description)
    if not behind_stage and word in _TRIGGERS and word not in description.casefold():
        return None
    return (_STAGE_BEHIND_STAGE if behind_stage else _STAGE_OF_WORD).get(word)


def code_in_column(cell: str) -> int | None:
    """Return the whole number that stands in a column of stages (``4``, ``04``, ``4.0``, ``4,0``), or None."""
    number = re.fullmatch(r"([+-]?\d{1,3})(?:[.,]0+)?", cell.strip())
    return int(number[1]) if number else None


def stage_in_column(cell: str) -> str | None:
    """Translate one entry of a column (or list) that holds nothing but stages.

    Beside the words that `stage_of` knows there are numbers (4 is stage 4, 5 is REM) and short words
    for what is no stage, such as ``?``.

    Returns
    -------
    str or None
        One of `STAGES` or `DROPPED`; None for an unknown entry, which nobody may pass over.
    """
    if (code := code_in_column(cell)) is not None:
        return CODES.get(code)
    word, behind_stage = _fold(cell)
    return (_STAGE_BEHIND_STAGE if behind_stage else _STAGE_IN_COLUMN).get(word)


def is_misspelt(description: str) -> bool:
    """Say whether an annotation that `stage_of` does not know was clearly meant as a stage."""
    text = " ".join(description.casefold().split())
    return text.startswith("sleep stage ") or bool(
        difflib.get_close_matches(text, _FOLDED_TYPICAL, n=1, cutoff=0.85)
    )


def closest_spelling(word: str) -> str:
    """Return ``" Did you mean 'x'?"`` for the usual spelling of a stage nearest to `word`, or nothing."""
    return closest(word, TYPICAL_SPELLINGS)


_STAGE: Final = re.compile(
    "|".join(rf"\b{w}(?=\d|\b)" if w.isascii() else w for w in _STAGE_IN.split())
)
_SLEEP: Final = re.compile("|".join(rf"\b{w}\b" if w.isascii() else w for w in _SLEEP_IN.split()))


def _fold(text: str) -> tuple[str, bool]:
    """Return the word that names the stage, and whether it stands with the word "stage"."""
    if not text.isascii():  # kana keep their marks
        text = unicodedata.normalize(
            "NFKC", re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text))
        )
    text = re.sub(r"[\s_:-]+", " ", _RULES.sub(" ", text.casefold()))
    words, n_stages = _STAGE.subn(" ", _SLEEP.sub(" ", text))
    return "".join(words.split()), n_stages > 0
