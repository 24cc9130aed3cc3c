"""What the samples of a fine-tuning teach: which question, and how its answers name the stages.

Nobody has to say it: it is read from the rows, by the reader that will read the model's own answers. It
is stored in the contract of the adapter, and decides how the model is asked.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import takewhile
from typing import Any, Final, Literal

from eegtool.core.answers import Reading, read_stage
from eegtool.core.errors import EegToolError
from eegtool.core.options import AnswerMode
from eegtool.core.records import Conversation
from eegtool.core.stages import STAGES

Place = Literal["whole", "end", "start", "nowhere"]
"""Where the stage stands: it is the whole answer, concludes it, opens it, or has no place of its own."""

_MOSTLY: Final = 0.9
"""Share of the answers of a stage that must have the same form to be the taught one."""
_ROOM: Final = 1.25
_LEAST_ROOM: Final = 8
"""The longest answer may be so much longer than those of the samples, in tokens; at least so many."""
_SENTENCE_END: Final = re.compile(r"[.!?](?=\s)|[。！？\n]")

_PLACES: Final = {
    "whole": "as the whole answer",
    "end": "at the end",
    "start": "at the beginning",
    "nowhere": "at no fixed place",
}


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How to ask a model, and how its answers read; part of its contract.

    Attributes
    ----------
    question : str
        What most samples ask; empty where that is not known.
    stages : dict of str to str
        The answer for each stage; where reasons come first its conclusion, where they come after its
        opening. Empty where no form is taught: such a model cannot be scored.
    lead : str
        The words with which every conclusion begins; empty where there are none.
    max_new_tokens : int
        Room for an answer.
    longest_tokens : int
        The longest answer of the samples; 0 where that is not known.
    place : str
        Where the stage stands (see `Place`).
    untaught : tuple of str
        Stages of which there was no sample: their answers are spelt like the others.
    read, answers : int
        In how many answers a stage was found, of how many.
    """

    question: str = ""
    stages: dict[str, str] = field(default_factory=lambda: {stage: stage for stage in STAGES})
    lead: str = ""
    max_new_tokens: int = _LEAST_ROOM
    longest_tokens: int = 0
    place: Place = "whole"
    untaught: tuple[str, ...] = ()
    read: int = 0
    answers: int = 0

    @classmethod
    def from_contract(cls, raw: Mapping[str, Any]) -> AnswerForm:
        """Read what a contract holds; those of version 0.1 hold nothing, and mean bare labels.

        Raises
        ------
        EegToolError
            If it is not a form, or does not have one answer for each stage.
        """
        earlier = {"place": "end"} if raw.get("lead") else {}  # version 0.1 did not say the place
        known = {f.name: raw[f.name] for f in fields(cls) if f.name in raw}
        form = cls(**{**earlier, **known, "untaught": tuple(raw.get("untaught", ()))})
        stages = form.stages
        if stages and (set(stages) != set(STAGES) or len(set(stages.values())) < len(STAGES)):
            raise EegToolError(
                f"The model's contract does not have one answer for each stage, but {stages}.",
                "Fine-tune again.",
            )
        return form

    @property
    def texts(self) -> tuple[str, ...]:
        """The answer for each stage, in the order of `STAGES`; empty where no form is taught."""
        return tuple(self.stages[stage] for stage in STAGES) if self.stages else ()

    @property
    def reasons_first(self) -> bool:
        """Whether reasons come before the stage."""
        return self.place == "end"

    def writes(self, mode: AnswerMode) -> bool:
        """Say whether a model that answers so writes anything, be it only reasons before a score."""
        return mode != "score" or self.reasons_first

    @property
    def is_whole(self) -> bool:
        """Whether an answer ends with its stage, or continues."""
        return self.place != "start"

    def sentence(self) -> str:
        """Return in one line what was found."""
        found = len(STAGES) - len(self.untaught)
        return (
            f"{found} stages found in {self.read:,} of {self.answers:,} answers, "
            f"{_PLACES[self.place]}, up to {self.longest_tokens:,} tokens"
        )


