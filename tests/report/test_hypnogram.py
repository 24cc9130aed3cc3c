from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import pytest

from eegtool.core.stages import STAGES
from eegtool.report.reading.epochs import AnsweredEpoch
from eegtool.report.reading.nights import Night, lay_out
from eegtool.report.showing.hypnogram import picture

NightOf = Callable[..., Night]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def night_of(epoch: Callable[..., AnsweredEpoch]) -> NightOf:
    def build(
        pairs: Sequence[tuple[str | None, str | None]], first: int = 0, name: str = "SC4031E0"
    ) -> Night:
        epochs = [epoch(first + i, t, p, recording=name) for i, (t, p) in enumerate(pairs)]
        (night,), _ = lay_out(epochs)
        return night

    return build


def draw(night: Night) -> str:
    return picture(night).inline


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314  our own drawing


def bars(svg: str, colour: str) -> list[tuple[float, float, float]]:
    """Return left, right and height of the bars drawn in `colour`, in drawing units."""
    found = []
    for element in ElementTree.fromstring(svg).iter(f"{SVG}path"):  # noqa: S314  our own drawing
        if f"stroke: {colour}" not in element.get("style", ""):
            continue
        for run in re.findall(
            r"M ([\d.]+) ([\d.]+) L ([\d.]+) ", " ".join(element.get("d", "").split()) + " "
        ):
            left, height, right = map(float, run)
            found.append((left, right, height))
    return found


def test_is_the_same_every_time_and_needs_nothing(night_of: NightOf) -> None:
    night = night_of([("W", "W"), ("N2", "N3"), (None, None)] * 20)
    svg = draw(night)
    assert svg == draw(night)
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>")
    assert re.findall(r"https?://(?!www\.w3\.org/)", svg) == []
    assert "<style" not in svg
    assert "date" not in svg.lower()


def test_each_stage_is_a_bar_in_its_colour_true_above_predicted(night_of: NightOf) -> None:
    pairs = [(s, s) for s in STAGES for _ in range(10)]
    svg = draw(night_of(pairs))
    heights = []
    end = None
    for stage in STAGES:
        (left, right, upper), (*same_times, lower) = bars(svg, f"var(--{stage}, ")
        assert same_times == [left, right]  # one time axis
        assert upper < lower  # y grows downwards
        assert end is None or left == pytest.approx(end)
        heights.append(upper)
        end = right
    # Rows from above: W, REM, N1, N2, N3
    assert sorted(STAGES, key=lambda s: heights[STAGES.index(s)]) == ["W", "REM", "N1", "N2", "N3"]


def test_errors_are_marked_where_they_are(night_of: NightOf) -> None:
    pairs = [("N2", "N2")] * 40 + [("N2", "N3")] * 10 + [("N2", "N2")] * 49 + [("N2", None)]
    svg = draw(night_of(pairs))
    (left, right, _), (last_left, last_right, _) = bars(svg, "var(--wrong, ")
    n3_left, n3_right, _ = bars(svg, "var(--N3, ")[0]
    assert (left, right) == (n3_left, n3_right)
    assert last_right - last_left == pytest.approx((right - left) / 10, abs=0.02)
    assert bars(draw(night_of([("W", "W")] * 9)), "var(--wrong, ") == []


def test_gaps_are_unscored(night_of: NightOf) -> None:
    assert texts(draw(night_of([("W", "W"), ("N2", None)] * 9))).count("unscored") == 2
    assert "unscored" not in texts(draw(night_of([("W", "W"), ("N2", "W")] * 9)))


def test_time_counts_from_the_start_of_the_recording(night_of: NightOf) -> None:
    shown = texts(draw(night_of([("N2", "N2")] * 240, first=24 * 120)))  # two hours, one day in
    assert "24:00" in shown
    assert "25:30" in shown
    assert "time from the start of the recording [h:min]" in shown


@pytest.mark.parametrize("n", [1, 2, 40000])
def test_any_length_is_drawn(night_of: NightOf, n: int) -> None:
    svg = draw(night_of([("W", "N1")] * n))
    assert len(bars(svg, "var(--W, ")) == 1


def test_no_text_of_files_gets_into_the_drawing(night_of: NightOf) -> None:
    name = "$\\frac<script>"
    svg = draw(night_of([("W", "W")] * 3, name=name))
    assert "script" not in svg


def test_two_figures_share_no_ids(night_of: NightOf) -> None:
    pairs = [("W", "W"), ("N2", None)] * 9
    ids = [set(re.findall(r' id="([^"]+)"', draw(night_of(pairs, name=n)))) for n in ("a", "b")]
    assert ids[0]
    assert not ids[0] & ids[1]
