"""What a recording of any format says about itself, and how its samples and annotations are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Annotation(NamedTuple):
    """A text about a stretch of time; onset from the first sample, or from the start of a file without signals."""

    onset_s: float
    duration_s: float
    text: str


class Pause(NamedTuple):
    """Time in which nothing was recorded; onset from the first sample."""

    onset_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class ChannelInfo:
    """A channel as the header of a file describes it.

    Attributes
    ----------
    name : str
        As the file spells it; need not be unique.
    sfreq_hz : float
        Sampling rate of this channel.
    unit : str
        As the file spells it; may be empty.
    """

    name: str
    sfreq_hz: float
    unit: str


@dataclass(frozen=True, slots=True)
class Header:
    """What a recording says about itself, without its samples.

    Attributes
    ----------
    path : Path
        The file.
    format : str
        ``"EDF"``, ``"EDF+C"``, ``"EDF+D"``, ``"BDF"`` (and its ``+C``, ``+D``), ``"FIF"``,
        ``"BrainVision"``, ``"EEGLAB"``, ``"WFDB"`` or ``"HDF5"``.
    channels : tuple of ChannelInfo
        Its signals, in the order of the file.
    duration_s : float
        Of what is really there.
    start : datetime or None
        Local clock; on 1 January 1985 where only the date is junk, None where the file does not say.
    notes : tuple of str
        What the user should know: a loss at the end, odd dates.
    simulated : bool
        Whether the file calls itself simulated.
    files : tuple of Path
        The file itself, and others that hold its samples or markers.
    pauses : tuple of Pause
        Time within the recording in which nothing was recorded.
    """

    path: Path
    format: str
    channels: tuple[ChannelInfo, ...]
    duration_s: float
    start: datetime | None = None
    notes: tuple[str, ...] = ()
    simulated: bool = False
    files: tuple[Path, ...] = ()
    pauses: tuple[Pause, ...] = ()


@dataclass(frozen=True, slots=True)
class Opened:
    """A recording of any format.

    Attributes
    ----------
    header : Header
        What it says about itself.
    read : callable
        Reads channels of one rate by position, float64 [n_channels, n_samples] in the units of the file.
    annotations : callable
        Gives all annotations, and the encoding of their texts.
    loss : str
        What is missing at the end of the file; empty if it is whole.
    """

    header: Header
    read: Callable[[Sequence[int]], np.ndarray]
    annotations: Callable[[], tuple[list[Annotation], str]] = lambda: ([], "utf-8")
    loss: str = ""


def loss_of(lost_s: float) -> str:
    """Say that so many seconds are missing at the end of a file; empty if none are."""
    return f"The file is cut off: the last {lost_s:g} s are missing." if lost_s > 0 else ""
