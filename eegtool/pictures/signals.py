"""Stored signals: the filtered channels of a whole night, from which pictures are drawn at any time.

``NIGHT.npy`` (NumPy's format 1.0) holds them one after the other as int16, so that channels may differ in
their sampling rates; ``NIGHT.json`` beside it says what they are. The scale of a channel is a power of
two: multiplying by it is exact, and whoever reads the file gets the same numbers on every machine. It is
at most a 16,384th of the largest amplitude (1/64 µV up to 512 µV), far below what a picture can show.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from eegtool import __version__
from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S
from eegtool.core.workspace import atomic_path, fault_of, read_json, sha256_of, write_json
from eegtool.recordings.signals import cut_epoch

VERSION: Final = 1
"""Of the format: whoever changes it counts on."""

_MAX: Final = 32767  # of int16
_AGAIN: Final = "Run `eegvlm prepare` again."
_ROUNDING_S: Final = 1e-3  # as `whole_epochs` counts
_OPEN_AT_ONCE: Final = 64  # nights; their pages are the system's to take back
_HEX: Final = re.compile("[0-9a-f]{64}")

EpochSignals = list[tuple[np.ndarray, float]]
"""Of each channel: float [n_samples] in µV and sampling rate in Hz."""

Neighbours = list[EpochSignals | None]
"""Of the epochs before and after one, in the order of time; None where nothing was recorded."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredChannel:
    """One channel of a whole night.

    Attributes
    ----------
    name : str
        As the recording spells it.
    sfreq_hz : float
        Sampling rate.
    scale_uv : float
        µV per unit of `samples`; a power of two.
    samples : int16 [n_samples]
        In memory, or mapped; none of a channel of the montage that the recording lacks.
    """

    name: str
    sfreq_hz: float
    scale_uv: float
    samples: np.ndarray

    @property
    def data_uv(self) -> np.ndarray:
        """The whole signal in µV, float64 [n_samples]."""
        return self.samples * self.scale_uv

    def cut_uv(self, onset_s: float) -> np.ndarray:
        """Return the 30 s from `onset_s` on in µV, float64 [n_samples]."""
        return cut_epoch(self.samples, self.sfreq_hz, onset_s) * self.scale_uv


@dataclass(frozen=True, slots=True, eq=False)
class StoredNight:
    """The filtered channels of a whole recording.

    Attributes
    ----------
    recording : str
        Its name.
    start : str
        When it began, as ISO 8601; empty if it does not say.
    first_onset_s : float
        Where the grid of epochs begins, in seconds from the first sample.
    channels : tuple of StoredChannel
        From the top of a picture to its bottom.
    pauses : tuple of (float, float)
        Onset and duration of the time in which nothing was recorded, in seconds.
    sha256 : str
        Of the file that it was read from, as its sidecar says.
    """

    recording: str
    start: str
    first_onset_s: float
    channels: tuple[StoredChannel, ...]
    pauses: tuple[tuple[float, float], ...] = ()
    sha256: str = ""

    @property
    def duration_s(self) -> float:
        """Length of the shortest channel, of those that are there."""
        return min(len(c.samples) / c.sfreq_hz for c in self.channels if len(c.samples))

    def onset_s(self, epoch_index: int) -> float:
        """Return where an epoch begins, in seconds from the first sample.

        Raises
        ------
        EegToolError
            If the night does not reach as far.
        """
        onset_s = self.first_onset_s + epoch_index * EPOCH_S
        if onset_s + EPOCH_S > self.duration_s + _ROUNDING_S:
            raise EegToolError(
                f"The signals of {self.recording} last {self.duration_s:g} s: they have no epoch "
                f"{epoch_index}.",
                f"They are of another recording. {_AGAIN}",
            )
        return onset_s

    def cut_uv(self, onset_s: float) -> EpochSignals:
        """Return all channels from `onset_s` on."""
        return [(c.cut_uv(onset_s), c.sfreq_hz) for c in self.channels]

    def is_recorded(self, onset_s: float) -> bool:
        """Say whether all of the 30 s from `onset_s` on was recorded."""
        stop_s = onset_s + EPOCH_S
        inside = onset_s > -_ROUNDING_S and stop_s < self.duration_s + _ROUNDING_S
        return inside and not any(
            onset_s < start_s + lasts_s and start_s < stop_s for start_s, lasts_s in self.pauses
        )

    def onsets_around(self, onset_s: float, n: int) -> list[float | None]:
        """Return where the `n` epochs before that at `onset_s` and the `n` after it begin.

        None where an epoch was not recorded throughout; one that nobody scored is like the others.
        """
        onsets_s = [onset_s + i * EPOCH_S for i in range(-n, n + 1) if i]
        return [max(at, 0.0) if self.is_recorded(at) else None for at in onsets_s]

    def around(self, onset_s: float, n: int) -> Neighbours:
        """Return the signals of the epochs that `onsets_around` finds."""
        return [None if at is None else self.cut_uv(at) for at in self.onsets_around(onset_s, n)]


def quantise(
    recording: str,
    start: str,
    first_onset_s: float,
    signals: Iterable[tuple[str, np.ndarray, float]],
    pauses: Iterable[tuple[float, float]] = (),
) -> StoredNight:
    """Bring filtered channels into the form in which they are stored.

    Parameters
    ----------
    recording, start, first_onset_s, pauses
        See `StoredNight`.
    signals : iterable of (str, float [n_samples], float)
        Name, signal in µV and sampling rate in Hz of each channel.
    """
    channels = []
    for name, data_uv, sfreq_hz in signals:
        scale_uv = _scale_uv(float(np.max(np.abs(data_uv), initial=0.0)))
        samples = np.rint(data_uv / scale_uv).astype(np.int16)
        channels.append(StoredChannel(name, sfreq_hz, scale_uv, samples))
    return StoredNight(recording, start, first_onset_s, tuple(channels), tuple(pauses))


