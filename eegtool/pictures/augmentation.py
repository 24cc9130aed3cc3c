"""Augmentation of signals before they are drawn: what another night of the same sleeper could look like.

A sleeper's electrodes sit a little better or worse (amplitude), an epoch could begin a little earlier or
later (time), amplifiers hiss (noise), an electrode comes off (a lost channel). Nothing else is done: seen
backwards or upside down, K-complexes and slow waves are none any more, and frequencies tell stages apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from eegtool.core.stages import EPOCH_S
from eegtool.pictures.signals import EpochSignals, Neighbours, StoredNight
from eegtool.pictures.spec import Strip

_NOISE_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far the signals of an epoch may be changed; each is drawn for every picture again.

    Attributes
    ----------
    gain_db : float
        The amplitude of each channel is changed by up to so many dB, up or down (2 dB: by a quarter).
    shift_s : float
        The epoch begins up to so many seconds earlier or later, within its recording: what comes in
        at the edge is what was recorded there.
    noise_uv : float
        White noise of up to this standard deviation, and of up to a tenth of the channel's own (the chin
        at rest has a microvolt), is added to each channel. 1 µV at 100 Hz is -17 dB re 1 µV²/Hz, about
        where the beta band of deep sleep lies.
    lost : float
        How often one of several channels is flat.
    channel_dropout : float
        How often all channels of a montage but the EEG are missing, as in a recording that has nothing
        else; and where they are not, how often each channel is missing. One always stays.
    flip : bool
        Also turn every second epoch round in time, and every second channel upside down. No sleeper
        does that; for those who want to know what it costs.
    """

    gain_db: float = 2.0
    shift_s: float = 1.0
    noise_uv: float = 1.0
    lost: float = 0.05
    channel_dropout: float = 0.0
    flip: bool = False


def vary(
    night: StoredNight,
    onset_s: float,
    how: Augmentation,
    rng: np.random.Generator,
    context_epochs: int = 0,
    strips: Sequence[Strip] = (),
) -> tuple[EpochSignals, Neighbours]:
    """Return the signals of an epoch and its neighbours as they could have been.

    Parameters
    ----------
    night : StoredNight
        The whole recording.
    onset_s : float
        Where the epoch begins, in seconds from the first sample.
    how : Augmentation
        What may be done.
    rng : numpy.random.Generator
        Draws it.
    context_epochs : int
        How many neighbours on either side. What is changed in the epoch is changed in them.
    strips : sequence of Strip
        What the channels are, if they are a montage.

    Returns
    -------
    signals : list of (float [n_samples], float)
        Signal in µV and sampling rate in Hz of each channel.
    around : list of (signals or None)
        See `StoredNight.around`.
    """
    n = len(night.channels)
    lost = int(rng.integers(n)) if n > 1 and rng.random() < how.lost else None
    gains = [0.0 if i == lost else _gain(how, rng) for i in range(n)]
    dropped = _dropped(night, how.channel_dropout, strips, rng)
    backwards = how.flip and rng.random() < 0.5
    shift_s = rng.uniform(-how.shift_s, how.shift_s)
    last_s = max(night.duration_s - EPOCH_S, 0.0)

    def changed(at_s: float) -> EpochSignals:
        epoch: EpochSignals = []
        cut = night.cut_uv(min(max(at_s + shift_s, 0.0), last_s))
        for i, ((epoch_uv, sfreq_hz), gain) in enumerate(zip(cut, gains, strict=True)):
            if i in dropped or not len(epoch_uv):
                epoch.append((epoch_uv[:0], sfreq_hz))
                continue
            most_uv = min(how.noise_uv, _NOISE_SHARE * float(epoch_uv.std()))
            noise_uv = rng.standard_normal(len(epoch_uv), np.float32) * rng.uniform(0, most_uv)
            varied_uv = epoch_uv * gain + (noise_uv if i != lost else 0.0)
            epoch.append((varied_uv[::-1] if backwards else varied_uv, sfreq_hz))
        return epoch

    signals = changed(onset_s)
    around = [
        None if at is None else changed(at) for at in night.onsets_around(onset_s, context_epochs)
    ]
    return signals, around[::-1] if backwards else around


def _dropped(
    night: StoredNight, share: float, strips: Sequence[Strip], rng: np.random.Generator
) -> set[int]:
    """Draw which channels are missing, of those that are there."""
    present = [i for i, channel in enumerate(night.channels) if len(channel.samples)]
    if not share:
        return set()
    others = {i for i in present if strips and strips[i].kind != "eeg"}
    if rng.random() < share and 0 < len(others) < len(present):
        return others
    dropped = {i for i in present if rng.random() < share}
    return dropped - {int(rng.choice(present))} if len(dropped) == len(present) else dropped


def _gain(how: Augmentation, rng: np.random.Generator) -> float:
    """Draw by how much a channel is stronger; negative where it is turned upside down."""
    gain = float(10 ** (rng.uniform(-how.gain_db, how.gain_db) / 20))
    return -gain if how.flip and rng.random() < 0.5 else gain
