"""Recordings, through MNE: one channel in µV."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mne
import numpy as np

from eegtool.core.errors import EegToolError, brief
from eegtool.core.registry import closest


@dataclass(frozen=True, slots=True)
class Recording:
    """One channel of one night.

    Attributes
    ----------
    data_uv : float64 [n_samples]
        Signal in µV.
    sfreq_hz : float
        Sampling rate of this channel.
    channel : str
        Its name as the file spells it.
    """

    data_uv: np.ndarray
    sfreq_hz: float
    channel: str


def read_recording(path: Path, channel: str) -> Recording:
    """Read one channel of an EDF file, and nothing but that channel.

    Parameters
    ----------
    path : Path
        The file.
    channel : str
        Channel name, compared without case and blanks.

    Raises
    ------
    EegToolError
        If the file is missing or not readable, or has no such channel (those present are listed).
    """
    name = find_channel(path, channel_names(path), channel)
    # `include` keeps the others unread: one fast channel would make MNE up-sample all slow ones.
    raw = _open(path, include=[name])
    try:
        data_uv = raw.get_data(picks=[name])[0] * 1e6  # MNE gives volts
    except Exception as error:  # MNE raises whatever its parsers stumble over
        raise _unreadable(path, error) from error
    return Recording(data_uv, float(raw.info["sfreq"]), name)


def channel_names(path: Path) -> list[str]:
    """List the channels of a recording from its header."""
    return list(_open(path).ch_names)


def sampling_rate(path: Path, name: str) -> float:
    """Return the sampling rate of one channel in Hz, from the header."""
    return float(_open(path, include=[name]).info["sfreq"])


def find_channel(path: Path, present: list[str], wanted: str) -> str:
    """Return the channel of `present` that is meant by `wanted`.

    Raises
    ------
    EegToolError
        If there is none; those present are listed, and the closest one.
    """
    folded = {_fold(name): name for name in present}
    if _fold(wanted) not in folded:
        raise EegToolError(
            f"{path} has no channel '{wanted}'.",
            f"It has: {', '.join(present)}.{closest(wanted, present)} Choose with --channel.",
        )
    return folded[_fold(wanted)]


# The fixed part of an EDF header: version 8 bytes, patient 80, recording 80, start date 8, time 8.


def is_simulated(path: Path) -> bool:
    """Say whether the patient or recording field of an EDF header calls the recording simulated."""
    with path.open("rb") as file:
        return b"SIMULATED" in file.read(168).upper()


def start_time(path: Path) -> str:
    """Return the start in an EDF header, such as ``24.04.89 16.13.00``."""
    with path.open("rb") as file:
        start = file.read(184)[168:].decode("ascii", "replace")
    return f"{start[:8]} {start[8:]}"


def _fold(name: str) -> str:
    return "".join(name.split()).casefold()


def _open(path: Path, **kwargs: Any) -> Any:
    if not path.is_file():
        raise EegToolError(f"The recording {path} does not exist.", "Check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A download that broke off would otherwise pass as a short night.
            warnings.filterwarnings("error", message="Number of records from the header")
            return mne.io.read_raw_edf(path, preload=False, verbose="WARNING", **kwargs)
    except Exception as error:  # MNE raises whatever its parsers stumble over
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> EegToolError:
    return EegToolError(
        f"The recording {path} cannot be read as EDF: {brief(error)}.",
        "The file is damaged or of another format; fetch it again.",
    )
