"""What the workspace knows of the answered epochs, joined by sample id."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch, read_epochs, read_questions
from eegtool.core.stages import STAGES
from eegtool.core.workspace import Workspace, check_same_pictures, read_json
from eegtool.reasons.facts import Facts
from eegtool.reasons.stored import stored_facts
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.plain import plain_value

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Kept:
    """What prepare kept and dropped of the answered recordings.

    Attributes
    ----------
    recordings, kept, trimmed : int
        Recordings, epochs with a picture, epochs cut off as wake far from sleep.
    dropped : dict of str to int
        Epochs without a stage, by kind.
    """

    recordings: int
    kept: int
    trimmed: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class Known:
    """All that was found.

    Attributes
    ----------
    images : dict of str to str
        Path of the picture by sample id, relative to the folder of the evaluation pictures.
    missing : tuple of str or None
        Ids of the questions that nobody answered; None where there are no such questions to compare
        with.
    module_stages : dict of str to str
        What the vision module alone says; empty where that is not known.
    module_calibration : dict
        How it came to say that, from its card; empty where it was not calibrated.
    facts : dict of str to Facts
        What was measured; empty where nothing was.
    kept : Kept or None
    problems : tuple of str
        Files that could not be used, and why.
    """

    images: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] | None = None
    module_stages: dict[str, str] = field(default_factory=dict)
    module_calibration: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    kept: Kept | None = None
    problems: tuple[str, ...] = ()


def look_up(
    workspace: Workspace,
    epochs: Sequence[AnsweredEpoch],
    protocol: Mapping[str, Any] | None = None,
) -> Known:
    """Gather what the workspace knows of the epochs.

    Nothing of it is needed for a report: a file that cannot be used is told as a problem. A workspace
    that knows none of the epochs has nothing to say.

    Parameters
    ----------
    workspace : Workspace
        Where to look.
    epochs : sequence of AnsweredEpoch
        What was answered.
    protocol : mapping, optional
        How the answered pictures were made, as the answers say. Where the workspace's were drawn
        otherwise, these are not what the model saw, and are left out with all that was made of them.
    """
    ids = {epoch.sample_id for epoch in epochs}
    problems: list[str] = []
    try:
        whose = f"The answers and {workspace.root}"
        check_same_pictures(protocol or {}, workspace.protocol(), whose)
    except EegToolError as error:
        return Known(problems=(error.what,))

    def tried(read: Callable[[], _T], otherwise: Any) -> _T:
        try:
            return read()
        except EegToolError as error:
            problems.append(error.what)
            return otherwise

    table = tried(lambda: _epochs(workspace, ids), [])
    recordings = sorted({e.recording for e in table})
    module = tried(lambda: _module_stages(workspace.vision_module / "eval_stages.csv", epochs), {})
    card = workspace.vision_module / "card.json"
    return Known(
        images={e.sample_id: e.image for e in table if e.split == "eval"},
        missing=tried(lambda: _missing(workspace, ids), None),
        module_stages=module,
        module_calibration=tried(lambda: _module_calibration(card), {}) if module else {},
        facts=tried(lambda: stored_facts(workspace, recordings, table), {}),
        kept=tried(lambda: _kept(workspace, recordings), None),
        problems=tuple(problems),
    )


def _epochs(workspace: Workspace, ids: set[str]) -> list[Epoch]:
    """Return the rows of the epochs in the workspace's table, if it has one."""
    rows = read_epochs(workspace.epochs) if workspace.epochs.exists() else []
    return [e for e in rows if e.sample_id in ids]


def _missing(workspace: Workspace, ids: set[str]) -> tuple[str, ...] | None:
    if not workspace.questions.exists():
        return None
    asked = [question.sample_id for question in read_questions(workspace.questions)]
    return None if ids.isdisjoint(asked) else tuple(i for i in asked if i not in ids)


def _module_stages(path: Path, epochs: Sequence[AnsweredEpoch]) -> dict[str, str]:
    """Read the vision module's own stages of the answered epochs."""
    if not path.exists():
        return {}
    labels = {e.sample_id: e.true for e in epochs}
    found = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                sample_id, true, stage = (row[k] for k in ("sample_id", "stage", "predicted"))
                if sample_id not in labels:
                    continue
                if stage not in STAGES:
                    raise ValueError(f"'{stage}' is no stage")
                if (ours := labels[sample_id]) not in (None, true):
                    raise ValueError(
                        f"the true stage of '{sample_id}' is {true} there and {ours} in the answers"
                    )
                found[sample_id] = stage
    except (OSError, KeyError, ValueError, csv.Error) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise EegToolError(
            f"The vision module alone is left out, {path.name}: {reason}."
        ) from error
    return found


def _module_calibration(path: Path) -> dict[str, Any]:
    """Read from the vision module's card how its own stages were calibrated."""
    found = read_json(path).get("calibration") if path.exists() else None
    return plain_value(found) if isinstance(found, dict) else {}


def _kept(workspace: Workspace, recordings: Sequence[str]) -> Kept | None:
    if not workspace.prepare_stamp.exists():
        return None
    stamp = read_json(workspace.prepare_stamp)
    if stamp.get("step") == "stage":  # which drops nothing for want of a scoring
        return None
    cards = stamp.get("results", {}).get("recordings", {})
    known = [card for name in recordings if isinstance(card := cards.get(name), dict)]
    if not known:
        return None
    try:
        dropped = Counter[str]()
        for card in known:
            dropped.update(card["dropped"])
        kept, trimmed = (sum(int(card[key]) for card in known) for key in ("kept", "trimmed"))
    except (KeyError, TypeError, ValueError) as error:
        raise EegToolError(
            f"{workspace.prepare_stamp} does not tell its epochs: {error}."
        ) from error
    return Kept(len(known), kept, trimmed, dict(dropped))
