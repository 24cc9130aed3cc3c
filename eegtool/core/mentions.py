"""Where a text names sleep stages, in English and Chinese, and which of these it denies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mention:
    """A stage that a text names and does not deny.

    Attributes
    ----------
    stage : str
        One of `eegtool.core.stages.STAGES`.
    span : tuple of int
        First character of the words that name it, and the one after the last.
    asked : bool
        Whether a question mark stands right behind it.
    """

    stage: str
    span: Span
    asked: bool


LETTERED: Final = {"w": "W", "r": "REM"}
_NUMBERED: Final = {
    **{"1": "N1", "2": "N2", "3": "N3", "4": "N3", "0": "W"},
    **{"i": "N1", "ii": "N2", "iii": "N3", "iv": "N3"},
    **{"one": "N1", "two": "N2", "three": "N3", "four": "N3"},
    **{"一": "N1", "二": "N2", "三": "N3", "四": "N3", "Ⅰ": "N1", "Ⅱ": "N2", "Ⅲ": "N3", "Ⅳ": "N3"},
}

LINK: Final = r"""["'*\s]{0,9}(?:(?:is|was|:|=|：|为|是)["'*(\[\s]{0,9})?"""
FLAGS: Final = re.IGNORECASE | re.ASCII | re.VERBOSE
# re.ASCII: a Chinese letter is then no part of a word, so that "N2期" has the word "N2" in it.

# A name stands for itself. A bare number or letter is a stage only behind the word for it, and a
# number only where no second one follows ("stage 1/2" says nothing; R&K stages 3 and 4 are N3).
# "Light sleep" and 浅睡 are N1 or N2: they name neither.
_MENTION: Final = re.compile(
    rf"""
    (?<!\w)(?:
        (?P<W> awake | wake(?:ful(?:ness)?)? )
      | (?P<N1> N[-\ ]?1 ) | (?P<N2> N[-\ ]?2 ) | (?P<N3> N[-\ ]?3 )
      | (?P<S1> S1 ) | (?P<S2> S2 ) | (?P<S3> S[34] )
      | (?P<DEEP> deep(?:est)?\s+(?:non-?rem\s+|nrem\s+)?sleep | slow[-\ ]waves?\s+sleep | delta\s+sleep | SWS )
      | (?<!non-)(?<!non\ )(?P<REM> REM | rapid[-\ ]eye[-\ ]movements?\s+(?:sleep|stage) )
      | (?:(?:stage|phase|n-?rem|non-?rem)[-\s]{{0,3}}){{1,3}} {LINK}
            (?P<number> (?:3|iii|three)\s*(?:/|-|and|or)\s*(?:4|iv|four)
              | (?:[0-4]|iv|i{{1,3}}|one|two|three|four)(?!\s*(?:/|-|and|or|to)\s*(?:\d|i+v?\b)) )
      | (?:stage|phase|answer|label|class)(?!\w) {LINK} (?P<letter> [wr] )
      | (?<=[:,]\ ) (?P<last> (?-i:[WR]) ) (?=\s*\.?\s*$)
    )(?!\w)
    |
    (?P<WAKE_ZH> 清醒 | 觉醒 | 醒着 )
    | (?P<DEEP_ZH> 深度?睡眠? | 慢波睡眠 | 沉睡 )
    | (?<!非)(?P<REM_ZH> 快速?眼?动眼?(?:睡眠)?期? | 异相睡眠 )
    | (?:非快速?眼?动眼?(?:睡眠)?期?第? | N?REM(?:睡眠)?期?第? | 睡眠第? | 阶段第? | 分期[为是：:]*第? | 第 | (?<![\w一二三四五六七八九十]))
        (?P<number_zh> [1-4一二三四ⅠⅡⅢⅣ] ) \s*期 (?!\s*[/、或或])
    """,
    FLAGS,
)
_GROUPS: Final = {
    **{"S1": "N1", "S2": "N2", "S3": "N3", "DEEP": "N3", "DEEP_ZH": "N3"},
    **{"WAKE_ZH": "W", "REM_ZH": "REM"},
}

# Matched against the text before a mention, after it, or between two of them. What may stand between
# the denial and the stage is listed, so that "no spindles in this N1 epoch" does not deny N1.
_BETWEEN: Final = r"""
    (?:a|an|the|any|in|of|for|to|as|be|been|being|with|this|it
      |clear|obvious|definite|strong|real|true|sufficient|enough|yet|quite|really|fully|typical|likely
      |signs?|evidence|features?|hallmarks?|indications?|criteria|criterion|characteristics?|patterns?
      |characteristic|consistent|suggestive|indicative|compatible|considered|scored|classified|called|call
      |score|meet|meets|met|meeting|look|looks|like|reach|suggest|indicate|support|qualify|point|towards?
      |slow|delta|waves?|activity|stage|sleep|epoch|phase)
"""
_DENIED: Final = re.compile(
    rf"""
    (?:
      \b(?: not | no | cannot | never | neither | nor | without | than | instead\ of | unlike | lacks? | lacking
        | (?:absence|lack)\ of | rul(?:es?|ed|ing)\ out | exclud(?:es?|ed|ing) | against | unlikely )
      | n['’]t
    )
    \s+ (?:{_BETWEEN}\s+){{0,8}} ["'*(\[]* (?:stage\s+|sleep\s+|phase\s+)* ["'*(\[]* $
    |
    \b(?:alternatives?|alternatively|second\ choice|runner-up|next\ best|less\ likely) (?:\s+(?:is|are))? \s*[:=,]?\s* (?:stage\s+)*["'*(\[]*$
    |
    (?: 备选[：:]? | 不是 | 并非 | 而非 | 不属于 | 不像 | 不符合 | 不考虑 | 不支持 | 不为 | 不足以 | 没有 | 未见 | 未达到? | 排除 | 缺乏 | 无 | 非 )
    (?: 明显的? | 典型的? | 任何 | 判为 | 诊断 | 为 | 处于 | 睡眠 | 第 | 达到 | \s )* $
    """,
    FLAGS,
)
_DENIED_BEHIND: Final = re.compile(
    r"""
    ["'*)\]]*\s*(?:sleep|stage|criteria|features?|signs?)?\s*
    (?: (?:is|are|was|were|can|could|may|seems?|does|do)\s*(?:be\s+)?
          (?:not\b|n['’]t\b|unlikely|improbable|absent|missing|excluded|ruled\ out|less\ likely|out\ of)
      | (?:is|are|was|does|do|ca|could|wo|would)n['’]t\b | cannot\b | would\b(?!\s+be\ (?:my|the)\b)
      | unlikely\b | (?:is\s+)?excluded\b | ruled\ out\b )
    | \s*期?(?:睡眠)?(?:的?(?:可能性?|特征|证据|表现))?(?:不大|不足|较?小|不明显|可(?:以)?排除|被排除|不符|不成立)
    """,
    FLAGS,
)
_SPREADS: Final = re.compile(
    r"""["'*)\]\s]*(?:sleep)?\s*(?:/|\bor\b|\bnor\b|或者?|、|以?及)\s*(?:the|a|any|stage|sleep|phase|\s)*["'*(\[]*""",
    FLAGS,
)
_ASKED: Final = re.compile(r"""["'*)\]\s]*(?:sleep|期|睡眠)?["'*)\]\s]*[?？]""")


def mentions_in(text: str) -> list[Mention]:
    """Return the stages that are named and not denied, in the order of the text."""
    found: list[Mention] = []
    last_denied_end = -1
    for match in _MENTION.finditer(text):
        kind = match.lastgroup or ""
        word = match[kind]
        stage = _stage_of(kind, word)
        start, end = match.span(kind)
        if stage is None:
            continue
        before = text[max(0, match.start() - 120) : start]
        denied = bool(_DENIED.search(before) or _DENIED_BEHIND.match(text, end))
        if not denied and last_denied_end >= 0:
            # "No signs of N3 or REM" denies both.
            between = text[last_denied_end : match.start()]
            denied = len(between) < 40 and bool(_SPREADS.fullmatch(between))
        if denied:
            last_denied_end = end
            continue
        last_denied_end = -1
        found.append(Mention(stage, (start, end), bool(_ASKED.match(text, end))))
    return found


def _stage_of(kind: str, word: str) -> str | None:
    if kind in ("letter", "last"):
        return LETTERED[word.lower()]
    if kind in ("number", "number_zh"):
        first = re.match(r"[a-z]+|.", word.lower())
        return _NUMBERED.get(first[0] if first else "") or _NUMBERED.get(word[:1])
    return _GROUPS.get(kind, kind)
