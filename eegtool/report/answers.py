"""Reading a sleep stage out of what a model wrote: labels and clear sentences, and nothing by guess."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Span = tuple[int, int]
Reader = Literal["free", "sentence", "label"]


@dataclass(frozen=True, slots=True)
class Reading:
    """A stage and where it stands in the text.

    Attributes
    ----------
    stage : str or None
        One of `eegtool.core.stages.STAGES`; None where no stage can be read.
    span : tuple of int or None
        First character of the words that name the stage, and the one after the last.
    """

    stage: str | None
    span: Span | None


UNREADABLE: Final = Reading(None, None)

_NUMBERED: Final = {"1": "N1", "2": "N2", "3": "N3", "4": "N3"}
_LETTERED: Final = {"w": "W", "r": "REM"}

_LINK: Final = r"""["'*\s]*(?:(?:is|was|:|=)["'*(\[\s]*)?"""
_FLAGS: Final = re.IGNORECASE | re.ASCII | re.VERBOSE

# A name stands for itself. A bare number or letter is a stage only behind the word for it, and a
# number only where no second one follows ("stage 1/2" says nothing; R&K stages 3 and 4 are N3).
_MENTION: Final = re.compile(
    rf"""
    (?<!\w)(?:
        (?P<W> awake | wake(?:ful(?:ness)?)? )
      | (?P<N1> N[-\ ]?1 ) | (?P<N2> N[-\ ]?2 ) | (?P<N3> N[-\ ]?3 )
      | (?<!non-)(?<!non\ )(?P<REM> REM )
      | (?:stage|phase|nrem) {_LINK}
            (?P<number> 3\s*(?:/|-|and|or)\s*4 | [1-4](?!\s*(?:/|-|and|or|to)\s*\d) )
      | (?:stage|phase|answer|label|class)(?!\w) {_LINK} (?P<letter> [wr] )
    )(?!\w)
    """,
    _FLAGS,
)
_LONE_LETTER: Final = re.compile(r"\W*(?P<letter>[wr])\W*", _FLAGS)

# Each of these is matched against the text before a mention, after it, or between two of them.
_DENIED: Final = re.compile(
    r"\b(?:not|no|than|instead\ of)\s+(?:(?:in|a|stage|sleep)\s+)*$", _FLAGS
)
_CONCLUDED: Final = re.compile(
    r"""
    \b(?:
        (?:stage|phase|answer|label|class|conclusion|prediction)["'*\s]*(?:is|was|:|=)
      | (?:scored|classified|staged|labelled)\s+as
      | therefore | thus | hence | in\ conclusion
    )
    [\s,:]*(?:(?:it|this)\s+is\s+)?
    (?:(?:most\s+likely|probably|likely|clearly|sleep|stage|phase)\s+)*
    ["'*(\[\s]*$
    """,
    _FLAGS,
)
_SENTENCE_BEGINS: Final = re.compile(r"""[.!?:\n]["'*(\[\s]*(?:(?:sleep|stage)\s+)*$""", _FLAGS)
_TEXT_ENDS: Final = re.compile(r"(?:\s+sleep)?(?:\s*\([^)]*\))?\W*$", _FLAGS)
_ALTERNATIVE: Final = re.compile(
    r"""
    ["'*)\]\s]*(?:sleep\s*)?(?:[,/-]|(?:or|and|to|versus|vs\.?)\b)
    [\s"'*(\[]*(?:(?:or|and|maybe|perhaps|possibly|sleep|stage)\s+)*["'*(\[]*
    """,
    _FLAGS,
)


def read_stage(text: str, reader: Reader = "free") -> Reading:
    """Read the stage that `text` concludes on.

    A text that names one stage only, denied mentions aside ("not N3"), says that stage. Where it
    names several, its last conclusion counts ("The stage is ...", "Therefore ...", a closing
    sentence that is nothing but a label), unless that offers a choice ("N2 or N3").

    Parameters
    ----------
    text : str
        Answer of a model, as it was written.

    Returns
    -------
    Reading
        `UNREADABLE` where the text names no stage, or several without a conclusion.

    Examples
    --------
    >>> read_stage("The stage is N2.")
    Reading(stage='N2', span=(13, 15))
    """
    if lone := _LONE_LETTER.fullmatch(text):
        return Reading(_LETTERED[lone["letter"].lower()], lone.span("letter"))
    mentions = _mentions(text)
    if len({stage for stage, _ in mentions}) == 1:
        return Reading(*mentions[-1])
    for i in reversed(range(len(mentions))):
        stage, (start, end) = mentions[i]
        if not _concludes(text, start, end):
            continue
        choice = any(
            other != stage and _ALTERNATIVE.fullmatch(_between(text, end, begin))
            for other, (begin, _) in mentions[i + 1 : i + 2]
        )
        return UNREADABLE if choice else Reading(stage, (start, end))
    return UNREADABLE


def _mentions(text: str) -> list[tuple[str, Span]]:
    """Return the stages that are named and not denied, in the order of the text."""
    found = []
    for match in _MENTION.finditer(text):
        kind = match.lastgroup or ""
        word = match[kind].lower()
        stage = {"number": _NUMBERED.get(word[0]), "letter": _LETTERED.get(word)}.get(kind, kind)
        start, end = match.span(kind)
        if stage and not _DENIED.search(_before(text, start)):
            found.append((stage, (start, end)))
    return found


def _concludes(text: str, start: int, end: int) -> bool:
    before = _before(text, start)
    if _CONCLUDED.search(before):
        return True
    return bool(_TEXT_ENDS.match(text, end) and _SENTENCE_BEGINS.search(before))


def _before(text: str, start: int) -> str:
    """Return the words just before `start`: enough for any lead-in, so that long texts stay cheap."""
    return text[max(0, start - 80) : start]


def _between(text: str, end: int, begin: int) -> str:
    """Return what stands between two mentions, without the "stage" that belongs to the second."""
    return re.sub(r"(?:stage|phase)\s*$", "", text[end:begin], flags=re.IGNORECASE)
