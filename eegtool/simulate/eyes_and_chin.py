"""Simulated eyes and chin beside a simulated EEG: drawn by the true stage, so easier to read than real ones.

Eyes move together: what lifts one electrode beside the eyes lowers the other, while the EEG that reaches
both has the same sign in both (AASM Manual, recommended EOG derivations). Nothing here was measured on
anybody; rates and amplitudes are chosen so that the elements look as the AASM Manual describes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.random import Generator
from scipy.ndimage import uniform_filter1d

from eegtool.core.stages import EPOCH_S
from eegtool.simulate.waveforms import (
    FRAME_SAMPLES,
    SFREQ_HZ,
    Events,
    Floats,
    around_s,
    bump,
    crossfaded,
    eye_waves_uv,
    wander,
    wandering_phase,
)

CHANNELS: Final = ("EOG E1-M2", "EOG E2-M2", "EMG chin")

_LEAK: Final = 0.4  # of the frontal EEG that reaches the electrodes beside the eyes
_NOISE_UV: Final = 2.0
_SACCADE_RISE_S: Final = 0.06  # within the half second that makes a movement rapid (AASM Manual)
_SACCADE_FALL_S: Final = 0.53  # of a 0.3-Hz high-pass
_CHIN_UV: Final = {"W": 14.0, "N1": 8.0, "N2": 5.0, "N3": 4.0, "REM": 1.2}
_TONE_STEP_S: Final = 3.0


def simulate_eyes_and_chin(stages: Sequence[str], frontal_uv: Floats, rng: Generator) -> Floats:
    """Simulate both EOG channels and the chin EMG of a night.

    Parameters
    ----------
    stages : sequence of str
        Of each epoch; in what is no stage, eyes and chin do as in wake.
    frontal_uv : ndarray, (n_samples,)
        The EEG that reaches the eyes.
    rng : numpy.random.Generator
        Draws everything.

    Returns
    -------
    ndarray, (3, n_samples)
        `CHANNELS` in µV at `waveforms.SFREQ_HZ`.
    """
    as_staged = np.array([stage if stage in _CHIN_UV else "W" for stage in stages])
    moving_uv = crossfaded(
        as_staged, 1, lambda stage, epochs: _EYES[stage](len(epochs), rng)[:, None]
    )[0]
    noise_uv = _NOISE_UV * rng.standard_normal((2, len(frontal_uv)))
    shared_uv = _LEAK * frontal_uv
    chin_uv = _tone_uv(as_staged, rng) * rng.standard_normal(len(frontal_uv))
    return np.stack(
        [shared_uv + moving_uv + noise_uv[0], shared_uv - moving_uv + noise_uv[1], chin_uv]
    )


def _tone_uv(stages: np.ndarray, rng: Generator) -> Floats:
    """Root mean square of the chin over time: by stage, wavering, a second's passage between stages."""
    own = rng.lognormal(0.0, 0.25)  # electrodes and chins differ
    level = np.repeat(np.log([_CHIN_UV[stage] * own for stage in stages]), EPOCH_S * SFREQ_HZ)
    level = uniform_filter1d(level, 2 * SFREQ_HZ, mode="nearest")
    n = len(stages) * EPOCH_S
    wavering = np.interp(
        np.arange(len(level)) / SFREQ_HZ,
        np.arange(0, n + _TONE_STEP_S, _TONE_STEP_S),
        rng.normal(0.0, 0.2, int(n // _TONE_STEP_S) + 1),
    )
    bursts = np.zeros(len(level))
    per_epoch = np.array([{"W": 0.8, "REM": 0.5}.get(stage, 0.1) for stage in stages])
    for epoch, count in enumerate(rng.poisson(per_epoch)):
        for _ in range(count):
            at = round((epoch + rng.random()) * EPOCH_S * SFREQ_HZ)
            lasts_s = rng.uniform(0.1, 0.25) if stages[epoch] == "REM" else rng.uniform(0.5, 2.0)
            bursts[at : at + round(lasts_s * SFREQ_HZ)] = rng.uniform(0.7, 1.4)
    return np.exp(level + wavering + bursts)


def _saccades_uv(rng: Generator, n_frames: int, per_epoch: float, peak_uv: float) -> Floats:
    """Rapid eye movements: a quick deflection, to either side, that the high-pass lets fall again."""
    events = Events.draw(rng, n_frames, per_epoch)
    n = len(events.frames)
    time_s = around_s(1.5)
    rise = 1 / (1 + np.exp(-time_s / (_SACCADE_RISE_S / 4)))
    wave = rise * np.exp(-np.maximum(time_s, 0.0) / _SACCADE_FALL_S)
    size_uv = peak_uv * rng.uniform(0.4, 1.0, (n, 1)) * rng.choice([-1, 1], (n, 1))
    return events.place(size_uv * wave)


def _awake(n_frames: int, rng: Generator) -> Floats:
    """Blinks of open eyes, and looking around; some epochs with closed eyes have neither."""
    blinks = eye_waves_uv(rng, Events.draw(rng, n_frames, 4.0), peak_uv=160.0, width_s=0.09)
    open_eyes = rng.random((n_frames, 1)) < 0.8
    return (blinks + _saccades_uv(rng, n_frames, 2.0, 180.0)) * open_eyes


def _drowsy(n_frames: int, rng: Generator) -> Floats:
    """Slow eye movements: sinusoidal, the first deflection longer than half a second (AASM Manual)."""
    swell = np.clip(wander(rng, n_frames, 6.0) + 0.8, 0.0, 1.5)
    return 45.0 * swell * np.sin(wandering_phase(rng, n_frames, 0.15, 0.45))


def _asleep(n_frames: int, rng: Generator) -> Floats:
    return np.zeros((n_frames, FRAME_SAMPLES))


def _dreaming(n_frames: int, rng: Generator) -> Floats:
    """Rapid eye movements in bursts; every fifth epoch is tonic and has none."""
    moves = _saccades_uv(rng, n_frames, 8.0, 200.0)
    events = Events.draw(rng, n_frames, 2.0)
    n = len(events.frames)
    shape = bump(around_s(4.0), np.zeros(n), np.full(n, 1.5))
    bursts = np.clip(events.place(shape), 0.15, 1.0)
    return moves * bursts * (rng.random((n_frames, 1)) < 0.8)


_EYES: Final[dict[str, Callable[[int, Generator], Floats]]] = {
    "W": _awake,
    "N1": _drowsy,
    "N2": _asleep,
    "N3": _asleep,
    "REM": _dreaming,
}
