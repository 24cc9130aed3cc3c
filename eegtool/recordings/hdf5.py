"""HDF5 files of two data sets: Dreem's (DOD-H, DOD-O) with its scoring inside, and those that U-Time writes (DCSM)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.core.parsing import parse_json
from eegtool.core.stages import EPOCH_S

_HYPNOGRAM: Final = "hypnogram"


@dataclass(frozen=True, slots=True)
class Dataset:
    """One signal: its name and place in the file, rate in Hz, unit (empty if the file has none), and length."""

    name: str
    place: str
    sfreq_hz: float
    unit: str
    n_samples: int


def find_datasets(path: Path) -> tuple[Dataset, ...]:
    """Return the signals of a file; none if it is of another layout.

    Dreem lists them in its attribute ``description``, and has a stage per epoch in ``hypnogram``; U-Time has them
    in the group ``channels``, with one ``sample_rate``.

    Raises
    ------
    EegToolError
        If the package h5py is not there.
    """
    with _opened(path) as file:
        if "description" in file.attrs:
            rows = parse_json(file.attrs["description"], path)
            listed = [(r["path"], float(r["fs"]), str(r.get("unit") or "")) for r in rows]
            if _HYPNOGRAM in file:
                listed.append((_HYPNOGRAM, 1 / EPOCH_S, ""))
        elif "channels" in file:
            of_all = file.attrs.get("sample_rate")
            places = [f"channels/{name}" for name in file["channels"]]
            rates = [file[place].attrs.get("sample_rate", of_all) for place in places]
            listed = [(p, float(rate), "") for p, rate in zip(places, rates, strict=True)]
        else:
            listed = []
        return tuple(
            Dataset(place.rpartition("/")[2], place, sfreq_hz, unit, len(file[place]))
            for place, sfreq_hz, unit in listed
        )


def read_datasets(path: Path, datasets: Sequence[Dataset]) -> np.ndarray:
    """Read signals of one rate, float64 [n_signals, n_samples] in the units of the file."""
    with _opened(path) as file:
        return np.stack([np.asarray(file[one.place], float) for one in datasets])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise EegToolError(f"Reading {path} needs h5py.", "pip install 'eegvlm[hdf5]'") from None
    with h5py.File(path, "r") as file:
        yield file
