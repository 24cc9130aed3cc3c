"""What augmentation does to a picture is held against the picture of the changed signal."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import torch
from PIL import Image

from eegtool.extract.augment import Augmentation, augment, count_channels, strips
from eegtool.extract.module import VisionModule
from eegtool.pictures import STYLES, draw_png, hybrid, wrapped
from eegtool.pictures.spec import PictureSpec, band_heights

HZ = 100.0
NOTHING = Augmentation(gain_db=0, shift_s=0, noise=0)


def signal(seed: int = 0) -> np.ndarray:
    """Thirty seconds in which every second differs: a rising rhythm in noise, in µV."""
    t = np.arange(3000) / HZ
    noise = np.random.default_rng(seed).standard_normal(3000)
    return 30 * np.sin(2 * np.pi * (1 + t / 3) * t / 3) * (1 + t / 30) + 8 * noise


def draw(style: str, *signals: np.ndarray, size: int = 128, marks: bool = False) -> torch.Tensor:
    data = draw_png(style, [(x, HZ) for x in signals], PictureSpec(size, marks=marks))
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean distance of pixels, in grey levels."""
    return float((one.float() - other.float()).abs().mean())


def changed_alone(
    style: str, picture: torch.Tensor, how: Augmentation, n: int = 64
) -> torch.Tensor:
    return augment(picture.expand(n, -1, -1, -1), style, 1, how, seed=3)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [64, 96, 336])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_strips_are_where_prepare_draws(style: str, size: int, n_channels: int) -> None:
    expected, top = [], 0
    for height in band_heights(PictureSpec(size), n_channels):
        curve = height * 7 // 12 if style == "hybrid" else 0 if style == "spectrogram" else height
        if curve:
            rows = 1 if style == "waveform" else wrapped.n_rows(size, curve)
            expected.append((top, top + curve, rows))
        if curve < height:
            expected.append((top + curve, top + height, 0))
        top += height
    found = [(s.top, s.bottom, s.n_rows) for s in strips(style, size, n_channels)]
    assert found == expected


def test_hybrid_is_divided_as_prepare_divides_it() -> None:
    curve, power = strips("hybrid", 120, 1)
    picture = torch.from_numpy(hybrid.draw(signal(), HZ, 120, 120, PictureSpec(120)))
    assert int(picture[: curve.bottom].max()) < 12 <= int(picture[power.top :].min())


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("gain_db", [-2.0, 2.0])
def test_amplitude_is_that_of_a_larger_or_smaller_signal(style: str, gain_db: float) -> None:
    original = draw(style, signal())
    true = draw(style, signal() * 10 ** (gain_db / 20))
    # Drawn evenly from -2 to 2 dB: of many, one is near each end.
    changed = changed_alone(style, original, Augmentation(gain_db=2.0, shift_s=0, noise=0), 100)
    nearest = min(far(picture, true) for picture in changed)
    assert nearest < 0.4 * far(original, true)
    if style == "spectrogram":
        assert nearest < 0.1  # whole levels: the same picture


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seconds", [-0.9375, 0.9375])
def test_shift_is_that_of_an_epoch_that_begins_elsewhere(style: str, seconds: float) -> None:
    original = draw(style, signal())
    samples = round(seconds * HZ)
    moved = np.roll(signal(), samples)
    moved[:samples] = moved[samples] if samples > 0 else moved[:samples]
    moved[samples:] = moved[samples] if samples < 0 else moved[samples:]
    true = draw(style, moved)
    changed = changed_alone(style, original, Augmentation(gain_db=0, shift_s=1.0, noise=0), 100)
    nearest = min(far(picture, true) for picture in changed)
    assert nearest < 0.45 * far(original, true)


@pytest.mark.parametrize("style", ["waveform", "spectrogram"])
def test_the_gap_is_filled_from_the_edge_and_nothing_comes_round(style: str) -> None:
    edge, end = (
        ((10, 8, 40), (255, 250, 215)) if style == "spectrogram" else ((255,) * 3, (24,) * 3)
    )
    picture = torch.empty((3, 64, 64), dtype=torch.uint8)
    picture[:] = torch.tensor(edge, dtype=torch.uint8)[:, None, None]
    picture[:, :, 54:] = torch.tensor(end, dtype=torch.uint8)[:, None, None]
    changed = changed_alone(style, picture, Augmentation(gain_db=0, shift_s=4.0, noise=0))
    assert (changed[:, :, :, 0] == torch.tensor(edge)[:, None]).all()
    assert (changed[:, :, :, -1] == torch.tensor(end)[:, None]).all() or style == "waveform"
    at_end = (changed[:, 0] == end[0]).sum(-1)
    assert len(at_end.unique()) > 5  # they did move
    assert (at_end == at_end[:, :1]).all()


def test_wrapped_time_goes_on_in_the_next_row() -> None:
    picture = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    (strip,) = strips("wrapped", 64, 1)
    assert strip.n_rows == 3
    picture[:, 10, 60:] = 0  # at the end of the first row, in its middle
    how = Augmentation(gain_db=0, shift_s=1.0, noise=0)
    changed = changed_alone("wrapped", picture, how)
    dark = (changed < 100).any(1)
    over = dark[:, 21:43, :6].any(-1).any(-1)
    assert over.any()
    assert not dark[:, 43:].any()
    assert not dark[:, :21, :40].any()


