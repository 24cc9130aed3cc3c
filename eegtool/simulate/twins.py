"""Simulated nights: spectral twins of real ones, for the demo and the tests.

A twin has the stages of a real night and, in every 30-s epoch and channel, the five band powers that
were measured there; `waveforms` draws the signal. What it is good for: stages follow each other and
resemble each other as in real sleep, and people differ. What it is not good for: saying how well a
model reads real EEG. Spindles, K-complexes and slow waves are drawn by the true stage, which may make
simulated sleep easier to read than real sleep. It is always called simulated.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Final

import edfio
import numpy as np
from numpy.typing import NDArray

from eegtool.core.errors import EegToolError
from eegtool.core.registry import check_name
from eegtool.core.stages import EPOCH_S, UNSCORED, stage_of
from eegtool.core.workspace import atomic_path
from eegtool.recordings.header import Annotation
from eegtool.recordings.signals import trim_wake
from eegtool.simulate.eyes_and_chin import CHANNELS, simulate_eyes_and_chin
from eegtool.simulate.waveforms import SFREQ_HZ, Floats, Traits, crossfaded, simulate_frames

CALIBRATION: Final = Path(__file__).parent / "calibration"

PHYSICAL_RANGE_UV: Final = (-800.0, 800.0)
_BLUR: Final = 0.5  # part of the epochs with graphic elements of the epoch before or after
_PASSAGE: Final = ("W", "N1", "N2", "N3", "N2", "REM", "W")


@dataclass(frozen=True, slots=True, eq=False)
class NightTwin:
    """What is known of a night before a signal is simulated for it.

    Attributes
    ----------
    name : str
        Recording, such as ``"SC4001E0"``: subject 00, night 1.
    scorer : str
        Letter of who scored the real night; part of the name of the hypnogram.
    start : datetime
        When the recording starts.
    channels : tuple of str
        Derivations.
    psd_uv2_per_hz : ndarray, (n_epochs, n_channels, n_bands)
        Mean power spectral density in each band of `waveforms.BANDS_HZ`.
    hypnogram : tuple of Annotation
        The scoring, worded as in Sleep-EDF. As in the real files it may continue after the signal has ended.
    """

    name: str
    scorer: str
    start: datetime
    channels: tuple[str, ...]
    psd_uv2_per_hz: Floats
    hypnogram: tuple[Annotation, ...]

    @property
    def subject(self) -> str:
        """Two digits that tell the sleeper."""
        return self.name[3:5]

    @property
    def night(self) -> int:
        """Number of the night of this sleeper, from 1."""
        return int(self.name[5])

    @property
    def n_epochs(self) -> int:
        """Number of 30-s epochs that have a signal."""
        return len(self.psd_uv2_per_hz)

    def descriptions(self) -> tuple[str, ...]:
        """Return the annotation of every epoch."""
        per_run = ([run.text] * round(run.duration_s / EPOCH_S) for run in self.hypnogram)
        return tuple(text for texts in per_run for text in texts)[: self.n_epochs]

    def stages(self) -> tuple[str, ...]:
        """Return the AASM stage of every epoch, or its kind of `DROPPED` time."""
        return tuple(stage_of(text) or UNSCORED for text in self.descriptions())

    def cropped(self, start_epoch: int, stop_epoch: int) -> NightTwin:
        """Return the night from `start_epoch` up to but without `stop_epoch`, starting that much later."""
        if not 0 <= start_epoch < stop_epoch <= self.n_epochs:
            raise EegToolError(
                f"Epochs {start_epoch} to {stop_epoch} are not part of the simulated night"
                f" {self.name}, which has {self.n_epochs}."
            )
        cut = self._with_epochs(np.arange(start_epoch, stop_epoch))
        return replace(cut, start=self.start + timedelta(seconds=EPOCH_S * start_epoch))

    def cropped_around_sleep(self, margin_min: float) -> NightTwin:
        """Return the night from `margin_min` before the first sleep epoch to as long after the last."""
        kept = trim_wake(self.stages(), margin_min)
        return self.cropped(kept.start, kept.stop)

    def condensed(self, epochs_per_stage: int) -> NightTwin:
        """Return minutes of sleep with all stages: W N1 N2 N3 N2 REM W.

        Parameters
        ----------
        epochs_per_stage : int
            Number of epochs of every stage; N2 and W, which come twice, are shared out. They are
            taken evenly from the whole night.
        """
        stages = np.array(self.stages())
        picked: list[NDArray[np.intp]] = []
        for place, stage in enumerate(_PASSAGE):
            of_stage = np.flatnonzero(stages == stage)
            if not 1 <= epochs_per_stage <= len(of_stage):
                raise EegToolError(
                    f"The simulated night {self.name} has {len(of_stage)} epochs of {stage};"
                    f" {epochs_per_stage} cannot be taken."
                )
            spread = np.linspace(0, len(of_stage) - 1, epochs_per_stage).astype(int)
            half = (epochs_per_stage + 1) // 2 if _PASSAGE.count(stage) > 1 else epochs_per_stage
            repeated = stage in _PASSAGE[:place]
            picked.append(of_stage[spread[half:] if repeated else spread[:half]])
        return self._with_epochs(np.concatenate(picked))

    def _with_epochs(self, epochs: NDArray[np.intp]) -> NightTwin:
        """Return a night of these epochs, one after the other; onsets count from its first."""
        texts = self.descriptions()
        runs: list[Annotation] = []
        onset_s = 0.0
        for text, group in groupby(texts[i] for i in epochs):
            duration_s = float(EPOCH_S * len(list(group)))
            runs.append(Annotation(onset_s, duration_s, text))
            onset_s += duration_s
        return replace(self, psd_uv2_per_hz=self.psd_uv2_per_hz[epochs], hypnogram=tuple(runs))


def available_nights() -> tuple[str, ...]:
    """Return the names of the nights that can be simulated, one for each sleeper."""
    return tuple(sorted(path.stem for path in CALIBRATION.glob("*.npz")))


def load_twin(name: str) -> NightTwin:
    """Load one of `available_nights`, whole (about 22 h).

    Raises
    ------
    EegToolError
        If there is no such night.
    """
    check_name("simulated night", name, available_nights())
    with np.load(CALIBRATION / f"{name}.npz", allow_pickle=False) as file:
        psd_db = file["floor_db"] + file["step_db"] * file["level"].astype(float)
        runs = zip(file["onset_s"], file["duration_s"], file["description"], strict=True)
        return NightTwin(
            name=name,
            scorer=str(file["scorer"]),
            start=datetime.fromisoformat(str(file["start"])),
            channels=tuple(file["channels"].tolist()),
            psd_uv2_per_hz=10 ** (psd_db / 10),
            hypnogram=tuple(Annotation(float(o), float(d), str(text)) for o, d, text in runs),
        )


def simulate_signal(twin: NightTwin, seed: int) -> Floats:
    """Simulate the EEG of a night.

    The same twin and seed give the same signal, whatever other nights are made beside it.

    Returns
    -------
    ndarray, (n_channels, n_samples)
        Signal in µV at `waveforms.SFREQ_HZ`.
    """
    rng = np.random.default_rng([seed, zlib.crc32(twin.name.encode())])
    traits = Traits.draw(rng)
    stages = _blurred(np.array(twin.stages()), rng)
    return crossfaded(
        stages,
        len(twin.channels),
        lambda stage, epochs: simulate_frames(twin.psd_uv2_per_hz[epochs], stage, traits, rng),
    )


def simulate_psg(twin: NightTwin, seed: int) -> dict[str, Floats]:
    """Simulate EEG, eyes and chin of a night: each channel in µV, by its name.

    The EEG is that of `simulate_signal`; the eyes move by the same stages, but not in step with the
    blinks that are in it.
    """
    eeg_uv = simulate_signal(twin, seed)
    rng = np.random.default_rng([seed, zlib.crc32(twin.name.encode()), 1])
    others_uv = simulate_eyes_and_chin(twin.stages(), eeg_uv[0], rng)
    return dict(zip((*twin.channels, *CHANNELS), [*eeg_uv, *others_uv], strict=True))


def write_night(
    twin: NightTwin, folder: Path, seed: int, *, eyes_and_chin: bool = False
) -> tuple[Path, Path]:
    """Simulate a night and write it as Sleep-EDF files are: a recording and its hypnogram.

    Parameters
    ----------
    twin : NightTwin
        The night.
    folder : Path
        Where.
    seed : int
        Of the signal.
    eyes_and_chin : bool
        Also eyes and chin (see `simulate_psg`).

    Returns
    -------
    tuple of Path
        ``SC4ssnE0-PSG.edf`` and ``SC4ssnEC-Hypnogram.edf`` in `folder`.
    """
    low_uv, high_uv = PHYSICAL_RANGE_UV
    signals_uv = (
        simulate_psg(twin, seed)
        if eyes_and_chin
        else dict(zip(twin.channels, simulate_signal(twin, seed), strict=True))
    )
    signals = [
        edfio.EdfSignal(
            np.clip(signal_uv, low_uv, high_uv),
            sampling_frequency=SFREQ_HZ,
            label=channel,
            transducer_type="SIMULATED",
            physical_dimension="uV",
            physical_range=PHYSICAL_RANGE_UV,
        )
        for channel, signal_uv in signals_uv.items()
    ]
    annotations = [edfio.EdfAnnotation(*run) for run in twin.hypnogram]
    header = {
        "patient": edfio.Patient(code="SIMULATED", name=f"spectral_twin_of_{twin.name}"),
        "recording": edfio.Recording(startdate=twin.start.date(), equipment_code="SIMULATED"),
        "starttime": twin.start.time(),
    }
    psg = folder / f"{twin.name}-PSG.edf"
    hypnogram = folder / f"{twin.name[:-1]}{twin.scorer}-Hypnogram.edf"
    # The recording comes last: where it is, its hypnogram is too.
    with atomic_path(hypnogram) as tmp:
        edfio.Edf([], annotations=annotations, **header).write(tmp)
    with atomic_path(psg) as tmp:
        edfio.Edf(signals, data_record_duration=EPOCH_S, **header).write(tmp)
    return psg, hypnogram


def simulate_cohort(
    folder: Path,
    names: Sequence[str],
    seed: int,
    *,
    margin_min: float = 30.0,
    eyes_and_chin: bool = False,
) -> Iterator[Path]:
    """Write several nights, each cut to `margin_min` of wake around sleep.

    Yields
    ------
    Path
        The recording, as soon as it and its hypnogram are written.
    """
    for name in names:
        twin = load_twin(name).cropped_around_sleep(margin_min)
        yield write_night(twin, folder, seed, eyes_and_chin=eyes_and_chin)[0]


def _blurred(stages: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.str_]:
    """Let some epochs at a change of stage look like their neighbour, as a scorer's borders are not sharp."""
    before, after = np.roll(stages, 1), np.roll(stages, -1)
    before[0], after[-1] = stages[0], stages[-1]
    kind = rng.random(len(stages))
    like_before, like_after = kind < _BLUR / 2, kind > 1 - _BLUR / 2
    return np.where(like_before, before, np.where(like_after, after, stages))
