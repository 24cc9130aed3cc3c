"""Small recordings: simulated nights with all stages, and EDF files with just what a test is about."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import edfio
import numpy as np
import pytest

from eegtool.prepare.simulate import load_twin, write_night

NIGHTS = ("SC4001E0", "SC4012E0", "SC4021E0")


@pytest.fixture(scope="session")
def _simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    for name in NIGHTS:
        write_night(load_twin(name).condensed(2), folder, seed=1)
    return folder


@pytest.fixture
def recordings(_simulated: Path, tmp_path: Path) -> Path:
    """Folder of three simulated nights of three subjects, ten epochs each; yours to spoil."""
    return Path(shutil.copytree(_simulated, tmp_path / "recordings"))


@pytest.fixture
def write_edf(tmp_path: Path) -> Callable[..., Path]:
    """Write channels given as (label, µV, sampling rate) to an EDF file of 30-s records."""

    def write(
        channels: Sequence[tuple[str, np.ndarray, float]], unit: str = "uV", name: str = "x.edf"
    ) -> Path:
        per_unit = {"uV": 1.0, "mV": 1e3}[unit]
        signals = [
            edfio.EdfSignal(
                data_uv / per_unit,
                sampling_frequency=sfreq_hz,
                label=label,
                physical_dimension=unit,
                physical_range=(-200 / per_unit, 200 / per_unit),
            )
            for label, data_uv, sfreq_hz in channels
        ]
        edfio.Edf(signals, data_record_duration=30).write(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def write_hypnogram(tmp_path: Path) -> Callable[..., Path]:
    """Write annotations given as (onset in s, duration in s, text)."""

    def write(annotations: Sequence[tuple[float, float | None, str]]) -> Path:
        path = tmp_path / "hypnogram.edf"
        edfio.Edf([], annotations=[edfio.EdfAnnotation(*a) for a in annotations]).write(path)
        return path

    return write
