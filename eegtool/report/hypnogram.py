"""One recording drawn as an inline SVG: true hypnogram, errors, predicted hypnogram, on one time axis."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Final

import matplotlib as mpl
import yasa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MultipleLocator

from eegtool.core.stages import EPOCH_S, STAGE_COLOURS
from eegtool.report.nights import Night

_DAY: Final = 24 * 3600  # matplotlib counts dates in days, and so does the time axis here
_UNSCORED: Final = "unscored"
_ROWS: Final = ("N3", "N2", "N1", "REM", "W", _UNSCORED)  # yasa's order, from below
_TICKS_S: Final = (60, 300, 600, 1800, 3600, 7200, 14400)

# The page is read light and dark: what is drawn in these colours takes the page's own (CSS) ones.
_INK: Final = "#010101"
_FAINT: Final = "#020202"
_WRONG: Final = "#030303"
_ON_THE_PAGE: Final = {
    _INK: "currentColor",
    _FAINT: "var(--faint, #9aa0a8)",
    _WRONG: "var(--wrong, #b3261e)",
    **{colour: f"var(--{stage}, {colour})" for stage, colour in STAGE_COLOURS.items()},
}


def draw(night: Night) -> str:
    """Draw one recording.

    Parameters
    ----------
    night : Night
        Its stages.

    Returns
    -------
    str
        An ``<svg>`` element without any text from files; the same for the same night, always. Time
        is in hours and minutes from the first sample of the recording.
    """
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"eegvlm {night.recording}",  # ids differ between the figures of one page
        "font.family": ["sans-serif"],
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 10,
        "path.simplify": False,
    }
    with mpl.rc_context():
        mpl.rcdefaults()  # the same picture whatever this user's matplotlibrc says
        mpl.rcParams.update(style)
        layout = ConstrainedLayoutEngine(h_pad=0.02, hspace=0.02)
        figure = Figure(figsize=(10, 3.5), layout=layout)
        top, strip, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(6, 0.8, 6))
        gaps = None in night.true or None in night.predicted
        for axes, name, stages in (
            (top, "true", night.true),
            (bottom, "predicted", night.predicted),
        ):
            _draw_stages(axes, name, stages, night.first_epoch, gaps)
        _draw_errors(strip, night)
        _draw_time(bottom, len(night.true))
        svg = io.StringIO()
        figure.savefig(
            svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return _inlined(svg.getvalue())


def _draw_stages(
    axes: Axes, name: str, stages: Sequence[str | None], first: int, gaps: bool
) -> None:
    """Let yasa draw the line, then lay each stage over it in its colour."""
    start = datetime(1970, 1, 1) + timedelta(seconds=first * EPOCH_S)  # matplotlib's day 0
    hypnogram = yasa.Hypnogram(
        [stage or "UNS" for stage in stages], freq=f"{EPOCH_S}s", start=start
    )
    hypnogram.plot_hypnogram(highlight=None, ax=axes, color=_FAINT, linewidth=0.6)
    for stage, colour in (*STAGE_COLOURS.items(), (None, _FAINT)):
        y = _ROWS.index(stage or _UNSCORED)
        _draw_runs(axes, [s == stage for s in stages], first, y, color=colour, linewidth=3.5)
    rows = _ROWS if gaps else _ROWS[:-1]
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_ylabel(name, fontsize=10, color=_INK)
    axes.set_xlabel("")
    axes.grid(color=_FAINT, alpha=0.25, linewidth=0.5)
    _quieten(axes)


def _draw_errors(axes: Axes, night: Night) -> None:
    _draw_runs(axes, night.wrong, night.first_epoch, 0, color=_WRONG, linewidth=9)
    axes.set_yticks([0], ["errors"])
    axes.set_ylim(-1, 1)
    _quieten(axes)


def _draw_time(axes: Axes, n_epochs: int) -> None:
    seconds = n_epochs * EPOCH_S
    step = next((tick for tick in _TICKS_S if seconds / tick <= 12), _TICKS_S[-1])
    axes.xaxis.set_major_locator(MultipleLocator(step / _DAY))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda days, _: _clock(days)))
    axes.set_xlabel("time from the start of the recording [h:min]", fontsize=10, color=_INK)
    axes.tick_params(axis="x", bottom=True, labelbottom=True)


def _draw_runs(
    axes: Axes, marked: Sequence[bool], first: int, y: float, *, color: str, linewidth: float
) -> None:
    """Draw each run of marked epochs as a horizontal bar; all of them are one broken line."""
    times, heights = [], []
    for begin, end in _runs(marked):
        times += [begin, end, end]
        heights += [y, y, float("nan")]
    days = [(first + epoch) * EPOCH_S / _DAY for epoch in times]
    if days:
        axes.plot(days, heights, color=color, linewidth=linewidth, solid_capstyle="butt")


def _runs(marked: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Yield first and one-past-last index of each run of True."""
    begin = 0
    for value, run in groupby(marked):
        end = begin + sum(1 for _ in run)
        if value:
            yield begin, end
        begin = end


def _quieten(axes: Axes) -> None:
    axes.tick_params(axis="both", labelsize=9, length=0, colors=_INK)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.margins(x=0)
    axes.spines[:].set_visible(False)


def _clock(days: float) -> str:
    minutes = round(days * 24 * 60)
    return f"{minutes // 60}:{minutes % 60:02d}"


def _inlined(svg: str) -> str:
    """Turn a stand-alone file into an element of the page, in the colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</defs>\s*", "", svg, flags=re.DOTALL)  # would style the page
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # would occur once per figure
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    for drawn, shown in _ON_THE_PAGE.items():
        svg = svg.replace(drawn, shown)
    return svg.strip()
