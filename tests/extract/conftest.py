"""A workspace that also stores signals."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from eegtool.core.records import Epoch, read_epochs
from eegtool.core.stages import STAGE_INDEX
from eegtool.core.workspace import Workspace, read_json, write_json
from eegtool.pictures import RENDERER
from eegtool.pictures.signals import quantise, write_signals

DRAWING = {"style": "wrapped", "size": 64, "amplitude_uv": 100.0, "marks": False}


def store_signals(workspace: Workspace) -> Workspace:
    """Store signals whose amplitude tells the stage, as if prepare had drawn the pictures from them."""
    nights: dict[str, list[Epoch]] = defaultdict(list)
    for epoch in read_epochs(workspace.epochs):
        nights[epoch.recording].append(epoch)
    rng, recordings = np.random.default_rng(2), {}
    for recording, epochs in nights.items():
        levels_uv = np.repeat([10.0 * (1 + STAGE_INDEX[e.stage]) for e in epochs], 3000)
        data_uv = levels_uv * rng.standard_normal(len(levels_uv))
        night = quantise(recording, "", 0.0, [("EEG", data_uv, 100.0)])
        sha256 = write_signals(workspace.signals / f"{recording}.npy", night)
        recordings[recording] = {"signals_sha256": sha256}
    stamp = read_json(workspace.prepare_stamp)
    stamp |= {
        "protocol": stamp["protocol"] | DRAWING | {"renderer": RENDERER},
        "results": {"recordings": recordings},
    }
    write_json(workspace.prepare_stamp, stamp)
    return workspace


@pytest.fixture
def stored(workspace: Workspace) -> Workspace:
    return store_signals(workspace)
