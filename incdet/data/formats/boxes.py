"""One box of an annotation file: taken, clipped to the image by a pixel or two, or refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from incdet.errors import Finding

TOLERANCE = 2.0
"""Pixels by which a box may leave the image and still be clipped: rounding and 1-based corners reach that far."""
SMALLEST = 1e-3
"""Pixels: a thinner box is empty, and float32 could not tell its sides apart in a large image."""

ROUNDING = 0.05
"""Pixels: nobody is told of a box that left the image by less, as numbers of six digits do."""

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class BoxVerdict:
    """One box after inspection: ``corners`` inside the image, or a ``problem`` and its ``fix``.

    Attributes:
        corners: xyxy inside the image, None if the box is refused.
        excess: Pixels that were clipped, 0 for a box that lay inside.
        problem: What is wrong, empty if nothing is.
        fix: What to do about it.
    """

    corners: Corners | None
    excess: float = 0.0
    problem: str = ""
    fix: str = ""


def judge_box(x1: float, y1: float, x2: float, y2: float, width: int, height: int) -> BoxVerdict:
    """Accept, clip (at most ``TOLERANCE`` pixels) or refuse the xyxy box of an image of ``width`` x ``height``."""
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return BoxVerdict(None, 0.0, "is not a number", "remove it or write finite coordinates")
    if x2 < x1 or y2 < y1:
        return BoxVerdict(None, 0.0, f"has a negative size, {x2 - x1:g} x {y2 - y1:g}", "swap the corners or remove it")
    if x2 - x1 < SMALLEST or y2 - y1 < SMALLEST:
        return BoxVerdict(None, 0.0, f"is empty ({x2 - x1:g} x {y2 - y1:g})", "remove it")
    excess = max(-x1, -y1, x2 - width, y2 - height, 0.0)
    if excess > TOLERANCE:
        return BoxVerdict(
            None,
            excess,
            f"lies {excess:g} px outside the image of {width} x {height}",
            "check the coordinates and the image size",
        )
    corners = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        return BoxVerdict(None, excess, "lies beside the image", "remove it")
    return BoxVerdict(corners, excess)


def clipped_warning(file: Path, clipped: Sequence[tuple[str, float]]) -> list[Finding]:
    """One warning for all boxes that were clipped; ``clipped`` holds (object, pixels)."""
    if not clipped:
        return []
    item, _ = clipped[0]
    return [
        Finding(
            str(file),
            item,
            f"{len(clipped)} box(es) left the image by at most "
            f"{max(excess for _, excess in clipped):.3g} px and were clipped (this is the first)",
            "nothing, unless the image sizes are wrong",
            "warning",
        )
    ]
