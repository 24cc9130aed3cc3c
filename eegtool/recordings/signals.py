"""Signals and epochs in plain numpy and scipy: check, filter, resample, trim, cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np
from scipy.signal import butter, filtfilt, iirnotch, resample_poly, sosfiltfilt

from eegtool.core.errors import EegToolError
from eegtool.core.stages import EPOCH_S, SLEEP_STAGES
from eegtool.recordings.montages import KINDS

UV_PER_UNIT: Final = {"uV": 1.0, "mV": 1e3, "V": 1e6}
"""Units that a file without a usable one may have meant."""

_SPELLINGS: Final = {
    # Folded: the micro sign is then the Greek letter, and what Shift-JIS writes ("\x83\xca") is in
    # lower case too.
    **dict.fromkeys(("uv", "μv", "\x83\xeav", "microv", "microvolt", "microvolts"), 1.0),
    **dict.fromkeys(("nv", "nanovolt", "nanovolts"), 1e-3),
    **dict.fromkeys(("mv", "millivolt", "millivolts"), 1e3),
    **dict.fromkeys(("v", "volt", "volts"), 1e6),
}


_WINDOW_S: Final = 4.0
_MAX_WINDOWS: Final = 1000
FLAT_UV: Final = 1.0
"""Peak to peak below which a second of signal shows an electrode that is off, as in MNE's tutorial on
rejecting epochs (``flat=dict(eeg=1e-6)``, in volts)."""

_STUCK: Final = 0.5  # share of samples at the rails from which on a signal is refused ...
_CLIPPED: Final = 0.01  # ... and, of these or of flat windows, from which on the user is told
_NOTCH_QUALITY: Final = 30.0  # 50 Hz: a notch 1.7 Hz wide
_LARGEST_DENOMINATOR: Final = 1000  # of a sampling rate in Hz: 199.9 and 256.017 are exact


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


def check_rate(sfreq_hz: float, kind: str = "eeg") -> None:
    """Refuse a channel that is sampled too slowly to hold what tells stages apart.

    Raises
    ------
    EegToolError
        If the rate is below that of its kind (see `montages.KINDS`).
    """
    least_hz = KINDS[kind].min_sfreq_hz
    if not sfreq_hz >= least_hz:
        shown = "the rhythms of sleep" if kind == "eeg" else "eye movements"
        raise EegToolError(
            f"The signal is sampled at {sfreq_hz:g} Hz: too slow to hold {shown}, so no {kind.upper()}.",
            f"Choose a channel of at least {least_hz:g} Hz with --channel.",
        )


def amplitude(data: np.ndarray, sfreq_hz: float) -> float:
    """Measure the amplitude of a signal by quartiles, whatever its drifts and artefacts.

    Returns
    -------
    float
        Median over windows of 4 s of the range between the quartiles, in the unit of `data`;
        sleep EEG has 5 to 150 µV.
    """
    lower, upper = np.percentile(_windows(data, sfreq_hz), (25, 75), axis=1)
    return float(np.median(upper - lower))


def check_amplitude(data_uv: np.ndarray, sfreq_hz: float, kind: str = "eeg") -> str:
    """Refuse a signal that is flat, saturated, or of a size that none of its kind has.

    Parameters
    ----------
    data_uv : float [n_samples]
        Signal in µV.
    sfreq_hz : float
        Sampling rate.
    kind : str
        One of `montages.KINDS`.

    Returns
    -------
    str
        A note where a part of the signal is clipped, else empty.

    Raises
    ------
    EegToolError
        If samples are no numbers, the signal is flat or at its limits for most of the time, or its
        `amplitude` is not possible.
    """
    amplitude_uv, clipped = _check_shape(data_uv, sfreq_hz, kind)
    least_uv, most_uv = KINDS[kind].possible_uv
    if not least_uv <= amplitude_uv <= most_uv:
        raise _not_of(kind, amplitude_uv)
    return clipped


def microvolts(
    data: np.ndarray, unit: str, sfreq_hz: float, kind: str = "eeg"
) -> tuple[float, str]:
    """Find out what turns the numbers of a file into µV.

    A known unit counts, unless the signal would then be impossibly small or large and is one of its kind
    in another unit. Without a known unit, the one that makes it such a signal counts.

    Parameters
    ----------
    data : float [n_samples]
        Signal in the unit of the file.
    unit : str
        That unit as the file spells it; may be empty.
    sfreq_hz : float
        Sampling rate.
    kind : str
        One of `montages.KINDS`.

    Returns
    -------
    tuple of float and str
        Factor to µV, and a note where it is not what the file says or the signal is clipped.

    Raises
    ------
    EegToolError
        As in `check_amplitude`; also if no unit makes it such a signal.
    """
    size, clipped = _check_shape(data, sfreq_hz, kind)
    (possible_uv, most_uv), (low_uv, high_uv) = KINDS[kind].possible_uv, KINDS[kind].plausible_uv
    labelled = _SPELLINGS.get(unit.strip().casefold())
    if labelled and possible_uv <= size * labelled < high_uv:
        return labelled, clipped
    said = f"its unit '{unit}'" if unit.strip() else "the missing unit"
    for guess, factor in UV_PER_UNIT.items():
        if low_uv <= size * factor < high_uv:
            note = (
                f"{said} was read as {guess}, which gives an amplitude of {size * factor:.3g} µV."
            )
            return factor, " ".join(filter(None, (note, clipped)))
    if labelled and possible_uv <= size * labelled <= most_uv:
        return labelled, clipped
    if labelled:
        raise _not_of(kind, size * labelled)
    raise EegToolError(
        f"The unit is {repr(unit) if unit.strip() else 'missing'}, and none makes the signal an {kind.upper()}: "
        f"its amplitude is {size:.3g}.",
        "Look at the channel, and write the right unit into the header (EDFbrowser does that).",
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


def notch(data_uv: np.ndarray, sfreq_hz: float, notch_hz: float) -> np.ndarray:
    """Take one frequency out of a whole recording, such as that of the mains, without phase shift.

    Parameters
    ----------
    data_uv : float [n_samples]
        Signal in µV.
    sfreq_hz : float
        Sampling rate.
    notch_hz : float
        Frequency; the notch is a thirtieth of it wide.

    Raises
    ------
    EegToolError
        If the frequency is not below half the sampling rate.
    """
    if not 0 < notch_hz < sfreq_hz / 2:
        raise EegToolError(
            f"--notch-hz {notch_hz:g} does not fit a channel sampled at {sfreq_hz:g} Hz.",
            f"It must be below half the sampling rate, {sfreq_hz / 2:g} Hz; leave it out otherwise.",
        )
    return np.asarray(filtfilt(*iirnotch(notch_hz, _NOTCH_QUALITY, fs=sfreq_hz), data_uv))


def resample(data_uv: np.ndarray, sfreq_hz: float, to_hz: float) -> np.ndarray:
    """Resample a whole recording by the exact ratio of both rates.

    Parameters
    ----------
    data_uv : float [n_samples]
        Signal in µV.
    sfreq_hz, to_hz : float
        Sampling rates before and after. A filter keeps what would fold over from above half the
        lower rate.

    Raises
    ------
    EegToolError
        If the new rate is not positive.
    """
    if not to_hz > 0:
        raise EegToolError(f"--resample-hz {to_hz:g} is no sampling rate.", "Give one in Hz.")
    ratio = _exact(to_hz) / _exact(sfreq_hz)
    return np.asarray(resample_poly(data_uv, ratio.numerator, ratio.denominator))


def trim_wake(stages: Sequence[str], margin_min: float) -> range:
    """Return the epochs from `margin_min` minutes before the first to as much after the last sleep.

    Trimming comes first, dropping unscored epochs comes second: the margin is real time.
    """
    asleep = [i for i, stage in enumerate(stages) if stage in SLEEP_STAGES]
    if not asleep:
        return range(0)
    margin = int(margin_min * 60 // EPOCH_S)
    return range(max(asleep[0] - margin, 0), min(asleep[-1] + margin + 1, len(stages)))


def whole_epochs(n_samples: float, sfreq_hz: float, first_onset_s: float = 0.0) -> int:
    """Return how many whole epochs a signal holds from `first_onset_s` on."""
    # A millisecond more: the length of a whole night may fall short by a rounding error.
    return max(int((n_samples / sfreq_hz - first_onset_s + 1e-3) // EPOCH_S), 0)


def cut_epoch(data_uv: np.ndarray, sfreq_hz: float, onset_s: float) -> np.ndarray:
    """Return the epoch that begins at `onset_s`, float [n_samples].

    Its start is rounded to the nearest sample; all epochs are of the same length.
    """
    n = round(EPOCH_S * sfreq_hz)
    start = round(onset_s * sfreq_hz)
    if start + n == len(data_uv) + 1:  # both were rounded up, at the very end
        start -= 1
    return data_uv[start : start + n]


def why_no_eeg(epoch_uv: np.ndarray, sfreq_hz: float, limits_uv: tuple[float, float]) -> str:
    """Say why an epoch cannot be staged: its electrode was off, or the amplifier at its limits.

    Parameters
    ----------
    epoch_uv : float [n_samples]
        One epoch, not yet filtered, in µV.
    sfreq_hz : float
        Sampling rate.
    limits_uv : tuple of float
        Lowest and highest value of the whole recording.

    Returns
    -------
    str
        ``"flat"`` (half of its seconds have a peak-to-peak amplitude below `FLAT_UV`), ``"saturated"`` (more than half
        of its samples are at the limits) or ``"too large for EEG"``; empty where it can be.
    """
    width = round(sfreq_hz)
    seconds = epoch_uv[: len(epoch_uv) // width * width].reshape(-1, width)
    if np.mean(np.ptp(seconds, axis=1) < FLAT_UV) >= 0.5:
        return "flat"
    if np.mean((epoch_uv <= limits_uv[0]) | (epoch_uv >= limits_uv[1])) > _STUCK:
        return "saturated"
    largest_uv = KINDS["eeg"].plausible_uv[1]
    return "too large for EEG" if amplitude(epoch_uv, sfreq_hz) > largest_uv else ""


def _exact(sfreq_hz: float) -> Fraction:
    return Fraction(sfreq_hz).limit_denominator(_LARGEST_DENOMINATOR)


def _windows(data: np.ndarray, sfreq_hz: float) -> np.ndarray:
    """Return windows of 4 s spread over a signal, float [n_windows, n_samples]: enough to judge it by."""
    width = min(max(round(_WINDOW_S * sfreq_hz), 2), len(data))
    n = len(data) // width
    return data[: n * width].reshape(n, width)[:: math.ceil(n / _MAX_WINDOWS)]


def _check_shape(data: np.ndarray, sfreq_hz: float, kind: str) -> tuple[float, str]:
    """Refuse what is no signal in whatever unit; return its amplitude, and a note if a part is clipped or flat."""
    if not math.isfinite(float(np.sum(data))):
        raise EegToolError(
            "Some samples are no numbers.", "Export the recording again, without gaps."
        )
    windows = _windows(data, sfreq_hz)
    low, high = windows.min(), windows.max()
    # Any signal has a lowest and a highest value: of short ones at 1 Hz they are a share.
    stuck = float(np.mean((windows == low) | (windows == high))) - 2 / windows.size
    if stuck > _STUCK and low < high:
        raise EegToolError(
            f"The signal is saturated: {stuck:.0%} of all samples are at the lowest or highest value.",
            "The amplifier was overdriven, or nothing connected; choose another with --channel.",
        )
    # What is sampled too slowly for its band is a level: its amplitude is its size.
    is_level = sfreq_hz < 2 * KINDS[kind].band_hz[0]
    size = float(np.median(np.abs(windows))) if is_level else amplitude(data, sfreq_hz)
    if size == 0 or low == high:
        raise EegToolError(
            "The signal is flat for most of the time.",
            "Nothing was connected; choose another with --channel.",
        )
    flat = 0.0 if is_level else float(np.mean(np.ptp(windows, axis=1) == 0))
    notes = [f"it is flat for {flat:.0%} of the time."] if flat > _CLIPPED else []
    if stuck - flat > _CLIPPED:
        notes.append(f"it is clipped for {stuck:.0%} of the time.")
    return size, " ".join(notes)


def _not_of(kind: str, amplitude_uv: float) -> EegToolError:
    return EegToolError(
        f"The amplitude of the signal is {amplitude_uv:.3g} µV: it is not {kind.upper()}.",
        "Look at the channel and at the unit in the header of the file.",
    )
