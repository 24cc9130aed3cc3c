"""Two small figures of the page, drawn as SVG elements in the colours of the page: numbers only, no foreign text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eegtool.report.measures.certainty import Calibration, CoveragePoint

_WIDTH: Final = 360.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 18.0, 10.0, 40.0
_SIDE: Final = _WIDTH - _LEFT - _RIGHT  # the field of the reliability figure is square
_STRIP: Final = 46.0  # height of the numbers of epochs below it


class _Field:
    """A field of two axes: turns values into places."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], height: float) -> None:
        self.x0, self.x1 = x
        self.y0, self.y1 = y
        self.height = height

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x0) / (self.x1 - self.x0) * _SIDE

    def y(self, value: float) -> float:
        return _TOP + (self.y1 - value) / (self.y1 - self.y0) * self.height

    def line(self, points: Sequence[tuple[float, float]], style: str) -> str:
        places = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline points="{places}" class="{style}"/>'

    def frame(self, x_ticks: Sequence[float], y_ticks: Sequence[float], percent: bool) -> str:
        """Draw grid and numbers of both axes."""
        bottom = _TOP + self.height
        parts = []
        for tick in y_ticks:
            y = self.y(tick)
            parts.append(self.line([(self.x0, tick), (self.x1, tick)], "grid"))
            parts.append(_text(_LEFT - 7, y + 3.5, f"{tick:.1f}".replace("-", "−"), "end"))
        for tick in x_ticks:
            parts.append(
                _text(self.x(tick), bottom + 15, f"{100 * tick:.0f} %" if percent else f"{tick:g}")
            )
        return "".join(parts)


def reliability_figure(calibration: Calibration) -> str:
    """Draw how often the likeliest stage was right against how certain the model was.

    Parameters
    ----------
    calibration : Calibration
        Its bins are the points; below them stands how many epochs each holds.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    field = _Field((0, 1), (0, 1), _SIDE)
    ticks = (0, 0.2, 0.4, 0.6, 0.8, 1)
    bins = [
        b for b in calibration.bins if b.n and b.certainty is not None and b.accuracy is not None
    ]
    points = [(b.certainty or 0.0, b.accuracy or 0.0) for b in bins]
    base = _TOP + _SIDE + 24 + _STRIP
    most = max((b.n for b in bins), default=1)
    bars = (
        f'<rect x="{field.x(b.low) + 0.5:.1f}" y="{base - (h := _STRIP * b.n / most):.1f}" '
        f'width="{(b.high - b.low) * _SIDE - 1:.1f}" height="{h:.1f}" class="bar"><title>{b.n:,} epochs</title></rect>'
        for b in bins
    )
    dots = (
        f'<circle cx="{field.x(x):.1f}" cy="{field.y(y):.1f}" r="3.5" class="dot"><title>certainty {x:.3f}, '
        f"right {y:.3f}, {b.n:,} epochs</title></circle>"
        for b, (x, y) in zip(bins, points, strict=True)
    )
    return _svg(
        base + 20,
        field.frame(ticks, ticks, percent=False),
        field.line([(0, 0), (1, 1)], "ideal"),
        field.line(points, "curve"),
        *dots,
        *bars,
        _text(_LEFT + _SIDE / 2, base + 14, "certainty; bars: epochs"),
        _sideways(_TOP + _SIDE / 2, "share of right answers"),
    )


def coverage_figure(points: Sequence[CoveragePoint]) -> str:
    """Draw κ against the share of epochs that goes to a human.

    Parameters
    ----------
    points : sequence of CoveragePoint
        At least one.

    Returns
    -------
    str
        An ``<svg>`` element: κ of the rest with its interval, and dashed κ of model and human together.
    """
    rest = [(p.to_human, p.kappa) for p in points if p.kappa is not None]
    together = [(p.to_human, p.kappa_together) for p in points if p.kappa_together is not None]
    bounds = [(p.to_human, p.kappa_interval) for p in points if p.kappa_interval is not None]
    band = [(x, low) for x, (low, _) in bounds] + [(x, high) for x, (_, high) in reversed(bounds)]
    lowest = min((y for _, y in [*rest, *together, *band]), default=0.0)
    step = 0.1 if lowest > 0.4 else 0.2
    floor = max(-1.0, (lowest // step) * step)
    field = _Field((0, max(0.05, *(p.to_human for p in points))), (floor, 1), 0.62 * _SIDE)
    places = " ".join(f"{field.x(x):.1f},{field.y(y):.1f}" for x, y in band)
    bottom = _TOP + field.height
    return _svg(
        bottom + _BOTTOM,
        field.frame(
            [p.to_human for p in points if round(p.to_human * 100) % 10 == 0],
            [floor + i * step for i in range(round((1 - floor) / step) + 1)],
            percent=True,
        ),
        f'<polygon points="{places}" class="band"/>' if band else "",
        field.line(together, "ideal"),
        field.line(rest, "curve"),
        *(
            f'<circle cx="{field.x(x):.1f}" cy="{field.y(y):.1f}" r="3" class="dot"/>'
            for x, y in rest
        ),
        _text(_LEFT + _SIDE / 2, bottom + 33, "share of epochs to a human, least certain first"),
        _sideways(_TOP + field.height / 2, "κ"),
    )


def _svg(height: float, *parts: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {_WIDTH:.0f} {height:.0f}">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _sideways(y: float, text: str) -> str:
    return f'<text transform="translate(12 {y:.1f}) rotate(-90)" text-anchor="middle">{text}</text>'
