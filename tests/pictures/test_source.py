"""Pictures that are drawn when they are loaded are those of the files, and nothing else takes their place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.records import read_epochs
from eegtool.core.workspace import Workspace
from eegtool.pictures import STYLES
from eegtool.pictures.signals import read_signals, write_signals
from eegtool.pictures.source import Files, Signals, open_signals, open_source
from eegtool.prepare import step
from eegtool.prepare.options import PrepareSettings
from eegtool.simulate.twins import load_twin, write_night

NAME = "SC4001E0/SC4001E0-0003.png"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for name in ("SC4001E0", "SC4012E0"):
        write_night(load_twin(name).condensed(2), folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def prepared(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> PrepareSettings:
    settings = PrepareSettings(
        [recordings],
        tmp_path_factory.mktemp("prepared") / "none",
        channel=["EEG Fpz-Cz", "EEG Pz-Oz"],
        eval_subjects="SC401",
        size=96,
        pictures="none",
    )
    step.run(settings)
    return settings


@pytest.fixture
def workspace(prepared: PrepareSettings, tmp_path: Path) -> Workspace:
    """Return a workspace without picture files that a test may spoil."""
    return Workspace(Path(shutil.copytree(prepared.workspace, tmp_path / "ws")))


@pytest.mark.parametrize("style", STYLES)
def test_pixels_and_bytes_are_those_of_the_files(
    prepared: PrepareSettings, tmp_path: Path, style: str
) -> None:
    none, png = sides = [Workspace(tmp_path / name) for name in ("none", "png")]
    how = replace(prepared, workspace=none.root, style=style, marks=True)
    step.run(how)
    step.run(replace(how, workspace=png.root, pictures="png"))
    assert not [*none.root.rglob("*.png")]
    for epoch in read_epochs(none.epochs):
        signals, files = (open_source(side.images(epoch.split)) for side in sides)
        assert isinstance(files, Files)
        assert isinstance(signals, Signals)
        stored, drawn = files.load(epoch.image), signals.load(epoch.image)
        assert drawn.file() == stored.file() == (png.images(epoch.split) / epoch.image).read_bytes()
        assert drawn.size == stored.size == (96, 96)
        np.testing.assert_array_equal(drawn.rgb(), stored.rgb())


def test_who_has_what(workspace: Workspace, tmp_path: Path) -> None:
    assert isinstance(open_source(workspace.images("ft")), Signals)
    assert open_signals(workspace.images("ft")) == open_source(workspace.images("ft"))
    # Somebody's own folder, beside the workspace or anywhere.
    assert open_source(workspace.root / "own") == Files(workspace.root / "own")
    assert open_source(tmp_path) == Files(tmp_path)
    assert open_signals(tmp_path) is None
    # A workspace of an earlier version, with picture files alone.
    shutil.rmtree(workspace.signals)
    edit(workspace, pictures=None)
    assert isinstance(open_source(workspace.images("ft")), Files)
    assert open_signals(workspace.images("ft")) is None


def edit(workspace: Workspace, **changes: Any) -> None:
    stamp = json.loads(workspace.prepare_stamp.read_text())
    workspace.prepare_stamp.write_text(json.dumps(stamp | changes))


def edit_protocol(**changes: Any) -> Callable[[Workspace], None]:
    def harm(workspace: Workspace) -> None:
        stamp = json.loads(workspace.prepare_stamp.read_text())
        edit(workspace, protocol=stamp["protocol"] | changes)

    return harm


def of_another_workspace(workspace: Workspace) -> None:
    """Put signals in the place of others, with their sidecar: of the same recording, filtered otherwise."""
    path = workspace.signals / "SC4001E0.npy"
    night = read_signals(path, "SC4001E0")
    channels = tuple(replace(c, samples=c.samples // 2) for c in night.channels)
    write_signals(path, replace(night, channels=channels))


BAD: dict[str, tuple[Callable[[Workspace], object], str]] = {
    "renderer": (edit_protocol(renderer=7), "differently drawn pictures: renderer 7 and 1"),
    "style": (edit_protocol(style="etching"), "does not say how its signals are drawn"),
    "size": (edit_protocol(size="large"), "does not say how its signals are drawn"),
    "no protocol": (lambda w: edit(w, protocol=None), "does not say how its signals are drawn"),
    "no results": (lambda w: edit(w, results={}), "does not say how its signals are drawn"),
    "gone": (lambda w: (w.signals / "SC4001E0.npy").unlink(), "SC4001E0.npy does not exist"),
    "no folder": (lambda w: shutil.rmtree(w.signals), "SC4001E0.npy does not exist"),
    "other signals": (of_another_workspace, "is not what .*prepare.json names: these signals are"),
}


@pytest.mark.parametrize(("harm", "said"), BAD.values(), ids=BAD)
def test_other_signals_are_not_drawn(
    workspace: Workspace, harm: Callable[[Workspace], object], said: str
) -> None:
    harm(workspace)
    with pytest.raises(EegToolError, match=said) as caught:
        open_source(workspace.images("ft")).find(NAME, "sample 'x'")
    assert "prepare" in caught.value.fix


@pytest.mark.parametrize(
    "name",
    [
        "SC4099E0/SC4099E0-0001.png",
        "SC4001E0/SC4012E0-0001.png",
        "../SC4001E0/SC4001E0-0001.png",
        "a.png",
        "",
    ],
)
def test_names_that_no_signal_belongs_to(workspace: Workspace, name: str) -> None:
    with pytest.raises(EegToolError, match=r"stores no signals of the picture .* of sample 'x'"):
        open_source(workspace.images("ft")).find(name, "sample 'x'")


def test_an_epoch_that_the_night_does_not_have(workspace: Workspace) -> None:
    with pytest.raises(EegToolError, match="SC4001E0 last 300 s: they have no epoch 10"):
        open_source(workspace.images("ft")).load("SC4001E0/SC4001E0-0010.png")


def test_samples_are_held_to_their_hash(workspace: Workspace) -> None:
    path = workspace.signals / "SC4001E0.npy"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    source = open_source(workspace.images("ft"))
    source.check(["SC4012E0/SC4012E0-0001.png"])
    with pytest.raises(EegToolError, match=r"SC4001E0\.npy is not the file that SC4001E0\.json"):
        source.check([NAME])
