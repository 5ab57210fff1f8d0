"""The figures of a report, drawn from saved results and saved samples alone.

Colours are Okabe and Ito's, which stay apart for colour-blind readers; every method also has a marker of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from incdet.evaluation.results import JOINT, Results
from incdet.files import replacing


@dataclass(frozen=True)
class Theme:
    """Colours of paper and ink."""

    paper: str
    ink: str
    muted: str
    grid: str
    place: int


LIGHT = Theme("#ffffff", "#1b1f24", "#59636e", "#e3e6ea", 0)
DARK = Theme("#16191d", "#e8eaed", "#a3acb5", "#30363d", 1)

# (on light, on dark, marker); dark variants are lighter so that both have a contrast of 3:1 at least.
_KNOWN = {
    "finetune": ("#D55E00", "#F0803C", "v"),
    "eeil": ("#009E73", "#2FC79B", "s"),
    "incdet": ("#0072B2", "#4AA8E8", "o"),
    "pseudo": ("#B8508A", "#DE8DBB", "D"),
    "lwf": ("#B07A00", "#E9AE2A", "^"),
    "masked": ("#6C6F75", "#A9AEB6", "P"),
}
_SPARE = (
    ("#7A4FBF", "#B79AF0", "X"),
    ("#8A5A2B", "#CFA06B", "<"),
    ("#5B7A00", "#B4D04B", "h"),
    ("#2B90C8", "#8CCBF2", ">"),
)
OLD, NEW = "#0072B2", "#D55E00"
PALETTE = ("#0072B2", "#D55E00", "#00795A", "#B8508A", "#8A5A2B", "#7A4FBF", "#9A6A00", "#45506B")
DRAWN = 0.3
"""Detections from this score on are drawn."""


def looks(methods: Sequence[str], theme: Theme = LIGHT) -> dict[str, tuple[str, str, str]]:
    """(colour, marker, line style) by method; the named methods look the same in every report."""
    chosen, spare = {}, 0
    for method in methods:
        if method == JOINT:
            chosen[method] = (theme.ink, "|", "--")
        elif method in _KNOWN:
            chosen[method] = (_KNOWN[method][theme.place], _KNOWN[method][2], "-")
        else:
            entry, turn = _SPARE[spare % len(_SPARE)], spare // len(_SPARE)
            chosen[method] = (entry[theme.place], entry[2], ("-", "-.", ":")[turn % 3])
            spare += 1
    return chosen


def ap_over_steps(results: Sequence[Results], path: Path, theme: Theme = LIGHT) -> None:
    """Draws AP50 of old, new and all seen classes over the steps: a line per method, joint training as a level.

    In the panel of the old classes step 1 shows the base classes just learned, which is where the fall starts from.
    """
    steps = results[0].classes
    figure = Figure(figsize=(11.5, 4.6), facecolor=theme.paper, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    chosen = looks([result.method for result in results], theme)
    titles = {"old": "Old classes", "new": "New classes", "all": "All seen classes"}
    ends = [_lines(axes, results, group, chosen, theme) for axes, group in zip(panels, titles, strict=True)]
    top = max(5.0, panels[0].get_ylim()[1] * 1.04)
    panels[0].set_ylim(0, top)
    panels[0].set_ylabel("AP50 (%)", color=theme.ink, fontsize=10.5)
    for axes, title, labels in zip(panels, titles.values(), ends, strict=True):
        _dress(axes, title, theme)
        axes.set_xticks(range(1, len(steps) + 1), [f"{t}\n+{len(names)}" for t, names in enumerate(steps, start=1)])
        span = max(1, len(steps) - 1)
        axes.set_xlim(1 - 0.1 * span, len(steps) + 0.24 * span)
        axes.set_xlabel("step, and the classes it adds", color=theme.muted, fontsize=9.5)
        axes.grid(axis="y", color=theme.grid, linewidth=0.8)
        places = spread([value for value, _ in labels], 0.055 * top)
        above = max(0.0, places[-1] - top) if places else 0.0
        for (value, colour), place in zip(labels, places, strict=True):
            axes.text(
                len(steps) + 0.06 * span,
                place - above,
                f"{value:.1f}",
                color=colour,
                fontsize=9,
                va="center",
                fontweight="bold",
                bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 0.4},
            )
    _legend(figure, chosen, theme)
    _save(figure, path, theme)


def _lines(
    axes: Axes, results: Sequence[Results], group: str, chosen: Mapping[str, tuple[str, str, str]], theme: Theme
) -> list[tuple[float, str]]:
    """One panel's lines; returns (value, colour) of the final points, from low to high."""
    last = len(results[0].classes)
    ends: list[tuple[float, str]] = []
    for result in results:
        colour, marker, style = chosen[result.method]
        means = {step: result.groups(step) for step in result.steps}
        points = [(t, mean["all" if group == "old" and t == 1 else group]) for t, mean in means.items()]
        known = [(t, 100 * value) for t, value in points if value is not None]
        if not known:
            continue
        if result.method == JOINT:
            axes.plot([1, last], [known[-1][1]] * 2, color=colour, linestyle="--", linewidth=1.3, zorder=2)
        else:
            axes.plot(
                *zip(*known, strict=True),
                color=colour,
                linestyle=style,
                marker=marker,
                linewidth=2.2,
                markersize=7,
                markeredgecolor=theme.paper,
                zorder=3,
            )
        if known[-1][0] == last:
            ends.append((known[-1][1], colour))
    return sorted(ends)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Places nearest to the sorted ``values`` in the least squares sense that are ``gap`` apart or more.

    Isotonic regression of ``value - rank * gap`` by pooling neighbours.
    """
    blocks: list[list[float]] = []  # [mean, number of values]
    for rank, value in enumerate(values):
        blocks.append([value - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            before, number = blocks.pop()
            blocks.append([(mean * count + before * number) / (count + number), count + number])
    flat = [mean for mean, count in blocks for _ in range(int(count))]
    return [place + rank * gap for rank, place in enumerate(flat)]


def per_class(results: Sequence[Results], path: Path, theme: Theme = LIGHT) -> None:
    """Draws the final AP50 of every class, a marker per method; a ring shows where a base class stood after step 1."""
    steps = results[0].classes
    total = sum(len(step) + 1 for step in steps)
    row = 0.34 if total <= 40 else 0.2
    figure = Figure(figsize=(9.5, row * total + 1.7), facecolor=theme.paper, layout="constrained")
    axes = figure.subplots()
    chosen = looks([result.method for result in results], theme)
    heights: dict[str, float] = {}
    place = 0
    for number, step in enumerate(steps, start=1):
        axes.text(
            -0.008,
            place,
            f"step {number}",
            color=theme.ink,
            fontsize=9,
            fontweight="bold",
            va="center",
            ha="right",
            transform=axes.get_yaxis_transform(),
        )
        heights.update({name: place + rank for rank, name in enumerate(step, start=1)})
        place += len(step) + 1
    before = next((result for result in results if 1 in result.steps and len(steps) > 1), None)
    for name, height in heights.items():
        start = before.steps[1].scores.get(name) if before else None
        if start is not None:
            axes.plot(100 * start.AP50, height, "o", markersize=11, fillstyle="none", color=theme.muted, zorder=3)
        _class_row(axes, results, name, height, chosen, theme)
    axes.set_yticks(list(heights.values()), list(heights))
    axes.set_ylim(place - 0.3, -0.7)
    axes.set_xlim(-2, max(10.0, axes.get_xlim()[1]))
    _dress(axes, f"After step {len(steps)}, class by class", theme)
    axes.set_xlabel("AP50 (%)", color=theme.ink, fontsize=10)
    axes.grid(axis="x", color=theme.grid, linewidth=0.8)
    axes.tick_params(axis="y", labelsize=9 if row > 0.3 else 7)
    _legend(figure, chosen, theme, before is not None)
    _save(figure, path, theme)


def _class_row(
    axes: Axes,
    results: Sequence[Results],
    name: str,
    height: float,
    chosen: Mapping[str, tuple[str, str, str]],
    theme: Theme,
) -> None:
    values = []
    for result in results:
        score = result.last.scores.get(name) if result.last else None
        if score is None:
            continue
        colour, marker, _ = chosen[result.method]
        values.append(100 * score.AP50)
        if result.method == JOINT:
            axes.plot(values[-1], height, marker, color=colour, markersize=13, markeredgewidth=2.6, zorder=4)
        else:
            axes.plot(
                values[-1],
                height,
                marker,
                color=colour,
                markersize=7.5,
                markeredgewidth=0.6,
                markeredgecolor=theme.paper,
                zorder=4,
            )
    if values:
        axes.plot([min(values), max(values)], [height, height], color=theme.grid, linewidth=3, zorder=1)


def samples(
    root: Path,
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    steps: Sequence[Sequence[str]],
    path: Path,
    *,
    method: str,
    theme: Theme = LIGHT,
) -> None:
    """Draws the same test images three times: truth, detections after step 1, detections after the last step.

    Args:
        root: The run folder, which the entries' pictures are relative to.
        before: Entries of samples.json after step 1.
        after: Entries after the last step; those of images that ``before`` lacks are left out.
        steps: The protocol's classes; objects of other classes are not drawn.
        path: The PNG to write; nothing is written if no image is in both.
        method: For the title.
        theme: Colours.
    """
    first = {entry["image_id"]: entry for entry in before}
    rows = [(first[entry["image_id"]], entry) for entry in after if entry["image_id"] in first]
    if not rows:
        return
    # A portrait picture gets a square place: at full width it would take the page.
    shapes = [min(1.0, entry["height"] / entry["width"]) for _, entry in rows]
    width, head = 3.9, 0.75
    height = width * sum(shapes) + 0.08 * len(rows) + head
    figure = Figure(figsize=(3 * width, height), facecolor=theme.paper)
    space = {"left": 0.005, "right": 0.995, "bottom": 0.005, "top": 1 - head / height, "wspace": 0.02}
    grid = figure.add_gridspec(
        len(rows), 3, height_ratios=shapes, hspace=0.08 * len(rows) / (sum(shapes) * width), **space
    )
    everything = {name for names in steps for name in names}
    titles = ("ground truth", "before: after step 1", f"{method}: after step {len(steps)}")
    for number, (start, end) in enumerate(rows):
        pixels = imread(root / end["image"])
        for column, (entry, known) in enumerate(((None, everything), (start, set(steps[0])), (end, everything))):
            axes = figure.add_subplot(grid[number, column])
            axes.imshow(pixels, interpolation="lanczos", extent=(0, end["width"], end["height"], 0))
            axes.set_axis_off()
            if number == 0:
                axes.set_title(titles[column], color=theme.ink, fontsize=12, fontweight="bold", pad=6)
            _boxes(axes, end["truth"], entry, known, set(steps[-1]))
    handles = [
        Patch(facecolor=OLD, label="old class"),
        Patch(facecolor=NEW, label=f"new class (step {len(steps)})"),
        Line2D([], [], color=theme.ink, linestyle=":", linewidth=2, label="missed object of a class known by then"),
    ]
    figure.legend(handles=handles, loc="upper center", ncols=3, frameon=False, labelcolor=theme.ink, fontsize=10)
    _save(figure, path, theme)


def photograph(entry: Mapping[str, Any], path: Path, theme: Theme = LIGHT) -> None:
    """Draws the detections of one picture, ``{"image", "width", "height", "detections"}``, a colour for each class."""
    width = 8.0
    figure = Figure(figsize=(width, width * entry["height"] / entry["width"]), facecolor=theme.paper)
    axes = figure.add_axes((0, 0, 1, 1))
    # The path is the user's own, in any format OpenCV reads; matplotlib reads fewer.
    pixels = np.asarray(cv2.imread(str(entry["image"]), cv2.IMREAD_COLOR))[..., ::-1]
    axes.imshow(pixels, extent=(0, entry["width"], entry["height"], 0))
    axes.set_axis_off()
    names = sorted({item["name"] for item in entry["detections"]})
    colours = {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(names)}
    taken: list[tuple[float, float, float, float]] = []
    for item in reversed(entry["detections"]):
        _frame(axes, item["box"], colours[item["name"]], "#ffffff", "-")
    for item in entry["detections"]:
        _label(axes, item["box"], f"{item['name']} {item['score']:.2f}", colours[item["name"]], taken)
    _save(figure, path, theme)


def _boxes(
    axes: Axes, truth: Sequence[Mapping[str, Any]], entry: Mapping[str, Any] | None, known: set[str], new: set[str]
) -> None:
    """The truth if ``entry`` is None; else its detections, and dotted what it missed of the ``known`` classes."""
    objects = [item for item in truth if not item["ignore"] and item["name"] in known]
    if entry is None:
        shown = [(item, item["name"]) for item in objects]
    else:
        strong = [item for item in entry["detections"] if item["score"] >= DRAWN]
        shown = [(item, f"{item['name']} {item['score']:.2f}") for item in reversed(strong)]
        for item in objects:
            if not any(o["name"] == item["name"] and _iou(o["box"], item["box"]) >= 0.5 for o in strong):
                _frame(axes, item["box"], "#ffffff", "#000000", ":")
    taken: list[tuple[float, float, float, float]] = []
    for item, _ in shown:
        _frame(axes, item["box"], NEW if item["name"] in new else OLD, "#ffffff", "-")
    for item, label in reversed(shown):
        _label(axes, item["box"], label, NEW if item["name"] in new else OLD, taken)


def _frame(axes: Axes, box: Sequence[float], colour: str, halo: str, style: str) -> None:
    x1, y1, x2, y2 = box
    frame = Rectangle(
        (x1, y1),
        x2 - x1,
        y2 - y1,
        fill=False,
        edgecolor=colour,
        linestyle=style,
        linewidth=1.6 if style == ":" else 2.0,
    )
    frame.set_path_effects([patheffects.withStroke(linewidth=3.4, foreground=halo, alpha=0.75)])
    axes.add_patch(frame)


def _label(
    axes: Axes, box: Sequence[float], text: str, colour: str, taken: list[tuple[float, float, float, float]]
) -> None:
    """Writes ``text`` at a corner of ``box`` where no earlier label stands, inside the picture."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    place = axes.get_window_extent()
    points = axes.figure.dpi / 72 / max(place.width / (right - left), place.height / (bottom - top))
    # 0.66 em is the mean advance of the bold face; 11 points is a line with its pad.
    width, height = 7.5 * 0.66 * len(text) * points, 11.0 * points
    x1, y1, x2, y2 = box
    corners = [(x1, y1 - height), (x2 - width, y1 - height), (x1, y1), (x1, y2), (x1, y2 - height), (x2 - width, y2)]
    spots = [(min(max(x, left), right - width), min(max(y, top), bottom - height)) for x, y in corners]
    free = [
        s
        for s in spots
        if not any(s[0] < o[2] and o[0] < s[0] + width and s[1] < o[3] and o[1] < s[1] + height for o in taken)
    ]
    x, y = (free or spots)[0]
    taken.append((x, y, x + width, y + height))
    axes.text(
        x + 1.5 * points,
        y + height / 2,
        text,
        color="#ffffff",
        fontsize=7.5,
        fontweight="bold",
        va="center",
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.3, "alpha": 0.92},
    )


