"""A recording that is to be staged: all its epochs drawn blind, in a workspace of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from eegtool.core.errors import EegToolError
from eegtool.core.records import Question, write_epochs, write_questions
from eegtool.core.settings import PrepareSettings
from eegtool.core.workspace import Workspace, read_json, run_stamp, sha256_of, write_json
from eegtool.prepare.cohorts import Night
from eegtool.prepare.nights import Prepared, cannot_write, open_easel, prepare_night
from eegtool.prepare.step import move_pictures


def prepare_blind(
    night: Night, settings: PrepareSettings, question: str, protocol: dict[str, Any]
) -> Prepared:
    """Make `settings.workspace` that of one recording: pictures and questions of all epochs with EEG.

    What is drawn already is kept; what later steps made of other pictures goes.

    Parameters
    ----------
    night : Night
        The recording; its scoring, if there is one, is not looked at.
    settings : PrepareSettings
        How to draw. Split, wake margin and template are not looked at.
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
    workspace = Workspace(settings.workspace)
    try:
        if problem := _of_another(night, workspace):
            return Prepared(night, problem=problem)
        prepared = prepare_night(night, settings, open_easel(workspace.root), blind=True)
        if not prepared.problem:
            _publish(prepared, settings, question, protocol)
        elif not any(workspace.easel.glob("*.json")):
            shutil.rmtree(workspace.easel, ignore_errors=True)
    except OSError as error:
        raise cannot_write(workspace.root, error) from error
    return prepared


def _of_another(night: Night, workspace: Workspace) -> EegToolError | None:
    """Return the problem that the workspace holds another recording of this name."""
    card = workspace.night(night.recording)
    if not card.exists() or not night.signal_path.is_file():
        return None
    there = next(iter(read_json(card).get("inputs", {}).values()), "")
    if there == sha256_of(night.signal_path):
        return None
    return EegToolError(
        f"{workspace.root.parent} holds the results of another recording of the name "
        f"{night.recording}; nothing is overwritten.",
        f"Name another folder with --out, or remove {workspace.root.parent}.",
    )


def _publish(
    prepared: Prepared, settings: PrepareSettings, question: str, protocol: dict[str, Any]
) -> None:
    workspace, name = Workspace(settings.workspace), prepared.night.recording
    card = workspace.night(name)
    before = read_json(card).get("pictures_sha256") if card.exists() else None
    if before != prepared.pictures_sha256:
        _forget(workspace)
    epochs = prepared.epochs("eval")
    workspace.prepare_stamp.unlink(missing_ok=True)
    move_pictures(workspace, [(prepared, "eval")])
    write_epochs(workspace.epochs, epochs)
    write_questions(
        workspace.questions, (Question(e.sample_id, (e.image,) * 2, question) for e in epochs)
    )
    shutil.rmtree(workspace.easel)
    own = {"channel recorded": prepared.channel, "simulated": prepared.simulated}
    results = {
        "staged": len(prepared.staged),
        "flagged": dict(prepared.flagged),
        "notes": prepared.notes,
    }
    stamp = run_stamp(
        "stage", settings, inputs=prepared.inputs, protocol=protocol | own, results=results
    )
    del stamp["finished"]  # an interrupted run ends with the bytes of an uninterrupted one
    write_json(workspace.prepare_stamp, stamp)


def _forget(workspace: Workspace) -> None:
    """Remove what was made of other pictures."""
    features = workspace.features("eval")
    for path in (features, features.with_suffix(".json")):
        path.unlink(missing_ok=True)
    shutil.rmtree(workspace.answers.parent, ignore_errors=True)


def flagged_epochs(workspace: Path, recording: str) -> dict[int, str]:
    """Return which epochs of a prepared recording hold no EEG, and why."""
    card = read_json(Workspace(workspace).night(recording))
    return {int(i): str(why) for i, why in card["flagged"]}
