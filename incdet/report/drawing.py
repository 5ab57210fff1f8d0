"""Detections drawn into the pixels of a photograph, at its own size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from incdet.report.labels import Box, Labels
from incdet.report.palette import class_colours

_FONTS = ("DejaVuSans-Bold.ttf", "Arial Bold.ttf", "arialbd.ttf", "LiberationSans-Bold.ttf", "NotoSans-Bold.ttf")
"""Looked for where the system keeps its fonts; Pillow's own has few letters beyond Latin ones."""


def draw_detections(
    pixels: NDArray[np.uint8], detections: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> NDArray[np.uint8]:
    """A copy of a photograph with a frame and a label for every detection, a colour for every class.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        detections: ``{"name", "score", "box": [x1, y1, x2, y2]}``, boxes in pixels; those first in the list lie on top.
        names: The detector's classes in the order of their columns, which give a class its colour in every picture.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    picture = Image.fromarray(pixels)
    canvas = ImageDraw.Draw(picture)
    longest = max(picture.size)
    thick, font = max(2, round(longest / 320)), _font(max(11, round(longest / 60)))
    colours = class_colours(names)
    for item in reversed(detections):
        x1, y1, x2, y2 = item["box"]
        for grow, colour in ((1, "#ffffff"), (0, colours[item["name"]])):
            corners = (x1 - grow, y1 - grow, max(x2, x1) + grow, max(y2, y1) + grow)
            canvas.rectangle(corners, outline=colour, width=thick + 2 * grow)
    labels = Labels((0.0, 0.0, float(picture.width), float(picture.height)))
    for item in detections:
        words = f"{item['name']} {item['score']:.2f}"
        left, top, right, bottom = canvas.textbbox((0, 0), words, font=font)
        pad = max(2, thick)
        box: Box = [float(edge) for edge in item["box"]]
        x, y = labels.place(box, right - left + 2 * pad, bottom - top + 2 * pad)
        canvas.rectangle((x, y, x + right - left + 2 * pad, y + bottom - top + 2 * pad), fill=colours[item["name"]])
        canvas.text((x + pad - left, y + pad - top), words, font=font, fill="#ffffff")
    return np.asarray(picture)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
