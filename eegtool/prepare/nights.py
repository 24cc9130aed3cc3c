"""One recording with its hypnogram: from files to staged epochs and their pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from eegtool.core.errors import EegToolError
from eegtool.core.records import Epoch
from eegtool.core.settings import PrepareSettings
from eegtool.core.stages import DROPPED, EPOCH_S, STAGES
from eegtool.prepare.cohorts import Night
from eegtool.prepare.hypnograms import ScoredRun, read_hypnogram, stage_per_epoch
from eegtool.prepare.images import draw_png
from eegtool.prepare.images.spec import PictureSpec
from eegtool.prepare.recordings import (
    channel_names,
    find_channel,
    read_recording,
    sampling_rate,
    start_time,
)
from eegtool.prepare.signals import (
    band_pass,
    check_amplitude,
    check_band,
    cut_epoch,
    trim_wake,
    whole_epochs,
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of one recording."""

    night: Night
    split: str
    channel: str = ""
    """The channel as the file spells it."""
    epochs: tuple[Epoch, ...] = ()
    n_trimmed: int = 0
    """Epochs cut off as wake far from sleep."""
    dropped: tuple[tuple[str, int], ...] = ()
    """Epochs within the trimmed night that have no stage, by kind."""
    problem: EegToolError | None = None
    """Why the recording could not be used."""


def find_problem(night: Night, settings: PrepareSettings) -> EegToolError | None:
    """Find out from names, headers and scoring alone what is wrong with a recording."""
    try:
        name = find_channel(night.signal_path, channel_names(night.signal_path), settings.channel)
        check_band(settings.low_hz, settings.high_hz, sampling_rate(night.signal_path, name))
        _scoring(night)
    except EegToolError as problem:
        return problem
    return None


def prepare_night(
    night: Night, split: str, settings: PrepareSettings, spec: PictureSpec, easel: Path
) -> Prepared:
    """Read, filter, trim, cut and draw one recording, into ``easel/<split>/<recording>``."""
    try:
        recording = read_recording(night.signal_path, settings.channel)
        check_amplitude(recording.data_uv)
        data_uv = band_pass(
            recording.data_uv, recording.sfreq_hz, settings.low_hz, settings.high_hz
        )
        n_epochs = whole_epochs(len(data_uv), recording.sfreq_hz)
        stages = stage_per_epoch(_scoring(night), n_epochs)
        kept = trim_wake(stages, settings.wake_margin)
        if not kept:
            raise EegToolError(
                f"The hypnogram {night.hypnogram_path} scores no sleep within the recording.",
                "Check that it belongs to this recording.",
            )
    except EegToolError as problem:
        return Prepared(night, split, problem=problem)

    epochs = tuple(
        Epoch(
            sample_id=(sample_id := f"{night.recording}-{i:04d}"),
            cohort=night.cohort,
            recording=night.recording,
            subject=night.subject,
            night=night.night,
            epoch_index=i,
            onset_s=float(i * EPOCH_S),
            stage=stages[i],
            split=split,
            image=f"{night.recording}/{sample_id}.png",
        )
        for i in kept
        if stages[i] in STAGES
    )
    (easel / split / night.recording).mkdir(parents=True)
    for epoch in epochs:
        epoch_uv = cut_epoch(data_uv, recording.sfreq_hz, epoch.epoch_index)
        png = draw_png(settings.style, epoch_uv, recording.sfreq_hz, spec)
        (easel / split / epoch.image).write_bytes(png)
    dropped = Counter(stages[i] for i in kept if stages[i] in DROPPED)
    n_trimmed = len(stages) - len(kept)
    return Prepared(
        night, split, recording.channel, epochs, n_trimmed, tuple(sorted(dropped.items()))
    )


def _scoring(night: Night) -> tuple[ScoredRun, ...]:
    hypnogram = night.hypnogram_path
    if hypnogram is None:
        raise EegToolError(
            f"There is no hypnogram for {night.signal_path}.",
            f"Sleep-EDF has it beside the recording, as {night.recording[:7]}?-Hypnogram.edf.",
        )
    runs = read_hypnogram(hypnogram)
    began, scored_from = start_time(night.signal_path), start_time(hypnogram)
    if began != scored_from:
        raise EegToolError(
            f"The hypnogram {hypnogram} is of another night: it starts on {scored_from}, "
            f"the recording on {began}.",
            "Fetch both files again; where dates were changed on purpose, give both the same start.",
        )
    return runs