def _scale_uv(peak_uv: float) -> float:
    """Return the smallest power of two by which so many µV fit into int16."""
    return 2.0 ** math.ceil(math.log2(peak_uv / _MAX)) if peak_uv else 1.0


def sidecar_path(path: Path) -> Path:
    """Return where it stands what a ``.npy`` of signals holds."""
    return path.with_suffix(".json")


def write_signals(path: Path, night: StoredNight) -> str:
    """Write a night as ``NIGHT.npy`` and its sidecar, each whole or not at all, the sidecar last.

    Returns
    -------
    str
        SHA-256 of the ``.npy`` file.
    """
    sidecar_path(path).unlink(missing_ok=True)
    n = sum(len(channel.samples) for channel in night.channels)
    with atomic_path(path) as tmp:
        with tmp.open("wb") as file:
            header = {"descr": "<i2", "fortran_order": False, "shape": (n,)}
            np.lib.format.write_array_header_1_0(file, header)
            for channel in night.channels:
                file.write(np.ascontiguousarray(channel.samples, "<i2").data)
        sha256 = sha256_of(tmp)
    channels = [
        {
            "name": c.name,
            "sfreq_hz": c.sfreq_hz,
            "scale_uv": c.scale_uv,
            "n_samples": len(c.samples),
        }
        for c in night.channels
    ]
    card = {
        "tool": f"eegvlm {__version__}",
        "version": VERSION,
        "recording": night.recording,
        "start": night.start,
        "first_onset_s": night.first_onset_s,
        "channels": channels,
        **({"pauses": night.pauses} if night.pauses else {}),
        "sha256": sha256,
    }
    write_json(sidecar_path(path), card)
    return sha256


def read_signals(path: Path, recording: str) -> StoredNight:
    """Map a night of a recording into memory; nothing of its samples is read.

    Raises
    ------
    EegToolError
        If it is missing, cut short, of another version or recording, or not what its sidecar describes.
    """
    both = _with_sidecar(path)
    try:
        stats = [os.stat(file) for file in both]  # noqa: PTH116 (a path would be put together again)
    except OSError as error:
        fault = next(
            (f"{file} {found}" for file in both if (found := fault_of(Path(file)))), str(path)
        )
        raise EegToolError(f"The signals of {recording}: {fault}.", _AGAIN) from error
    night = _mapped(path, *((s.st_mtime_ns, s.st_size) for s in stats))
    if night.recording != recording:
        raise EegToolError(
            f"{path} holds the signals of {night.recording}, not of {recording}.",
            f"Files were moved or renamed. {_AGAIN}",
        )
    return night


def check_signals(path: Path, recording: str) -> str:
    """Read all of a night, and return its SHA-256.

    Raises
    ------
    EegToolError
        See `read_signals`; also if the samples are not those that were written.
    """
    read_signals(path, recording)
    sha256 = sha256_of(path)
    if sha256 != read_json(sidecar_path(path))["sha256"]:
        raise EegToolError(
            f"{path} is not the file that {sidecar_path(path).name} was written for: its samples were "
            "changed, or are those of another recording.",
            _AGAIN,
        )
    return sha256


@lru_cache(maxsize=1 << 14)
def _with_sidecar(path: Path) -> tuple[str, str]:
    return str(path), str(sidecar_path(path))


@lru_cache(maxsize=_OPEN_AT_ONCE)
def _mapped(path: Path, *_as_of: tuple[int, int]) -> StoredNight:
    """Map a night whose files are of this time and size."""
    card = read_json(sidecar_path(path))
    if card.get("version") != VERSION:
        raise EegToolError(
            f"{path} is of version {card.get('version')} of the signals' format; eegvlm {__version__} "
            f"reads version {VERSION}.",
            f"{_AGAIN} Or use the eegvlm that wrote it ({card.get('tool')}).",
        )
    try:
        rows = [_row(row) for row in card["channels"]]
        about = (str(card["recording"]), str(card["start"]), float(card["first_onset_s"]))
        pauses = tuple((float(at), float(lasts)) for at, lasts in card.get("pauses", ()))
        if (
            not any(n for *_, n in rows)
            or not math.isfinite(about[2])
            or not _HEX.fullmatch(card["sha256"])
        ):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise EegToolError(
            f"{sidecar_path(path)} does not describe signals that eegvlm stores.", _AGAIN
        ) from error
    samples = _samples(path, sum(n for *_, n in rows))
    channels, first = [], 0
    for name, sfreq_hz, scale_uv, n in rows:
        channels.append(StoredChannel(name, sfreq_hz, scale_uv, samples[first : first + n]))
        first += n
    return StoredNight(*about, tuple(channels), pauses, card["sha256"])


def _row(row: Any) -> tuple[str, float, float, int]:
    """Return name, rate, scale and length of a channel."""
    sfreq_hz, scale_uv, n = float(row["sfreq_hz"]), float(row["scale_uv"]), int(row["n_samples"])
    if not (0 < sfreq_hz < math.inf and 0 < scale_uv < math.inf and n >= 0):
        raise ValueError
    return str(row["name"]), sfreq_hz, scale_uv, n


def _samples(path: Path, n: int) -> np.ndarray:
    """Map so many samples."""
    try:
        samples = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise EegToolError(f"{path} is cut short or is not a .npy file.", _AGAIN) from error
    if samples.dtype != np.dtype("<i2") or samples.shape != (n,):
        raise EegToolError(
            f"{path} holds {samples.dtype} {samples.shape}, and its sidecar {n} samples of int16.",
            f"They are of two recordings. {_AGAIN}",
        )
    return np.asarray(samples)  # the same memory; a plain array is cut faster
