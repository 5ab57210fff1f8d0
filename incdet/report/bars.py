"""Rows of a name, a bar or a marker, and a figure: what a phone shows best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from incdet.evaluation.metrics import Interval
from incdet.evaluation.results import JOINT, Results
from incdet.report.markup import Markup, tag
from incdet.report.palette import Look
from incdet.report.svg import WIDTH, Area, clip, drawing, label, marker, ticks

ROW = 20.0
LETTER, NAME = 6.2, 26
"""Mean advance of a letter, and the letters of a name that are written."""
MOST = 40
"""Rows of one chart; of more the middle is left out."""


class Bar(NamedTuple):
    """A row: a name, how long its bar is, what stands behind it, its colour."""

    name: str
    value: float
    words: str
    css: str = "hue-mark"


def bars(title: str, rows: Sequence[Bar], note: str = "", most: float | None = None) -> tuple[Markup, float]:
    """Bars from zero to ``most`` (the longest one if None), as (drawing, its height)."""
    top = most or max((row.value for row in rows), default=1.0) or 1.0
    longest = max((len(row.name) for row in rows), default=0)
    left = min(max(LETTER * min(longest, NAME) + 8, 60.0), 168.0)
    right = min(262.0, WIDTH - LETTER * max((len(row.words) for row in rows), default=0) - 8)
    area = Area(left, 30, right, 30 + ROW * len(rows), (0, top), (0, 1))
    parts = []
    for place, row in enumerate(rows):
        y = area.top + ROW * place
        parts += [
            label(area.left - 7, y + 13, clip(row.name, NAME), "right"),
            tag("rect", class_="track", x=area.left, y=y + 4, width=area.right - area.left, height=11, rx=2),
            tag(
                "rect",
                class_=f"bar {row.css}",
                x=area.left,
                y=y + 4,
                width=area.px(row.value) - area.left,
                height=11,
                rx=2,
            ),
            label(area.right + 7, y + 13, row.words),
        ]
    height = area.bottom + 6
    heading = (label(0, 14, title, "title"), label(WIDTH, 14, note, "muted right"))
    spoken = f"{title}: " + ", ".join(f"{row.name} {row.words}" for row in rows)
    return drawing(WIDTH, height, *heading, *parts, name=spoken), height


def _bar(x: float, y: float, width: float, css: str) -> Markup:
    return tag("rect", class_=css, x=x, y=y, width=width, height=11, rx=2)


def changes(title: str, moved: Mapping[str, Interval]) -> tuple[Markup, float]:
    """The change of every class in points, from the greatest gain to the greatest loss, with its interval.

    A change whose interval holds zero is grey: it may be chance. Returns (drawing, its height).
    """
    known = {name: one for name, one in moved.items() if one.change is not None}
    rows = sorted(known.items(), key=lambda item: -(item[1].change or 0.0))
    left_out = max(0, len(rows) - MOST)
    rows = [*rows[: MOST // 2], *rows[-(MOST // 2) :]] if left_out else rows
    edges = [100 * edge for _, one in rows for edge in one if edge is not None] or [0.0]
    low, high = min(-1.0, *edges), max(1.0, *edges)
    area = Area(124, 34, 306, 34 + ROW * len(rows), (low - 0.04 * (high - low), high + 0.04 * (high - low)), (0, 1))
    parts = [area.columns(ticks(*area.x, 4))]
    zero = area.px(0)
    parts.append(tag("line", class_="zero", x1=zero, x2=zero, y1=area.top, y2=area.bottom))
    for place, (name, one) in enumerate(rows):
        parts.append(_change(area, area.top + ROW * place + ROW / 2, name, one))
    height = area.bottom + 20
    heading = [label(0, 14, clip(title, 40), "title"), label(WIDTH, 14, "AP50, points", "muted right")]
    if left_out:
        heading.append(label(0, 28, f"{left_out} classes in the middle are left out", "muted"))
    spoken = f"{title}: " + ", ".join(f"{name} {points(one.change)}" for name, one in rows)
    return drawing(WIDTH, height, *heading, *parts, name=spoken), height


def _change(area: Area, y: float, name: str, one: Interval) -> Markup:
    css = verdict(one)
    change = 100 * (one.change or 0.0)
    parts = [label(area.left - 7, y + 4, clip(name, 20), "right")]
    if one.low is not None and one.high is not None:
        x1, x2 = area.px(100 * one.low), area.px(100 * one.high)
        parts.append(tag("line", class_=f"span {css}", x1=x1, x2=x2, y1=y, y2=y))
    parts += [marker("circle", area.px(change), y, css), label(WIDTH, y + 4, points(one.change), f"right end {css}")]
    return tag("g", *parts)


def verdict(one: Interval) -> str:
    """The colour of a change: gain, loss, or neither where the interval holds zero or is not known."""
    if one.low is None or one.high is None or one.low <= 0 <= one.high:
        return "hue-muted"
    return "hue-gain" if one.low > 0 else "hue-loss"


def points(change: float | None) -> str:
    """A change in points with its sign, the minus as long as the plus."""
    return "-" if change is None else f"{100 * change + 0.0:+.1f}".replace("-", "\u2212").replace("\u22120.0", "+0.0")


def per_class(results: Sequence[Results], looks: Mapping[str, Look]) -> tuple[Markup, float]:
    """The final AP50 of every class, a marker a method; a ring shows where a class of the first step stood after it.

    A step of which the test set shows no class is left out.
    """
    steps = results[0].classes
    final = [result for result in results if result.last is not None]
    first = min((step for result in results for step in result.steps if result.method != JOINT), default=0)
    before = next((result.steps[first] for result in results if first in result.steps), None)
    measured = {
        name for result in results for item in result.steps.values() for name, one in item.scores.items() if one
    }
    shown = [(step, names) for step, names in enumerate(steps, start=1) if measured & {*names}]
    area = Area(124, 30, WIDTH - 10, 30 + ROW * sum(len(names) + 1 for _, names in shown), (0, 100), (0, 1))
    parts, y = [area.columns((0, 25, 50, 75, 100))], area.top
    for step, names in shown:
        parts.append(label(0, y + 14, f"step {step}", "strong"))
        for place, name in enumerate(names, start=1):
            middle = y + ROW * place + ROW / 2
            parts.append(label(area.left - 7, middle + 4, clip(name, 20), "right"))
            start = before.scores.get(name) if before is not None and first < len(steps) else None
            if start is not None:
                parts.append(tag("circle", class_="ring", cx=area.px(100 * start.AP50), cy=middle, r=6.5))
            for result in final:
                score = result.last.scores.get(name) if result.last else None
                if score is not None:
                    look = looks[result.method]
                    parts.append(marker(look.marker, area.px(100 * score.AP50), middle, look.css))
        y += ROW * (len(names) + 1)
    height = area.bottom + 20
    heading = (label(0, 14, "Every class after the last step", "title"), label(WIDTH, 14, "AP50, %", "muted right"))
    return drawing(WIDTH, height, *heading, *parts, name="AP50 of every class after the last step"), height
