"""Epochs that were recorded but are not staged, and serve those that are as neighbours.

Wake far from sleep is cut off before a model is trained, and an epoch that nobody scored is left out. Whoever
stages a night sees them nevertheless, so a module with context shall see them, too: they are drawn from the
stored signals and looked at, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from eegtool.core.records import Epoch
from eegtool.core.stages import EPOCH_S
from eegtool.pictures.signals import StoredNight
from eegtool.pictures.source import Signals
from eegtool.recordings.signals import whole_epochs, why_no_eeg


def neighbours(epochs: Sequence[Epoch], signals: Signals, reach: int) -> list[Epoch]:
    """Return the further epochs of the same recordings that hold EEG, up to `reach` epochs away from one of `epochs`.

    Parameters
    ----------
    epochs : sequence of Epoch
        Those that are staged, in any order.
    signals : Signals
        Of the workspace.
    reach : int
        Of the context encoder, in epochs.

    Returns
    -------
    list of Epoch
        Without a stage, recording by recording in order of time.
    """
    own: dict[str, dict[int, Epoch]] = {}
    for epoch in epochs:
        own.setdefault(epoch.recording, {})[epoch.epoch_index] = epoch
    return [
        replace(
            known,
            sample_id=f"{recording}-{i:04d}",
            image=f"{recording}/{recording}-{i:04d}.png",
            epoch_index=i,
            onset_s=known.onset_s + (i - known.epoch_index) * EPOCH_S,
            stage="",
        )
        for recording, staged in own.items()
        for known in [next(iter(staged.values()))]
        for i in _around(staged.keys(), signals.night(recording), reach)
    ]


def _around(staged: Collection[int], night: StoredNight, reach: int) -> list[int]:
    """Return which other epochs of a night are near and hold EEG."""
    n = min(whole_epochs(len(c.samples), c.sfreq_hz, night.first_onset_s) for c in night.channels)
    near = {j for i in staged for j in range(max(0, i - reach), min(n, i + reach + 1))}
    limits_uv = [
        (c.samples.min() * c.scale_uv, c.samples.max() * c.scale_uv) for c in night.channels
    ]
    return [
        i
        for i in sorted(near.difference(staged))
        if not any(
            why_no_eeg(epoch_uv, sfreq_hz, limits)
            for (epoch_uv, sfreq_hz), limits in zip(
                night.cut_uv(night.onset_s(i)), limits_uv, strict=True
            )
        )
    ]
