"""Simulated EEG of single epochs: background noise and the graphic elements of each sleep stage.

All functions are pure and work on many epochs at a time. An epoch is made as a *frame* of
`FRAME_SAMPLES`: its 30 s in the middle, and a margin on both sides for the crossfade to its neighbours.

Every band of a frame gets exactly the power that is asked for. Graphic elements (spindles, slow waves,
blinks, ...) are drawn in the time domain and may spend a share of it; the background fills the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from eegtool.core.stages import DROPPED, EPOCH_S, STAGES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SFREQ_HZ: Final = 100
MARGIN_S: Final = 1
FRAME_SAMPLES: Final = (EPOCH_S + 2 * MARGIN_S) * SFREQ_HZ
_EPOCH_SAMPLES: Final = EPOCH_S * SFREQ_HZ
_FADE_SAMPLES: Final = MARGIN_S * SFREQ_HZ
_BLOCK: Final = 128  # epochs made at a time: a block stays in the processor's cache
BANDS_HZ: Final = ((0.5, 4.0), (4.0, 8.0), (8.0, 13.0), (13.0, 30.0), (30.0, 50.0))
"""Delta, theta, alpha, beta, gamma: the bands of the calibration."""

_FREQS_HZ: Final = np.fft.rfftfreq(FRAME_SAMPLES, 1 / SFREQ_HZ)
_BAND_STARTS: Final = np.searchsorted(_FREQS_HZ, [low for low, _ in BANDS_HZ])
_BAND_BINS: Final = np.diff(np.append(_BAND_STARTS, len(_FREQS_HZ)))
_TIME_S: Final = np.arange(FRAME_SAMPLES) / SFREQ_HZ


@dataclass(frozen=True, slots=True)
class Traits:
    """What differs between sleepers beyond band powers: frequency of their rhythms."""

    alpha_hz: float
    spindle_hz: float

    @classmethod
    def draw(cls, rng: Generator) -> Traits:
        """Draw the traits of one simulated sleeper."""
        return cls(rng.uniform(9.0, 10.5), rng.uniform(12.7, 13.4))


@dataclass(frozen=True, slots=True)
class Element:
    """One kind of graphic element in a number of frames.

    Attributes
    ----------
    wave_uv : ndarray, (n_frames, FRAME_SAMPLES)
        The waves at their largest plausible amplitude; zero where there are none.
    share : ndarray, (2, 5)
        Part of the power of each channel and band that the element may spend. An element is made
        smaller, never larger, until no band overspends.
    """

    wave_uv: Floats
    share: Floats


def simulate_frames(psd_uv2_per_hz: Floats, stage: str, traits: Traits, rng: Generator) -> Floats:
    """Simulate the frames of some epochs of one stage.

    Parameters
    ----------
    psd_uv2_per_hz : ndarray, (n_epochs, n_channels, n_bands)
        Mean power spectral density in each of `BANDS_HZ`.
    stage : str
        An AASM stage; anything else gives background only.

    Returns
    -------
    ndarray, (n_epochs, n_channels, FRAME_SAMPLES)
        Signal in µV.
    """
    drawn = np.zeros((*psd_uv2_per_hz.shape[:2], len(_FREQS_HZ)), dtype=complex)
    elements = _ELEMENTS[stage](len(psd_uv2_per_hz), traits, rng) if stage in _ELEMENTS else []
    for element in elements:
        spectrum = np.fft.rfft(element.wave_uv * _EDGES)[:, None] * _LOW_CUT
        allowed = element.share * psd_uv2_per_hz
        spent = np.maximum(_band_means(_power(spectrum)), 1e-12)
        drawn += spectrum * np.sqrt(np.minimum((allowed / spent).min(axis=-1), 1.0))[..., None]
    noise = _background(psd_uv2_per_hz, stage, traits, rng)
    spectrum = drawn + noise * _per_bin(_background_gain(psd_uv2_per_hz, drawn, noise))
    return np.fft.irfft(spectrum, FRAME_SAMPLES)


def crossfaded(
    stages: NDArray[np.str_], n_channels: int, frames_of: Callable[[str, NDArray[np.intp]], Floats]
) -> Floats:
    """Join the frames of all epochs of a night.

    Parameters
    ----------
    stages : ndarray of str, (n_epochs,)
        Epochs of one stage are made together, block by block.
    n_channels : int
        Of the signal.
    frames_of : callable
        Stage and indices of some epochs → (n, n_channels, FRAME_SAMPLES).

    Returns
    -------
    ndarray, (n_channels, n_samples)
        At `SFREQ_HZ`, from the beginning of the first to the end of the last epoch.
    """
    n_epochs = len(stages)
    # One epoch more than there are: every frame reaches half a fade into both its neighbours.
    night = np.zeros((n_channels, n_epochs + 1, _EPOCH_SAMPLES))
    fade = _fade()
    trim = (FRAME_SAMPLES - len(fade)) // 2
    for stage in [s for s in (*STAGES, *DROPPED) if s in stages]:
        of_stage = np.flatnonzero(stages == stage)
        for block in np.split(of_stage, range(_BLOCK, len(of_stage), _BLOCK)):
            frames = frames_of(stage, block)
            faded = (frames[..., trim : trim + len(fade)] * fade).swapaxes(0, 1)
            night[:, block] += faded[..., :_EPOCH_SAMPLES]
            night[:, block + 1, :_FADE_SAMPLES] += faded[..., _EPOCH_SAMPLES:]
    first = _FADE_SAMPLES // 2
    return night.reshape(n_channels, -1)[:, first : first + n_epochs * _EPOCH_SAMPLES]


def _fade() -> Floats:
    """Window of a frame: rises and falls within one fade, so that powers of neighbours add up to one."""
    rise = np.sin(np.pi / 2 * (np.arange(_FADE_SAMPLES) + 0.5) / _FADE_SAMPLES)
    return np.concatenate([rise, np.ones(_EPOCH_SAMPLES - _FADE_SAMPLES), rise[::-1]])


# --- background -------------------------------------------------------------------------------------


def _background(psd: Floats, stage: str, traits: Traits, rng: Generator) -> NDArray[np.complex128]:
    """Coloured noise: log-log lines through the band powers, with the rhythm of the stage on top."""
    shape = np.exp(0.5 * np.log(np.maximum(psd, 1e-9)) @ _INTERPOLATION) * _LOW_CUT
    if stage in _RHYTHMS:
        centre_hz, width_hz, strength = _RHYTHMS[stage](traits)
        # The strength varies from epoch to epoch: nobody has alpha in every epoch of wake.
        strengths = strength * rng.uniform(0.2, 1.0, size=(len(psd), 1, 1))
        shape *= 1 + strengths * np.exp(-0.5 * ((_FREQS_HZ - centre_hz) / width_hz) ** 2)
    n_epochs, n_channels, n_freqs = shape.shape
    parts = rng.standard_normal((n_epochs, n_channels + 1, n_freqs, 2)).view(complex)[..., 0]
    # Derivations of one head are alike: the last noise is common to all channels.
    return shape * (parts[:, :-1] + 0.7 * parts[:, -1:])


def _background_gain(
    psd: Floats, drawn: NDArray[np.complex128], noise: NDArray[np.complex128]
) -> Floats:
    """Gain g per band with which ``drawn + g * noise`` has exactly the power `psd`."""
    square = _band_means(_power(noise))
    cross = _band_means(2 * (drawn.conj() * noise).real / (SFREQ_HZ * FRAME_SAMPLES))
    missing = np.maximum(psd - _band_means(_power(drawn)), 0.02 * psd)
    return (np.sqrt(cross**2 + square * missing) - cross) / square


def _power(spectrum: NDArray[np.complex128]) -> Floats:
    """One-sided power spectral density in µV²/Hz of a spectrum by ``rfft``."""
    return 2 * (spectrum.real**2 + spectrum.imag**2) / (SFREQ_HZ * FRAME_SAMPLES)


def _band_means(density: Floats) -> Floats:
    return np.add.reduceat(density, _BAND_STARTS, axis=-1) / _BAND_BINS


def _per_bin(per_band: Floats) -> Floats:
    below = per_band[..., :1].repeat(_BAND_STARTS[0], axis=-1)
    return np.concatenate([below, np.repeat(per_band, _BAND_BINS, axis=-1)], axis=-1)


def _interpolation() -> Floats:
    """Matrix (n_bands, n_freqs) that draws lines through band values over log frequency."""
    centres = np.log([np.sqrt(low * high) for low, high in BANDS_HZ])
    log_freqs = np.log(np.clip(_FREQS_HZ, BANDS_HZ[0][0], BANDS_HZ[-1][1]))
    segment = np.clip(np.searchsorted(centres, log_freqs) - 1, 0, len(centres) - 2)
    right = (log_freqs - centres[segment]) / np.diff(centres)[segment]
    matrix = np.zeros((len(centres), len(_FREQS_HZ)))
    bins = np.arange(len(_FREQS_HZ))
    matrix[segment, bins] = 1 - right
    matrix[segment + 1, bins] = right
    return matrix


_INTERPOLATION: Final = _interpolation()
_LOW_CUT: Final = np.minimum(_FREQS_HZ / BANDS_HZ[0][0], 1.0) ** 2  # the recorder's high-pass
_EDGES: Final = np.sin(
    np.pi / 2 * np.clip(np.minimum(_TIME_S, _TIME_S[::-1]) / (MARGIN_S / 2), 0.0, 1.0)
)

# Centre and width in Hz, and height over the noise around it.
_RHYTHMS: Final[dict[str, Callable[[Traits], tuple[float, float, float]]]] = {
    "W": lambda traits: (traits.alpha_hz, 0.5, 5.0),
    "N1": lambda _: (5.5, 0.8, 1.0),
    "REM": lambda _: (5.0, 0.8, 0.8),
}


# --- graphic elements -------------------------------------------------------------------------------


class Events(NamedTuple):
    """When something happens: in which of `n_frames` frames, and how many seconds after its start."""

    n_frames: int
    frames: Ints
    at_s: Floats

    @classmethod
    def draw(cls, rng: Generator, n_frames: int, per_epoch: float) -> Events:
        """Draw events, Poisson in number, apart from each other."""
        counts = np.minimum(rng.poisson(per_epoch, n_frames), 12)
        frames = np.repeat(np.arange(n_frames), counts)
        slot = np.arange(len(frames)) - np.repeat(np.cumsum(counts) - counts, counts)
        slot_s = EPOCH_S / counts[frames]
        at_s = MARGIN_S + slot_s * (slot + rng.uniform(0.1, 0.9, len(frames)))
        return cls(n_frames, frames, at_s)

    def place(self, snippets: Floats) -> Floats:
        """Add snippets, (n_events, n_samples), around the events; what leaves its frame is lost."""
        length = snippets.shape[1]
        start = np.rint(self.at_s * SFREQ_HZ).astype(int)[:, None] - length // 2
        sample = start + np.arange(length)
        inside = (sample >= 0) & (sample < FRAME_SAMPLES)
        flat = (self.frames[:, None] * FRAME_SAMPLES + sample)[inside]
        summed = np.bincount(flat, snippets[inside], minlength=self.n_frames * FRAME_SAMPLES)
        return summed.astype(float).reshape(self.n_frames, FRAME_SAMPLES)


def around_s(seconds: float) -> Floats:
    """Times from so many seconds before to as many after an event."""
    return np.arange(-seconds, seconds, 1 / SFREQ_HZ)


def bump(time_s: Floats, centre_s: Floats, width_s: Floats) -> Floats:
    """Gaussian curves of height 1, (n_events, n_samples)."""
    return np.exp(-0.5 * ((time_s - centre_s[:, None]) / width_s[:, None]) ** 2)


def wander(rng: Generator, n_frames: int, step_s: float) -> Floats:
    """Smooth random curves of about unit variance that change over `step_s`, (n_frames, samples)."""
    knots_s = np.arange(0.0, _TIME_S[-1] + 2 * step_s, step_s)
    distance = np.clip(np.abs(_TIME_S - knots_s[:, None]) / step_s, 0.0, 1.0)
    return rng.standard_normal((n_frames, len(knots_s))) @ (0.5 + 0.5 * np.cos(np.pi * distance))


def wandering_phase(rng: Generator, n_frames: int, low_hz: float, high_hz: float) -> Floats:
    """Phase of an oscillation whose frequency wanders between two limits."""
    hz = low_hz + (high_hz - low_hz) / (1 + np.exp(-1.5 * wander(rng, n_frames, 1.5)))
    start = rng.uniform(0, 2 * np.pi, (n_frames, 1))
    return start + 2 * np.pi * np.cumsum(hz, axis=1) / SFREQ_HZ


def spindles_uv(rng: Generator, events: Events, centre_hz: float) -> Floats:
    """Sleep spindles: 0.5-1.5 s around 13 Hz, waxing and waning, slowing a little."""
    count = len(events.frames)
    width_s = rng.uniform(0.16, 0.34, count)
    hz = centre_hz + rng.normal(0, 0.25, count)
    peak_uv = rng.uniform(18, 30, count)
    time_s = around_s(1.5)
    phase = 2 * np.pi * (hz[:, None] * time_s - 0.25 * time_s**2)
    carrier = np.sin(phase + rng.uniform(0, 2 * np.pi, (count, 1)))
    envelope = peak_uv[:, None] * bump(time_s, np.zeros(count), width_s)
    return events.place(envelope * carrier)


def biphasic_uv(rng: Generator, events: Events, *, peak_uv: float, speed: float = 1.0) -> Floats:
    """K-complexes: a sharp negative wave, then a slower positive one. `speed` > 1: vertex waves."""
    count = len(events.frames)
    time_s = around_s(1.5) * speed
    sharp = bump(time_s, np.zeros(count), rng.uniform(0.08, 0.11, count))
    slow = bump(time_s, rng.uniform(0.36, 0.48, count), rng.uniform(0.16, 0.22, count))
    size_uv = peak_uv * rng.uniform(0.6, 1.0, (count, 1))
    return events.place(size_uv * (0.65 * slow - sharp))


def eye_waves_uv(rng: Generator, events: Events, *, peak_uv: float, width_s: float) -> Floats:
    """Blinks and rapid eye movements as a frontal electrode sees them."""
    count = len(events.frames)
    time_s = around_s(1.5)
    first = bump(time_s, np.zeros(count), width_s * rng.uniform(0.8, 1.2, count))
    back = bump(time_s, np.full(count, 3.5 * width_s), np.full(count, 1.6 * width_s))
    return events.place(peak_uv * (first - 0.35 * back))


def slow_waves_uv(rng: Generator, n_frames: int) -> Floats:
    """Slow waves of 0.5-1.4 Hz with sharp negative and broad positive halves, swelling and ebbing."""
    wave = 1.27 - np.exp(np.cos(wandering_phase(rng, n_frames, 0.5, 1.4)))
    swell = np.exp(0.55 * wander(rng, n_frames, 2.5))
    return 90.0 * wave * swell


def sawtooth_uv(rng: Generator, n_frames: int) -> Floats:
    """Runs of notched 2-4 Hz waves, a few seconds each; some frames have none."""
    phase = wandering_phase(rng, n_frames, 2.2, 3.6)
    runs = np.clip(wander(rng, n_frames, 3.0) - 0.8, 0.0, 1.0)
    return 40.0 * np.sin(phase + 0.55 * np.sin(phase)) * runs


def _wake(n_frames: int, traits: Traits, rng: Generator) -> list[Element]:
    blinks = eye_waves_uv(rng, Events.draw(rng, n_frames, 3.0), peak_uv=120.0, width_s=0.09)
    return [Element(blinks, np.array([(0.6, 0.5, 0.4, 0.4, 0.4), (0.03, 0.03, 0.03, 0.03, 0.03)]))]


def _n1(n_frames: int, traits: Traits, rng: Generator) -> list[Element]:
    vertex = biphasic_uv(rng, Events.draw(rng, n_frames, 0.7), peak_uv=60.0, speed=1.8)
    return [Element(vertex, np.array([(0.4, 0.4, 0.4, 0.4, 0.4), (0.2, 0.2, 0.2, 0.2, 0.2)]))]


def _n2(n_frames: int, traits: Traits, rng: Generator) -> list[Element]:
    complexes = Events.draw(rng, n_frames, 0.8)
    k_complexes = biphasic_uv(rng, complexes, peak_uv=110.0)
    alone = Events.draw(rng, n_frames, 1.6)
    followed = (
        rng.random(len(complexes.at_s)) < 0.4
    )  # a spindle often rides on the end of a K-complex
    frames = np.concatenate([alone.frames, complexes.frames[followed]])
    at_s = np.concatenate([alone.at_s, complexes.at_s[followed] + 0.9])
    spindles = spindles_uv(rng, Events(n_frames, frames, at_s), traits.spindle_hz)
    return [
        Element(spindles, np.array([(0.1, 0.3, 0.6, 0.75, 0.3), (0.1, 0.3, 0.55, 0.75, 0.3)])),
        Element(k_complexes, np.array([(0.7, 0.6, 0.3, 0.2, 0.3), (0.5, 0.4, 0.3, 0.2, 0.3)])),
    ]


def _n3(n_frames: int, traits: Traits, rng: Generator) -> list[Element]:
    spindles = spindles_uv(rng, Events.draw(rng, n_frames, 0.5), traits.spindle_hz)
    return [
        Element(slow_waves_uv(rng, n_frames), np.tile((0.85, 0.7, 0.4, 0.4, 0.4), (2, 1))),
        Element(spindles, np.tile((0.05, 0.2, 0.4, 0.5, 0.4), (2, 1))),
    ]


def _rem(n_frames: int, traits: Traits, rng: Generator) -> list[Element]:
    saccades = eye_waves_uv(rng, Events.draw(rng, n_frames, 2.0), peak_uv=45.0, width_s=0.12)
    return [
        Element(saccades, np.array([(0.4, 0.3, 0.4, 0.4, 0.4), (0.02, 0.02, 0.02, 0.02, 0.02)])),
        Element(sawtooth_uv(rng, n_frames), np.tile((0.35, 0.4, 0.3, 0.3, 0.3), (2, 1))),
    ]


_ELEMENTS: Final[dict[str, Callable[[int, Traits, Generator], list[Element]]]] = {
    "W": _wake,
    "N1": _n1,
    "N2": _n2,
    "N3": _n3,
    "REM": _rem,
}