def test_curves_stay_in_their_rows() -> None:
    loud = np.where(np.arange(3000) < 1000, 100.0, 0.0) * np.sin(np.arange(3000))
    original = draw("wrapped", loud, size=72)
    assert [strip.n_rows for strip in strips("wrapped", 72, 1)] == [3]
    changed = changed_alone("wrapped", original, Augmentation(gain_db=6, shift_s=0, noise=0))
    assert far(changed[0, :, :24], original[:, :24]) > 5
    assert (changed[:, :, 24:33, 4:] == 255).all()  # of the second row, above its silent middle


def test_channels_keep_their_bands() -> None:
    quiet, loud = np.zeros(3000), signal()
    picture = draw("waveform", loud, quiet)
    how = Augmentation(gain_db=2, shift_s=1, noise=0)
    changed = augment(picture.expand(16, -1, -1, -1), "waveform", 2, how, 1)
    assert all(far(one[:, 64:], picture[:, 64:]) < 1.5 for one in changed)
    assert any(far(one[:, :64], picture[:, :64]) > 5 for one in changed)


def test_marks_of_a_spectrogram_keep_their_colour() -> None:
    picture = draw("spectrogram", signal(), marks=True)
    marks = (picture == torch.tensor([120, 150, 190])[:, None, None]).all(0)
    assert marks.any()
    changed = changed_alone("spectrogram", picture, Augmentation(2, 1, 0), 8)
    assert (changed[:, :, marks] == picture[:, marks]).all()


@pytest.mark.parametrize("style", ["waveform", "wrapped", "hybrid"])
def test_marks_of_a_curve_stay_where_they_are_drawn(style: str) -> None:
    """What is changed under marks is what is changed without them."""
    quiet = 0.2 * signal()
    pictures = [draw(style, quiet, size=336, marks=marks) for marks in (False, True)]
    ticks, bars = (
        (pictures[1] == torch.tensor(colour)[:, None, None]).all(0)
        for colour in ([160, 172, 194], [222, 120, 92])
    )
    assert ticks.any()
    assert bars[:, :2].any()
    assert not bars[:, 2:].any()
    curve = strips(style, 336, 1)[0]
    plain, marked = (
        changed_alone(style, picture, Augmentation(2, 1, 0), 16)[:, :, : curve.bottom]
        for picture in pictures
    )
    differing = (plain != marked).any(1)
    assert not (differing & ~(ticks | bars)[: curve.bottom]).any()
    kept = (marked == pictures[1][:, : curve.bottom]).all(1)
    over = (plain != 255).any(1)  # where the curve is now
    assert (kept | over)[:, bars[: curve.bottom]].all()
    assert float(over[:, bars[: curve.bottom]].float().mean()) < 0.5


@pytest.mark.parametrize("style", STYLES)
def test_only_who_asks_gets_flips(style: str) -> None:
    original = draw(style, signal())
    backwards = draw(style, signal()[::-1].copy())
    changed = changed_alone(style, original, NOTHING)
    assert all(torch.equal(picture, original) for picture in changed)
    flipped = changed_alone(style, original, Augmentation(0, 0, 0, flip=True))
    distances = [far(picture, backwards) for picture in flipped]
    assert min(distances) < 0.25 * far(original, backwards)
    same = sum(torch.equal(picture, original) for picture in flipped)
    assert 0 < same < len(flipped)
    if style == "waveform":
        upside_down = draw(style, -signal())
        assert min(far(p, upside_down) for p in flipped) < 0.25 * far(original, upside_down)


@pytest.mark.parametrize("style", [*STYLES, "somebody's own"])
def test_noise_is_small_and_has_no_direction(style: str) -> None:
    grey = torch.full((8, 3, 64, 64), 128, dtype=torch.uint8)
    changed = augment(grey, style, 1, Augmentation(0, 0, noise=3.0), 1).float() - 128
    assert float(changed.std()) == pytest.approx(3.0, rel=0.05)
    assert abs(float(changed.mean())) < 0.1
    assert torch.equal(changed[:, 0], changed[:, 1])  # grey noise: hues mean power


@pytest.mark.parametrize("style", STYLES)
def test_seeded_and_a_copy(style: str) -> None:
    pictures = draw(style, signal(), size=64).expand(6, -1, -1, -1).clone()
    before = pictures.clone()
    one, same, other = (augment(pictures, style, 1, Augmentation(), seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(pictures, before)
    assert (one.dtype, one.shape) == (torch.uint8, pictures.shape)
    assert len({picture.numpy().tobytes() for picture in one}) == 6


@pytest.mark.parametrize(
    ("channel", "n"),
    [
        ("EEG Fpz-Cz", 1),
        ("C4-M1, O2-M1", 2),
        ("C4 - (M1+M2)/2; C4-A1", 1),
        ("A, B, C; A, B, C2", 3),
    ],
)
def test_channels_are_counted(channel: str, n: int) -> None:
    assert count_channels({"channel": channel}) == n
    assert count_channels({}) == 1


def test_augmentation_costs_little_of_a_training_step() -> None:
    module = VisionModule("resnet18", size=64)
    pictures = draw("spectrogram", signal(), size=64).expand(32, -1, -1, -1).clone()
    own, step = [], []
    for seed in range(3):
        began = time.process_time()
        augment(pictures, "spectrogram", 1, Augmentation(), seed)
        own.append(time.process_time() - began)
        began = time.process_time()
        module(pictures)[1].sum().backward()
        step.append(time.process_time() - began)
    assert min(own) < 0.1 * min(step)
