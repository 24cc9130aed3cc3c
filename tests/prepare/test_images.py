from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from eegtool.prepare.images import STYLES, draw_png
from eegtool.prepare.images.spec import PictureSpec
from eegtool.prepare.images.spectrogram import MAX_HZ

SFREQ_HZ = 100.0
SPEC = PictureSpec(336)
RANGE_DB = 47.0  # of the spectrogram's intensities


def noise_uv(spread_uv: float = 10.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, spread_uv, round(30 * SFREQ_HZ))


def rhythm_uv(hz: float, amplitude_uv: float, sfreq_hz: float = SFREQ_HZ) -> np.ndarray:
    return amplitude_uv * np.sin(2 * np.pi * hz * np.arange(round(30 * sfreq_hz)) / sfreq_hz)


def draw(style: str, epoch_uv: np.ndarray, spec: PictureSpec = SPEC) -> np.ndarray:
    return STYLES[style].draw(epoch_uv, SFREQ_HZ, spec)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [32, 64, 336])
@pytest.mark.parametrize("sfreq_hz", [100.0, 256.0, 133.3])
def test_any_size_and_rate(style: str, size: int, sfreq_hz: float) -> None:
    picture = STYLES[style].draw(rhythm_uv(12.0, 40.0, sfreq_hz), sfreq_hz, PictureSpec(size))
    assert picture.shape == (size, size)
    assert picture.dtype == np.uint8
    assert np.ptp(picture) > 100


@pytest.mark.parametrize("style", STYLES)
def test_the_same_epoch_gives_the_same_bytes(style: str) -> None:
    epoch_uv = noise_uv()
    png = draw_png(style, epoch_uv, SFREQ_HZ, SPEC)
    strided = np.repeat(epoch_uv, 2)[::2]
    assert draw_png(style, strided, SFREQ_HZ, SPEC) == png
    assert draw_png(style, noise_uv(seed=1), SFREQ_HZ, SPEC) != png


@pytest.mark.parametrize("style", STYLES)
def test_png_shows_the_colours_of_the_style(style: str) -> None:
    image = Image.open(io.BytesIO(draw_png(style, rhythm_uv(2.0, 90.0), SFREQ_HZ, SPEC)))
    assert (image.format, image.mode, image.size) == ("PNG", "P", (336, 336))
    intensity = np.asarray(image)
    np.testing.assert_array_equal(intensity, draw(style, rhythm_uv(2.0, 90.0)))
    colours = np.asarray(image.convert("RGB"))
    anchors = np.array(STYLES[style].anchors)
    places = np.linspace(0, 255, len(anchors))
    for channel in range(3):
        expected = np.interp(intensity, places, anchors[:, channel])
        np.testing.assert_allclose(colours[..., channel], expected, atol=0.51)
    assert (colours[intensity == 0] == anchors[0]).all()
    assert (intensity == 0).any()


@pytest.mark.parametrize("style", STYLES)
def test_lightness_tells_the_intensity_alone(style: str) -> None:
    """Printed in grey, stronger is never mistaken for weaker."""
    anchors = np.array(STYLES[style].anchors, float)
    lightness = anchors @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) > 0).all() or (np.diff(lightness) < 0).all()


@pytest.mark.parametrize(
    ("style", "size", "hz"),
    [("waveform", 336, 5.6), ("waveform", 60, 1.0), ("spectrogram", 336, 30.0)],
)
def test_visible_frequency(style: str, size: int, hz: float) -> None:
    assert STYLES[style].visible_hz(PictureSpec(size)) == pytest.approx(hz)


# --- spectrogram ------------------------------------------------------------------------------------


@pytest.mark.parametrize("hz", [2.0, 5.0, 12.0, 13.3, 20.0, 29.0])
@pytest.mark.parametrize("sfreq_hz", [100.0, 256.0])
def test_a_rhythm_is_strongest_in_the_row_of_its_frequency(hz: float, sfreq_hz: float) -> None:
    signal_uv = rhythm_uv(hz, 20.0, sfreq_hz)
    rows = STYLES["spectrogram"].draw(signal_uv, sfreq_hz, SPEC).mean(axis=1)
    row_hz = MAX_HZ / SPEC.size
    strongest = (SPEC.size - np.argmax(rows) - 0.5) * row_hz
    assert strongest == pytest.approx(hz, abs=row_hz)
    distance_hz = np.abs((SPEC.size - np.arange(SPEC.size) - 0.5) * row_hz - hz)
    assert rows[distance_hz < 0.8].min() > rows[distance_hz > 1.5].max()


def test_low_frequencies_are_at_the_bottom_and_time_runs_to_the_right() -> None:
    signal_uv = np.concatenate([rhythm_uv(3.0, 20.0)[:1500], rhythm_uv(25.0, 20.0)[:1500]])
    picture = draw("spectrogram", signal_uv).astype(float)
    upper, lower = picture[:168], picture[168:]
    assert lower[:, :150].max() > 150 > upper[:, :150].max()
    assert upper[:, -150:].max() > 150 > lower[:, -150:].max()


