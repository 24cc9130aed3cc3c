"""The records that cross a border between commands, and their forms in files. All are joined by ``sample_id``."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from eegtool.core import forms
from eegtool.core.errors import EegToolError
from eegtool.core.forms import IMAGE_TOKEN, Forms
from eegtool.core.parsing import parse_json
from eegtool.core.stages import STAGES
from eegtool.core.workspace import atomic_path, missing

SPLITS: Final = ("ft", "eval")
"""Names of the two sides: what the model is fine-tuned on, and what it is evaluated on."""

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Epoch:
    """One 30-s epoch: a row of ``epochs.csv``.

    Attributes
    ----------
    sample_id : str
        ``<recording>-<epoch_index>``, such as ``SC4001E0-0123``; unique in a workspace.
    cohort, recording, subject : str
        Where it comes from.
    night : int
        Number of the night of this subject, from 1.
    epoch_index : int
        Index of the epoch in the whole recording, from 0.
    onset_s : float
        Seconds from the first sample of the recording.
    stage : str
        One of `STAGES`; empty where it is not known, which only the evaluation side may have.
    split : str
        One of `SPLITS`.
    image : str
        Path of its picture relative to the image folder of its split. Never contains the stage.
    """

    sample_id: str
    cohort: str
    recording: str
    subject: str
    night: int
    epoch_index: int
    onset_s: float
    stage: str
    split: str
    image: str

    @classmethod
    def from_row(cls, row: dict[str, str]) -> Epoch:
        """Read a row of ``epochs.csv``, in which everything is text."""
        names = [f.name for f in fields(cls)]
        if set(row) != set(names) or None in row.values():
            raise ValueError(f"the columns must be {', '.join(names)}")
        known = row["stage"] in STAGES or (row["stage"], row["split"]) == ("", "eval")
        if not known or row["split"] not in SPLITS:
            raise ValueError(f"stage '{row['stage']}' or split '{row['split']}' is unknown")
        values: dict[str, Any] = dict(row)
        for name, number in (("night", int), ("epoch_index", int), ("onset_s", float)):
            values[name] = number(row[name])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One fine-tuning sample: a row of ``eeg_ft.json``."""

    sample_id: str
    images: tuple[str, ...]
    question: str
    answer: str
    later: tuple[tuple[str, str], ...] = ()
    """Further questions with their answers, where there are several turns."""
    system: str = ""
    """What stands in place of the template's system text; empty for that."""

    @property
    def text(self) -> tuple[Any, ...]:
        """All that is said in it: equal for samples that differ in their pictures only."""
        return (self.system, self.question, self.answer, self.later)

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """Each question with its answer."""
        return ((self.question, self.answer), *self.later)

    def to_row(self) -> dict[str, Any]:
        """Return the row in LLaVA's form, with one ``<image>`` per image before the question."""
        human = f"{IMAGE_TOKEN}\n" * len(self.images) + self.question
        spoken = [("system", self.system)] * bool(self.system)
        for question, answer in ((human, self.answer), *self.later):
            spoken += [("human", question), ("gpt", answer)]
        return {
            "id": self.sample_id,
            "image": list(self.images),
            "conversations": [{"from": role, "value": text} for role, text in spoken],
        }

    @classmethod
    def from_row(cls, row: dict[str, Any], taken: Forms) -> Conversation:
        """Read LLaVA's form, or one of those that `forms.TAKEN` names, which is counted in `taken`."""
        system, ((first, answer), *later) = forms.turns(row, taken)
        images = forms.images(row, taken)
        question = forms.question_text(first, len(images), taken)
        texts = [answer, *(text for turn in later for text in turn)]
        if any(IMAGE_TOKEN in text for text in texts):
            raise ValueError(f"{IMAGE_TOKEN} stands in an answer or in a later turn")
        sample_id = forms.identity(row, "id", taken)
        return cls(sample_id, images, question, answer, tuple(later), system)


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the evaluation: a row of ``eeg_eval.jsonl``."""

    sample_id: str
    images: tuple[str, ...]
    text: str
    category: str = ""
    """True stage; empty where it is not known."""

    def to_row(self) -> dict[str, Any]:
        """Return the row in the form of LLaVA's ``model_vqa`` question files."""
        return {
            "question_id": self.sample_id,
            "image": list(self.images),
            "text": self.text,
            "category": self.category,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any], taken: Forms) -> Question:
        """Read the form that `to_row` writes, or one that `forms.TAKEN` names."""
        text = _text(row, "text").replace(IMAGE_TOKEN, "").strip()
        category = row.get("category")
        return cls(
            forms.identity(row, "question_id", taken),
            forms.images(row, taken),
            text,
            "" if category is None else str(category),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: a row of ``eeg_answers.jsonl``, with the keys of LLaVA's ``model_vqa``."""

    question_id: str
    prompt: str
    text: str
    """What the model wrote, never edited."""
    label: str
    """True stage; empty where it is not known."""
    answer_id: str
    model_id: str
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Return the row as it is written."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Answer:
        """Read the form that `to_row` writes."""
        texts = ("prompt", "text", "label", "model_id")
        if not isinstance(row["metadata"], dict):
            raise ValueError("'metadata' is not a JSON object")
        known = row if row.get("label") is not None else {**row, "label": ""}
        return cls(
            question_id=forms.identity(row, "question_id", Forms()),
            answer_id=str(row["answer_id"]),
            metadata=row["metadata"],
            **{name: _text(known, name) for name in texts},
        )


def _text(row: dict[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise ValueError(f"'{name}' is not text")
    return row[name]


def write_epochs(path: Path, epochs: Iterable[Epoch]) -> None:
    """Write ``epochs.csv``."""
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [f.name for f in fields(Epoch)]
        writer.writerow(names)
        writer.writerows([getattr(epoch, name) for name in names] for epoch in epochs)


def read_epochs(path: Path) -> list[Epoch]:
    """Read ``epochs.csv``.

    Raises
    ------
    EegToolError
        If the file is missing or a row is not an epoch (the line is named).
    """
    with _open(path) as file:
        reader = csv.DictReader(file)
        return _parse(path, ((f"line {reader.line_num}", row) for row in reader), Epoch.from_row)


def write_conversations(path: Path, rows: Iterable[Conversation]) -> None:
    """Write ``eeg_ft.json``: a JSON list with one row per line."""
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8") as file:
        body = ",\n".join(json.dumps(row.to_row(), ensure_ascii=False) for row in rows)
        file.write(f"[\n{body}\n]\n")


def read_conversations(path: Path, taken: Forms | None = None) -> list[Conversation]:
    """Read ``eeg_ft.json`` (any JSON list of LLaVA rows, or one row on each line).

    Parameters
    ----------
    path : Path
        The file.
    taken : Counter, optional
        Counts the rows that are written in another way (see `forms.TAKEN`).

    Raises
    ------
    EegToolError
        If the file is missing, holds no rows, or a row is not a conversation (it is named).
    """
    taken = Forms() if taken is None else taken
    rows = _rows(path, taken, usual="list")
    return _parse(path, rows, partial(Conversation.from_row, taken=taken))


def write_questions(path: Path, rows: Iterable[Question]) -> None:
    """Write ``eeg_eval.jsonl``."""
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8") as file:
        file.writelines(json_line(row.to_row()) for row in rows)


def read_questions(path: Path, taken: Forms | None = None) -> list[Question]:
    """Read ``eeg_eval.jsonl`` (one question on each line, or a JSON list of them).

    Parameters
    ----------
    path, taken
        See `read_conversations`.

    Raises
    ------
    EegToolError
        If the file is missing, or a line is not a question (it is named).
    """
    taken = Forms() if taken is None else taken
    rows = _rows(path, taken, usual="lines")
    return _parse(path, rows, partial(Question.from_row, taken=taken))


def read_answers(path: Path) -> list[Answer]:
    """Read an answers file.

    Raises
    ------
    EegToolError
        If the file is missing, or a line is not an answer (it is named).
    """
    return _parse(path, _rows(path, Forms(), usual="lines"), Answer.from_row)


def write_answers(path: Path, rows: Iterable[Answer]) -> None:
    """Write an answers file; it is on the disk when this returns."""
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8") as file:
        file.writelines(json_line(row.to_row()) for row in rows)
        file.flush()
        os.fsync(file.fileno())


def json_line(row: dict[str, Any]) -> str:
    """Return `row` as one line of a ``.jsonl`` file."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def check_unique(path: Path, sample_ids: Sequence[str]) -> None:
    """Refuse a file in which two rows carry the same id."""
    seen: set[str] = set()
    for sample_id in sample_ids:
        if sample_id in seen:
            raise EegToolError(
                f"{path}: the id '{sample_id}' occurs more than once.",
                "Every epoch has one row; remove the double one, or run `eegvlm prepare` again.",
            )
        seen.add(sample_id)


def _rows(path: Path, taken: Forms, *, usual: str) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a JSON list, or of a file with one row on each line, and where they stand."""
    with _open(path) as file:
        text = file.read()
    if text.lstrip()[:1] == "[":
        taken["list"] += usual != "list"
        rows = parse_json(text, path)
        yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
        return
    for number, line in enumerate(io.StringIO(text, newline=""), start=1):
        if line.strip():
            taken["lines"] += usual != "lines"
            yield f"line {number}", parse_json(line, path, number)


def _parse(
    path: Path, rows: Iterable[tuple[str, Any]], from_row: Callable[[dict[str, Any]], _Row]
) -> list[_Row]:
    parsed = []
    for where, row in rows:
        try:
            if not isinstance(row, dict):
                raise ValueError("not a JSON object")
            parsed.append(from_row(row))
        except (KeyError, TypeError, ValueError) as error:
            raise _broken(path, where, error) from error
    return parsed


def _open(path: Path) -> io.StringIO:
    try:
        return io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")
    except FileNotFoundError:
        raise missing(path) from None
    except UnicodeDecodeError as error:
        raise EegToolError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.",
            "Give the right file, or save it as UTF-8.",
        ) from error
    except OSError as error:
        raise EegToolError(
            f"{path} cannot be read: {error.strerror}.", "Check the path."
        ) from error


def _broken(path: Path, where: str, error: Exception) -> EegToolError:
    reason = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
    return EegToolError(f"{path}, {where}: {reason}.", "Fix that row or write the file again.")
