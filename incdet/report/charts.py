"""Lines over something: AP50 over the steps, precision over recall, loss over iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from incdet.evaluation.metrics import Matches
from incdet.evaluation.results import JOINT, Results
from incdet.report.markup import Markup, join, tag
from incdet.report.palette import Look
from incdet.report.svg import WIDTH, Area, clip, drawing, ends, label, marker, number, ticks

STEPS_HEIGHT, LOSS_HEIGHT, CURVE_HEIGHT, CURVE_WIDTH = 240.0, 210.0, 150.0, 175.0
END = 238.0
"""Right edge of a chart whose lines are named where they end."""
GROUPS = {"old": "Old classes", "new": "New classes", "all": "All seen classes"}


def over_steps(results: Sequence[Results], group: str, looks: Mapping[str, Look]) -> Markup | None:
    """AP50 of ``group`` (a key of ``GROUPS``) over the steps, a line a method, joint training as a level.

    In the panel of the old classes the first step shows the classes that were just learned, which is where the fall
    starts from.

    Returns:
        None where no line has two points and there are not two methods to compare.
    """
    known = {result.method: found for result in results if (found := _points(result, group))}
    if not any(len(found) > 1 for found in known.values()) and len(known) < 2:
        return None
    steps = sorted({step for result in results for step in result.steps})
    top = max(5.0, 1.06 * max(value for found in known.values() for _, value in found))
    pad = 0.06 * max(1, steps[-1] - steps[0])
    area = Area(34, 30, END, STEPS_HEIGHT - 48, (steps[0] - pad, steps[-1] + pad), (0, top))
    lines, last = [], []
    for method, found in known.items():
        look = looks[method]
        flat = [(steps[0], found[-1][1]), (steps[-1], found[-1][1])]
        lines.append(area.curve(flat if method == JOINT else found, look.css, look.dash))
        if method != JOINT:
            lines += [marker(look.marker, area.px(step), area.py(value), look.css) for step, value in found]
        last.append((found[-1][1], f"{clip(method, 12)} {found[-1][1]:.1f}", look.css))
    names = [
        join(
            (
                label(area.px(step), area.bottom + 15, step, "middle"),
                label(area.px(step), area.bottom + 28, f"+{len(results[0].classes[step - 1])}", "muted middle"),
            )
        )
        for step in steps
    ]
    title = GROUPS[group]
    return drawing(
        WIDTH,
        STEPS_HEIGHT,
        label(0, 14, title, "title"),
        label(WIDTH, 14, "AP50, %", "muted right"),
        area.grid(ticks(0, top)),
        *names,
        label(area.left, STEPS_HEIGHT - 4, "step, and the classes it adds", "muted"),
        *lines,
        ends(area, last),
        name=f"{title}: AP50 over the steps; " + ", ".join(words for _, words, _ in last),
    )


def _points(result: Results, group: str) -> list[tuple[float, float]]:
    """(step, AP50 in percent) of the steps at which ``group`` is known."""
    first = min(result.steps, default=1)
    points = []
    for step in result.steps:
        if group == "new" and step == first > 1 and result.method != JOINT:
            continue  # what the checkpoint of `extend` learned last is not what this run teaches
        value = result.groups(step)["all" if group == "old" and step == first and result.method != JOINT else group]
        if value is not None:
            points.append((float(step), 100 * value))
    return points


def precision_recall(name: str, curves: Sequence[tuple[Matches, str, str | None]]) -> Markup:
    """Precision over recall of one class at IoU 0.5, both in percent: (matches, css, dash) each."""
    area = Area(26, 20, CURVE_WIDTH - 12, CURVE_HEIGHT - 20, (0, 100), (0, 100))
    return drawing(
        CURVE_WIDTH,
        CURVE_HEIGHT,
        label(0, 12, clip(name, 24), "strong"),
        area.grid((0, 50, 100)),
        area.columns((0, 50, 100)),
        *(area.curve(_curve(matches), f"thin {css}", dash) for matches, css, dash in curves),
        name=f"precision over recall of {name}",
    )


def _curve(matches: Matches) -> list[tuple[float, float]]:
    """At most a hundred points (recall, highest precision from there on), in percent."""
    total = int(matches.positives.sum())
    if not total or not matches.hits.any():
        return [(0.0, 0.0)]
    right = np.cumsum(matches.hits)
    precision = right / np.arange(1, len(right) + 1)
    envelope: NDArray[np.float64] = np.maximum.accumulate(precision[::-1])[::-1]
    rows = np.flatnonzero(matches.hits)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, 100).round().astype(int))]
    points = [(100 * float(right[row]) / total, 100 * float(envelope[row])) for row in rows]
    return [(0.0, points[0][1]), *points, (points[-1][0], 0.0)]


def losses(title: str, curves: Mapping[str, Sequence[tuple[float, float]]], css: Mapping[str, str]) -> Markup:
    """Loss over iterations, a line for each name; ``css`` gives their colours.

    Single high points, as at the very start, are cut off at the top.
    """
    values = np.array([value for points in curves.values() for _, value in points])
    end = max(x for points in curves.values() for x, _ in points)
    top = 1.08 * float(np.quantile(values, 0.98)) or 1.0
    area = Area(34, 30, END, LOSS_HEIGHT - 34, (0, end), (0, top))
    last = [
        (min(points[-1][1], top), f"{clip(name, 12)} {points[-1][1]:.2f}", css[name]) for name, points in curves.items()
    ]
    return drawing(
        WIDTH,
        LOSS_HEIGHT,
        label(0, 14, title, "title"),
        area.grid(ticks(0, top, 4)),
        *(label(area.px(x), area.bottom + 15, number(x), "muted middle") for x in ticks(0, end, 4)),
        label(area.left, LOSS_HEIGHT - 4, "iteration", "muted"),
        *(area.curve(_thinned(points), f"thin {css[name]}") for name, points in curves.items()),
        ends(area, last),
        name=f"loss of {title}: " + ", ".join(words for _, words, _ in last),
    )


def _thinned(points: Sequence[tuple[float, float]], most: int = 150) -> list[tuple[float, float]]:
    """At most ``most`` points, each the mean of its neighbours."""
    size = -(-len(points) // most)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def key(names: Mapping[str, Look]) -> Markup:
    """A legend of methods for a page."""
    entries = [
        tag("span", tag("svg", _sample(look), viewBox="0 0 26 12", aria_hidden="true"), name)
        for name, look in names.items()
    ]
    return tag("div", *entries, class_="legend")


def key_drawing(names: Mapping[str, Look]) -> tuple[Markup, float]:
    """The same as a drawing, two methods in a line, and its height."""
    parts = [
        tag(
            "g",
            _sample(look),
            label(32, 10, clip(name, 22)),
            transform=f"translate({WIDTH / 2 * (place % 2):g} {18 * (place // 2)})",
        )
        for place, (name, look) in enumerate(names.items())
    ]
    height = 18.0 * -(-len(names) // 2)
    return drawing(WIDTH, height, *parts, name=f"methods: {', '.join(names)}"), height


def _sample(look: Look) -> Markup:
    """A piece of line with its marker, 26 by 12 units."""
    line = tag("polyline", class_=f"curve {look.css}", points="1,6 25,6", stroke_dasharray=look.dash)
    return join((line, marker(look.marker, 13, 6, look.css)))