def _iou(first: Sequence[float], second: Sequence[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return common / max(sum(areas) - common, 1e-9)


def _dress(axes: Axes, title: str, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.set_title(title, color=theme.ink, fontsize=12, fontweight="bold", loc="left")
    axes.tick_params(colors=theme.muted, labelsize=9.5, length=0)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)


def _legend(figure: Figure, chosen: Mapping[str, tuple[str, str, str]], theme: Theme, before: bool = False) -> None:
    handles = []
    for method, (colour, marker, style) in chosen.items():
        look = {"linewidth": 1.3} if method == JOINT else {"linewidth": 2.2, "marker": marker}
        label = "joint (all data at once)" if method == JOINT else method
        handles.append(Line2D([], [], color=colour, linestyle=style, label=label, **look))  # type: ignore[arg-type]
    if before:
        handles.append(
            Line2D(
                [],
                [],
                color=theme.muted,
                marker="o",
                markersize=9,
                fillstyle="none",
                linestyle="none",
                label="after step 1",
            )
        )
    lengths = [len(str(handle.get_label())) + 7 for handle in handles]
    room = figure.get_figwidth() * 11.5  # characters of this size in one line
    columns = len(handles) if sum(lengths) <= room else max(1, int(room / max(lengths)))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, frameon=False, labelcolor=theme.ink, fontsize=10
    )


def _save(figure: Figure, path: Path, theme: Theme) -> None:
    with replacing(path) as draft:
        figure.savefig(draft, dpi=130, facecolor=theme.paper)
