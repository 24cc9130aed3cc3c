"""HDF5 files of two data sets: Dreem's (DOD-H, DOD-O) with its scoring inside, and those that U-Time writes (DCSM)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.core.parsing import parse_json
from eegtool.core.stages import EPOCH_S
from eegtool.recordings.header import ChannelInfo, Header, Opened

_HYPNOGRAM: Final = "hypnogram"


def open_hdf5(path: Path) -> Opened:
    """Open a file whose signals Dreem or U-Time has written.

    Raises
    ------
    EegToolError
        If it is of another layout, or the package h5py is not there.
    """
    with _file(path) as file:
        places = _places(path, file)
        if not places:
            raise EegToolError(
                f"{path} is not an HDF5 file of Dreem or U-Time.", "Give the recording as EDF."
            )
        n_samples = len(file[places[0][0]])
    header = Header(
        path=path,
        format="HDF5",
        channels=tuple(
            ChannelInfo(place.rpartition("/")[2], sfreq_hz, unit)
            for place, sfreq_hz, unit in places
        ),
        duration_s=n_samples / places[0][1],
        files=(path,),
    )

    def read(which: Sequence[int]) -> np.ndarray:
        with _file(path) as file:
            return np.stack([np.asarray(file[places[i][0]], float) for i in which])

    return Opened(header, read)


def _places(path: Path, file: Any) -> list[tuple[str, float, str]]:
    """Return place, rate in Hz and unit (or an empty text) of each signal; none in a file of another layout.

    Dreem lists them in its attribute ``description``, and has a stage per epoch in ``hypnogram``; U-Time has them
    in the group ``channels``, with one ``sample_rate``.
    """
    if "description" in file.attrs:
        rows = parse_json(file.attrs["description"], path)
        listed = [(str(r["path"]), float(r["fs"]), str(r.get("unit") or "")) for r in rows]
        return listed + [(_HYPNOGRAM, 1 / EPOCH_S, "")] * (_HYPNOGRAM in file)
    of_all = file.attrs.get("sample_rate")
    names = [f"channels/{name}" for name in file.get("channels", ())]
    return [(name, float(file[name].attrs.get("sample_rate", of_all)), "") for name in names]


@contextmanager
def _file(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise EegToolError(f"Reading {path} needs h5py.", "pip install 'eegvlm[hdf5]'") from None
    with h5py.File(path, "r") as file:
        yield file
