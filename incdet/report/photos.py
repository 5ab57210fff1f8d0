"""Photographs with what was found in them: the picture once in the page, the boxes as SVG above it.

Sample entries are those of `saved`; a picture is 240 units wide wherever it is drawn.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from incdet.errors import Finding, InputError
from incdet.report.labels import Box, Labels
from incdet.report.markup import Markup, join, tag
from incdet.report.svg import clip

SHOWN = 0.3
"""Detections from this score on are drawn."""
UNITS = 240.0
LETTER = 6.6
"""Mean advance of the letters of a label; 14 units is its height."""
HIGH = 14.0
Entry = Mapping[str, Any]


def store(entries: Iterable[Entry]) -> Markup:
    """The pictures of ``entries``, each once, for every photograph of the page to refer to.

    Raises:
        InputError: A picture is gone.
    """
    pictures: dict[str, Entry] = {_identity(entry): entry for entry in entries}
    images = []
    for identity, entry in pictures.items():
        kind = "png" if Path(entry["image"]).suffix == ".png" else "jpeg"
        data = f"data:image/{kind};base64," + base64.b64encode(_content(entry["image"])).decode("ascii")
        images.append(tag("image", id=identity, width=UNITS, height=_height(entry), href=data))
    return tag("svg", tag("defs", *images), class_="store", aria_hidden="true") if images else Markup("")


def truth(entry: Entry, known: Iterable[str], colours: Mapping[str, str]) -> Markup:
    """The annotated objects of the ``known`` classes."""
    names = set(known)
    objects = [item for item in entry["truth"] if item["name"] in names and not item["ignore"]]
    boxes = [(item["box"], item["name"], colours[item["name"]], None) for item in objects]
    return _photograph(entry, boxes, [], f"annotated objects: {', '.join(item['name'] for item in objects) or 'none'}")


def found(entry: Entry, known: Iterable[str], colours: Mapping[str, str]) -> Markup:
    """The detections, false ones with a broken frame, and dotted the objects of ``known`` classes that were missed."""
    names = set(known)
    strong = [item for item in entry["detections"] if item["score"] >= SHOWN and item["name"] in colours]
    objects = [item for item in entry["truth"] if item["name"] in names and not item["ignore"]]
    missed = [o["box"] for o in objects if not any(_same(o, item) for item in strong)]
    boxes = []
    for item in strong:
        right = any(_same(o, item) for o in entry["truth"])
        words = f"{item['name']} {100 * item['score']:.0f}"
        boxes.append((item["box"], words, colours[item["name"]], None if right else "5 3"))
    spoken = ", ".join(f"{item['name']} {100 * item['score']:.0f} %" for item in strong) or "nothing"
    return _photograph(entry, boxes, missed, f"found: {spoken}; missed objects: {len(missed)}")


def mistake(entry: Entry, colours: Mapping[str, str]) -> Markup:
    """The part of a picture where a class fired on an object of another one, with frames of both."""
    scale = UNITS / entry["width"]
    x1, y1, x2, y2 = (edge * scale for edge in entry["box"])
    side = min(max(1.9 * max(x2 - x1, y2 - y1), 60.0), UNITS)
    left = min(max((x1 + x2 - side) / 2, 0.0), UNITS - side)
    top = min(max((y1 + y2 - side) / 2, 0.0), max(0.0, _height(entry) - side))
    words = f"{entry['detected']} {100 * entry['score']:.0f}"
    boxes = [(entry["box"], words, colours[entry["detected"]], "5 3")]
    return _photograph(entry, boxes, [], f"{words} on {entry['true']}", (left, top, side))


def _photograph(
    entry: Entry,
    boxes: Sequence[tuple[Box, str, str, str | None]],
    missed: Sequence[Box],
    name: str,
    window: tuple[float, float, float] | None = None,
) -> Markup:
    """A picture with (box, label, colour, dash) frames; ``window`` is left, top and side of the part to show."""
    scale, height = UNITS / entry["width"], _height(entry)
    left, top, side = window or (0.0, 0.0, UNITS)
    view = (left, top, side, min(side, height) if window else height)
    unit = side / UNITS  # frames and letters keep their size in a part
    placed = [([edge * scale for edge in box], words, colour, dash) for box, words, colour, dash in boxes]
    frames = [_frame([edge * scale for edge in box], "#fff", "#000", "1 3", unit) for box in missed]
    frames += [_frame(box, colour, "#fff", dash, unit) for box, _, colour, dash in reversed(placed)]
    labels = Labels((left, top, left + view[2], top + view[3]))
    words_on_top = [_label(box, words, colour, unit, labels) for box, words, colour, _ in placed]
    parts = (tag("title", name), tag("use", href=f"#{_identity(entry)}"), *frames, *words_on_top)
    return tag("svg", *parts, viewBox=" ".join(f"{edge:.1f}" for edge in view), role="img")


def _frame(box: Box, colour: str, halo: str, dash: str | None, unit: float) -> Markup:
    x1, y1, x2, y2 = box
    place = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "fill": "none"}
    return join(
        (
            tag("rect", **place, stroke=halo, stroke_width=4 * unit, stroke_opacity=0.7),
            tag("rect", **place, stroke=colour, stroke_width=2.2 * unit, stroke_dasharray=_scaled(dash, unit)),
        )
    )


def _label(box: Box, words: str, colour: str, unit: float, labels: Labels) -> Markup:
    """``words`` at a corner of ``box``."""
    words = clip(words, 26)
    width, height = (LETTER * len(words) + 6) * unit, HIGH * unit
    x, y = labels.place(box, width, height)
    style = f"fill:#fff;font-size:{11 * unit:.2f}px;font-weight:700"
    return join(
        (
            tag("rect", x=x, y=y, width=width, height=height, rx=2 * unit, fill=colour),
            tag("text", words, x=x + 3 * unit, y=y + 10.6 * unit, style=style),
        )
    )


def _same(truth: Entry, item: Entry) -> bool:
    """Whether a detection is of that object's class and in its place."""
    return bool(truth["name"] == item["name"] and overlap(truth["box"], item["box"]) >= 0.5)


def overlap(first: Box, second: Box) -> float:
    """IoU of two xyxy boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return common / max(sum(areas) - common, 1e-9)


def _height(entry: Entry) -> float:
    return UNITS * float(entry["height"]) / float(entry["width"])


def _identity(entry: Entry) -> str:
    """Of a picture in the page: equal for equal pictures, also of two runs."""
    return f"picture-{hashlib.sha256(_content(entry['image'])).hexdigest()[:12]}"


@lru_cache(maxsize=256)
def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        problem, fix = f"cannot be read ({error.strerror})", "restore it, or remove samples.json of the steps"
        raise InputError(Finding(path, "sample picture", problem, fix)) from None


def _scaled(dash: str | None, unit: float) -> str | None:
    return None if dash is None else " ".join(f"{float(part) * unit:.2f}" for part in dash.split())
