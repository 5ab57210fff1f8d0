"""The parts that charts are made of: a plotting area, its grid, lines, markers and labels at line ends.

Lengths are in units of about a pixel: a chart is 360 units wide, which is what a phone shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from incdet.report.markup import Markup, join, tag
from incdet.report.style import chart_style

WIDTH = 360.0
LINE = 13.0
"""Distance between two lines of small letters."""

_MARKERS = {
    "square": "M-3.6-3.6H3.6V3.6H-3.6Z",
    "up": "M0-4.6L4.4 3.4H-4.4Z",
    "down": "M0 4.6L4.4-3.4H-4.4Z",
    "diamond": "M0-5L5 0L0 5L-5 0Z",
    "plus": "M-1.5-4.6H1.5V-1.5H4.6V1.5H1.5V4.6H-1.5V1.5H-4.6V-1.5H-1.5Z",
    "cross": "M-4-2.2L-2.2-4L0-1.8L2.2-4L4-2.2L1.8 0L4 2.2L2.2 4L0 1.8L-2.2 4L-4 2.2L-1.8 0Z",
    "bar": "M-1.2-6H1.2V6H-1.2Z",
}


@dataclass(frozen=True)
class Area:
    """A plotting area: ``x`` and ``y`` are the ranges of values that its edges stand for.

    Attributes:
        left: Its left edge.
        top: Its upper edge.
        right: Its right edge.
        bottom: Its lower edge.
        x: Values at the left and the right edge.
        y: Values at the lower and the upper edge.
    """

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def px(self, value: float) -> float:
        """Where ``value`` of the first axis stands."""
        low, high = self.x
        return self.left + (self.right - self.left) * (value - low) / ((high - low) or 1.0)

    def py(self, value: float) -> float:
        """Where ``value`` of the second axis stands."""
        low, high = self.y
        return self.bottom - (self.bottom - self.top) * (value - low) / ((high - low) or 1.0)

    def grid(self, values: Iterable[float], unit: str = "") -> Markup:
        """Level lines with their values at the left."""
        return join(
            join(
                (
                    tag("line", class_="grid", x1=self.left, x2=self.right, y1=self.py(value), y2=self.py(value)),
                    label(self.left - 5, self.py(value) + 4, f"{number(value)}{unit}", "muted right"),
                )
            )
            for value in values
        )

    def columns(self, values: Iterable[float], unit: str = "") -> Markup:
        """Upright lines with their values below."""
        return join(
            join(
                (
                    tag("line", class_="grid", x1=self.px(value), x2=self.px(value), y1=self.top, y2=self.bottom),
                    label(self.px(value), self.bottom + 13, f"{number(value)}{unit}", "muted middle"),
                )
            )
            for value in values
        )

    def curve(self, points: Sequence[tuple[float, float]], css: str, dash: str | None = None) -> Markup:
        """A line through ``points``, cut off at the area's upper and lower edge."""
        low, high = self.y
        places = [(self.px(x), self.py(min(max(y, low), high))) for x, y in points]
        return tag(
            "polyline",
            class_=f"curve {css}",
            points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places),
            stroke_dasharray=dash,
        )


def drawing(width: float, height: float, *parts: object, name: str) -> Markup:
    """An SVG element; ``name`` is what is read aloud in its place."""
    return tag("svg", tag("title", name), *parts, viewBox=f"0 0 {width:g} {height:g}", role="img")


def label(x: float, y: float, words: object, css: str = "", **more: object) -> Markup:
    """Letters whose base line starts at (x, y)."""
    return tag("text", words, x=x, y=y, class_=css or None, **more)


def marker(shape: str, x: float, y: float, css: str) -> Markup:
    """A marker around (x, y)."""
    if shape == "circle":
        return tag("circle", cx=x, cy=y, r=4.0, class_=f"dot {css}")
    return tag("path", d=_MARKERS[shape], transform=f"translate({x:.1f} {y:.1f})", class_=f"dot {css}")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round values in [low, high], a step of 1, 2 or 5 times a power of ten apart."""
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / count))
    step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count)
    return [
        round(step * place, 10) for place in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def number(value: float) -> str:
    """A value at an axis, as short as it can be."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}".replace("-", "\u2212")


def clip(words: str, most: int) -> str:
    """``words``, or their beginning and an ellipsis."""
    return words if len(words) <= most else words[: most - 1] + "…"


def ends(area: Area, values: Sequence[tuple[float, str, str]]) -> Markup:
    """Labels right of the area at the heights of their values, moved apart: (value, words, css) each."""
    ordered = sorted(values, key=lambda item: -item[0])
    places = spread([area.py(value) for value, _, _ in ordered], LINE)
    below = max(0.0, places[-1] - area.bottom) if places else 0.0
    # The words above the area stay free, whatever many lines that end at its top would like.
    places = [max(place - below, area.top + LINE * rank) for rank, place in enumerate(places)]
    return join(
        label(area.right + 7, place + 4, words, f"end halo {css}")
        for place, (_, words, css) in zip(places, ordered, strict=True)
    )


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Places nearest to the sorted ``values`` in the least squares sense that are ``gap`` apart or more.

    Isotonic regression of ``value - rank * gap`` by pooling neighbours.
    """
    blocks: list[list[float]] = []  # [mean, number of values]
    for rank, value in enumerate(values):
        blocks.append([value - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            before, number_before = blocks.pop()
            whole = count + number_before
            blocks.append([(mean * count + before * number_before) / whole, whole])
    flat = [mean for mean, count in blocks for _ in range(int(count))]
    return [place + rank * gap for rank, place in enumerate(flat)]


def standalone(panels: Sequence[Markup], sizes: Sequence[tuple[float, float]], columns: int = 1) -> Markup:
    """Drawings side by side as one SVG file that needs no page.

    Args:
        panels: Of ``drawing``.
        sizes: Width and height of each.
        columns: How many stand in a row.
    """
    gap = 18.0
    parts, top, widest = [], gap, 0.0
    for start in range(0, len(panels), columns):
        left, row = gap, list(zip(panels, sizes, strict=True))[start : start + columns]
        for panel, (width, height) in row:
            parts.append(tag("svg", panel, x=left, y=top, width=width, height=height))
            left += width + gap
        widest, top = max(widest, left), top + max(height for _, (_, height) in row) + gap
    size = {"width": widest, "height": top, "viewBox": f"0 0 {widest:g} {top:g}"}
    return tag("svg", tag("style", Markup(chart_style())), *parts, xmlns="http://www.w3.org/2000/svg", **size)
