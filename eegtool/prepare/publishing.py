"""What was made of recordings comes to its place in the workspace, and what was made of others goes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from eegtool.core.errors import EegToolError
from eegtool.core.records import SPLITS
from eegtool.core.workspace import Workspace, read_json, write_json
from eegtool.pictures.signals import sidecar_path
from eegtool.prepare.nights import Prepared


def publish_nights(workspace: Workspace, sides: Sequence[tuple[Prepared, str]]) -> None:
    """Bring every recording's signals and pictures to their place, and take away those of other recordings.

    The cards stay in the staging directory, too: wherever this is interrupted, the next run finds both.
    """
    for prepared, side in sides:
        name = prepared.night.recording
        target = workspace.images(side) / name
        if prepared.folder is not None and prepared.folder != target:
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            prepared.folder.rename(target)
        if prepared.signals is not None:
            _move_signals(prepared.signals, workspace.signals / f"{name}.npy")
        write_json(workspace.night(name), prepared.to_card())
    drawn = {p.night.recording: side for p, side in sides if p.folder is not None}
    for side in SPLITS:
        workspace.images(side).mkdir(exist_ok=True)
        for folder in workspace.images(side).iterdir():
            if drawn.get(folder.name) != side:
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    stored = {p.night.recording for p, _ in sides if p.signals is not None}
    for path in workspace.signals.glob("*"):
        if path.stem not in stored:
            path.unlink()
    names = {p.night.recording for p, _ in sides}
    for card in workspace.night("any").parent.glob("*.json"):
        if card.stem not in names and is_card(card):
            card.unlink()


def _move_signals(made: Path, target: Path) -> None:
    """Give signals and their sidecar their place; a sidecar never stands beside the signals of others."""
    if made == target:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    sidecar_path(target).unlink(missing_ok=True)
    made.replace(target)
    sidecar_path(made).replace(sidecar_path(target))


def is_card(path: Path) -> bool:
    """Say whether a file is what is stored of a recording."""
    try:
        return {"key", "pictures_sha256"} <= read_json(path).keys()
    except EegToolError:
        return False
