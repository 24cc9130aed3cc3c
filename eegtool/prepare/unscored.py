"""A recording that is to be staged: its signals in memory or in a workspace of its own, its epochs drawn from them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from PIL import Image

from eegtool.core.errors import EegToolError
from eegtool.core.records import Question, write_epochs, write_questions
from eegtool.core.workspace import Workspace, read_json, run_stamp, sha256_of, write_json
from eegtool.pictures.signals import StoredNight, read_signals
from eegtool.pictures.source import drawn_at
from eegtool.prepare.nights import (
    Prepared,
    cannot_write,
    filter_in_memory,
    open_staging_dir,
    prepare_night,
    store_signals,
)
from eegtool.prepare.publishing import publish_nights
from eegtool.prepare.recipe import Recipe
from eegtool.recordings.reading import Source
from eegtool.scorings.cohorts import Night


@dataclass(frozen=True, slots=True, eq=False)
class Pictures(Mapping[str, Image.Image]):
    """The picture of each epoch by its sample id, as RGB; drawn when it is asked for.

    Attributes
    ----------
    signals : StoredNight
        The filtered channels.
    recipe : Recipe
        How to draw them.
    onsets_s : dict of str to float
        Where each epoch begins, in seconds from the first sample.
    """

    signals: StoredNight
    recipe: Recipe
    onsets_s: dict[str, float]

    def __getitem__(self, sample_id: str) -> Image.Image:
        onset_s = self.onsets_s[sample_id]
        return drawn_at(self.signals, onset_s, self.recipe.style, self.recipe.spec).rgb()

    def __iter__(self) -> Iterator[str]:
        return iter(self.onsets_s)

    def __len__(self) -> int:
        return len(self.onsets_s)


@dataclass(frozen=True, slots=True, eq=False)
class DrawnNight:
    """A recording whose epochs can be drawn.

    Attributes
    ----------
    prepared : Prepared
        Which epochs hold EEG, and which do not.
    pictures : Pictures
        Of each epoch that holds EEG.
    features : dict of str to dict of str to float32 [1, 1024]
        The high-level feature of each epoch, by the weights of each module that has looked at the pictures.
    """

    prepared: Prepared
    pictures: Pictures
    features: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @property
    def start(self) -> datetime | None:
        """When the recording began, where it says so."""
        start = self.pictures.signals.start
        return datetime.fromisoformat(start) if start else None

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels as they were asked for."""
        return self.pictures.recipe.channel


def draw_unscored(night: Night, recipe: Recipe, source: Source | None = None) -> DrawnNight:
    """Filter a recording and find its epochs that hold EEG; see `nights.filter_in_memory`.

    Raises
    ------
    EegToolError
        If the recording cannot be used.
    """
    return _drawn(*filter_in_memory(night, recipe, source), recipe)


def read_drawn(prepared: Prepared, workspace: Workspace, recipe: Recipe) -> DrawnNight:
    """Open what `prepare_unscored` stored in a workspace by the same recipe."""
    name = prepared.night.recording
    return _drawn(prepared, read_signals(workspace.signals / f"{name}.npy", name), recipe)


def _drawn(prepared: Prepared, signals: StoredNight, recipe: Recipe) -> DrawnNight:
    onsets_s = {epoch.sample_id: epoch.onset_s for epoch in prepared.epochs("eval")}
    return DrawnNight(prepared, Pictures(signals, recipe, onsets_s))


def store_drawn(
    drawn: DrawnNight, workspace: Workspace, question: str, protocol: dict[str, Any]
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
        stored = store_signals(prepared, drawn.pictures.signals, workspace, run)
        _publish(stored, drawn.pictures.recipe, workspace, question, protocol)
    except OSError as error:
        raise cannot_write(workspace.root, error) from error


def prepare_unscored(
    night: Night,
    recipe: Recipe,
    workspace: Workspace,
    question: str,
    protocol: dict[str, Any],
) -> Prepared:
    """Make a workspace that of one recording: signals and questions of all epochs with EEG; no picture files.

    What is there already is kept; what later steps made of other signals or pictures goes.

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


def shown(prepared: Prepared) -> dict[str, Any]:
    """Return what decides the pictures of a recording."""
    return {"signals_sha256": prepared.signals_sha256, "drawing": prepared.drawing}


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
    before = read_json(card) if card.exists() else {}
    if any(before.get(name) != value for name, value in shown(prepared).items()):
        shutil.rmtree(workspace.answers.parent, ignore_errors=True)  # about other pictures
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
        "recordings": {name: {"signals_sha256": prepared.signals_sha256}},
        "staged": len(prepared.staged),
        "flagged": dict(prepared.flagged),
        "notes": prepared.notes,
    }
    stamp = run_stamp(
        "stage",
        recipe,
        inputs=prepared.inputs,
        protocol=protocol | recipe.drawing() | own,
        results=results,
    )
    stamp["pictures"] = "none"  # they are drawn from the signals
    del stamp["finished"]  # an interrupted run ends with the bytes of an uninterrupted one
    write_json(workspace.prepare_stamp, stamp)
