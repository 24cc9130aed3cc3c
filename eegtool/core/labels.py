"""True stages as people write them beside their epochs: one gate for the labels of questions and answers.

Words are those of the scorings (`eegtool.core.stages`). Numbers mean nothing until their coding is named:
4 is N3 in one and REM in another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eegtool.core.errors import EegToolError
from eegtool.core.registry import check_name
from eegtool.core.stages import (
    STAGES,
    closest_spelling,
    code_in_column,
    is_misspelt,
    stage_in_column,
)

CODINGS: Final[dict[str, dict[int, str]]] = {
    "nsrr": {0: "W", 1: "N1", 2: "N2", 3: "N3", 4: "N3", 5: "REM"},
    "0-4": dict(enumerate(STAGES)),
    "1-5": dict(enumerate(STAGES, start=1)),
}
"""What numbers mean: as Profusion and the NSRR count (Rechtschaffen & Kales, 5 is REM), or the five stages
from 0 or from 1, as programs that learn do."""

_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels that went through the gate.

    Attributes
    ----------
    stages : tuple of str
        One of `STAGES` for each label; empty where it is not known.
    notes : tuple of str
        What must be said of them, a sentence each.
    """

    stages: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_labels(where: str, ids: Sequence[str], labels: Sequence[str], coding: str = "") -> Labels:
    """Translate labels into the five stages.

    An empty label, and a word that names no stage (LLaVA's ``detail``, ``?``, movement), means that the
    stage is not known.

    Parameters
    ----------
    where : str
        The file, for messages.
    ids, labels : sequence of str
        Sample ids and what stands beside them.
    coding : str
        One of `CODINGS`, if the labels are numbers; else empty.

    Raises
    ------
    EegToolError
        If there are numbers and no coding, words among numbers, a number that the coding does not have, or
        a word that is nearly a stage.
    """
    if coding:
        check_name("--label-coding", coding, CODINGS)
    meaning: dict[str, str] = {}
    first: dict[str, str] = {}
    for label, sample_id in zip(labels, ids, strict=True):
        first.setdefault(label, sample_id)
    numbers = {label: n for label in first if (n := code_in_column(label)) is not None}
    words = [label for label in first if label not in numbers and _stage(label)]
    if numbers and words:
        number, word = next(iter(numbers)), words[0]
        raise EegToolError(
            f"{where}: its labels mix two codings: '{word}' of '{first[word]}' is a word, '{number}' of "
            f"'{first[number]}' a number.",
            "Write all of them in one way.",
        )
    if numbers and not coding:
        number = next(iter(numbers))
        raise EegToolError(
            f"{where}: its labels are numbers, such as '{number}' of '{first[number]}', and 4 may be N3 or "
            "REM.",
            "Say how they count with --label-coding: 'nsrr' (0 W, 1 N1, 2 N2, 3 and 4 N3, 5 REM), '0-4' or "
            "'1-5' (the five stages in order).",
        )
    for label in first:
        if label in numbers:
            meaning[label] = _coded(where, first[label], numbers[label], coding)
        else:
            meaning[label] = _stage(label)
            if stage_in_column(label) is None and is_misspelt(label):
                raise EegToolError(
                    f"{where}: the label '{label}' of '{first[label]}' is not a sleep stage."
                    f"{closest_spelling(label)}",
                    "Correct it, or leave it empty where the stage is not known.",
                )
    counted = Counter(labels)
    odd = {label: counted[label] for label in first if label.strip() and not meaning[label]}
    notes = []
    if odd:
        named = ", ".join(f"'{label}' ({n:,})" for label, n in list(odd.items())[:_NAMED])
        more = ", …" * (len(odd) > _NAMED)
        notes.append(
            f"{sum(odd.values()):,} labels are not sleep stages and count as unknown: {named}{more}"
        )
    return Labels(tuple(meaning[label] for label in labels), tuple(notes))


def _stage(label: str) -> str:
    """Return the stage that a word names; empty if it names none."""
    stage = stage_in_column(label) if label.strip() else None
    return stage if stage in STAGES else ""


def _coded(where: str, sample_id: str, number: int, coding: str) -> str:
    """Return the stage that a number means; negative ones and 9 are unscored wherever numbers count."""
    if number in (-1, -2, 9) and number not in CODINGS[coding]:
        return ""
    if number not in CODINGS[coding]:
        known = ", ".join(map(str, CODINGS[coding]))
        raise EegToolError(
            f"{where}: the label '{number}' of '{sample_id}' is not a number of --label-coding {coding} "
            f"({known}).",
            "Name the coding that the labels are in.",
        )
    return CODINGS[coding][number]
