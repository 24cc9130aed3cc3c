"""Recordings of any format, through MNE: the wanted channels in µV, each at its own sampling rate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias

import mne
import numpy as np

from eegtool.core.errors import EegToolError, brief
from eegtool.core.stages import EPOCH_S
from eegtool.recordings.channels import Derivation, kind_of, resolve
from eegtool.recordings.edf import open_edf
from eegtool.recordings.hdf5 import open_hdf5
from eegtool.recordings.header import Header, Opened, Pause
from eegtool.recordings.mne_formats import (
    IN_MEMORY,
    open_brainvision,
    open_eeglab,
    open_fif,
    open_raw,
)
from eegtool.recordings.montages import ChannelSpec, spec_of
from eegtool.recordings.signals import (
    UV_PER_UNIT,
    amplitude,
    check_amplitude,
    check_rate,
    microvolts,
)
from eegtool.recordings.wfdb import open_wfdb


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """One channel or derivation of a recording.

    Attributes
    ----------
    name : str
        The channel as the file spells it, or the derivation as the user typed it.
    data_uv : float64 [n_samples]
        Signal in µV.
    sfreq_hz : float
        Sampling rate of this signal.
    spec : ChannelSpec
        What was asked for.
    """

    name: str
    data_uv: np.ndarray
    sfreq_hz: float
    spec: ChannelSpec

    @property
    def is_missing(self) -> bool:
        """Whether the recording does not have it."""
        return not len(self.data_uv)


@dataclass(frozen=True, slots=True)
class Found:
    """A wanted channel in a header.

    Attributes
    ----------
    spec : ChannelSpec
        What was asked for.
    derivation : Derivation or None
        What it is here; None if it is missing.
    sfreq_hz : float
        Its sampling rate; 1 if it is missing.
    note : str
        Why it is missing, or what the user should know about the choice.
    """

    spec: ChannelSpec
    derivation: Derivation | None = None
    sfreq_hz: float = 1.0
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """The wanted signals of one night.

    Attributes
    ----------
    signals : tuple of Signal
        In the order in which they were asked for.
    start : datetime or None
        See `Header`.
    notes : tuple of str
        Those of the header, and what was found in the samples.
    """

    signals: tuple[Signal, ...]
    start: datetime | None
    notes: tuple[str, ...]


Source: TypeAlias = Path | mne.io.BaseRaw
"""A recording: its file, or what MNE has in memory."""


def is_recording(path: Path) -> bool:
    """Say whether a path has the suffix of a format that can be read, in upper or lower case.

    HDF5 holds anything: there, its layout decides.
    """
    opener = _opener(path)
    if opener is not open_hdf5:
        return opener is not None
    try:
        return bool(open_hdf5(path).header.channels)
    except (OSError, ValueError, KeyError, TypeError, EegToolError):
        return False


def open_recording(source: Source, *, strict: bool = False) -> Opened:
    """Open a recording of any format. Cheap: no samples are read.

    Parameters
    ----------
    source : Path or mne.io.BaseRaw
        The file, for BrainVision the ``.vhdr``; or what MNE has in memory, in volts.
    strict : bool
        Refuse a file of which a part is missing.

    Raises
    ------
    EegToolError
        If the file is missing, of another format, damaged, empty, or has a gap.
    """
    opened = open_raw(source) if isinstance(source, mne.io.BaseRaw) else _open_file(source)
    path = opened.header.path
    if strict and opened.loss:
        raise EegToolError(f"{path}: {opened.loss}", "Fetch the file again, or leave out --strict.")
    reading = _reading(path)
    return replace(opened, read=reading(opened.read), annotations=reading(opened.annotations))


def read_header(source: Source, *, strict: bool = False) -> Header:
    """Read what a recording says about itself; see `open_recording`."""
    return open_recording(source, strict=strict).header


def paused_epochs(pauses: Sequence[Pause], n_epochs: int, first_onset_s: float = 0.0) -> set[int]:
    """Return the epochs that were not recorded throughout; epoch 0 begins at `first_onset_s`."""
    found: set[int] = set()
    for pause in pauses:
        first = math.floor((pause.onset_s - first_onset_s) / EPOCH_S)
        stop = math.ceil((pause.onset_s + pause.duration_s - first_onset_s) / EPOCH_S)
        found |= set(range(max(first, 0), min(stop, n_epochs)))
    return found


def find_signals(header: Header, channels: Sequence[str | ChannelSpec]) -> tuple[Found, ...]:
    """Find the wanted signals from the header alone.

    Parameters
    ----------
    header : Header
        From `read_header`.
    channels : sequence of str or ChannelSpec
        Names or derivations, see `channels.resolve`; or channels of a montage, of which some may be missing.

    Raises
    ------
    EegToolError
        If there is no such channel, it is of another kind, its rate is too low for its kind, the rates
        within a derivation differ; or no channel of a montage is there.
    """
    found: list[Found] = []
    missing: list[EegToolError] = []
    for spec in (spec_of(c) if isinstance(c, str) else c for c in channels):
        try:
            one = _found(header, spec)
            taken = [f.derivation.weights for f in found if f.derivation]
            if spec.optional and one.derivation and one.derivation.weights in taken:
                raise EegToolError(f"'{one.derivation.name}' stands for another one already.")
        except EegToolError as error:
            if not spec.optional:
                raise
            missing.append(error)
            one = Found(spec, note=f"{error.what} The strip of {spec.typed} stays empty.")
        found.append(one)
    needed = [f for f in found if f.spec.kind == "eeg"] or found
    if missing and not any(f.derivation for f in needed):
        first = missing[0]
        raise EegToolError(
            f"{header.path} has nothing of what the montage needs: {first.what.partition(': ')[2]}",
            f"{first.fix} `eegvlm inspect` says which montage it can serve.",
        )
    return tuple(found)


def _found(header: Header, spec: ChannelSpec) -> Found:
    """Find one channel by the first of its names that is there."""
    present = [channel.name for channel in header.channels]
    problems: list[EegToolError] = []
    for name in spec.names:
        try:
            derivation = resolve(name, present)
            break
        except EegToolError as error:
            problems.append(error)
    else:
        with _naming(str(header.path)):
            raise problems[0]
    with _naming(f"Channel '{spec.derivation}' of {header.path}"):
        rates = {c.sfreq_hz for c in header.channels if c.name in derivation.weights}
        if len(rates) > 1:
            listed = " and ".join(f"{rate:g}" for rate in sorted(rates))
            raise EegToolError(
                f"Its channels are sampled at different rates, {listed} Hz.",
                "Choose channels of one rate.",
            )
        kinds = {kind for name in derivation.weights if (kind := kind_of(name))}
        if kinds and spec.kind not in kinds:
            kind = sorted(kinds)[0]
            raise EegToolError(
                f"It is {kind.upper()}, and was named as {spec.kind.upper()}.",
                f"Name it '--channel {kind}:{spec.derivation}', or choose another channel.",
            )
        check_rate(sfreq_hz := rates.pop(), spec.kind)
    own = f"'{derivation.name}' stands for {spec.typed}." if name != spec.derivation else ""
    return Found(spec, derivation, sfreq_hz, derivation.note or own)


def read_recording(
    source: Source, channels: Sequence[str | ChannelSpec], *, strict: bool = False
) -> Recording:
    """Read the wanted signals of a recording in µV, and nothing but their channels.

    Parameters
    ----------
    source : Path or mne.io.BaseRaw
        See `read_header`.
    channels : sequence of str or ChannelSpec
        See `find_signals`.
    strict : bool
        Refuse a file of which a part is missing.

    Raises
    ------
    EegToolError
        As in `read_header` and `find_signals`; also if a channel that may not be missing is flat,
        saturated or in no unit of its kind.
    """
    opened = open_recording(source, strict=strict)
    header = opened.header
    wanted = find_signals(header, channels)
    notes = [*header.notes, *(found.note for found in wanted)]
    position = {channel.name: i for i, channel in enumerate(header.channels)}
    raw: dict[str, np.ndarray] = {}
    # Rate by rate: MNE would bring slow channels up to the fastest that it reads with them.
    for rate in dict.fromkeys(f.sfreq_hz for f in wanted if f.derivation):
        of_rate = (f.derivation.weights for f in wanted if f.derivation and f.sfreq_hz == rate)
        names = list(dict.fromkeys(name for weights in of_rate for name in weights))
        samples = opened.read([position[name] for name in names])
        raw |= zip(names, samples, strict=True)
    signals = []
    for found in wanted:
        try:
            signal, more = _signal(found, raw, header)
            notes += more
        except EegToolError as error:
            if not found.spec.optional:
                raise
            notes.append(f"{error.what} The strip of {found.spec.typed} stays empty.")
            signal = _missing(found.spec)
        signals.append(signal)
    if all(signal.is_missing for signal in signals):
        raise EegToolError(
            f"No channel of {header.path} can be used. {notes[-1]}", "Look at its channels."
        )
    return Recording(tuple(signals), header.start, tuple(dict.fromkeys(filter(None, notes))))


def _missing(spec: ChannelSpec) -> Signal:
    return Signal("–", np.empty(0), 1.0, spec)


def _signal(
    found: Found, raw: Mapping[str, np.ndarray], header: Header
) -> tuple[Signal, list[str]]:
    """Return a signal in µV, and what the user should know of its channels."""
    spec, derivation, sfreq_hz = found.spec, found.derivation, found.sfreq_hz
    if derivation is None:
        return _missing(spec), []
    unit_of = {channel.name: channel.unit for channel in header.channels}
    data_uv, notes = {}, []
    for name in derivation.weights:
        with _naming(f"Channel '{name}' of {header.path}"):
            factor, note = microvolts(raw[name], unit_of[name], sfreq_hz, spec.kind)
            if header.format == IN_MEMORY and factor != UV_PER_UNIT["V"]:
                size = amplitude(raw[name], sfreq_hz)
                raise EegToolError(
                    f"It is not in volts, as MNE holds signals: its amplitude is {size:.3g}.",
                    "Bring it to volts (µV times 1e-6), or give the recording's file.",
                )
        data_uv[name] = raw[name] if factor == 1 else raw[name] * factor
        notes.append(note and f"Channel '{name}': {note}")
    if list(derivation.weights.values()) == [1.0]:
        signal_uv = data_uv[next(iter(data_uv))]  # a whole night: no copy for nothing
    else:
        weights = derivation.weights.items()
        signal_uv = np.sum([data_uv[name] * weight for name, weight in weights], axis=0)
    if len(derivation.weights) > 1:  # two good channels can still cancel each other
        with _naming(f"Derivation '{derivation.name}' of {header.path}"):
            check_amplitude(signal_uv, sfreq_hz, spec.kind)
    if spec.fitting_band_hz(sfreq_hz) is None:
        low_hz, high_hz = spec.band_hz
        notes.append(
            f"'{derivation.name}' is sampled at {sfreq_hz:g} Hz, too slow for {low_hz:g}-{high_hz:g} Hz: "
            "it is taken for a level."
        )
    return Signal(derivation.name, signal_uv, sfreq_hz, spec), notes


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Put where something is wrong before what is wrong."""
    try:
        yield
    except EegToolError as error:
        raise EegToolError(f"{where}: {error.what}", error.fix) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever another library's parser stumbles over into a message, and its warnings off."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except EegToolError:
        raise
    except Exception as error:
        raise EegToolError(
            f"The recording {path} cannot be read: {brief(error)}.",
            "The file is damaged or of another format; fetch it again.",
        ) from error


def _open_file(path: Path) -> Opened:
    """Open a file by its suffix."""
    opener = _opener(path)
    if opener is None:
        raise EegToolError(
            f"{path} is no recording that can be read.", f"Known are {', '.join(_OPENERS)}."
        )
    if not path.is_file():
        raise EegToolError(f"The recording {path} does not exist.", "Check the path.")
    with _reading(path):
        return opener(path)


_OPENERS: Final[dict[str, Callable[[Path], Opened]]] = {
    ".edf": open_edf,
    ".rec": open_edf,  # EDF in ISRUC-Sleep
    ".bdf": open_edf,
    ".fif": open_fif,
    ".fif.gz": open_fif,
    ".vhdr": open_brainvision,
    ".set": open_eeglab,
    ".hea": open_wfdb,
    ".h5": open_hdf5,
}


def _opener(path: Path) -> Callable[[Path], Opened] | None:
    name = path.name.lower()
    return next((opener for suffix, opener in _OPENERS.items() if name.endswith(suffix)), None)
