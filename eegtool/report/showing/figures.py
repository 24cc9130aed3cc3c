"""The figure of a run, for the page and for papers: confusion, F1 of each stage, reliability, coverage."""

from __future__ import annotations

from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eegtool.core.stages import STAGE_COLOURS, STAGES
from eegtool.report.measures.metrics import Metrics
from eegtool.report.showing.hypnogram import FAINT, INK, Picture, drawn

_CURVE: Final = STAGE_COLOURS["N2"]
_SIDE_IN: Final = 3.3
_KAPPAS: Final = ("kappa_together", "kappa")


def summary_figure(metrics: Metrics) -> Picture | None:
    """Draw what a run reached, as far as it has labels and probabilities; None without labels.

    Parameters
    ----------
    metrics : Metrics
        Its figures.
    """
    if not metrics.n:
        return None
    panels = [_confusion, _stages]
    if metrics.calibration:
        panels.append(_reliability)
    if metrics.coverage:
        panels.append(_coverage)

    def make() -> Figure:
        figure = Figure(figsize=(_SIDE_IN * len(panels), _SIDE_IN), layout="constrained")
        places = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(places, panels, strict=True):
            panel(axes, metrics)
            axes.title.set(fontsize=10, color=INK)
            axes.tick_params(labelsize=8, length=0, colors=INK)
            axes.xaxis.label.set(fontsize=9, color=INK)
            axes.yaxis.label.set(fontsize=9, color=INK)
            axes.spines[:].set_visible(False)
        return figure

    return drawn(make, "summary")


def _confusion(axes: Axes, metrics: Metrics) -> None:
    """Draw each true stage as a row of shares."""
    columns = [*STAGES, "?"] if metrics.unreadable else list(STAGES)
    for y, row in enumerate(metrics.confusion):
        for x, count in enumerate(row[: len(columns)]):
            share = count / (sum(row) or 1)
            axes.fill_between([x, x + 1], y, y + 1, color=_CURVE, alpha=share, linewidth=0)
            text = f"{share:.0%}".replace("%", "") if count else ""
            axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=9, color=INK)
    axes.set(xlim=(0, len(columns)), ylim=(len(STAGES), 0), title="Share of each true stage [%]")
    axes.set_xticks([x + 0.5 for x in range(len(columns))], columns)
    axes.set_yticks([y + 0.5 for y in range(len(STAGES))], STAGES)
    axes.set(xlabel="answer", ylabel="scored")


def _stages(axes: Axes, metrics: Metrics) -> None:
    """Draw F1 of each stage with its interval."""
    for x, (stage, score) in enumerate(metrics.per_stage.items()):
        axes.bar(x, score.f1 or 0, color=STAGE_COLOURS[stage], width=0.7)
        if interval := metrics.intervals.stages.get(stage, {}).get("f1"):
            axes.plot([x, x], interval, color=INK, linewidth=1.2)
    axes.set(ylim=(0, 1), title="F1 of each stage, 95 % interval")
    axes.set_xticks(range(len(metrics.per_stage)), list(metrics.per_stage))
    _grid(axes)


def _reliability(axes: Axes, metrics: Metrics) -> None:
    """Draw how often the likeliest stage was right against how certain the model was."""
    bins = [b for b in (metrics.calibration.bins if metrics.calibration else ()) if b.n]
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1)
    curve = [(b.certainty or 0.0, b.accuracy or 0.0) for b in bins]
    axes.plot(*zip(*curve, strict=True), "o-", color=_CURVE, markersize=4)
    most = max((b.n for b in bins), default=1)
    for b in bins:
        axes.bar(b.low, 0.15 * b.n / most, b.high - b.low, align="edge", color=FAINT, alpha=0.5)
    axes.set(xlim=(0, 1), ylim=(0, 1), title="Reliability; bars: epochs")
    axes.set(xlabel="certainty", ylabel="share of right answers")
    _grid(axes)


def _coverage(axes: Axes, metrics: Metrics) -> None:
    """Draw κ against the share of epochs that goes to a human, the rest alone and together."""
    points = metrics.coverage
    shares = [100 * p.to_human for p in points]
    together, rest = (np.array([getattr(p, k) for p in points], float) for k in _KAPPAS)
    axes.plot(shares, together, "--", color=FAINT, linewidth=1, label="together")
    axes.plot(shares, rest, "o-", color=_CURVE, markersize=4, label="of the rest")
    band = [(s, *p.kappa_interval) for s, p in zip(shares, points, strict=True) if p.kappa_interval]
    if band:
        x, low, high = zip(*band, strict=True)
        axes.fill_between(x, low, high, color=_CURVE, alpha=0.16, linewidth=0)
    axes.set(title="κ, least certain epochs to a human", xlabel="share to a human [%]", ylabel="κ")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    _grid(axes)


def _grid(axes: Axes) -> None:
    axes.grid(color=FAINT, alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
