"""One recording drawn: true hypnogram, errors, predicted hypnogram, probabilities, on one time axis."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import yasa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MultipleLocator

from eegtool.core.stages import EPOCH_S, STAGE_COLOURS, STAGES
from eegtool.report.reading.nights import Night

_DAY: Final = 24 * 3600  # matplotlib counts dates in days, and so does the time axis here
_UNSCORED: Final = "unscored"
_ROWS: Final = ("N3", "N2", "N1", "REM", "W", _UNSCORED)  # yasa's order, from below
_MOST_COLUMNS: Final = 300  # of probabilities: three pixels each on the page
_TICKS_S: Final = (60, 300, 600, 1800, 3600, 7200, 14400)

# The page is read light and dark: what is drawn in these colours takes the page's own (CSS) ones.
INK: Final = "#1d2126"
FAINT: Final = "#9aa0a7"
_WRONG: Final = "#b3261d"
_ON_THE_PAGE: Final = {
    INK: "currentColor",
    FAINT: f"var(--faint, {FAINT})",
    _WRONG: f"var(--wrong, {_WRONG})",
    **{colour: f"var(--{stage}, {colour})" for stage, colour in STAGE_COLOURS.items()},
}


@dataclass(frozen=True, slots=True)
class Picture:
    """One recording, drawn once and saved in three forms.

    Attributes
    ----------
    inline : str
        An ``<svg>`` element in the colours of the page, without any text from files.
    svg : str
        A file of its own.
    png : bytes
        The same as pixels.
    """

    inline: str
    svg: str
    png: bytes


def picture(night: Night) -> Picture:
    """Draw one recording: true hypnogram, errors, predicted hypnogram and, if known, probabilities.

    Returns
    -------
    Picture
        The same for the same night, always. Time is in hours and minutes from the first sample of the
        recording. Without labels there are neither true stages nor errors.
    """
    return drawn(lambda: _figure(night), night.recording)


def drawn(make: Callable[[], Figure], name: str) -> Picture:
    """Save a figure as SVG, as an element of the page and as pixels; always to the same bytes.

    Parameters
    ----------
    make : callable
        Draws it, whatever this user's matplotlibrc says.
    name : str
        Makes its ids differ from those of other figures of one page.
    """
    style: dict[Any, Any] = {
        **{"svg.fonttype": "none", "svg.hashsalt": f"eegvlm {name}", "path.simplify": False},
        **{"font.family": ["sans-serif"], "font.sans-serif": ["DejaVu Sans"], "font.size": 10},
    }
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(style)
        figure = make()
        svg, pixels = io.StringIO(), io.BytesIO()
        nameless = {"Date": None, "Creator": None}
        figure.savefig(svg, format="svg", transparent=True, metadata=nameless)
        figure.savefig(pixels, dpi=120, facecolor="white", metadata={"Software": None})
    return Picture(_inlined(svg.getvalue()), svg.getvalue(), pixels.getvalue())


def _figure(night: Night) -> Figure:
    rows = [("predicted", 6.0)]
    if night.labelled:
        rows = [("true", 6.0), ("errors", 0.8), *rows]
    if night.has_probabilities:
        rows.append(("probability", 3.0))
    heights = [height for _, height in rows]
    layout = ConstrainedLayoutEngine(h_pad=0.02, hspace=0.02)
    figure = Figure(figsize=(10, 0.65 + 0.224 * sum(heights)), layout=layout)
    axes = figure.subplots(len(rows), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    gaps = None in night.predicted or (bool(night.labelled) and None in night.true)
    for (name, _), one in zip(rows, axes, strict=True):
        if name == "errors":
            _draw_errors(one, night)
        elif name == "probability":
            _draw_probabilities(one, night)
        else:
            stages = night.true if name == "true" else night.predicted
            _draw_stages(one, name, stages, night.first_epoch, gaps)
    _draw_time(axes[-1], len(night.true))
    return figure


def _draw_stages(
    axes: Axes, name: str, stages: Sequence[str | None], first: int, gaps: bool
) -> None:
    """Let yasa draw the line, then lay each stage over it in its colour."""
    start = datetime(1970, 1, 1) + timedelta(seconds=first * EPOCH_S)  # matplotlib's day 0
    names = [stage or "UNS" for stage in stages]
    hypnogram = yasa.Hypnogram(names, freq=f"{EPOCH_S}s", start=start)
    hypnogram.plot_hypnogram(highlight=None, ax=axes, color=FAINT, linewidth=0.6)
    for stage, colour in (*STAGE_COLOURS.items(), (None, FAINT)):
        y = _ROWS.index(stage or _UNSCORED)
        _draw_runs(axes, [s == stage for s in stages], first, y, color=colour, linewidth=3.5)
    rows = _ROWS if gaps else _ROWS[:-1]
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_ylabel(name, fontsize=10, color=INK)
    axes.set_xlabel("")
    axes.grid(color=FAINT, alpha=0.25, linewidth=0.5)
    _quieten(axes)


def _draw_errors(axes: Axes, night: Night) -> None:
    _draw_runs(axes, night.wrong, night.first_epoch, 0, color=_WRONG, linewidth=9)
    axes.set_yticks([0], ["errors"])
    axes.set_ylim(-1, 1)
    _quieten(axes)


def _draw_probabilities(axes: Axes, night: Night) -> None:
    """Stack the probabilities of the stages, deepest sleep at the bottom; long nights in means of epochs."""
    rows = np.array([(e and e.probabilities) or (0.0,) * len(STAGES) for e in night.epochs])
    step = -(-len(rows) // _MOST_COLUMNS)
    starts = np.arange(0, len(rows), step)
    means = np.add.reduceat(rows, starts) / np.diff([*starts, len(rows)])[:, None]
    edges = (night.first_epoch + np.array([*starts, len(rows)])) * EPOCH_S / _DAY
    bottom = np.zeros(len(means))
    across = np.repeat(edges, 2)[1:-1]
    for stage in _ROWS[:-1]:
        top = bottom + means[:, STAGES.index(stage)]
        low, high = np.repeat(bottom, 2), np.repeat(top, 2)
        axes.fill_between(across, low, high, color=STAGE_COLOURS[stage], linewidth=0)
        bottom = top
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 1])
    axes.set_ylabel("probability", fontsize=10, color=INK)
    _quieten(axes)


def _draw_time(axes: Axes, n_epochs: int) -> None:
    seconds = n_epochs * EPOCH_S
    step = next((tick for tick in _TICKS_S if seconds / tick <= 12), _TICKS_S[-1])
    axes.xaxis.set_major_locator(MultipleLocator(step / _DAY))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda days, _: _clock(days)))
    axes.set_xlabel("time from the start of the recording [h:min]", fontsize=10, color=INK)
    axes.tick_params(axis="x", bottom=True, labelbottom=True)


def _draw_runs(
    axes: Axes, marked: Sequence[bool], first: int, y: float, *, color: str, linewidth: float
) -> None:
    """Draw each run of marked epochs as a horizontal bar; all of them are one broken line."""
    changes = np.flatnonzero(np.diff([False, *marked, False])) + first
    begins, ends = changes.reshape(-1, 2).T * EPOCH_S / _DAY
    if len(begins):
        days = np.stack([begins, ends, ends], axis=1).reshape(-1)
        heights = np.tile([y, y, np.nan], len(begins))
        axes.plot(days, heights, color=color, linewidth=linewidth, solid_capstyle="butt")


def _quieten(axes: Axes) -> None:
    axes.tick_params(axis="both", labelsize=9, length=0, colors=INK)
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
    # Hundredths of a point are more than a screen shows, and half as many bytes.
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)
    for drawn, shown in _ON_THE_PAGE.items():
        svg = svg.replace(drawn, shown)
    return svg.strip()
