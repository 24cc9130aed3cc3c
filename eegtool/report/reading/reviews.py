"""Further scorings of the answered nights: what ``review.html`` saved, and scorings of any other kind."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S, STAGES
from eegtool.report.reading.nights import Night
from eegtool.report.reading.plain import plain_text
from eegtool.scorings.hypnograms import read_hypnogram, stage_per_epoch

COLUMNS: Final = (
    *("recording", "epoch_index", "onset_s", "duration_s", "stage", "model", "certainty"),
    *("reviewed_by", "reviewed_at", "note", "epochs"),
)
"""Of ``NIGHT_reviewed.csv``: the final stage, what the model had answered, who decided it when, and how many
rows the file has. Prepare reads onset, duration and stage, as of any table."""

_UNSTAGED: Final = "?"
_AGAIN: Final = "Open review.html and save the night again; corrections are made there."


@dataclass(frozen=True, slots=True)
class Decision:
    """What a reviewer did: the time, the stage of the model before and their own."""

    at: datetime
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class Scoring:
    """A scorer's stages of one recording.

    Attributes
    ----------
    path : Path
        The file.
    scorer, recording : str
        Whose, and of which recording.
    stages : dict of int to str
        By index of the epoch; those without a stage are not in it.
    decisions : dict of int to Decision
        By index of the epoch, where the file is a review.
    model : dict of int to (str or None)
        What the model had said, where the file is a review.
    """

    path: Path
    scorer: str
    recording: str
    stages: dict[int, str]
    decisions: dict[int, Decision] = field(default_factory=dict)
    model: dict[int, str | None] = field(default_factory=dict)


def read_scorings(paths: Sequence[Path], nights: Sequence[Night]) -> list[Scoring]:
    """Read scorings of the answered nights.

    Parameters
    ----------
    paths : sequence of Path
        Reviews, which say whose they are; other scorings are named after recording and scorer, such as
        ``SC4001E0_anna.csv``.
    nights : sequence of Night
        What was answered.

    Raises
    ------
    EegToolError
        If a file cannot be read, is of another night, was cut off or changed by hand, or one scorer scored a
        night twice.
    """
    of = {night.recording: night for night in nights}
    found = []
    for path in paths:
        scoring = _review(path) if is_review(path) else _other(path, of)
        night = of.get(scoring.recording)
        if night is None:
            raise EegToolError(
                f"{path} is a scoring of '{scoring.recording}', which these answers are not about; they "
                f"are about {', '.join(sorted(of)[:5]) or 'no recording by name'}.",
                "Give the file of one of these nights, or the answers to that one.",
            )
        _check_model(scoring, night)
        found.append(scoring)
    pairs = [(s.scorer, s.recording) for s in found]
    twice = next((pair for pair in pairs if pairs.count(pair) > 1), None)
    if twice:
        raise EegToolError(
            f"Two of the scorings of {twice[1]} are by '{twice[0]}'.",
            "Give one, or name the files after their scorers.",
        )
    return found


def is_review(path: Path) -> bool:
    """Say whether a file was saved by ``review.html``, whole or not."""
    try:
        with path.open("rb") as file:
            head = file.read(200)
    except OSError as error:
        raise EegToolError(
            f"{path} cannot be read: {error.strerror}.", "Check the path."
        ) from error
    return head.removeprefix(b"\xef\xbb\xbf").startswith(b"recording,epoch_index,onset_s,")


def _review(path: Path) -> Scoring:
    """Read what ``review.html`` saved."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EegToolError(f"{path} is not UTF-8 text.", _AGAIN) from error
    rows = list(csv.reader(text.splitlines()))
    if tuple(rows[0]) != COLUMNS:
        raise EegToolError(
            f"{path} has other columns than review.html saves: {', '.join(COLUMNS)}.", _AGAIN
        )
    stages: dict[int, str] = {}
    model: dict[int, str | None] = {}
    decisions: dict[int, Decision] = {}
    reviewers: dict[str, None] = {}
    for line, cells in enumerate(rows[1:], start=2):
        try:
            row = _row(cells, rows[1])
            index, before, after = row["epoch_index"], _stage(row["model"]), _stage(row["stage"])
            if not index.isascii() or not index.isdigit():
                raise ValueError(f"'{index}' is not the index of an epoch")
            if int(index) in model:
                raise ValueError(f"epoch {index} is there twice")
            model[int(index)] = before
            if after:
                stages[int(index)] = after
            if row["reviewed_at"] and row["reviewed_by"] and after:
                decisions[int(index)] = Decision(_time(row["reviewed_at"]), before, after)
                reviewers[row["reviewed_by"]] = None
            elif after != before or row["reviewed_at"] or row["reviewed_by"]:
                raise ValueError("it was changed without saying by whom and when")
        except ValueError as error:
            raise EegToolError(f"{path}, line {line}: {error}.", _AGAIN) from error
    if {cells[-1] for cells in rows[1:]} != {str(len(rows) - 1)}:
        written = rows[1][-1] if len(rows) > 1 else "some"
        raise EegToolError(
            f"{path} is not whole: it has {len(rows) - 1} of {written} epochs.",
            _AGAIN,
        )
    scorer = " and ".join(reviewers) or "nobody yet"
    return Scoring(path, scorer, plain_text(rows[1][0]), stages, decisions, model)