def test_a_spindle_stands_in_its_second() -> None:
    signal_uv = noise_uv(2.0)
    signal_uv[1950:2050] += rhythm_uv(13.0, 25.0)[:100]
    picture = draw("spectrogram", signal_uv).astype(float)
    sigma = picture[round(336 * (1 - 14 / 30)) : round(336 * (1 - 12 / 30))].mean(axis=0)
    assert np.argmax(sigma) / 336 * 30 == pytest.approx(20.0, abs=1.0)
    assert sigma.max() - np.median(sigma) > 50
    assert (sigma > np.median(sigma) + 25).mean() < 4 / 30  # seconds, not the whole epoch


def test_twice_the_power_is_three_decibels() -> None:
    once = draw("spectrogram", noise_uv()).astype(float)
    twice = draw("spectrogram", noise_uv() * 2**0.5).astype(float)
    inside = (once > 0) & (twice < 255)
    assert inside.mean() > 0.99
    shift_db = (twice - once)[inside].mean() / 255 * RANGE_DB
    assert shift_db == pytest.approx(10 * np.log10(2), abs=0.05)


def test_levels_are_absolute() -> None:
    """White noise of 10 µV at 100 Hz has 2 µV²/Hz (100 µV² over 50 Hz)."""
    level_db = draw("spectrogram", noise_uv()).astype(float) / 255 * RANGE_DB - 15
    assert np.mean(10 ** (level_db / 10)) == pytest.approx(2.0, rel=0.1)


def test_silence_is_dark_and_a_storm_is_bright() -> None:
    assert (draw("spectrogram", np.zeros(3000)) == 0).all()
    assert (draw("spectrogram", noise_uv(20_000.0)) == 255).all()


# --- waveform ---------------------------------------------------------------------------------------


def centre_rows(picture: np.ndarray) -> np.ndarray:
    """Return the middle of the ink of every column."""
    ink = picture.astype(float)
    return (ink * np.arange(len(ink))[:, None]).sum(0) / ink.sum(0)


@pytest.mark.parametrize("spread_uv", [0.0, 5.0, 40.0, 500.0])
def test_every_column_has_one_unbroken_line(spread_uv: float) -> None:
    picture = draw("waveform", noise_uv(spread_uv))
    assert (picture.sum(axis=0) >= 255).all()
    inked = picture > 0
    first, last = inked.argmax(axis=0), 335 - inked[::-1].argmax(axis=0)
    assert (inked.sum(axis=0) == last - first + 1).all()
    # ... that goes on in the next column.
    assert (np.maximum(first[1:], first[:-1]) <= np.minimum(last[1:], last[:-1])).all()


@pytest.mark.parametrize("size", [63, 64, 336])
def test_a_flat_signal_is_one_line_in_the_middle(size: int) -> None:
    picture = draw("waveform", np.zeros(3000), PictureSpec(size))
    assert (picture == picture[:, :1]).all()
    np.testing.assert_allclose(centre_rows(picture), (size - 1) / 2, atol=0.01)
    assert (picture[:, 0] > 0).sum() <= 3
    assert picture[:, 0].sum() == pytest.approx(1.1 * 255, abs=3)


def test_positive_is_up_and_to_scale() -> None:
    ramp_uv = np.linspace(-100.0, 100.0, 3000)
    rows = centre_rows(draw("waveform", ramp_uv))
    expected = 335 / 2 - np.linspace(-100.0, 100.0, 336) / 100.0 * 335 / 2
    np.testing.assert_allclose(rows[2:-2], expected[2:-2], atol=1.0)
    half = centre_rows(draw("waveform", np.full(3000, 50.0), PictureSpec(336, amplitude_uv=200.0)))
    np.testing.assert_allclose(half, 335 / 2 - 335 / 8, atol=0.02)


def test_beyond_the_scale_the_curve_runs_along_the_edge() -> None:
    step_uv = np.repeat([-1000.0, 1000.0], 1500)
    picture = draw("waveform", step_uv)
    assert (picture[-1, :160] == 255).all()
    assert (picture[0, -160:] == 255).all()
    assert (picture[2:-2, :160] == 0).all()
    assert picture[:, 166:170].max(axis=1).min() == 255  # the rise itself, from edge to edge


def test_a_fast_rhythm_fills_its_sweep() -> None:
    """More than one swing per column: the column is inked from crest to trough, and no further."""
    picture = draw("waveform", np.tile([50.0, -50.0], 1500))
    assert (picture[86:250] == 255).all()
    assert (picture[:82] == 0).all()
    assert (picture[254:] == 0).all()
