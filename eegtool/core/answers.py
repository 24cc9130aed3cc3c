"""Reading a sleep stage out of what a model wrote, and nothing by guess.

How free text is read, in three steps, each of which is a table below:

1. **Words.** `_NAME` finds the names of stages. `_LEXICON` gives every other word that matters one
   letter: ``i`` for "is", ``n`` for "not", ``k`` for "unlike" ... Articles, adverbs and markdown are
   dropped, all other words are ``x``, numbers ``#``, ends of sentences and lines ``.``, arrows ``:``,
   bullets and dashes ``-``. "The image shows N1, unlike wake." becomes ``qvS,kD.``
2. **Grammar.** `_RULES` are patterns over these letters. From top to bottom each gives names a role:
   `DENIED` ("not N3"), `ASIDE` (compared, described, asked: "unlike wake"), `CONCLUSION` ("Therefore
   N1", "The stage is N1"), `VERDICT` ("The image shows N1") or `EVIDENCE` ("spindles suggest N2"). The
   first rule that meets a name keeps it.
3. **Decision** (`_prose`). The last conclusion counts; without one the verdict of the first sentence, which what
   follows explains; then the last verdict, the stage that all evidence agrees on, the only one that is named at all. A verdict over several stages ("N2 or N3"), evidence that disagrees
   and words that merely describe (``D``: "as in deep sleep") give nothing.

Each step looks a bounded number of words ahead, so that the time grows with the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, Literal, NamedTuple

from eegtool.core.stages import STAGES

Reader = Literal["free", "sentence", "label"]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """A stage and where it stands in the text.

    Attributes
    ----------
    stage : str or None
        One of `eegtool.core.stages.STAGES`; None where no stage can be read.
    span : tuple of int or None
        First character of the words that name the stage, and the one after the last.
    rule : str
        Name of the rule that decided; two readings are equal whatever it says.
    """

    stage: str | None
    span: Span | None
    rule: str = field(default="", compare=False)

    def words(self, text: str) -> str:
        """Return the words of `text` that name the stage; empty where none do."""
        return text[slice(*self.span)] if self.span else ""


UNREADABLE: Final = Reading(None, None, "no stage named")

# --- 1. words --------------------------------------------------------------------------------------

_NUMBERED: Final = {
    **{"0": "W", "1": "N1", "2": "N2", "3": "N3", "4": "N3"},
    **{"i": "N1", "ii": "N2", "iii": "N3", "iv": "N3"},
    **{"one": "N1", "two": "N2", "three": "N3", "four": "N3"},
    **{"一": "N1", "二": "N2", "三": "N3", "四": "N3", "Ⅰ": "N1", "Ⅱ": "N2", "Ⅲ": "N3", "Ⅳ": "N3"},
}
_LETTERS: Final = {"w": "W", "r": "REM"}

_FLAGS: Final = re.IGNORECASE | re.ASCII | re.VERBOSE
# re.ASCII: a Chinese letter is then no part of a word, so that "N2期" has the word "N2" in it.

# Symbol and stage of each kind of name. S is a name; D a description that only a verdict makes a name;
# r and L ("rapid eye movement", a lone W or R) are names where `_PROMOTED` says so; U is no stage.
_KINDS: Final = {
    **{"N1": "SN1", "N2": "SN2", "N3": "SN3", "REM": "SREM", "REM_ZH": "SREM", "EYES": "rREM"},
    **{"WAKE": "DW", "DEEP": "DN3", "WAKE_ZH": "DW", "DEEP_ZH": "DN3"},
    **{"number": "S", "number_zh": "S", "letter": "L", "UNKNOWN": "U"},
}
# A bare number is a stage only behind the word for it, and only where no second one follows ("stage
# 1/2" says nothing; R&K stages 3 and 4 are N3). "Light sleep" and 浅睡 are N1 or N2: they name neither.
_NAME: Final = r"""
    (?<![\w])(?:sleep[ ])?(?:(?:stage|phase)[ \-]["'*`]{0,3})?(?:
        (?P<N1> N[-_ ]?1 | S1 ) | (?P<N2> N[-_ ]?2 | S2 ) | (?P<N3> N[-_ ]?[34] | S[34] )
      | (?P<REM> (?<!non-)(?<!non[ ])(?<!非) (?: REM | rapid[- ]eye[- ]movements?[ ]+(?:sleep|stage) | paradoxical[ ]sleep ) )
      | (?P<EYES> (?<!non-)(?<!non[ ]) rapid[- ]eye[- ]movement )
      | (?P<WAKE> awake | wake(?:ful(?:ness)?)?(?![ ]up) | waking(?=[ ]state) | WK )
      | (?P<DEEP> deep(?:est)?\s(?:non-?rem\s|nrem\s)?sleep | slow[- ]waves?\s+sleep | delta\s+sleep | SWS )
    )(?!\w|-like)(?:["'*`]{0,3}[ \-](?:sleep|stages?|phase|state)\b(?![ ]*[:=])|[ ]?(?:睡眠|阶段|期))*
  | (?<!\w)(?:sleep[ ])?(?:(?:stage|phase|n-?rem|non-?rem)[-_\s]{0,3}){1,3}["'*\s]{0,3}(?:(?:is|was|[:=：为是])["'*(\[\s]{0,9})?
      (?P<number> (?:3|iii|three)\s?(?:/|-|and|or)\s?(?:4|iv|four)
        | (?:[0-4]|iv|i{2,3}|i(?!\s(?!sleep|of|is|was)[a-z])|one|two|three|four)(?!\s?(?:/|-|and|or|to)\s?(?:\d|i+v?\b)) )
      (?!\w)(?:[ ](?:of[ ]n-?rem|of[ ]non-?rem|sleep|stage)\b)*
  | (?<!\w)(?:sleep[ ])?(?P<UNKNOWN> N[-_ ]?\d+ | stage[ ]\d+ )(?!\w)
  | (?P<letter> (?<!\w)[wr](?!\w|-) )
  | (?:(?P<WAKE_ZH> 清醒 | 觉醒 | 醒着 ) | (?P<DEEP_ZH> 深度?睡眠? | 慢波睡眠 | 沉睡 )
      | (?<!非)(?P<REM_ZH> 快速?眼?动眼?(?:睡眠)?期? | 异相睡眠 )
      | (?:非快速?眼?动眼?(?:睡眠)?期?第? | 非?N?REM(?:睡眠)?期?第? | 睡眠第? | 阶段第? | 分期[为是：:]*第? | 第 | (?<![\w一二三四五六七八九十哪这那某每同任]))
          (?P<number_zh> [1-4一二三四ⅠⅡⅢⅣ] ) \s?期 (?!\s?[/、或]) )(?:期|睡眠|阶段|状态)*
"""

_LEXICON: Final = (
    # letter, what it stands for, its words ("_" is a blank)
    ("q", "what is staged", """image picture figure epoch segment eeg signal recording spectrogram plot combination constellation finding findings trace tracing
     graph pattern patient subject sleeper participant person state brain data period it this these here
     图 图像 图片 本段 该段 脑电 脑电图 信号 受试者 被试 患者 这 时段"""),
    ("l", "the word for the answer", """stage phase answer label class classification prediction
     conclusion diagnosis verdict result choice decision category final guess estimate staging
     分期 阶段 答案 结果 结论 判断 诊断"""),
    ("i", "is", "is was are be being been 's it's that's 是 为 就是"),
    ("v", "shows", """shows show showing depicts depict depicting illustrates illustrate displays display
     represents represent representing indicates indicate indicating suggests suggest suggesting
     corresponds_to correspond_to corresponding_to belongs_to belong_to belonging_to reflects reflect
     demonstrates exhibits fits fit matches match means makes make leaves points_to point_to pointing_to
     supports support entered appears seems appears_like seems_like more_like
     falls_into falls_under falls_within aligns_with align_with consistent_with indicative_of
     suggestive_of compatible_with in_line_with in_keeping_with makes_it makes_this making_it has_to meet
     meets met closer_to close_to nearer_to has_entered become becomes what_you_would_expect_in
     what_one_would_expect_in speaks_for speak_for favors favours we_have reveals portrays presents signifies denotes implies confirms confirming
     comes_from taken_from recorded_during recorded_in recorded_from mark marks identify identifies
     recognize looking_at closely_resembles most_closely_resembles
     显示 显示了 显示的 描绘 描绘了 展示 展示了 代表 代表了 对应于 表示 表明 提示 符合 对应 处于 判为 判定 判定为 判断为 判读为 应判为 应为 考虑 归为 归类为 呈现 反映
     属于 支持 进入 更像"""),
    ("M", "remains", "remains is_left are_left stays"),
    ("a", "looks like", "looks_like look_like looking_like"),
    ("s", "scored as", """scored_as classified_as classified staged_as labelled_as labeled_as labelled
     labeled identified_as categorized_as categorised_as interpreted_as recognized_as recognised_as
     regarded_as assigned_to is_considered considered_as described_as say says predicts believe think 诊断为"""),
    ("c", "therefore", """therefore thus hence so overall finally accordingly consequently actually
     correction wait sorry rather altogether in_conclusion in_summary in_short conclude choose chose
     pick go_with going_with go_for i_would_say i'd_say i_say lean_towards lean_toward call score assess
     judge interpret i_stage vote classify label_it opt_for settle_on most_likely most_probably i_believe i_think guess_is
     因此 所以 故 综上 综上所述 总之 最终 应 而是 最有可能 最可能"""),
    ("g", "because", "because since due_to given based_on considering 根据 由于 因为"),
    ("n", "not", """not no never neither nor without instead_of rather_than lacks lack lacking
     absence_of lack_of rule_out rules_out ruling_out exclude excludes excluding against doubt
     不是 并非 而非 而不是 不属于 不像 不符合 不考虑 不支持 不为 不足以 没有 未见 未达 未达到 尚未 未 排除 缺乏 无 非 无法
     不能 不 既不是 也不是 难以"""),
    ("N", "is not", """cannot isn't wasn't doesn't don't didn't can't couldn't won't wouldn't aren't
     hasn't shouldn't"""),
    ("u", "is ruled out", """unlikely improbable absent missing excluded ruled_out less_likely
     out_of_the_question is_out fits_less_well_than fit_less_well_than fits_less_than fits_less fit_less fits_worse less_probable less_convincing less_plausible
     less_appropriate less_suitable less_consistent worse_than 可能性不大 可能性小 可能性较小 不成立
     可以排除 可排除 被排除 不足 不明显 不符 特征不明显"""),
    ("A", "an alternative", """alternative alternatives alternatively second_choice second_best runner-up next_best
     first_guess differential_diagnosis differential 备选"""),
    ("k", "compared with", """as_in like unlike than than_in compared_with compared_to in_contrast_to
     contrary_to in_comparison_to in_comparison_with relative_to similar_to resembles resemble resembling
     different_from differs_from versus such_as seen_in seen_during found_in observed_in observed_during
     expected_in expected_for expect_in see_in find_in occurs_in occur_in between into
     before after until towards toward distinguishes distinguish differentiates differentiate
     discriminate to_tell to_separate over follows precedes followed_by preceded_by looked_like looked so_is so_are so_does
     as_is as_are as_can 不同于 类似于 区别于 相较于 相对于 较 比 如 介于"""),
    ("P", "another epoch", """next_stage previous_stage following_stage preceding_stage other_stage
     other_stages previous_epoch next_epoch following_epoch preceding_epoch last_epoch neighbouring_epochs
    """),
    ("K", "in comparison", "相比 相比较 相似 类似 不同 区别 相近 一样 之间"),
    ("Q", "less than", "less_than weaker_than fewer_than lower_than"),
    ("T", "during", "时 期间"),
    ("y", "typical of", """typical_of characteristic_of hallmark_of hallmarks_of representative_of
     characteristics_of typical_for characteristic_for associated_with feature_of features_of sign_of signs_of marker_of markers_of indicator_of indicators_of signature_of"""),
    ("h", "if, although", """whether although though where while_in during_which in_which at_first
     initially at_first_sight at_first_glance first_thought some_would one_would others_would might_call
     may_call difficult hard impossible tempting tempted cannot_tell undecided thought_of otherwise else 虽然 尽管"""),
    ("Y", "yes", "yes 是的"),
    ("H", "if", "if when whenever unless provided_that 如果 若 当"),
    ("R", "which", "which whom"),
    ("F", "the first of two", "former 前者"),
    ("Z", "the second of two", "latter 后者"),
    ("b", "but", "but however while whereas 但 但是 然而"),
    ("e", "that is", """i.e i.e. namely that_is also_known_as also_called known_as aka called
     即 也就是 又称"""),
    ("m", "may be", "may might could can may_be might_be could_be can_be also 可能 可能是 也可能"),
    ("w", "would", "would should will must needs requires need require 需要 应有"),
    ("p", "is shown", "shown depicted illustrated displayed indicated suggested scored favored favoured"),
    ("B", "is best", """best better most_closely most_fitting most_suitable best_suited better_choice better_fit better_match most_appropriate more_appropriate
     right_stage right_answer correct_stage correct_answer most_plausible more_plausible more_likely
     most_probable best_choice best_fit best_match correct my_choice my_answer my_pick my_guess right_one right_choice"""),
    ("#", "a number", "first second third fourth"),
    ("f", "a word without weight", """any clear obvious definite strong real true sufficient enough sign
     signs evidence feature features indication indications criteria criterion consistent characteristic
     suggestive indicative compatible both typical relaxed quiet drowsy fully example portion look reach
     qualify stable light full eyes closed open 明显 典型 任何 特征 标准"""),
    ("z", "a word between denial and stage", "slow delta wave waves activity yet quite really deep"),
    ("t", "in, of", "in of from for at with by as during on within 从 由 自 中"),
    (">", "to", "to 到 至 向"),
    ("o", "or", "or maybe perhaps possibly vs 或 或者 还是"),
    ("&", "and", "and 与 和 跟 同 以及 及"),
    ("", "dropped", """a an the most likely probably clearly sleep that who there i we my its his her
     definitely certainly so_that no_doubt without_doubt without_a_doubt without_any_doubt not_only very just simply still
     now given_image given_eeg does do did even nrem non-rem 的 该 本 此 睡眠 第 期 了 已 此时 为主 非常"""),
)  # fmt: skip
_LETTER_OF: Final = {
    word.replace("_", " "): letter for letter, _, words in _LEXICON for word in words.split()
}


def _any_of(words: Iterable[str]) -> str:
    """Return a pattern for the longest of `words`, sorted by first character to be quick."""
    ordered = sorted(words, key=lambda word: (word[0], -len(word), word))
    return "|".join(
        f"{first}(?:{'|'.join(re.escape(word[1:]) for word in group)})"
        for first, group in groupby(ordered, key=lambda word: word[0])
    )


_TOKEN: Final = re.compile(
    rf"""
    {_NAME}
  | (?P<option> \b(?:option[ ])?(?-i:[A-E])(?:\)|[.:](?=[ ])) | \boption[ ][a-e]\b )
  | (?P<colon> <(?:final_?)?(?:answer|stage|label)> | \\boxed\{{ | [:=：|] | [-=]> | [→⇒] )
  | (?P<stop> </?\w[^<>\n]{{0,40}}> )
  | (?P<bullet> (?:^|(?<=\n))[ ]{{0,8}}(?:[-*+•]|\d\d?[.)])[ ] )
  | (?P<words> (?:{_any_of(w for w in _LETTER_OF if " " in w or "." in w)})(?!\w)
      | [a-z]+(?:[-'’][a-z]+)* | {_any_of(w for w in _LETTER_OF if w[0] > "~")} )
  | (?P<digits> \d+(?:[.,]\d+)?(?:[ ]?% | [ -]?s(?:ec(?:ond)?s?)?(?!\w))? )
  | (?P<mark> [.!;。！；]+(?!\d) | \n | [?？(（)）,，、/&–—-] )
  | (?P<other> [^\x00-\x7f] )
    """,
    _FLAGS,
)
_MARKS: Final = {
    **{"option": "", "colon": ":", "stop": ".", "bullet": "-", "digits": "#", "other": "x"},
    **{"?": "?", "？": "?", "(": "(", "（": "(", ")": ")", "）": ")", ",": ",", "，": ","},
    **{"、": "o", "/": "o", "&": "&", "–": "-", "—": "-", "-": "-"},
}

# --- 2. grammar ------------------------------------------------------------------------------------

DENIED, ASIDE, NAMED, EVIDENCE = "denied", "aside", "named", "evidence"
VERDICT, CONCLUSION = "verdict", "conclusion"

# What the patterns are made of: a name, names of one stage, several names, words between verb and name.
_N = "[SDU]"
_SAME = (
    rf"{_N}(?>(?:\(?[SDUL]\)?|,?\(?e{_N}\)?){{0,6}})"  # "N3 sleep, also known as slow wave sleep"
)
_LIST = rf"(?:,?\(?[o>\-]{{1,2}}t?|,?&t?(?!{_N}[imwuN])|,(?={_N}(?:,{_N}){{0,6}},?[o&]t?{_N}))l?"
_BARE_LIST = rf",(?={_N}(?:,{_N}){{0,6}}(?:[.?)]|$))"
_SOME = rf"{_SAME}(?>(?:{_LIST}{_SAME}){{0,8}})"  # "N1, N2 or N3"
_RUN = rf"{_SAME}(?>(?:(?:{_LIST}|{_BARE_LIST}){_SAME}){{0,8}})"  # ... and "N1, N2."
_CHAIN = r"[qlivstfcp>#]{0,6}"
_WHAT = r"[ql][qltfpc#(]{0,8}"

# Name of the rule, the role it gives, and a pattern whose group holds one or several names.
_RULES: Final = tuple(
    (name, role, re.compile(pattern))
    for name, role, pattern in (
        ("former", CONCLUSION, rf"({_N})(?=[^.SDU]{{0,12}}{_N}[^.SDU]{{0,16}}(?:[cv]F|F[iv]?B))"),
        ("latter", CONCLUSION, rf"({_N})(?=[^.SDU]{{0,16}}(?:[cv]Z|Z[iv]?B))"),
        ("chosen", CONCLUSION, rf"({_N}),?(?=(?:R[qmi]{{0,2}}|l)[cB])"),
        ("chosen", CONCLUSION, rf"({_N})(?=qi(?:[.,]|$))"),
        ("denied", DENIED, rf"[nN]:?[aqlivmstk>fzcpy#]{{0,8}}({_SOME})"),
        ("denied", DENIED, rf"(?:^|\.)g?[nu][.:]{{1,2}}-({_SOME}(?:[^.]{{0,40}}\.-{_N}){{0,4}})"),
        ("alternative", ASIDE, rf"({_N})(?=i?A)"),
        ("alternative", ASIDE, rf"(?:A|u:)[i:,.f(-]{{0,3}}({_RUN}(?:\.-{_N}){{0,4}})"),
        ("denied", DENIED, rf"({_N}(?:(?:,{_N}){{0,5}},?[o&]{_N})?)(?=\)?[:(]?[fz]{{0,2}}(?:[imw]{{0,2}}f?[Nu]|[imw]{{1,2}}n))"),
        ("confirmed", CONCLUSION, rf"({_N})\?(?=Y)"),
        ("asked", ASIDE, rf"({_RUN})(?=[)fl]{{0,2}}\?)"),
        ("best", CONCLUSION, rf"({_SOME})(?=\)?w?[iv]?[fq]{{0,3}}(?:B|cl?(?:[.,)]|$)))"),
        ("condition", ASIDE, rf"[hH][^.,:b?(SDU-]{{0,10}}({_RUN})"),
        ("condition", ASIDE, rf"({_RUN})(?=H)|H[^.SDU]{{0,24}},[ql]?w{_CHAIN}({_RUN})"),
        ("condition", ASIDE, rf"({_N}(?:[o&]{_N})?)(?=ih)"),
        ("typical", VERDICT, rf"{_WHAT}w?[iv]f?y[qltf]{{0,2}}({_RUN})"),
        ("compared", ASIDE, rf"[ky][qlfmtk>z]{{0,4}}({_RUN}(?:[t&>o]{_N})?)"),
        ("compared", ASIDE, rf"({_N}v?Q{_N})"),
        ("another epoch", ASIDE, rf"P[qlivstf]{{0,6}}({_RUN})"),
        ("compared", ASIDE, rf"({_N}(?:&{_N})?)(?=f?[KT])"),
        ("hypothesis", ASIDE, rf"({_RUN})(?=\)?f?w)"),
        ("reason", EVIDENCE, rf"{_N}[^.SDU]{{0,6}}(?:g|tq)[^.,:SDU]{{0,10}}[iv]{_CHAIN}({_RUN})"),
        ("shown", VERDICT, rf"({_SOME})(?=ip)"),
        ("left over", CONCLUSION, rf"({_N})(?=M)"),
        ("conclusion", CONCLUSION, rf"l[qltfpc#(]{{0,8}}(?:w?[ivM]|m?s|:){{1,3}}{_CHAIN}({_RUN})"),
        ("last words", CONCLUSION, rf"[.,:]c?{_WHAT}(?:w?[ivM]|m?s|:){{1,3}}{_CHAIN}({_RUN})[).]{{0,3}}$"),
        ("verdict", VERDICT, rf"{_WHAT}(?:w?[ivM]|m?s|:){{1,3}}{_CHAIN}(?:l,)?({_RUN})"),
        ("verdict", VERDICT, r"qf?(D)(?=[.,]|$)"),
        ("conclusion", CONCLUSION, rf"c[qlivstfc#,:]{{0,8}}({_RUN})"),
        ("conclusion", VERDICT, rf"g[^.:SDU]{{0,24}},[qliv]{{0,3}}({_RUN})(?=[.,]|$)"),
        ("hypothesis", ASIDE, rf"wv{_CHAIN}({_RUN})"),
        ("possible", NAMED, rf"m[iv]?{_CHAIN}({_RUN})"),
        ("label", VERDICT, rf"^[:(fel]{{0,3}}({_RUN})(?=\)?(?:,(?!{_N})|[(gt-]|\.(?!-?{_N}(?:\.|$))))"),
        ("label", CONCLUSION, rf"^[-:(fel]{{0,3}}({_RUN})[).]{{0,3}}$"),
        ("label", CONCLUSION, rf"l[.:]{{0,2}}-?({_RUN})(?=[.)]|$)"),
        ("label", VERDICT, rf"(?:^|[^x#SDU)]):[.f-]?({_RUN})(?=[.)]|$)"),
        ("label", CONCLUSION, rf"[^SDU)][.?]f?({_RUN})\.?$"),
        ("evidence", EVIDENCE, rf"[ivsa]{_CHAIN}({_RUN})"),
        ("evidence", EVIDENCE, rf"e({_RUN})"),
        ("label", EVIDENCE, rf"(?<![SDU)]):[.f-]?({_RUN})(?=[.)]|$)"),
        ("label", EVIDENCE, rf"\.f?({_RUN})(?=\.)"),
        ("choice", NAMED, rf"({_SAME}(?:{_LIST}{_SAME})+)"),
        ("part of a description", ASIDE, rf"[t>R][mf]?({_RUN}(?:[t>&]{_N})?)"),
    )
)  # fmt: skip
# Where a lone letter, or "rapid eye movement" without "sleep", is the name of a stage.
_PROMOTED: Final = re.compile(
    rf"^[:f]?([Lr])(?=l?(?:[.,(-]|$))|l[:i]?([Ljr])(?=[.,)(-]|$)|(?:[:.ivc]t?|c,)([L])(?=[.,)(]|$)"
    rf"|,([L])(?=\.?$)|(L)(?=qi(?:[.,]|$))|(r)(?=\(S\))|(L)(?=,?[o&>]{{1,2}}{_N})|{_N},?[o&>]{{1,2}}(L)"
)


# --- 3. decision -----------------------------------------------------------------------------------


class _Name(NamedTuple):
    """A stage that the text names, and where; None for "stage 7"."""

    stage: str | None
    span: Span


def _lexed(text: str) -> tuple[str, dict[int, _Name]]:
    """Return the letters of the words of `text`, and the names by their place among the letters."""
    letters: list[str] = []
    names: dict[int, _Name] = {}
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        word = match[kind]
        if kind in _KINDS:
            letter, stage = _KINDS[kind][0], _KINDS[kind][1:] or None
            if kind.startswith("number"):
                stage = _NUMBERED[re.split(r"[^a-z0-9一-龥Ⅰ-Ⅳ]", word.lower())[0]]
            elif kind == "letter":
                letter, stage = "L" if word.isupper() else "j", _LETTERS[word.lower()]
            names[len(letters)] = _Name(stage, match.span(kind))
        elif kind == "words":
            word = " ".join(word.lower().replace("’", "'").split())
            letter = _LETTER_OF.get(word, "x")
        else:
            letter = _MARKS.get(kind) or _MARKS.get(word, "" if kind == "option" else ".")
        repeats = (letter == "." or kind == "other") and letters[-1:] == [letter]
        if letter and not repeats:
            letters.append(letter)
    return "".join(letters), names


def _promoted(letters: str) -> str:
    """Make names of lone letters where they stand for a stage."""
    places = [match.start(match.lastindex or 0) for match in _PROMOTED.finditer(letters)]
    changed = list(letters)
    for place in places:
        changed[place] = "S"
    return "".join(changed)


def _prose(text: str) -> Reading:
    """Read a stage out of sentences."""
    letters, names = _lexed(text)
    letters = _promoted(letters)
    names = {place: name for place, name in names.items() if letters[place] in "SDU"}
    ruled: dict[
        int, tuple[str, str, int]
    ] = {}  # role and rule of each name, and where the rule met
    for rule, role, pattern in _RULES:
        for match in pattern.finditer(letters):
            begin, end = match.span(match.lastindex or 0)
            for place in range(begin, end):
                if place in names:
                    ruled.setdefault(place, (role, rule, begin))
    for place in names:
        if letters[place] != "D":  # a description counts where a rule says so
            ruled.setdefault(place, (NAMED, "only stage named", place))
    first_end = letters.find(".", letters.find(next(iter(letters.strip(".-:")), "")))
    for role in (CONCLUSION, VERDICT, EVIDENCE, NAMED):
        found = [place for place in names if place in ruled and ruled[place][0] == role]
        if not found:
            continue
        if role == VERDICT:
            found = [place for place in found if place < first_end] or found
        _, rule, met = ruled[found[-1]]
        if role in (CONCLUSION, VERDICT):
            found = [place for place in found if ruled[place][2] == met]
        if len({names[place].stage for place in found}) > 1:
            return Reading(None, None, "several stages")
        stage, span = names[found[-1]]
        return Reading(stage, span, rule) if stage else UNREADABLE
    return UNREADABLE


# Keys of an object that hold the stage, the better first. Under an unknown key nothing counts.
_KEYS: Final = tuple(
    re.compile(
        rf"(?:(?:sleep|predicted|most|likely|best|current|estimated|detected|assigned)_)*(?:{key})"
    )
    for key in (
        "final(?:_.*)?",
        "stage(?:_(?:name|label|code))?|(?:睡眠)?(?:分期|阶段)",
        "answer|label|prediction|predicted|class(?:ification)?|category",
        "most_likely|conclusion|verdict|diagnosis|decision|choice|result|output|response|答案|结果|结论",
        "",  # of a bare list
    )
)

_NO_KEY: Final = len(_KEYS) - 1
_UNKNOWN: Final = len(_KEYS)

# JSON as models write it: quotes of any kind or none, commas too many, the end missing.
_OBJECT: Final = re.compile(
    r"[{\[]\s{0,40}[\"'“”‘’]?\w[\w \-]{0,40}[\"'“”‘’]?\s{0,9}[:=：]|^\s*\[\s*[{\"']"
)
_PART: Final = re.compile(
    r"""
    (?P<open>[{\[]) | (?P<close>[}\]]) | (?P<comma>[,，\n]) | (?P<colon>[:=：])
  | ["“”„](?P<double>(?:[^"“”\\]|\\.|["“”](?!\s{0,9}(?:[,，:：}\]]|$)))*+)["“”]?
  | ['‘’](?P<single>(?:[^'‘’\\]|\\.|['‘’](?!\s{0,9}(?:[,，:：}\]]|$)))*+)['‘’]?
  | (?P<bare>[^\s"'“”{}\[\],，:=：][^"“”{}\[\],，:=：\n]*)
    """,
    re.VERBOSE | re.DOTALL,
)


def _object(text: str) -> Reading | None:
    """Read JSON, a dict of Python or what looks like one; None if `text` holds no such thing."""
    reading, around, end = None, "", 0
    while begins := _OBJECT.search(text, end):
        begin = begins.start()
        around += text[end:begin]
        fields, end = _fields(text, begin)
        around += " " * (end - begin)
        if found := [rank for rank in sorted(fields) if fields[rank]]:
            reading = _agreed(text, fields[found[0]])
    if reading or not end:
        return reading
    return _prose(around + text[end:])  # an object that says nothing of the stage


def _fields(text: str, begin: int) -> tuple[dict[int, list[Span]], int]:
    """Return where the values of known keys stand, by the rank of the key, and the object's end."""
    fields: dict[int, list[Span]] = {}
    above = [_NO_KEY]  # ranks of the keys that the open brackets stand under
    rank: int | None = None  # of the key that a value is for
    before, values, span = "", list[Span](), (begin, begin)
    for part in _PART.finditer(text, begin):
        kind = part.lastgroup or ""
        if kind == "open":
            inherited = above[-1] if rank is None else rank
            above.append(_UNKNOWN if above[-1] == _UNKNOWN else inherited)
            rank = None
        elif kind == "close":
            above.pop()
            rank = None
            if len(above) < 2:
                return fields, part.end()
        elif kind == "colon":
            if values[-1:] == [span]:  # what was taken for a value is a key
                values.pop()
            rank = _rank(text[slice(*span)])
        elif kind == "comma":
            rank = rank if before == "colon" else None
        else:
            span = part.span(kind)
            of = above[-1] if rank is None or above[-1] == _UNKNOWN else rank
            values = fields.setdefault(of, []) if of != _UNKNOWN else []
            values.append(span)
        before = kind
    return fields, len(text)


def _rank(key: str) -> int:
    """Return the place of a key in `_KEYS`."""
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])|\W+", "_", key.strip()).casefold()
    return next((i for i, known in enumerate(_KEYS) if known.fullmatch(snake)), _UNKNOWN)


def _agreed(text: str, values: list[Span]) -> Reading:
    """Read the stage that all values of a key name."""
    readings = []
    for begin, end in values:
        value = text[begin:end].strip()
        if value.isdecimal():  # 2 is N2; 4 without quotes is stage 4 for one, REM for another
            stage = _NUMBERED.get(value)
            quoted = text[begin - 1 : begin] in ("'", '"')
            known = stage is not None and (quoted or value != "4")
            readings.append(Reading(stage, (begin, begin + 1), "field") if known else UNREADABLE)
        else:
            reading = _prose(text[begin:end])
            readings.append(_moved(reading, begin))
    if not readings or len({reading.stage for reading in readings}) > 1:
        return Reading(None, None, "several stages" if readings else UNREADABLE.rule)
    first = readings[0]
    return Reading(first.stage, first.span, "field" if first.stage else first.rule)


# --- readers ---------------------------------------------------------------------------------------

_LONGEST: Final = 50_000
"""Characters of an answer that are read: of a longer one the first and the last half of them."""

_LONE_LETTER: Final = re.compile(r"\W*(?P<letter>[wr])\W*", _FLAGS)
_THOUGHTS: Final = re.compile(r".*</think(?:ing)?>(?=.*\S)", re.IGNORECASE | re.DOTALL)
_SENTENCE: Final = re.compile(
    r"(?:the\s+)?(?:sleep\s+)?stage\s+is\s+(?P<stage>W|N1|N2|N3|REM)\s*\.?\s*$", re.IGNORECASE
)


def read_stage(text: str, reader: Reader = "free") -> Reading:
    """Read the stage that `text` concludes on.

    The tables of this module say how free text is read. Of a JSON answer the field counts that holds
    the stage, of a text with thoughts (``</think>``) what follows them.

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
        Without a stage where the text names none, or several without a conclusion.

    Examples
    --------
    >>> read_stage("The stage is N2.")
    Reading(stage='N2', span=(13, 15), rule='verdict')
    """
    return READERS[reader](text)


def _label(text: str) -> Reading:
    label = text.strip()
    if label not in STAGES:
        return UNREADABLE
    start = text.index(label)
    return Reading(label, (start, start + len(label)), "label")


def _sentence(text: str) -> Reading:
    if match := _SENTENCE.search(text[-_LONGEST:]):
        return _moved(
            Reading(match["stage"].upper(), match.span("stage"), "sentence"),
            max(0, len(text) - _LONGEST),
        )
    return _label(text)


def _free(text: str) -> Reading:
    thoughts = _THOUGHTS.match(text)
    begin = thoughts.end() if thoughts else 0
    text, half, left_out = text[begin:], _LONGEST // 2, len(text) - begin - _LONGEST
    if left_out > 0:
        text = f"{text[:half]}\n{text[-half:]}"
    if lone := _LONE_LETTER.fullmatch(text):
        reading = Reading(_LETTERS[lone["letter"].lower()], lone.span("letter"), "label")
    else:
        reading = _object(text) or _prose(text)
    if left_out > 0 and reading.span and reading.span[0] > half:
        begin += left_out - 1
    return _moved(reading, begin)


def _moved(reading: Reading, by: int) -> Reading:
    """Return the reading of a part of a text as one of the whole."""
    if reading.span is None:
        return reading
    return Reading(reading.stage, (reading.span[0] + by, reading.span[1] + by), reading.rule)


READERS: Final[dict[str, Callable[[str], Reading]]] = {
    "free": _free,
    "sentence": _sentence,
    "label": _label,
}
"""How strictly answers are read (``--reader``)."""
