"""Signals and epochs in plain numpy and scipy: filter, trim, cut."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.signal import butter, sosfiltfilt

from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S, SLEEP_STAGES


def check_band(low_hz: float, high_hz: float, sfreq_hz: float = math.inf) -> None:
    """Refuse edges out of order, or an upper one that is not below half the sampling rate.

    Raises
    ------
    EegToolError
        Naming the flags.
    """
    if not low_hz < high_hz:
        raise EegToolError(
            f"--low-hz {low_hz:g} is not below --high-hz {high_hz:g}.", "Give the lower edge first."
        )
    if not high_hz < sfreq_hz / 2:
        raise EegToolError(
            f"--high-hz {high_hz:g} does not fit a channel sampled at {sfreq_hz:g} Hz.",
            f"It must be below half the sampling rate, {sfreq_hz / 2:g} Hz.",
        )


def check_amplitude(data_uv: np.ndarray) -> None:
    """Refuse a signal that cannot be EEG: a channel that was not connected, or another unit.

    Raises
    ------
    EegToolError
        If the standard deviation is outside 0.1 µV to 10 mV; sleep EEG has 10 to 100 µV.
    """
    spread_uv = float(np.std(data_uv))
    if not 0.1 <= spread_uv <= 1e4:
        raise EegToolError(
            f"The signal has a standard deviation of {spread_uv:.3g} µV: it is not EEG.",
            "Look at the channel and at the unit in the header of the file.",
        )


def band_pass(data_uv: np.ndarray, sfreq_hz: float, low_hz: float, high_hz: float) -> np.ndarray:
    """Filter a whole recording, without phase shift.

    A Butterworth filter of order 4 runs forwards and backwards. 0.3-35 Hz are the EEG settings of
    the AASM Manual.

    Parameters
    ----------
    data_uv : float [n_samples]
        Signal in µV.
    sfreq_hz : float
        Sampling rate.
    low_hz, high_hz : float
        Edges; ``low_hz`` 0 leaves the low end as it is.

    Raises
    ------
    EegToolError
        See `check_band`.
    """
    check_band(low_hz, high_hz, sfreq_hz)
    band = (low_hz, high_hz) if low_hz > 0 else high_hz
    sos = butter(4, band, "bandpass" if low_hz > 0 else "lowpass", fs=sfreq_hz, output="sos")
    return np.asarray(sosfiltfilt(sos, data_uv))


def trim_wake(stages: Sequence[str], margin_min: float) -> range:
    """Return the epochs from `margin_min` minutes before the first to as much after the last sleep.

    Trimming comes first, dropping unscored epochs comes second: the margin is real time.
    """
    asleep = [i for i, stage in enumerate(stages) if stage in SLEEP_STAGES]
    if not asleep:
        return range(0)
    margin = int(margin_min * 60 // EPOCH_S)
    return range(max(asleep[0] - margin, 0), min(asleep[-1] + margin + 1, len(stages)))


def whole_epochs(n_samples: int, sfreq_hz: float) -> int:
    """Return how many whole epochs a signal holds."""
    # Half a sample more: the length of a whole night may fall short by a rounding error.
    return int((n_samples + 0.5) / sfreq_hz // EPOCH_S)


def cut_epoch(data_uv: np.ndarray, sfreq_hz: float, epoch_index: int) -> np.ndarray:
    """Return one epoch, float [n_samples]; its start is rounded to the nearest sample."""
    start = round(epoch_index * EPOCH_S * sfreq_hz)
    return data_uv[start : start + round(EPOCH_S * sfreq_hz)]
