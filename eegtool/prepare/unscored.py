"""A recording that is to be staged: all its epochs drawn, in memory or in a workspace of its own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.core.records import Question, write_epochs, write_questions
from eegtool.core.workspace import Workspace, read_json, run_stamp, sha256_of, write_json
from eegtool.prepare.nights import (
    Prepared,
    cannot_write,
    draw_in_memory,
    open_staging_dir,
    prepare_night,
    store_pictures,
)
from eegtool.prepare.recipe import Recipe
from eegtool.prepare.step import publish_nights
from eegtool.recordings.reading import Source, read_header
from eegtool.scorings.cohorts import Night


@dataclass(frozen=True, slots=True, eq=False)
class DrawnNight:
    """A recording whose epochs are drawn.

    Attributes
    ----------
    prepared : Prepared
        Which epochs hold EEG, and which do not.
    pictures : dict of str to bytes
        The PNG of each epoch that holds EEG, by sample id.
    start : datetime or None
        When the recording began, where it says so.
    channels : tuple of str
        Channels as they were asked for.
    features : dict of str to dict of str to float32 [1, 1024]
        The high-level feature of each epoch, by the weights of each module that has looked at the pictures.
    """

    prepared: Prepared
    pictures: dict[str, bytes]
    start: datetime | None
    channels: tuple[str, ...]
    features: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def draw_unscored(night: Night, recipe: Recipe, source: Source | None = None) -> DrawnNight:
    """Draw all epochs of a recording that hold EEG; see `nights.draw_in_memory`.

    Raises
    ------
    EegToolError
        If the recording cannot be used.
    """
    prepared, pictures, recording = draw_in_memory(night, recipe, source)
    ids = [epoch.sample_id for epoch in prepared.epochs("eval")]
    by_id = dict(zip(ids, pictures, strict=True))
    return DrawnNight(prepared, by_id, recording.start, recipe.channel)


def read_drawn(prepared: Prepared, workspace: Workspace, channels: Sequence[str]) -> DrawnNight:
    """Read what `prepare_unscored` drew of these channels into a workspace."""
    folder = workspace.images("eval")
    pictures = {e.sample_id: (folder / e.image).read_bytes() for e in prepared.epochs("eval")}
    start = read_header(prepared.night.signal_path).start
    return DrawnNight(prepared, pictures, start, tuple(channels))


def store_drawn(
    drawn: DrawnNight,
    recipe: Recipe,
    workspace: Workspace,
    question: str,
    protocol: dict[str, Any],
) -> None:
    """Make a workspace that of a drawn recording, as `prepare_unscored` does, unless it is already.

    Raises
    ------
    EegToolError
        If it is that of another recording, or cannot be written.
    """
    prepared = drawn.prepared
    try:
        if problem := _of_another(prepared, workspace):
            raise problem
        card = workspace.night(prepared.night.recording)
        if workspace.prepare_stamp.exists() and read_json(card).get("key") == prepared.key:
            return
        run = open_staging_dir(workspace.root)
        stored = store_pictures(prepared, drawn.pictures.values(), workspace, run)
        _publish(stored, recipe, workspace, question, protocol)
    except OSError as error:
        raise cannot_write(workspace.root, error) from error


def prepare_unscored(
    night: Night,
    recipe: Recipe,
    workspace: Workspace,
    question: str,
    protocol: dict[str, Any],
) -> Prepared:
    """Make a workspace that of one recording: pictures and questions of all epochs with EEG.

    What is drawn already is kept; what later steps made of other pictures goes.

    Parameters
    ----------
    night : Night
        The recording; its scoring, if there is one, is not looked at.
    recipe : Recipe
        How to draw; the wake margin is not looked at.
    workspace : Workspace
        Where.
    question : str
        What is asked about every epoch.
    protocol : dict
        How the pictures are made, for those who read the workspace.

    Returns
    -------
    Prepared
        With its `problem`, if the recording cannot be used.

    Raises
    ------
    EegToolError
        If the workspace cannot be written.
    """
    try:
        if night.signal_path.is_file():
            inputs = {night.signal_path.name: sha256_of(night.signal_path)}
            if problem := _of_another(Prepared(night, inputs=inputs), workspace):
                return Prepared(night, problem=problem)
        prepared = prepare_night(
            night, recipe, workspace, open_staging_dir(workspace.root), unscored=True
        )
        if not prepared.problem:
            _publish(prepared, recipe, workspace, question, protocol)
        elif not any(workspace.staging_dir.glob("*.json")):
            shutil.rmtree(workspace.staging_dir, ignore_errors=True)
    except OSError as error:
        raise cannot_write(workspace.root, error) from error
    return prepared


def _of_another(prepared: Prepared, workspace: Workspace) -> EegToolError | None:
    """Return the problem that the workspace holds another recording of this name."""
    name = prepared.night.recording
    card = workspace.night(name)
    if not card.exists():
        return None
    there = next(iter(read_json(card).get("inputs", {}).values()), "")
    if there == next(iter(prepared.inputs.values()), ""):
        return None
    return EegToolError(
        f"{workspace.root.parent} holds the results of another recording of the name {name}; "
        "nothing is overwritten.",
        f"Name another folder with --out, or remove {workspace.root.parent}.",
    )


def _publish(
    prepared: Prepared,
    recipe: Recipe,
    workspace: Workspace,
    question: str,
    protocol: dict[str, Any],
) -> None:
    name = prepared.night.recording
    card = workspace.night(name)
    before = read_json(card).get("pictures_sha256") if card.exists() else None
    if before != prepared.pictures_sha256:
        _forget(workspace)
    epochs = prepared.epochs("eval")
    workspace.prepare_stamp.unlink(missing_ok=True)
    publish_nights(workspace, [(prepared, "eval")])
    write_epochs(workspace.epochs, epochs)
    write_questions(
        workspace.questions, (Question(e.sample_id, (e.image,) * 2, question) for e in epochs)
    )
    shutil.rmtree(workspace.staging_dir)
    own = {"channel recorded": prepared.channel, "simulated": prepared.simulated}
    results = {
        "staged": len(prepared.staged),
        "flagged": dict(prepared.flagged),
        "notes": prepared.notes,
    }
    stamp = run_stamp(
        "stage", recipe, inputs=prepared.inputs, protocol=protocol | own, results=results
    )
    del stamp["finished"]  # an interrupted run ends with the bytes of an uninterrupted one
    write_json(workspace.prepare_stamp, stamp)


def _forget(workspace: Workspace) -> None:
    """Remove what was made of other pictures."""
    shutil.rmtree(workspace.answers.parent, ignore_errors=True)
