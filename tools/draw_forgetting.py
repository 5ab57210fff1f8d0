"""Draws the picture of the README from a finished run: what fine-tuning forgets, and what a method keeps.

``python tools/draw_forgetting.py runs/demo --output docs/images/forgetting.svg`` after the demo. Left the photograph of
the report's samples on which the two differ most, after step 1 and after the last step; right the AP50 of the old
classes over the steps. Nothing in it is set by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from incdet.files import write_text
from incdet.report import charts, photos
from incdet.report.markup import Markup, tag
from incdet.report.palette import class_colours, looks
from incdet.report.saved import SavedMethod, SavedRun
from incdet.report.style import chart_style
from incdet.report.svg import WIDTH, label

SIDE, GAP, TOP = 168.0, 14.0, 22.0


def main() -> int:
    """Reads the run and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder with finetune and the method")
    parser.add_argument("--method", default="incdet", metavar="NAME", help="the remedy [incdet]")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the SVG file to write")
    arguments = parser.parse_args()
    write_text(arguments.output, draw(SavedRun.load(arguments.folder), arguments.method))
    return 0


def draw(run: SavedRun, remedy: str) -> Markup:
    """Three photographs and a chart side by side, one SVG file."""
    by_name = {method.name: method for method in run.methods}
    before, after = by_name["finetune"], by_name[remedy]
    steps = run.results[0].classes
    names = [name for classes in steps for name in classes]
    colours = class_colours(names)
    first, last = min(before.results.steps), max(before.results.steps)
    entries = {name: _entries(method, last) for name, method in (("finetune", before), (remedy, after))}
    image = max(entries[remedy], key=lambda one: _right(entries[remedy][one]) - _right(entries["finetune"][one]))
    shown = [
        (f"step 1: {len(steps[0])} classes", photos.found(_entries(before, first)[image], steps[0], colours)),
        (f"step {last}, fine-tuned", photos.found(entries["finetune"][image], names, colours)),
        (f"step {last}, {remedy}", photos.found(entries[remedy][image], names, colours)),
    ]
    parts: list[Markup] = [tag("style", Markup(chart_style())), photos.store([entries[remedy][image]])]
    for place, (words, picture) in enumerate(shown):
        left = GAP + place * (SIDE + GAP)
        parts.append(label(left, TOP, words, "title"))
        parts.append(tag("svg", picture, x=left, y=TOP + 10, width=SIDE, height=SIDE))
    parts.append(label(GAP, TOP + SIDE + 28, "Dotted: missed. Broken: a false alarm. Detections above 0.3.", "muted"))
    chosen = [result for result in run.results if result.method in ("finetune", remedy, "joint")]
    chart = charts.over_steps(chosen, "old", looks([method.name for method in run.methods]))
    assert chart is not None, "the run has two steps or more"
    left = GAP + 3 * (SIDE + GAP) + GAP
    parts.append(tag("svg", chart, x=left, y=TOP - 14, width=WIDTH * 0.9, height=charts.STEPS_HEIGHT * 0.9))
    width, height = left + WIDTH * 0.9 + GAP, TOP + SIDE + 40
    size = {"width": width, "height": height, "viewBox": f"0 0 {width:g} {height:g}"}
    return tag("svg", *parts, xmlns="http://www.w3.org/2000/svg", **size)


def _entries(method: SavedMethod, step: int) -> dict[int, dict[str, Any]]:
    return {entry["image_id"]: entry for entry in method.samples(step)}


def _right(entry: Mapping[str, Any]) -> int:
    """How many objects are found."""
    strong = [one for one in entry["detections"] if one["score"] >= photos.SHOWN]
    return sum(
        any(one["name"] == item["name"] and photos.overlap(one["box"], item["box"]) >= 0.5 for one in strong)
        for item in entry["truth"]
    )


if __name__ == "__main__":
    raise SystemExit(main())
