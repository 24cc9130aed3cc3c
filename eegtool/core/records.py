"""The records that cross a border between commands, and their forms in files. All are joined by ``sample_id``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from eegtool.core.errors import EegToolError
from eegtool.core.parsing import parse_json
from eegtool.core.stages import STAGES
from eegtool.core.workspace import atomic_path, missing

SPLITS: Final = ("ft", "eval")
"""Names of the two sides: what the model is fine-tuned on, and what it is evaluated on."""

IMAGE_TOKEN: Final = "<image>"

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

    def to_row(self) -> dict[str, Any]:
        """Return the row in LLaVA's form, with one ``<image>`` per image before the question."""
        human = f"{IMAGE_TOKEN}\n" * len(self.images) + self.question
        return {
            "id": self.sample_id,
            "image": list(self.images),
            "conversations": [
                {"from": "human", "value": human},
                {"from": "gpt", "value": self.answer},
            ],
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Conversation:
        """Read LLaVA's form; the number of ``<image>`` must equal the number of images."""
        turns = row["conversations"]
        if [turn["from"] for turn in turns] != ["human", "gpt"]:
            raise ValueError("'conversations' must be one human turn and one gpt turn")
        images = _image_list(row)
        text, answer = (_text(turn, "value") for turn in turns)
        if text.count(IMAGE_TOKEN) != len(images):
            raise ValueError(f"{text.count(IMAGE_TOKEN)} {IMAGE_TOKEN} for {len(images)} images")
        question = text.replace(IMAGE_TOKEN, "").strip()
        return cls(str(row["id"]), images, question, answer)


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
    def from_row(cls, row: dict[str, Any]) -> Question:
        """Read the form that `to_row` writes."""
        text = _text(row, "text").replace(IMAGE_TOKEN, "").strip()
        return cls(str(row["question_id"]), _image_list(row), text, str(row.get("category", "")))


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
        return cls(
            question_id=str(row["question_id"]),
            answer_id=str(row["answer_id"]),
            metadata=row["metadata"],
            **{name: _text(row, name) for name in texts},
        )


def _text(row: dict[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise ValueError(f"'{name}' is not text")
    return row[name]


def _image_list(row: dict[str, Any]) -> tuple[str, ...]:
    image = row["image"]
    images = [image] if isinstance(image, str) else image
    if not isinstance(images, list) or not all(isinstance(name, str) for name in images):
        raise ValueError("'image' is not a path or a list of paths")
    return tuple(images)


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


def read_conversations(path: Path) -> list[Conversation]:
    """Read ``eeg_ft.json`` (any JSON list of LLaVA rows).

    Raises
    ------
    EegToolError
        If the file is missing, is not a JSON list, or a row is not a conversation (it is named).
    """
    with _open(path) as file:
        rows = parse_json(file.read(), path)
    if not isinstance(rows, list):
        raise _broken(path, "top level", ValueError("not a JSON list"))
    numbered = ((f"row {number}", row) for number, row in enumerate(rows, start=1))
    return _parse(path, numbered, Conversation.from_row)


def write_questions(path: Path, rows: Iterable[Question]) -> None:
    """Write ``eeg_eval.jsonl``."""
    with atomic_path(path) as tmp, tmp.open("w", encoding="utf-8") as file:
        file.writelines(json_line(row.to_row()) for row in rows)


def read_questions(path: Path) -> list[Question]:
    """Read ``eeg_eval.jsonl``.

    Raises
    ------
    EegToolError
        If the file is missing, or a line is not a question (it is named).
    """
    return _parse(path, _json_lines(path), Question.from_row)


def read_answers(path: Path) -> list[Answer]:
    """Read an answers file.

    Raises
    ------
    EegToolError
        If the file is missing, or a line is not an answer (it is named).
    """
    return _parse(path, _json_lines(path), Answer.from_row)


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


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
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
    return EegToolError(f"{path}, {where}: {reason}.", "Mend that row or write the file again.")
