"""Neighbours in the picture: where they stand, that they are dimmed, and what is empty."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from eegtool.core.errors import EegToolError
from eegtool.pictures import STYLES, check_bands, curve, draw, level, palette_of, png
from eegtool.pictures.layout import BORDER, EMPTY, fields
from eegtool.pictures.signals import EpochSignals, StoredNight, quantise
from eegtool.pictures.spec import PictureSpec, Strip

SFREQ_HZ = 100.0
AROUND = PictureSpec(336, context_epochs=1)
GREY = np.array(EMPTY)


def noise_uv(seed: int, spread_uv: float = 20.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread_uv, 3000)


def one(seed: int, n: int = 1) -> EpochSignals:
    return [(noise_uv(10 * seed + i), SFREQ_HZ) for i in range(n)]


def shown(
    style: str,
    signals: EpochSignals,
    around: Sequence[EpochSignals | None],
    spec: PictureSpec = AROUND,
) -> np.ndarray:
    """Return the colours of a picture, int [size, size, 3]."""
    return np.array(palette_of(style, spec))[draw(style, signals, spec, around)]


def rectangle(picture: np.ndarray, style: str, place: int) -> np.ndarray:
    """Return the field of an epoch, without the ticks at its edges."""
    (field,) = (f for f in fields(style, AROUND, 1) if f.place == place)
    return picture[field.where]


def plain(style: str, signals: EpochSignals, place: int) -> np.ndarray:
    """Return what the style itself draws into such a field."""
    (field,) = (f for f in fields(style, AROUND, 1) if f.place == place)
    pixels = STYLES[style].draw(*signals[0], field.width, field.height, field.spec)
    return np.array(STYLES[style].palette)[pixels]


def without_ticks(*pictures: np.ndarray) -> np.ndarray:
    """Return where none of some pictures shows the colour of ticks."""
    return ~np.any([np.all(p == np.array(BORDER), axis=-1) for p in pictures], axis=0)


@pytest.mark.parametrize("style", STYLES)
def test_the_middle_is_the_epoch_and_the_rest_its_dimmed_neighbours(style: str) -> None:
    before, epoch, after = one(0), one(1), one(2)
    picture = shown(style, epoch, [before, after])
    middle = rectangle(picture, style, 0)
    same = without_ticks(middle)
    np.testing.assert_array_equal(middle[same], plain(style, epoch, 0)[same])
    assert same.mean() > 0.99
    for place, signals in ((-1, before), (1, after)):
        found, undimmed = rectangle(picture, style, place), plain(style, signals, place)
        same = without_ticks(found)
        assert np.abs(found - (0.6 * undimmed + 0.4 * GREY))[same].max() <= 1


@pytest.mark.parametrize(
    ("style", "side"),
    [("spectrogram", "left"), ("waveform", "left"), ("hybrid", "left"), ("wrapped", "top")],
)
def test_beside_it_or_above_and_below(style: str, side: str) -> None:
    before, middle, after = fields(style, AROUND, 1)
    if side == "left":
        assert [(f.left, f.width) for f in (before, middle, after)] == [
            (0, 84),
            (84, 168),
            (252, 84),
        ]
        assert {(f.top, f.height) for f in (before, middle, after)} == {(0, 336)}
    else:
        assert [(f.top, f.height) for f in (before, middle, after)] == [
            (0, 84),
            (84, 168),
            (252, 84),
        ]
        assert {(f.left, f.width) for f in (before, middle, after)} == {(0, 336)}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_neighbour_is_empty_and_not_a_repetition(style: str, missing: int) -> None:
    around: list[EpochSignals | None] = [one(0), one(2)]
    whole = shown(style, one(1), around)
    around[missing] = None
    picture = shown(style, one(1), around)
    place = (-1, 1)[missing]
    empty = rectangle(picture, style, place)
    assert (empty[without_ticks(empty)] == GREY).all()
    for other in (0, -place):
        np.testing.assert_array_equal(
            rectangle(picture, style, other), rectangle(whole, style, other)
        )


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("marks", [False, True])
def test_no_style_draws_in_the_colour_of_empty_fields(style: str, marks: bool) -> None:
    spec = PictureSpec(336, marks=marks, context_epochs=1)
    assert EMPTY not in STYLES[style].palette
    flat: EpochSignals = [(np.zeros(3000), SFREQ_HZ)]
    picture = shown(style, flat, [flat, flat], spec)
    assert not np.all(picture == GREY, axis=-1).any()


@pytest.mark.parametrize("style", STYLES)
def test_ticks_stand_at_both_ends_of_the_borders(style: str) -> None:
    picture = np.all(shown(style, one(1), [None, None]) == np.array(BORDER), axis=-1)
    if STYLES[style].in_rows:
        picture = picture.T
    for border in (84, 252):
        assert picture[:8, border].all()
        assert picture[-8:, border].all()
        assert not picture[8:-8, border].any()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("n", [2, 3])
def test_more_neighbours_share_the_same_half(style: str, n: int) -> None:
    spec = PictureSpec(336, context_epochs=n)
    found = fields(style, spec, 2)
    assert [f.place for f in found] == [*range(-n, n + 1)] * 2
    covered = np.zeros((336, 336), int)
    for field in found:
        covered[field.where] += 1
    assert (covered == 1).all()
    area = {place: sum(f.width * f.height for f in found if f.place == place) for place in (0, 1)}
    assert area[0] == 336 * 336 // 2
    around: list[EpochSignals | None] = [one(i, 2) for i in range(2 * n)]
    last = draw(style, one(9, 2), spec, around)
    around[0] = one(8, 2)
    other = draw(style, one(9, 2), spec, around)
    changed = last != other
    assert changed[found[0].where].any()
    changed[found[0].where] = changed[found[2 * n + 1].where] = False
    assert not changed.any()


def test_without_neighbours_nothing_changes() -> None:
    assert palette_of("wrapped", PictureSpec(336)) is STYLES["wrapped"].palette
    assert fields("wrapped", PictureSpec(336), 1)[0].where == (slice(0, 336), slice(0, 336))
    with pytest.raises(ValueError, match="0 neighbours for 1"):
        draw("wrapped", one(0), AROUND)


def test_pixels_with_neighbours_are_the_same_on_every_machine() -> None:
    """Change this on purpose only, and count RENDERER up: see GOLDEN in test_styles."""
    n = np.arange(3000)
    ramps = [(np.abs((n * k) % 800 - 400) - 200) / 4.0 for k in (7, 3, 11)]
    before, epoch, after = ([(ramp, SFREQ_HZ)] for ramp in ramps)
    data = png.encode(
        draw("wrapped", epoch, AROUND, [before, after]), palette_of("wrapped", AROUND)
    )
    assert hashlib.sha256(data).hexdigest()[:16] == "74807b86c40c7f04"


def test_what_does_not_fit_is_refused() -> None:
    check_bands(PictureSpec(336, context_epochs=3), 1, "wrapped")
    check_bands(PictureSpec(336, context_epochs=3), 3, "spectrogram")
    with pytest.raises(
        EegToolError, match=r"--context-epochs 3 does not fit .* 64 pixels"
    ) as caught:
        check_bands(PictureSpec(64, context_epochs=3), 1, "spectrogram")
    assert "--size" in caught.value.fix


def test_dimmed_ink_stays_darker_than_dimmed_paper() -> None:
    colours = palette_of("waveform", AROUND)
    own, dimmed = colours[: len(curve.PALETTE)], colours[len(curve.PALETTE) :]
    assert own == curve.PALETTE
    paper, ink = sum(dimmed[0]) / 3, sum(dimmed[curve.N_INKS - 1]) / 3
    assert sum(curve.PAPER) / 3 > paper > 190 > 90 > ink > sum(curve.INK) / 3


# --- strips -----------------------------------------------------------------------------------------

STRIPS = (
    Strip("spectrogram", 100.0, 2.0),
    Strip("waveform", 50.0, 1.2),
    Strip("waveform", 50.0, 1.2),
    Strip("level", 100.0, 0.8),
)
PSG = PictureSpec(336, strips=STRIPS)


@pytest.mark.parametrize("n", [0, 1])
def test_each_channel_has_a_strip_of_its_own_style_and_height(n: int) -> None:
    spec = replace(PSG, context_epochs=n)
    found = [field for field in fields("spectrogram", spec, 4) if not field.place]
    assert [field.style for field in found] == [strip.style for strip in STRIPS]
    assert [field.height for field in found] == [129, 77, 78, 52]
    assert [field.spec.amplitude_uv for field in found] == [100, 50, 50, 100]
    picture = shown("spectrogram", one(1, 4), [one(0, 4), one(2, 4)][: 2 * n], spec)
    for field, (epoch_uv, sfreq_hz) in zip(found, one(1, 4), strict=True):
        style = STYLES[field.style]
        own = style.draw(epoch_uv, sfreq_hz, field.width, field.height, field.spec)
        expected, strip = np.array(style.palette)[own], picture[field.where]
        same = without_ticks(strip)
        same[0] = False  # the line between strips
        np.testing.assert_array_equal(strip[same], expected[same])


def test_a_missing_channel_is_an_empty_strip() -> None:
    signals = one(1, 4)
    signals[2] = (np.empty(0), 1.0)
    whole = shown("spectrogram", one(1, 4), [], PSG)
    picture = shown("spectrogram", signals, [], PSG)
    for i, field in enumerate(fields("spectrogram", PSG, 4)):
        strip = picture[field.where][1:]
        if i == 2:
            assert (strip == GREY).all()
        else:
            np.testing.assert_array_equal(strip, whole[field.where][1:])


def test_channels_of_a_montage_that_do_not_fit_are_refused() -> None:
    check_bands(replace(PSG, size=110), 4)
    with pytest.raises(
        EegToolError, match="style 'waveform', would be 23 pixels high and needs 24"
    ):
        check_bands(replace(PSG, size=96), 4)


# --- levels -----------------------------------------------------------------------------------------


def top_of(epoch_uv: np.ndarray, sfreq_hz: float, height: int = 100) -> np.ndarray:
    """Return how high the level stands in each of 300 columns, in pixels."""
    drawn = STYLES["level"].draw(epoch_uv, sfreq_hz, 300, height, PictureSpec(336, 100.0))
    return np.asarray(height - (drawn > 0).argmax(axis=0))


@pytest.mark.parametrize("uv", [1.0, 10.0, 100.0])
def test_the_level_is_logarithmic_and_the_same_for_a_signal_and_its_envelope(uv: float) -> None:
    muscle = np.random.default_rng(0).normal(0, uv, 3000)
    expected = 100 * (1 + np.log10(uv / 100) / level.DECADES)
    assert np.median(top_of(muscle, 100)) == pytest.approx(expected, abs=2)
    assert np.median(top_of(np.full(30, uv), 1)) == pytest.approx(expected, abs=1)


def test_a_twitch_stands_where_it_was_and_rest_is_low() -> None:
    muscle = np.random.default_rng(0).normal(0, 1.0, 3000)
    muscle[1500:1520] *= 15
    heights = top_of(muscle, 100)
    assert 148 <= heights.argmax() <= 155
    assert heights.max() > np.median(heights) + 15
    assert (top_of(np.zeros(3000), 100) == 1).all()


# --- which neighbours there are ---------------------------------------------------------------------


def night(first_onset_s: float = 0.0, pauses: tuple[tuple[float, float], ...] = ()) -> StoredNight:
    """Return five minutes in which every sample says when it was."""
    ramp = np.arange(30_000.0) / 100
    return quantise("n", "", first_onset_s, [("a", ramp, SFREQ_HZ)], pauses)


@pytest.mark.parametrize(
    ("onset_s", "first_onset_s", "pauses", "expected"),
    [
        (120.0, 0.0, (), [90.0, 150.0]),
        (0.0, 0.0, (), [None, 30.0]),
        (270.0, 0.0, (), [240.0, None]),
        (29.0, 29.0, (), [None, 59.0]),  # a second is missing
        (30.0, 30.0, (), [0.0, 60.0]),  # before the first epoch that is scored
        (120.0, 0.0, ((60.0, 30.0),), [90.0, 150.0]),
        (120.0, 0.0, ((60.0, 30.5),), [None, 150.0]),
        (120.0, 0.0, ((179.0, 1.0), (20.0, 1.0)), [90.0, None]),
    ],
)
def test_neighbours_are_where_something_was_recorded(
    onset_s: float,
    first_onset_s: float,
    pauses: tuple[tuple[float, float], ...],
    expected: list[float | None],
) -> None:
    around = night(first_onset_s, pauses).around(onset_s, 1)
    found = [None if epoch is None else round(float(epoch[0][0][0]), 1) for epoch in around]
    assert found == expected
    assert all(len(epoch[0][0]) == 3000 for epoch in around if epoch)