def _other(path: Path, of: dict[str, Night]) -> Scoring:
    """Read any scoring; its name begins with that of its recording."""
    named = [name for name in of if path.stem.casefold().startswith(name.casefold()) and name]
    if not named:
        raise EegToolError(
            f"{path} does not begin with the name of an answered recording, such as "
            f"{next(iter(of), 'there is none')}.",
            "Name it after recording and scorer, such as SC4001E0_anna.csv.",
        )
    recording = max(named, key=len)
    hypnogram = read_hypnogram(path, None)
    n_epochs = math.floor((hypnogram.runs[-1].end_s - hypnogram.first_onset_s) / EPOCH_S + 1e-6)
    night = of[recording]
    needed = night.first_epoch + len(night.true)
    if n_epochs < needed:
        raise EegToolError(
            f"{path} has {n_epochs:,} epochs, but {recording} was answered up to epoch {needed:,}.",
            "Give a scoring of the whole night; epochs that were not scored are '?' in it.",
        )
    stages = enumerate(stage_per_epoch(hypnogram, n_epochs))
    scorer = path.stem[len(recording) :].strip("_-. ") or "scorer"
    return Scoring(path, scorer, recording, {i: s for i, s in stages if s in STAGES})


def _check_model(scoring: Scoring, night: Night) -> None:
    """Refuse a review of other answers than these."""
    if not scoring.model:
        return
    numbered = enumerate(night.epochs, start=night.first_epoch)
    answered = {index: epoch.predicted for index, epoch in numbered if epoch is not None}
    every = {*answered, *scoring.model}
    differing = [i for i in every if answered.get(i, 0) != scoring.model.get(i, 0)]
    if differing:
        raise EegToolError(
            f"{scoring.path} is a review of other answers to {scoring.recording}: {len(differing)} epochs "
            f"differ, such as epoch {min(differing)}.",
            "Give the answers that were reviewed, or review these.",
        )


def _row(cells: Sequence[str], first: Sequence[str]) -> dict[str, str]:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"it has {len(cells)} of {len(COLUMNS)} columns")
    if cells[0] != first[0]:
        raise ValueError(f"it is about '{plain_text(cells[0])}', the first about '{first[0]}'")
    return dict(zip(COLUMNS, map(plain_text, cells), strict=True))


def _stage(text: str) -> str | None:
    if text not in (*STAGES, _UNSTAGED):
        raise ValueError(f"'{text}' is not a stage ({', '.join(STAGES)} or {_UNSTAGED})")
    return None if text == _UNSTAGED else text


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a time") from None
    if time.tzinfo is None:
        raise ValueError(f"'{text}' does not say its time zone")
    return time
