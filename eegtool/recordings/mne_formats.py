"""Recordings that MNE opens: FIF, BrainVision, EEGLAB, and what it has in memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import mne
import numpy as np

from eegtool.core.errors import EegToolError
from eegtool.recordings.header import Annotation, ChannelInfo, Header, Opened, loss_of

IN_MEMORY: Final = "MNE Raw"
"""Format of what is in memory."""

_PER_VOLT: Final = {"µV": 1e6, "uV": 1e6, "μV": 1e6, "mV": 1e3, "nV": 1e9}
"""Units that MNE turns into volts; all others it takes for volts."""

_BREAK: Final = re.compile("boundary|(BAD|EDGE) boundary|New Segment/.*")
"""Where EEGLAB, MNE and BrainVision have joined what was recorded apart."""


def open_raw(raw: mne.io.BaseRaw) -> Opened:
    """Describe a recording in memory: MNE holds all in volts, whatever its file was in."""
    file = next(filter(None, raw.filenames), None)
    path = Path(f"Raw object of {Path(file).name}" if file else "Raw object in memory")
    opened = _opened_by_mne(path, IN_MEMORY, raw, unit="V")
    channels = tuple(replace(channel, unit="V") for channel in opened.header.channels)
    header = replace(opened.header, channels=channels, files=())
    return replace(
        opened,
        header=header,
        read=lambda which: np.asarray(raw.get_data(picks=list(which))),
    )


def open_fif(path: Path) -> Opened:
    """Open a FIF file, with what continues it."""
    raw = mne.io.read_raw_fif(path, allow_maxshield="yes", verbose="ERROR")
    return _opened_by_mne(path, "FIF", raw, unit="V")


def open_brainvision(path: Path) -> Opened:
    """Open a BrainVision recording by its header."""
    if path.suffix != ".vhdr":
        raise EegToolError(
            f"MNE reads BrainVision headers in lower case only, not {path}.",
            f"Rename it to {path.stem}.vhdr.",
        )
    raw = mne.io.read_raw_brainvision(path, verbose="ERROR")
    header = path.read_text(encoding="utf-8", errors="replace")
    declared = re.search(r"^DataPoints=(\d+)", header, re.MULTILINE)
    markers = re.findall(r"^MarkerFile=(.+?)\s*$", header, re.MULTILINE)
    files = [path.with_name(name.replace("$b", path.stem)) for name in markers]
    n_declared = int(declared[1]) if declared else 0
    return _opened_by_mne(
        path,
        "BrainVision",
        raw,
        unit="µV",
        n_declared=n_declared,
        more_files=[file for file in files if file.is_file()],
    )


def open_eeglab(path: Path) -> Opened:
    """Open an EEGLAB data set."""
    return _opened_by_mne(path, "EEGLAB", mne.io.read_raw_eeglab(path, verbose="ERROR"), unit="µV")


def _opened_by_mne(
    path: Path,
    form: str,
    raw: Any,
    *,
    unit: str,
    n_declared: int = 0,
    more_files: Sequence[Path] = (),
) -> Opened:
    """Describe what MNE has opened; `unit` is for channels without one, `n_declared` counts promised samples."""
    sfreq_hz = float(raw.info["sfreq"])
    units = getattr(raw, "_orig_units", {})
    channels = tuple(ChannelInfo(name, sfreq_hz, units.get(name) or unit) for name in raw.ch_names)
    began = raw.info["meas_date"]
    if began is not None:
        began = began.replace(tzinfo=None) + timedelta(seconds=raw.first_time)
    loss = loss_of((n_declared - raw.n_times) / sfreq_hz)
    _refuse_breaks(path, raw)
    header = Header(
        path=path,
        format=form,
        channels=channels,
        duration_s=raw.n_times / sfreq_hz,
        start=began,
        notes=(loss,) if loss else (),
        simulated="SIMULATED" in f"{raw.info['subject_info']} {raw.info['description']}".upper(),
        files=tuple(dict.fromkeys((path, *map(Path, filter(None, raw.filenames)), *more_files))),
    )

    def read(which: Sequence[int]) -> np.ndarray:
        data = np.asarray(raw.get_data(picks=list(which)))
        for row, i in zip(data, which, strict=True):
            # MNE gives volts; back to the unit of the file, of which the amplitudes are to be judged
            row *= _PER_VOLT.get(channels[i].unit, 1.0)
        return data

    def annotations() -> tuple[list[Annotation], str]:
        onsets_s = _onsets_s(raw)
        rows = zip(onsets_s, raw.annotations.duration, raw.annotations.description, strict=True)
        return [
            Annotation(float(at), float(lasts), str(text).removeprefix("Comment/"))  # BrainVision's
            for at, lasts, text in rows
        ], "utf-8"

    return Opened(header, read, annotations, loss)


def _onsets_s(raw: Any) -> np.ndarray:
    """Return when annotations begin, from the first sample."""
    return np.asarray(
        raw.annotations.onset - raw.first_time * (raw.annotations.orig_time is not None)
    )


def _refuse_breaks(path: Path, raw: Any) -> None:
    for onset_s, text in zip(_onsets_s(raw), raw.annotations.description, strict=True):
        if _BREAK.fullmatch(text) and 0 < onset_s < raw.n_times / raw.info["sfreq"]:
            raise EegToolError(
                f"{path} is not one continuous recording: it was joined ('{text}') at "
                f"{onset_s:g} s.",
                "Read as continuous, all later epochs would be mislabelled. Give each part as a "
                "file of its own, with its hypnogram.",
            )
