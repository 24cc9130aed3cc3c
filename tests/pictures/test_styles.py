from __future__ import annotations

import hashlib
import io
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy.fft import next_fast_len

from eegtool.core.errors import EegToolError
from eegtool.pictures import (
    RENDERER,
    STYLES,
    check_bands,
    curve,
    draw_png,
    png,
    spectrogram,
    visible_hz,
    wrapped,
)
from eegtool.pictures.layout import fields
from eegtool.pictures.spec import PictureSpec

SFREQ_HZ = 100.0
SPEC = PictureSpec(336)
CURVES = ("waveform", "wrapped")


def noise_uv(spread_uv: float = 10.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, spread_uv, round(30 * SFREQ_HZ))


def rhythm_uv(hz: float, amplitude_uv: float, sfreq_hz: float = SFREQ_HZ) -> np.ndarray:
    return amplitude_uv * np.sin(2 * np.pi * hz * np.arange(round(30 * sfreq_hz)) / sfreq_hz)


def spindle_uv(onset_s: float, amplitude_uv: float) -> np.ndarray:
    """One second at 13 Hz that swells and fades."""
    signal_uv = np.zeros(round(30 * SFREQ_HZ))
    start = round(onset_s * SFREQ_HZ)
    signal_uv[start : start + 100] = rhythm_uv(13.0, amplitude_uv)[:100] * np.hanning(100)
    return signal_uv


