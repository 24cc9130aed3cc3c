"""Reading a sleep stage out of what a model wrote: labels and clear sentences, and nothing by guess."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from eegtool.core.mentions import FLAGS, LETTERED, Mention, Span, mentions_in
from eegtool.core.stages import STAGES

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

_LONE_LETTER: Final = re.compile(r"\W*(?P<letter>[wr])\W*", FLAGS)
_THOUGHT_ENDS: Final = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_SENTENCE: Final = re.compile(
    r"(?:the\s+)?(?:sleep\s+)?stage\s+is\s+(?P<stage>W|N1|N2|N3|REM)\s*\.?\s*$", re.IGNORECASE
)

# A text concludes on a stage where one of these stands right before it ...
_CONCLUDED: Final = re.compile(
    r"""
    (?:
      (?<![a-z])(?:stage|phase|answer|label|class|conclusion|prediction|diagnosis|verdict)["'*\s]*(?:is|was|:|=|>|：)
      | (?:scored?|classif(?:y|ied)|staged|labell?ed|label|call|identified)\s+(?:(?:this|it|the)\s+(?:(?:epoch|segment|picture|period)\s+)?)?(?:as\s+)?(?:an?\s+)?
      | \b(?:therefore|thus|hence|so|overall|finally|accordingly|consequently|actually|correction|rather|wait|sorry)\b
      | \bin\s+(?:conclusion|summary) | \b(?:i|we)\s+(?:conclude|choose|pick|go\ with|would\ say)
      | (?<!if\ )(?<!whether\ )(?<!that\ )\b(?:this|it|epoch|eeg|patient|subject|sleeper|segment|recording)
          (?:\s+(?:is|was|corresponds\s+to|represents)|['’]s)\b
      | (?:->|=>|→|⇒) | \\boxed\{ | <(?:final_?)?(?:answer|stage)>
      | (?:因此|所以|故|综上(?:所述)?|总之|结论|答案|判断|判定|判读|判|分期|阶段|诊断|应|属于|而是|归类)
    )
    [\s,:，：]*(?:(?:it|this|the\s+(?:epoch|stage|answer|segment))?(?:\s*['’]s|\s*is|\s*was)?\s+)?
    (?:(?:that|most\s+likely|probably|likely|clearly|best|sleep|stage|phase|nrem|in|a|an|the|be)\s+)*
    (?:本段|该段|该|本|这段|此|时段|脑电|信号|图|睡眠|分期|阶段|结果|最终|最有可能|最可能|应|可|判定|判|归|划分|处于|属于|定|的|是|为|第|期|[，：:\s])*
    (?:\\text\{)?["'*(\[`\s]*$
    """,
    FLAGS,
)
# ... or where it is a closing sentence of its own.
_SENTENCE_BEGINS: Final = re.compile(
    r"""[.!?:\n。！？：；]["'*(\[`\s]*(?:(?:sleep|stage|睡眠|第)\s*)*$""", FLAGS
)
_TEXT_ENDS: Final = re.compile(
    r"""(?:\s*(?:sleep|睡眠|期))*(?:\s*[(（][^)）]*[)）])?[\W_]*$""", FLAGS
)
_ALTERNATIVE: Final = re.compile(
    r"""
    ["'*)\]\s]*(?:sleep|睡眠|期|\s)*(?:[,/-]|(?:or|and|to|versus|vs\.?)\b|或者?|、|还是|与|和|到)
    [\s"'*(\[]*(?:(?:or|and|maybe|perhaps|possibly|sleep|stage|可能)\s+)*["'*(\[]*
    """,
    FLAGS,
)
_OPENS: Final = re.compile(r"""[\s"'*(\[#`]*(?:(?:sleep|stage|睡眠)\s*)*""", FLAGS)
_SENTENCE_ENDS: Final = re.compile(
    r"""["'*)\]`]*(?:\s*(?:sleep|睡眠|期))*(?:\s*[(（][^)）]*[)）])?["'*)\]`]*(?:[.;。；](?!\d)|\s*\n)""",
    FLAGS,
)
_LAST_SENTENCE: Final = re.compile(r"(?:[^.!?\n。！？；]|\.(?=\d))+[.!?。！？\W]*$")
_CLOSING: Final = re.compile(
    r"""[\s"'*]*(?:so|overall|therefore|thus|hence|accordingly|consequently|finally|in\ (?:conclusion|summary|short)
    |taken\ together|altogether|all\ in\ all|based\ on|given|因此|所以|故|综上|总之|结论|总体|综合)""",
    FLAGS,
)

_KEYS: Final = (
    *("final_answer", "final_stage", "predicted_stage", "sleep_stage", "stage", "answer", "label"),
    *("prediction", "class", "result", "睡眠分期", "分期", "阶段", "答案", "结果"),
)
"""Keys of a JSON answer that hold the stage; the first that is there counts."""


def read_stage(text: str, reader: Reader = "free") -> Reading:
    """Read the stage that `text` concludes on.

    A text that names one stage only, denied mentions aside ("not N3"), says that stage. Where it
    names several, its last conclusion counts ("The stage is ...", "Therefore ...", a closing
    sentence that is nothing but a label), unless that offers a choice ("N2 or N3"). Of a JSON answer
    the field counts that holds the stage, of a text with thoughts (``</think>``) what follows them.

    Parameters
    ----------
    text : str
        Answer of a model, as it was written.
    reader : str
        ``"free"``: as above. ``"sentence"``: only a bare label or a text that ends with the sentence
        of the templates, "The stage is N2." ``"label"``: only a bare label, spelt as in `STAGES`.

    Returns
    -------
    Reading
        `UNREADABLE` where the text names no stage, or several without a conclusion.

    Examples
    --------
    >>> read_stage("The stage is N2.")
    Reading(stage='N2', span=(13, 15))
    """
    return READERS[reader](text)


def _label(text: str) -> Reading:
    label = text.strip()
    if label not in STAGES:
        return UNREADABLE
    start = text.index(label)
    return Reading(label, (start, start + len(label)))


def _sentence(text: str) -> Reading:
    if match := _SENTENCE.search(text):
        return Reading(match["stage"].upper(), match.span("stage"))
    return _label(text)


def _free(text: str) -> Reading:
    ends = [match.end() for match in _THOUGHT_ENDS.finditer(text)]
    begin = ends[-1] if ends and text[ends[-1] :].strip() else 0
    reading = _structured(text[begin:]) or _concluded(text[begin:])
    if reading.span is None or not begin:
        return reading
    return Reading(reading.stage, (reading.span[0] + begin, reading.span[1] + begin))


READERS: Final[dict[str, Callable[[str], Reading]]] = {
    "free": _free,
    "sentence": _sentence,
    "label": _label,
}
"""How strictly answers are read (``--reader``)."""


def _concluded(text: str) -> Reading:
    if lone := _LONE_LETTER.fullmatch(text):
        return Reading(LETTERED[lone["letter"].lower()], lone.span("letter"))
    mentions = mentions_in(text)
    affirmed = [m for m in mentions if not m.asked]
    mentions = affirmed or mentions
    if len({m.stage for m in mentions}) == 1:
        return Reading(mentions[-1].stage, mentions[-1].span)
    for i in reversed(range(len(mentions))):
        if _concludes(text, mentions[i]):
            if _is_choice(text, mentions[i : i + 2]):
                return UNREADABLE
            return Reading(mentions[i].stage, mentions[i].span)
    return _closing(text, mentions) or _opening(text, mentions) or UNREADABLE


def _opening(text: str, mentions: list[Mention]) -> Reading | None:
    """Read a first sentence that is nothing but a label, with the reasons behind it."""
    if not mentions:
        return None
    first = mentions[0]
    if _OPENS.fullmatch(text, 0, first.span[0]) and _SENTENCE_ENDS.match(text, first.span[1]):
        return Reading(first.stage, first.span)
    return None


def _closing(text: str, mentions: list[Mention]) -> Reading | None:
    """Read a last sentence that sums up ("Overall, N2 fits best") and names one stage."""
    last = _LAST_SENTENCE.search(text, max(0, len(text) - 400))
    if last and _CLOSING.match(last[0]):
        named = [m for m in mentions if m.span[0] >= last.start()]
        if len({m.stage for m in named}) == 1:
            return Reading(named[-1].stage, named[-1].span)
    return None


def _concludes(text: str, mention: Mention) -> bool:
    start, end = mention.span
    before = text[
        max(0, start - 80) : start
    ]  # enough for any lead-in, so that long texts stay cheap
    if _CONCLUDED.search(before):
        return True
    return bool(_TEXT_ENDS.match(text, end) and _SENTENCE_BEGINS.search(before))


def _is_choice(text: str, pair: list[Mention]) -> bool:
    """Say whether the first of two mentions in a row is offered beside the second."""
    if len(pair) < 2 or pair[0].stage == pair[1].stage:
        return False
    between = text[pair[0].span[1] : pair[1].span[0]]
    between = re.sub(r"(?:stage|phase)\s*$", "", between, flags=re.IGNORECASE)
    return bool(_ALTERNATIVE.fullmatch(between))


def _structured(text: str) -> Reading | None:
    """Read a JSON answer; None if `text` is none, or holds no stage under a known key."""
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0 or end < begin or len(text) - (end - begin) > 400:
        return None
    try:
        row: Any = json.loads(text[begin : end + 1])
    except (ValueError, RecursionError):
        return None
    folded = {str(k).casefold().replace(" ", "_"): (k, v) for k, v in row.items()}
    key, value = next((folded[k] for k in _KEYS if k in folded), (None, None))
    if key is None or isinstance(value, bool) or not isinstance(value, str | int):
        return None
    at = text.find(str(value), text.find(f'"{key}"', begin) + len(key) + 2)
    if isinstance(value, int):  # 4 is stage 4 for one, REM for another
        stage = ("W", "N1", "N2", "N3")[value] if 0 <= value <= 3 else None
        return Reading(stage, (at, at + 1)) if stage else UNREADABLE
    reading = _concluded(value if len(value) > 1 or not value.isdigit() else f"stage {value}")
    if reading.span is None or at < 0:
        return UNREADABLE
    if value.isdigit():
        return Reading(reading.stage, (at, at + 1))
    return Reading(reading.stage, (reading.span[0] + at, reading.span[1] + at))