def form_of(rows: Iterable[Conversation], count_tokens: Callable[[str], int]) -> AnswerForm:
    """Find the form of the answers.

    Parameters
    ----------
    rows : iterable of Conversation
        The samples; of several turns those count in which a stage is found.
    count_tokens : callable
        Text of an answer → its tokens, end token included.
    """
    read: dict[str, Reading] = {}
    named: Counter[str] = Counter()
    questions: Counter[str] = Counter()
    n = n_read = 0
    for row in rows:
        n += 1
        found = False
        for question, answer in row.turns:
            if answer not in read:
                read[answer] = read_stage(answer)
            if read[answer].stage is not None:
                found = True
                named[answer] += 1
                questions[question] += 1
        n_read += found
        questions[row.question] += not found
    longest = max(map(count_tokens, read), default=0)
    form = AnswerForm(
        question=questions.most_common(1)[0][0] if questions else "",
        stages={},
        max_new_tokens=max(_LEAST_ROOM, math.ceil(_ROOM * longest)),
        longest_tokens=longest,
        place="nowhere",
        untaught=tuple(s for s in STAGES if s not in {read[text].stage for text in named}),
        read=n_read,
        answers=n,
    )
    answers = [_Named(text, read[text], count) for text, count in named.items()]
    for place, part in _PARTS.items():
        stages = _common(answers, part)
        texts = set(stages.values())
        goes_on = place == "start" and any(a != b and a.startswith(b) for a in texts for b in texts)
        if len(texts) == len(STAGES) and not goes_on:
            lead = _lead(tuple(stages.values())) if place == "end" else ""
            return replace(form, stages=stages, place=place, lead=lead)
    return form


@dataclass(frozen=True, slots=True)
class _Named:
    """An answer that names a stage, and how often it occurs."""

    text: str
    reading: Reading
    count: int

    @property
    def _name(self) -> tuple[int, int]:
        """Where the name of the stage begins and ends."""
        return self.reading.span or (0, len(self.text))

    def whole(self) -> tuple[int, int] | None:
        """All of it, if it is one sentence."""
        more = _SENTENCE_END.search(self.text.strip(), 0, len(self.text.strip()) - 1)
        return None if more else (0, len(self.text))

    def conclusion(self) -> tuple[int, int] | None:
        """The sentence that names the stage, if it is the last one."""
        begin, end = self._name
        if _SENTENCE_END.search(self.text, end, len(self.text.rstrip()) - 1):
            return None
        ends = [found.end() for found in _SENTENCE_END.finditer(self.text, 0, begin)]
        return (ends[-1] if ends else 0), len(self.text)

    def opening(self) -> tuple[int, int] | None:
        """All up to the name of the stage, if that stands in the first sentence."""
        begin, end = self._name
        return None if _SENTENCE_END.search(self.text, 0, begin) else (0, end)

    def spelt(self, part: tuple[int, int], stage: str = "") -> str:
        """Return a part of it; as it would read for another stage, if one is given."""
        begin, end = self._name
        name = stage or self.text[begin:end]
        return (self.text[part[0] : begin] + name + self.text[end : part[1]]).strip()


_PARTS: Final[dict[Place, Callable[[_Named], tuple[int, int] | None]]] = {
    "whole": _Named.whole,
    "end": _Named.conclusion,
    "start": _Named.opening,
}


def conclusion_start(text: str, lead: str) -> int:
    """Return where the conclusion of an answer begins; its end where it has none."""
    if lead:
        return text.rindex(lead) if lead in text else len(text)
    reading = read_stage(text)
    where = _Named(text, reading, 1).conclusion() if reading.stage else None
    return where[0] if where else len(text)


def _common(
    answers: Sequence[_Named], part: Callable[[_Named], tuple[int, int] | None]
) -> dict[str, str]:
    """Return the part that nearly all answers of a stage have in common, for each stage; or nothing.

    A stage without a sample is spelt in the frame of the most frequent other one.
    """
    counted: dict[str, Counter[str]] = {}
    frames: Counter[tuple[_Named, tuple[int, int]]] = Counter()
    for answer in answers:
        where = part(answer)
        stage = answer.reading.stage or ""
        counted.setdefault(stage, Counter())[answer.spelt(where) if where else ""] += answer.count
        if where:
            frames[answer, where] += answer.count
    common = {stage: texts.most_common(1)[0] for stage, texts in counted.items()}
    if len(common) < 2 or any(
        not text or count < _MOSTLY * counted[stage].total()
        for stage, (text, count) in common.items()
    ):
        return {}
    (frame, where), _ = frames.most_common(1)[0]
    return {s: common[s][0] if s in common else frame.spelt(where, s) for s in STAGES}


def _lead(texts: Sequence[str]) -> str:
    """Return the whole words with which all texts begin."""
    columns = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    shared = "".join(letters[0] for letters in columns)
    return shared.rpartition(" ")[0].strip()
