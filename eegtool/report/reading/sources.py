"""Answers files, read line by line: however long they are, only what the report needs stays in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from eegtool.core.answers import Reader, Reading, read_stage
from eegtool.core.errors import EegToolError
from eegtool.core.labels import read_labels
from eegtool.core.parsing import finite, parse_json
from eegtool.core.records import Answer, check_unique
from eegtool.core.stages import STAGES
from eegtool.core.workspace import missing
from eegtool.report.reading.epochs import AnsweredEpoch, probabilities_of
from eegtool.report.reading.plain import plain_text
from eegtool.report.reading.protocol import Run, RunGatherer


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """The answers of one model in one file.

    Attributes
    ----------
    path : Path
        The file.
    name : str
        What it goes by in tables; no two sets of a report share it.
    run : Run
        What made the answers.
    epochs : tuple of AnsweredEpoch
        In the order of the file.
    broken_line : str
        What is wrong with the last line of the file, if anything.
    odd_probabilities : tuple of str
        Ids of the rows whose probabilities are none, and why; such rows have none.
    siblings : int
        Number of models in the file.
    label_notes : tuple of str
        What must be said of the true stages.
    """

    path: Path
    name: str
    run: Run
    epochs: tuple[AnsweredEpoch, ...]
    broken_line: str = ""
    odd_probabilities: tuple[str, ...] = ()
    siblings: int = 1
    label_notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Gathering:
    """One model's answers while they are read."""

    run: RunGatherer = field(default_factory=RunGatherer)
    epochs: list[AnsweredEpoch] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def whole(self, path: Path, coding: str, broken: str, siblings: int) -> AnswerSet:
        """Return the answers with their true stages, which are read all together."""
        ids = [epoch.sample_id for epoch in self.epochs]
        labels = [epoch.true or "" for epoch in self.epochs]
        found = read_labels(str(path), ids, labels, coding)
        check_unique(path, ids)
        pairs = zip(self.epochs, found.stages, strict=True)
        epochs = tuple(replace(epoch, true=stage or None) for epoch, stage in pairs)
        run, odd = self.run.run(), tuple(self.odd)
        return AnswerSet(path, path.stem, run, epochs, broken, odd, siblings, found.notes)


def read_answer_sets(path: Path, reader: Reader = "free", coding: str = "") -> list[AnswerSet]:
    """Read an answers file.

    A file in which several models (or one model with other features) have answered is taken apart:
    their answers never meet in one figure.

    Parameters
    ----------
    path : Path
        The file.
    reader : str
        How stages are read; see `eegtool.core.answers.read_stage`.
    coding : str
        What numbers mean as true stages; see `eegtool.core.labels.read_labels`.

    Returns
    -------
    list of AnswerSet
        One per model, in the order of their first rows.

    Raises
    ------
    EegToolError
        If the file cannot be read or holds no answer; a line other than the last is none; an id
        occurs twice under one model; or a label is no stage.
    """
    found: dict[tuple[str, ...], _Gathering] = {}

    @cache  # equal texts are read once and kept once
    def read(raw: str) -> tuple[str, Reading]:
        text = plain_text(raw)
        return text, read_stage(text, reader)

    broken = ""
    for answer in _answers(path):
        if isinstance(answer, EegToolError):
            broken = answer.what.removeprefix(f"{path}, ").removesuffix(".")
            continue
        gathering = found.setdefault(_key(answer), _Gathering())
        gathering.run.add(answer)
        epoch, odd = _epoch(answer, read)
        gathering.epochs.append(epoch)
        if odd:
            gathering.odd.append(f"'{epoch.sample_id}': {odd}")
    if not found:
        but = f" but a broken one, {broken}" if broken else ""
        raise EegToolError(
            f"{path} holds no answers{but}.",
            "Run `eegvlm evaluate` first, or give another file.",
        )
    return [one.whole(path, coding, broken, len(found)) for one in found.values()]


def _answer(path: Path, place: str, row: object) -> Answer:
    try:
        if not isinstance(row, dict):
            raise ValueError("not a JSON object")
        return Answer.from_row(row)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise EegToolError(
            f"{path}, {place}: {reason}.", "Fix that row or write the file again."
        ) from error


def _answers(path: Path) -> Iterator[Answer | EegToolError]:
    """Yield the answers of lines or of a JSON list; a broken last line, of a killed writer, comes as its error."""
    broken: EegToolError | None = None
    for k, (number, line) in enumerate(_lines(path)):
        if k == 0 and line.lstrip().startswith(b"["):
            rows = parse_json(path.read_bytes(), path, half_characters=True)
            yield from (_answer(path, f"row {i}", row) for i, row in enumerate(rows, start=1))
            return
        if broken:
            raise broken
        try:  # `plain_text` replaces halves of characters
            row = parse_json(line, path, number, half_characters=True)
            yield _answer(path, f"line {number}", row)
        except EegToolError as error:
            broken = error
    if broken:
        yield broken


def _epoch(answer: Answer, read: Callable[[str], tuple[str, Reading]]) -> tuple[AnsweredEpoch, str]:
    """Return the epoch of an answer, and what is wrong with its probabilities."""
    metadata = answer.metadata
    text, reading = read(answer.text)
    odd, probabilities = "", None
    try:
        probabilities = probabilities_of(metadata.get("stage_probabilities"))
    except ValueError as error:
        odd = str(error)
    epoch = AnsweredEpoch(
        sample_id=plain_text(answer.question_id),
        recording=_word(metadata.get("recording")),
        subject=_word(metadata.get("subject")),
        epoch_index=_whole(metadata.get("epoch_index"), 0),
        true=plain_text(answer.label).strip(),  # read all together by `_Gathering.whole`
        text=text,
        reading=reading,
        onset_s=_onset(metadata.get("onset_s")),
        night=_whole(metadata.get("night"), 1),
        question=_word(answer.prompt),
        probabilities=probabilities,
        smoothed=_stage(metadata.get("stage_smoothed")),
    )
    return epoch, odd


def _word(value: object) -> str:
    """Return a text that repeats from row to row; it is kept once."""
    return sys.intern(plain_text(value))


def _stage(value: object) -> str | None:
    return value if isinstance(value, str) and value in STAGES else None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each line that is not blank."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise EegToolError(
            f"{path} cannot be read: {error.strerror}.", "Check the path."
        ) from error


def _key(answer: Answer) -> tuple[str, ...]:
    """Return what tells models apart: name, weights, features."""
    found = (answer.metadata.get(name, "") for name in ("adapter_sha256", "features"))
    return answer.model_id, *map(str, found)


def _whole(value: object, least: int) -> int | None:
    """Return a whole number from `least` on, of 64 bits at most; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        return None
    return value


def _onset(value: object) -> float | None:
    onset_s = finite(value)
    return None if onset_s is None or onset_s < 0 else onset_s


def named_apart(sets: Sequence[AnswerSet]) -> list[AnswerSet]:
    """Give each set a name of its own: the stem of its file, with model or folder where that is not enough."""
    candidates: list[list[str]] = [
        [s.path.stem for s in sets],
        [s.run.model_id or s.path.stem for s in sets],
        [f"{s.path.stem}: {s.run.model_id}" for s in sets],
        [f"{s.path.parent.name}/{s.path.stem}" for s in sets],
        [f"{s.run.model_id}, {s.run.features}" for s in sets],
    ]
    names = next((c for c in candidates if len(set(c)) == len(c)), None)
    names = names or [f"{i}: {s.path.stem}" for i, s in enumerate(sets, start=1)]
    return [replace(s, name=plain_text(name)) for s, name in zip(sets, names, strict=True)]
