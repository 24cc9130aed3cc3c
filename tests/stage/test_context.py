"""A model with context stages what has few neighbours, or none, and knows which are missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import mne
import numpy as np
import pytest
import torch

import eegtool
from eegtool.core.workspace import read_json
from eegtool.extract.context import Track, in_context
from eegtool.extract.module import VisionModule
from eegtool.extract.stored import features_of, store_module
from eegtool.extract.weights import save_module
from eegtool.stage.stager import Stager
from tests.stage.conftest import describe, noise

REACH = 4
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stager(stage_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Stager:
    """One whose vision module looks at four epochs on either side."""
    folder = tmp_path_factory.mktemp("context")
    torch.manual_seed(5)
    module = VisionModule("test_resnet", size=64, context=REACH).eval()
    weights = save_module(folder / "module", module, {})
    model = Path(shutil.copytree(stage_model, folder / "model"))
    shutil.rmtree(model / "vision_module")
    describe(model, features_weights_sha256=weights, context=REACH)
    assert store_module(folder / "module", model, weights)
    assert read_json(model / "vision_module" / "card.json")["context_epochs"] == REACH
    return eegtool.Stager.load(model, device="cpu", dtype="float32")


def recording(there: list[bool]) -> mne.io.BaseRaw:
    """Return a recording with a flat channel in the epochs that are not there."""
    data_uv = noise(len(there)) * np.repeat(there, 3000)
    info = mne.create_info(["EEG Fpz-Cz"], 100.0, "eeg")
    return mne.io.RawArray(data_uv[None] * 1e-6, info, verbose="ERROR")


@pytest.mark.parametrize(
    "there",
    [
        pytest.param([True] * 30 + [False] * 40 + [True] * 30, id="a pause of twenty minutes"),
        pytest.param([True] * 3 + [False] * 2 + [True] * 3, id="a pause of a minute"),
        pytest.param([True] * 5, id="five epochs"),
        pytest.param([True], id="one epoch alone"),
    ],
)
def test_what_has_few_neighbours_is_staged(stager: Stager, there: list[bool]) -> None:
    """A feature is what true time gives: each missing epoch has its place, none is skipped or repeated."""
    night = stager.stage(recording(there), smooth=True)
    assert [stage is not None for stage in night.stages] == there
    assert [stage is not None for stage in night.smoothed_stages] == there
    features = stager.features(night.drawn)
    assert stager.module is not None
    assert features is not None
    encoder = stager.module.context
    assert encoder is not None
    alone = features_of(stager.module, night.drawn.pictures, device=CPU)
    own = VisionModule("test_resnet", size=64)
    own.load_state_dict(stager.module.state_dict(), strict=False)
    bare = features_of(own, night.drawn.pictures, device=CPU)
    names = sorted(night.drawn.pictures)
    index = np.full(len(there), -1)
    index[there] = range(len(names))
    rows = np.concatenate([bare[name] for name in names])
    expected, _ = in_context(encoder, Track(index), rows, CPU)
    for name, row in zip(names, expected, strict=True):
        np.testing.assert_allclose(features[name][0], row, atol=1e-4)
        has_neighbour = sum(there) > 1
        assert (np.abs(features[name] - alone[name]).max() > 1e-3) == has_neighbour