def whole_numbers_uv() -> np.ndarray:
    """Something like sleep that no library's sine or random numbers have a part in.

    A drift, and a rhythm of 12.5 Hz that comes and goes, in sixteenths of µV.
    """
    n = np.arange(3000)
    drift = np.abs((n * 7) % 800 - 400) - 200
    rhythm = np.abs(n % 8 - 4) * 60 - 120
    jitter = (n * n * 31 + n * 17) % 127 - 63
    return (4 * drift + rhythm * ((n // 100) % 3 == 1) + jitter) / 16.0


def draw(style: str, epoch_uv: np.ndarray, spec: PictureSpec = SPEC) -> np.ndarray:
    return STYLES[style].draw(epoch_uv, SFREQ_HZ, spec.size, spec.size, spec)


def ink(style: str, epoch_uv: np.ndarray, spec: PictureSpec = SPEC) -> np.ndarray:
    """Return how dark each pixel of a curve is, 0 to 1."""
    return draw(style, epoch_uv, spec) / (curve.N_INKS - 1)


def opened(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


# --- all styles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [32, 65, 336])
@pytest.mark.parametrize("sfreq_hz", [100.0, 512.0, 199.9, 50.0])
@pytest.mark.parametrize("marks", [False, True])
def test_any_size_and_rate(style: str, size: int, sfreq_hz: float, marks: bool) -> None:
    data = draw_png(
        style, [(rhythm_uv(9.0, 60.0, sfreq_hz), sfreq_hz)], PictureSpec(size, 80, marks)
    )
    shown = opened(data)
    assert shown.shape == (size, size, 3)
    assert np.ptp(shown) > 150


@pytest.mark.parametrize("style", STYLES)
def test_the_same_epoch_gives_the_same_bytes(style: str) -> None:
    data = draw_png(style, [(noise_uv(), SFREQ_HZ)], SPEC)
    strided = np.repeat(noise_uv(), 2)[::2]
    assert draw_png(style, [(strided, SFREQ_HZ)], SPEC) == data
    assert draw_png(style, [(noise_uv(seed=1), SFREQ_HZ)], SPEC) != data


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("marks", [False, True])
def test_what_the_last_digits_say_changes_no_pixel(style: str, marks: bool) -> None:
    """Filters and Fourier transforms differ in them between machines."""
    spec = PictureSpec(336, marks=marks)
    rng = np.random.default_rng(3)
    for seed in range(10):
        epoch_uv = noise_uv(30.0, seed)
        other_uv = epoch_uv * (1 + rng.uniform(-1e-13, 1e-13, 3000))
        np.testing.assert_array_equal(draw(style, epoch_uv, spec), draw(style, other_uv, spec))


GOLDEN = {  # of the pixels, of the file; by RENDERER 1, which counts up when these change
    "hybrid": ("78bfad089507bb23", "76a72739259c0f64"),
    "level": ("7a5c0f319345218b", "809faa1ec387b52e"),
    "spectrogram": ("a258490bc98953a6", "cfbffa1b3e178581"),
    "waveform": ("d69f715c01ee8dd0", "8059db6c7ec1d08a"),
    "wrapped": ("89cbf19574b8fa67", "cf151bb633aa4605"),
}


@pytest.mark.parametrize("style", STYLES)
def test_pixels_and_bytes_are_the_same_on_every_machine(style: str) -> None:
    """Change these on purpose only: a model knows what its training pictures looked like."""
    spec = PictureSpec(336, marks=True)
    contents = (
        draw(style, whole_numbers_uv(), spec).tobytes(),
        draw_png(style, [(whole_numbers_uv(), SFREQ_HZ)], spec),
    )
    assert tuple(hashlib.sha256(c).hexdigest()[:16] for c in contents) == GOLDEN[style]
    assert RENDERER == 1


@pytest.mark.parametrize("style", STYLES)
def test_png_shows_the_colours_of_the_style(style: str) -> None:
    spec = PictureSpec(65, marks=True)  # odd: half a byte is left over in a row
    pixels = draw(style, rhythm_uv(2.0, 90.0), spec)
    data = draw_png(style, [(rhythm_uv(2.0, 90.0), SFREQ_HZ)], spec)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (65, 65))
        image.verify()
    np.testing.assert_array_equal(opened(data), np.array(STYLES[style].palette)[pixels])


@pytest.mark.parametrize("style", STYLES)
def test_marks_are_unobtrusive(style: str) -> None:
    plain = draw(style, rhythm_uv(1.0, 30.0))
    marked = draw(style, rhythm_uv(1.0, 30.0), PictureSpec(336, marks=True))
    assert 0.0003 < (plain != marked).mean() < 0.02
    assert len(set(marked[plain != marked])) <= 3


@pytest.mark.parametrize("style", STYLES)
def test_channels_are_bands_from_top_to_bottom(style: str) -> None:
    signals = [(noise_uv(seed=i), SFREQ_HZ) for i in range(3)]
    spec = PictureSpec(100)
    heights = [field.height for field in fields(style, spec, 3)]
    assert (sum(heights), min(heights), max(heights)) == (100, 33, 34)
    shown = opened(draw_png(style, signals, spec))
    top = 0
    for (epoch_uv, sfreq_hz), height in zip(signals, heights, strict=True):
        band = STYLES[style].draw(epoch_uv, sfreq_hz, 100, height, spec)
        colours = np.array(STYLES[style].palette)[band]
        np.testing.assert_array_equal(shown[top : top + height], colours)
        top += height


def test_channels_may_differ_in_their_rate() -> None:
    both = [(rhythm_uv(1.0, 50.0, hz), hz) for hz in (100.0, 256.0)]
    shown = opened(draw_png("waveform", both, SPEC)).astype(int)
    assert np.abs(shown[:168] - shown[168:]).mean() < 3


def test_too_many_channels_are_refused() -> None:
    check_bands(SPEC, 10)
    with pytest.raises(EegToolError, match="11 channels do not fit a picture of 336 pixels"):
        check_bands(SPEC, 11)


@pytest.mark.parametrize(
    ("style", "size", "n_channels", "hz"),
    [
        ("waveform", 336, 1, 5.6),
        ("waveform", 60, 1, 1.0),
        ("wrapped", 336, 1, 33.6),
        ("wrapped", 336, 3, 33.6),
        ("wrapped", 336, 4, 5.6 * 3),
        ("wrapped", 224, 1, 224 / 6),
        ("wrapped", 1024, 1, 1024 / 30),
        ("wrapped", 32, 1, 32 / 60),
        ("spectrogram", 336, 2, 30.0),
        ("hybrid", 336, 1, 33.6),
        ("hybrid", 64, 1, 30.0),
    ],
)
def test_visible_frequency(style: str, size: int, n_channels: int, hz: float) -> None:
    assert visible_hz(style, PictureSpec(size), n_channels) == pytest.approx(hz)


# --- PNG --------------------------------------------------------------------------------------------


def test_gradient_meets_its_anchors_evenly() -> None:
    assert png.gradient([(0, 0, 0), (100, 50, 255)], 3) == (
        (0, 0, 0),
        (50, 25, 128),
        (100, 50, 255),
    )
    colours = np.array(png.gradient(spectrogram.ANCHORS, 256))
    expected = np.interp(np.linspace(0, 5, 256), range(6), np.array(spectrogram.ANCHORS)[:, 1])
    np.testing.assert_allclose(colours[:, 1], expected, atol=0.51)


@pytest.mark.parametrize("n_colours", [2, 16, 17, 256])
@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (40, 33)])
def test_pixels_survive_the_file(n_colours: int, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, n_colours, shape).astype(np.uint8)
    palette = png.gradient([(0, 10, 20), (255, 200, 100)], n_colours)
    shown = opened(png.encode(pixels, palette))
    np.testing.assert_array_equal(shown, np.array(palette)[pixels])


def test_run_lengths_need_no_particular_zlib() -> None:
    """Runs of one value, nothing else is looked for: repetitions of a pattern stay as they are."""
    pattern = np.tile(np.arange(16, dtype=np.uint8), (64, 4))
    runs = np.repeat(np.arange(16, dtype=np.uint8), 4)[None].repeat(64, 0)
    palette = png.gradient([(0, 0, 0), (255, 255, 255)], 17)

    def packed(pixels: np.ndarray) -> int:
        return len(png.encode(np.cumsum(pixels, 0, np.uint8) % 17, palette))

    assert packed(runs) < packed(pattern) / 2
    assert len(zlib.compress(pattern.tobytes())) < 64  # what a search would have found


# --- curves -----------------------------------------------------------------------------------------


def centre_rows(picture: np.ndarray) -> np.ndarray:
    """Return the middle of the ink of every column."""
    darkness = picture.astype(float)
    return (darkness * np.arange(len(darkness))[:, None]).sum(0) / darkness.sum(0)


def test_a_curve_is_inked_as_far_as_the_pen_covers_it() -> None:
    """Against a slow drawing: every pixel is looked at in 64 places."""
    epoch_uv = np.convolve(noise_uv(150.0), np.hanning(9) / 5, "same")
    picture = ink("wrapped", epoch_uv, PictureSpec(336, 200.0))[112:168]  # seconds 10 to 15

    row_px, pen_px = 56, 0.55
    x = (np.arange(900, 1600) + 0.5) * 336 / 500 - 2 * 336
    y = row_px / 2 - epoch_uv[900:1600] / 200.0 * (row_px / 2 - pen_px)
    start, step = np.stack([x, y], 1)[:-1], np.diff(np.stack([x, y], 1), axis=0)
    eighths = (np.arange(8) + 0.5) / 8
    expected = np.zeros((row_px, 336))
    for column in range(336):
        near = np.flatnonzero((x[1:] > column - 2) & (x[:-1] < column + 3))
        px, py = np.meshgrid(column + eighths, np.arange(row_px * 8) / 8 + 1 / 16)
        to = np.stack([px, py], -1)[..., None, :] - start[near]
        along = np.clip((to * step[near]).sum(-1) / (step[near] ** 2).sum(-1), 0, 1)
        distance = np.linalg.norm(to - along[..., None] * step[near], axis=-1).min(-1)
        expected[:, column] = (distance < pen_px).reshape(row_px, 8, 8).mean((1, 2))
    assert np.corrcoef(picture.ravel(), expected.ravel())[0, 1] > 0.98
    assert np.abs(picture - expected).mean() < 0.02
    assert picture.sum() == pytest.approx(expected.sum(), rel=0.2)


@pytest.mark.parametrize("spread_uv", [0.0, 5.0, 40.0, 500.0])
def test_every_column_has_one_unbroken_line(spread_uv: float) -> None:
    picture = ink("waveform", noise_uv(spread_uv))
    assert (picture.sum(axis=0) >= 0.99).all()
    inked = picture > 0
    first, last = inked.argmax(axis=0), 335 - inked[::-1].argmax(axis=0)
    assert (inked.sum(axis=0) == last - first + 1).all()
    # ... that continues in the next column.
    assert (np.maximum(first[1:], first[:-1]) <= np.minimum(last[1:], last[:-1])).all()


@pytest.mark.parametrize("style", CURVES)
@pytest.mark.parametrize("size", [63, 64, 336])
def test_a_flat_signal_is_a_line_in_the_middle_of_each_row(style: str, size: int) -> None:
    picture = ink(style, np.zeros(3000), PictureSpec(size))
    assert (picture == picture[:, :1]).all()
    n_rows = wrapped.n_rows(size, size) if style == "wrapped" else 1
    assert picture[:, 0].sum() == pytest.approx(1.1 * n_rows, abs=0.15 * n_rows)
    for i in range(n_rows):
        row = picture[i * size // n_rows : (i + 1) * size // n_rows]
        middle = (2 * i + 1) * size / (2 * n_rows) - 0.5 - i * size // n_rows
        np.testing.assert_allclose(centre_rows(row), middle, atol=0.08)


def test_positive_is_up_and_to_scale() -> None:
    ramp_uv = np.linspace(-100.0, 100.0, 3000)
    rows = centre_rows(ink("waveform", ramp_uv))
    expected = 335 / 2 - np.linspace(-100.0, 100.0, 336) / 100.0 * 335 / 2
    np.testing.assert_allclose(rows[2:-2], expected[2:-2], atol=1.0)
    half = centre_rows(ink("waveform", np.full(3000, 50.0), PictureSpec(336, amplitude_uv=200.0)))
    np.testing.assert_allclose(half, 335 / 2 - 335 / 8, atol=0.05)


@pytest.mark.parametrize("style", CURVES)
def test_beyond_the_scale_the_curve_runs_along_the_edge_of_its_row(style: str) -> None:
    step_uv = np.repeat([-1000.0, 1000.0], 1500)
    picture = ink(style, step_uv)
    n_rows = 6 if style == "wrapped" else 1
    row_px = 336 // n_rows
    low, high = picture[:row_px], picture[-row_px:]  # first and last row, which may be the same
    assert (low[-1, :160] == 1).all()
    assert (high[0, -160:] == 1).all()
    assert (low[2:-2, :160] == 0).all()
    if n_rows == 1:
        assert picture[:, 166:170].sum(axis=1).min() > 0.9  # the rise itself, from edge to edge


def test_a_fast_rhythm_fills_its_sweep() -> None:
    """More than one swing per column: the column is inked from crest to trough, and no further."""
    picture = ink("waveform", np.tile([50.0, -50.0], 1500))
    assert (picture[90:246, 2:-2] == 1).all()
    assert (picture[:82] == 0).all()
    assert (picture[254:] == 0).all()


def test_rows_follow_each_other_in_time() -> None:
    picture = ink("wrapped", spindle_uv(12.0, 50.0))
    far = np.abs(np.arange(336) % 56 - 27.5) > 8  # pixel rows that a flat line does not reach
    where = np.argwhere(picture[far][:, :] > 0)
    rows = np.arange(336)[far][where[:, 0]]
    assert set(rows // 56) == {2}  # seconds 10 to 15
    seconds = 10 + where[:, 1] / 336 * 5
    assert 12.0 < seconds.min() < seconds.max() < 13.0


def test_a_spindle_can_be_counted_when_wrapped() -> None:
    """Thirteen waves in a second: each crest stands on its own, with paper on both sides."""
    row = ink("wrapped", spindle_uv(12.0, 40.0))[112:168]
    crests = row[18]  # 10 px above the middle is 36 µV
    assert 1 <= np.count_nonzero(np.diff((crests > 0).astype(int)) == 1) <= 4
    half_way = row[24, round(2.0 * 67.2) : round(3.0 * 67.2)] > 0.3
    assert 9 <= np.count_nonzero(np.diff(half_way.astype(int)) == 1) <= 13
    # The paper's look has 5.6 px for the same second: nothing to count.
    assert visible_hz("waveform", SPEC) < 13


def test_bar_is_75_uv_high() -> None:
    plain, marked = (
        draw("waveform", np.zeros(3000), PictureSpec(336, 100.0, m)) for m in (False, True)
    )
    bar = (marked != plain)[:, 0] | (plain[:, 0] > 0)
    assert np.count_nonzero(bar) == pytest.approx(75 / 200 * 336, abs=1)
    ticks = (marked != plain)[-1]
    assert list(np.flatnonzero(ticks)) == [s * 336 // 30 for s in range(1, 30)]


# --- spectrogram ------------------------------------------------------------------------------------


def level_db(picture: np.ndarray) -> np.ndarray:
    return picture * spectrogram.STEP_DB + spectrogram.FLOOR_DB


@pytest.mark.parametrize("hz", [2.0, 5.0, 12.0, 13.3, 20.0, 29.0])
@pytest.mark.parametrize("sfreq_hz", [100.0, 256.0, 199.9])
def test_a_rhythm_is_strongest_in_the_row_of_its_frequency(hz: float, sfreq_hz: float) -> None:
    signal_uv = rhythm_uv(hz, 20.0, sfreq_hz)
    picture = STYLES["spectrogram"].draw(signal_uv, sfreq_hz, 336, 336, SPEC)
    rows = picture[:, 20:-20].mean(axis=1)
    row_hz = (336 - np.arange(336) - 0.5) * spectrogram.MAX_HZ / 336
    strong = rows > rows.max() - 6  # within 3 dB
    assert row_hz[strong].mean() == pytest.approx(hz, abs=0.15)
    assert np.ptp(row_hz[strong]) < 2.0
    assert rows[np.abs(row_hz - hz) < 0.6].min() > rows[np.abs(row_hz - hz) > 1.6].max()


def test_low_frequencies_are_at_the_bottom_and_time_runs_to_the_right() -> None:
    signal_uv = np.concatenate([rhythm_uv(3.0, 20.0)[:1500], rhythm_uv(25.0, 20.0)[:1500]])
    picture = level_db(draw("spectrogram", signal_uv))
    upper, lower = picture[:168], picture[168:]
    assert lower[:, :150].max() > 15 > upper[:, :150].max()
    assert upper[:, -150:].max() > 15 > lower[:, -150:].max()


@pytest.mark.parametrize("onset_s", [0.5, 7.3, 20.0, 28.5])
def test_a_spindle_stands_in_its_second(onset_s: float) -> None:
    picture = level_db(draw("spectrogram", noise_uv(2.0) + spindle_uv(onset_s, 25.0)))
    sigma = picture[round(336 * (1 - 14 / 30)) : round(336 * (1 - 12 / 30))].mean(axis=0)
    strong_s = (np.flatnonzero(sigma > sigma.max() - 3) + 0.5) / 336 * 30
    assert strong_s.mean() == pytest.approx(onset_s + 0.5, abs=0.3)
    assert sigma.max() - np.median(sigma) > 10
    assert (sigma > np.median(sigma) + 5).mean() < 4 / 30  # seconds, not the whole epoch


def test_twice_the_power_is_three_decibels() -> None:
    once = draw("spectrogram", noise_uv()).astype(float)
    twice = draw("spectrogram", noise_uv() * 2**0.5).astype(float)
    inside = (once > 0) & (twice < spectrogram.N_LEVELS - 1)
    assert inside.mean() > 0.99
    shift_db = (twice - once)[inside].mean() * spectrogram.STEP_DB
    assert shift_db == pytest.approx(10 * np.log10(2), abs=0.02)


@pytest.mark.parametrize("sfreq_hz", [100.0, 256.0])
def test_levels_are_absolute(sfreq_hz: float) -> None:
    """White noise of 10 µV has 100 µV² over the frequencies up to half the sampling rate."""
    noise = np.random.default_rng(0).normal(0.0, 10.0, round(30 * sfreq_hz))
    picture = STYLES["spectrogram"].draw(noise, sfreq_hz, 120, 240, SPEC)
    density = 10 ** (level_db(picture) / 10)
    assert np.mean(density) == pytest.approx(100 / (sfreq_hz / 2), rel=0.1)


@pytest.mark.parametrize("sfreq_hz", [100.0, 125.0, 128.0, 200.0, 250.0, 256.0, 512.0])
def test_the_tapers_are_sines(sfreq_hz: float) -> None:
    """Their transforms come from one of the folded window: the same as tapering it three times."""
    epoch_uv = np.random.default_rng(6).normal(0, 30, round(30 * sfreq_hz))
    grid = spectrogram._grid(len(epoch_uv), sfreq_hz, 224, 224)
    actual = spectrogram._multitaper(epoch_uv, grid)
    n_window = next_fast_len(round(2 * sfreq_hz), real=True)
    middles = (2 * np.arange(120) + 1) * len(epoch_uv) // 240
    mirrored = np.pad(epoch_uv, n_window, mode="reflect")
    windows = mirrored[middles[:, None] + np.arange(n_window) + n_window - n_window // 2]
    n = np.arange(n_window)
    expected = np.zeros((120, len(actual)))
    for k in (1, 2, 3):
        taper = np.sqrt(2 / n_window) * np.sin(np.pi * k * n / n_window)
        power = np.abs(np.fft.rfft(windows * taper))[:, : len(actual)] ** 2
        expected += power * 2 / (3 * sfreq_hz)
    np.testing.assert_allclose(actual.T, expected, rtol=1e-9)


def test_threads_do_not_draw_into_each_other() -> None:
    epochs = [np.random.default_rng(i).normal(0, 30, 3000) for i in range(40)]
    for style in STYLES:
        alone = [draw(style, epoch_uv, SPEC) for epoch_uv in epochs]
        with ThreadPoolExecutor(4) as pool:
            together = [*pool.map(lambda x, style=style: draw(style, x, SPEC), epochs)]
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, other)


def test_silence_is_dark_and_a_storm_is_bright() -> None:
    assert (draw("spectrogram", np.zeros(3000)) == 0).all()
    assert (draw("spectrogram", noise_uv(20_000.0)) == spectrogram.N_LEVELS - 1).all()


@pytest.mark.parametrize("palette", [curve.PALETTE[: curve.N_INKS], spectrogram.PALETTE[:-1]])
def test_lightness_tells_the_strength_alone(palette: tuple[png.Colour, ...]) -> None:
    """Printed in grey, stronger is never mistaken for weaker."""
    lightness = np.diff(np.array(palette) @ [0.299, 0.587, 0.114])
    assert (lightness > 0).all() or (lightness < 0).all()


# --- hybrid -----------------------------------------------------------------------------------------


def test_hybrid_is_the_curve_above_its_spectrogram() -> None:
    epoch_uv = noise_uv() + spindle_uv(3.0, 30.0)
    picture = draw("hybrid", epoch_uv)
    above = wrapped.draw(epoch_uv, SFREQ_HZ, 336, 196, SPEC)
    below = spectrogram.draw(epoch_uv, SFREQ_HZ, 336, 140, SPEC)
    np.testing.assert_array_equal(picture[:196], above)
    np.testing.assert_array_equal(picture[196:], below + len(curve.PALETTE))
    assert wrapped.n_rows(336, 196) == 6
