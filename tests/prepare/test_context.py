"""`prepare --context-epochs`: neighbours in the picture, from signals or from files, stamped and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.core.records import read_epochs
from eegtool.core.workspace import Workspace, check_same_pictures
from eegtool.pictures.layout import EMPTY
from eegtool.pictures.signals import read_signals
from eegtool.pictures.source import open_source
from eegtool.prepare import step
from eegtool.prepare.options import PrepareSettings
from eegtool.simulate.twins import load_twin, write_night


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> PrepareSettings:
    """Write two short nights, each of ten epochs; the last is unscored in the first."""
    folder = tmp_path_factory.mktemp("recordings")
    for name in ("SC4001E0", "SC4012E0"):
        write_night(load_twin(name).condensed(2), folder, seed=1)
    root = tmp_path_factory.mktemp("context") / "ws"
    return PrepareSettings([folder], root, eval_subjects="SC401", size=96, context_epochs=1)


@pytest.fixture(scope="module")
def prepared(settings: PrepareSettings) -> Workspace:
    step.run(settings)
    return Workspace(settings.workspace)


def grey_columns(workspace: Workspace, sample_id: str) -> list[bool]:
    """Say of the left, middle and right of a picture whether it is empty."""
    (epoch,) = (e for e in read_epochs(workspace.epochs) if e.sample_id == sample_id)
    source = open_source(workspace.images(epoch.split))
    picture = np.asarray(source.load(epoch.image).rgb())[20:-20]
    parts = (picture[:, 2:22], picture[:, 26:70], picture[:, 74:94])
    return [bool((part == EMPTY).all()) for part in parts]


def test_the_first_and_the_last_epoch_are_drawn_with_an_empty_field(prepared: Workspace) -> None:
    assert grey_columns(prepared, "SC4001E0-0000") == [True, False, False]
    assert grey_columns(prepared, "SC4001E0-0004") == [False, False, False]
    assert grey_columns(prepared, "SC4001E0-0009") == [False, False, True]


def test_drawn_from_signals_to_the_same_bytes(
    prepared: Workspace, settings: PrepareSettings, tmp_path: Path
) -> None:
    none = Workspace(tmp_path / "none")
    step.run(replace(settings, workspace=none.root, pictures="none"))
    epochs = read_epochs(none.epochs)
    assert len(epochs) == 20
    for epoch in epochs:
        signals, files = (open_source(w.images(epoch.split)) for w in (none, prepared))
        assert signals.load(epoch.image).file() == files.load(epoch.image).file()
        assert signals.load(epoch.image).rgb() == files.load(epoch.image).rgb()


def test_the_question_is_about_the_middle(prepared: Workspace) -> None:
    (row, *_) = json.loads(prepared.conversations.read_text())
    assert "in the middle" in row["conversations"][0]["value"]
    asked = [json.loads(line)["text"] for line in prepared.questions.read_text().splitlines()]
    assert len(asked) == 10
    assert all("in the middle" in text for text in asked)


def test_pictures_of_another_context_are_refused(prepared: Workspace) -> None:
    own = prepared.protocol()
    assert own["context_epochs"] == 1
    with pytest.raises(EegToolError, match="context_epochs 0 and 1"):
        check_same_pictures(own | {"context_epochs": 0}, own, "These")
    # An earlier version had no choice, and does not say it.
    earlier = {name: value for name, value in own.items() if name != "context_epochs"}
    with pytest.raises(EegToolError, match="context_epochs 1 and 0"):
        check_same_pictures(own, earlier, "These")
    check_same_pictures(own, {"renderer": own["renderer"]}, "These")


def test_another_context_is_drawn_again_from_the_stored_signals(
    prepared: Workspace, settings: PrepareSettings, tmp_path: Path
) -> None:
    """A recording is not read again, and without neighbours the bytes are those of ever."""
    root = tmp_path / "ws"
    with_none = replace(settings, workspace=root, context_epochs=0)
    step.run(with_none)
    first = (root / "eeg_images_ft/SC4001E0/SC4001E0-0003.png").read_bytes()
    step.run(replace(with_none, context_epochs=1))
    second = (root / "eeg_images_ft/SC4001E0/SC4001E0-0003.png").read_bytes()
    step.run(with_none)
    assert (root / "eeg_images_ft/SC4001E0/SC4001E0-0003.png").read_bytes() == first != second


def test_a_pause_is_kept_with_the_signals(prepared: Workspace, tmp_path: Path) -> None:
    from eegtool.pictures.signals import write_signals

    night = read_signals(prepared.signals / "SC4001E0.npy", "SC4001E0")
    assert night.pauses == ()
    write_signals(tmp_path / "SC4001E0.npy", replace(night, pauses=((100.0, 5.0),)))
    again = read_signals(tmp_path / "SC4001E0.npy", "SC4001E0")
    assert again.pauses == ((100.0, 5.0),)
    assert again.onsets_around(120.0, 1) == [None, 150.0]


def test_more_neighbours_than_fit_are_refused(settings: PrepareSettings, tmp_path: Path) -> None:
    with pytest.raises(EegToolError, match="--context-epochs 3 does not fit"):
        step.run(replace(settings, workspace=tmp_path / "ws", size=64, context_epochs=3))
    assert not (tmp_path / "ws").exists()
