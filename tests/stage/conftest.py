"""A model's folder as finetune leaves it (weights drawn, not trained), and short recordings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pytest
import torch

from eegtool.core.workspace import read_json, write_json
from eegtool.extract.module import VisionModule
from eegtool.extract.stored import store_module
from eegtool.extract.weights import save_module
from eegtool.simulate.twins import load_twin, write_night
from eegtool.stage import step
from eegtool.stage.options import StageSettings
from tests.conftest import form_for

NIGHTS = ("SC4001E0", "SC4012E0", "SC4021E0")
PROTOCOL = {
    "channel": "EEG Fpz-Cz",
    "low_hz": 0.3,
    "high_hz": 35.0,
    "notch_hz": 0.0,
    "resample_hz": 0.0,
    "style": "spectrogram",
    "size": 64,
    "amplitude_uv": 100.0,
    "marks": False,
}
SEQUENCE = {
    "transitions": [
        [50, 5, 1, 0, 1],
        [3, 20, 9, 0, 2],
        [2, 3, 90, 8, 3],
        [1, 0, 7, 40, 0],
        [2, 2, 1, 0, 45],
    ],
    "stages": [60, 35, 110, 50, 50],
}


@pytest.fixture(autouse=True)
def _columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def describe(model: Path, **change: Any) -> None:
    """Change what the model says about itself."""
    write_json(model / "eegvlm.json", read_json(model / "eegvlm.json") | change)


@pytest.fixture(scope="session")
def stage_model(adapter_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, never to be changed."""
    folder = tmp_path_factory.mktemp("staging")
    torch.manual_seed(7)
    save_module(folder / "module", VisionModule("test_resnet", size=64).eval(), {})
    model = Path(shutil.copytree(adapter_model, folder / "model"))
    weights = read_json(folder / "module" / "card.json")["weights_sha256"]
    describe(
        model,
        features_weights_sha256=weights,
        protocol=PROTOCOL,
        answers=form_for("stage"),
        sequence=SEQUENCE,
    )
    assert store_module(folder / "module", model, weights)
    return model


@pytest.fixture
def model(stage_model: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may spoil."""
    return Path(shutil.copytree(stage_model, tmp_path / "model"))


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of three simulated nights of three subjects, ten epochs each, with hypnograms."""
    folder = tmp_path_factory.mktemp("nights")
    for name in NIGHTS:
        write_night(load_twin(name).condensed(2), folder, seed=1)
    return folder


@pytest.fixture
def settings(stage_model: Path, simulated: Path, tmp_path: Path) -> StageSettings:
    recording = simulated / "SC4001E0-PSG.edf"
    return StageSettings([recording], stage_model, out=tmp_path / "staged", num_gpus=1)


@pytest.fixture
def staged(capsys: pytest.CaptureFixture[str]) -> Callable[[StageSettings], dict[str, Any]]:
    """Stage with --json, return what stands on standard output: one object and nothing else."""

    def stage(settings: StageSettings) -> dict[str, Any]:
        capsys.readouterr()
        step.run(replace(settings, json=True))
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return stage


@pytest.fixture
def write_edf(tmp_path: Path) -> Callable[..., Path]:
    """Write channels given as (label, µV) to an EDF file of 30-s records, or of other ones."""

    def write(
        name: str,
        channels: Sequence[tuple[str, np.ndarray]],
        sfreq_hz: float = 100,
        record_s: float = 30,
    ) -> Path:
        signals = [
            edfio.EdfSignal(
                data_uv,
                sampling_frequency=sfreq_hz,
                label=label,
                physical_dimension="uV",
                physical_range=(-400, 400),
            )
            for label, data_uv in channels
        ]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        edfio.Edf(signals, data_record_duration=record_s).write(path)
        return path

    return write


def noise(n_epochs: float, seed: int = 0, sfreq_hz: int = 100) -> np.ndarray:
    """Return what passes for EEG, in µV."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 30, round(n_epochs * 30 * sfreq_hz))
