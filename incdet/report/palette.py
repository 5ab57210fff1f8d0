"""Colours: of paper and ink, of methods, of classes. A method and a class look the same wherever they are drawn.

Colours of methods are Okabe and Ito's, which stay apart for colour-blind readers; every method also has a marker.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

from incdet.evaluation.results import JOINT

# (on light paper, on dark paper)
PAPER = {
    "paper": ("#ffffff", "#16191d"),
    "ink": ("#1b1f24", "#e8eaed"),
    "muted": ("#59636e", "#a3acb5"),
    "line": ("#e3e6ea", "#30363d"),
    "card": ("#f6f7f9", "#1e2227"),
    "mark": ("#0072b2", "#4aa8e8"),
    "gain": ("#00795a", "#2fc79b"),
    "loss": ("#c24e00", "#f0803c"),
}
# Dark variants are lighter, so that both have a contrast of 3:1 at least to their paper.
HUES = (
    ("#d55e00", "#f0803c"),
    ("#009e73", "#2fc79b"),
    ("#0072b2", "#4aa8e8"),
    ("#b8508a", "#de8dbb"),
    ("#b07a00", "#e9ae2a"),
    ("#6c6f75", "#a9aeb6"),
    ("#7a4fbf", "#b79af0"),
    ("#8a5a2b", "#cfa06b"),
    ("#5b7a00", "#b4d04b"),
    ("#2b90c8", "#8ccbf2"),
)
_KNOWN = {
    "finetune": (0, "down"),
    "eeil": (1, "square"),
    "incdet": (2, "circle"),
    "pseudo": (3, "diamond"),
    "lwf": (4, "up"),
    "masked": (5, "cross"),
}
_SPARE = ((6, "plus"), (7, "square"), (8, "up"), (9, "diamond"))
_DASHES = (None, "7 3", "2 3")
_CLASSES = ("#0072B2", "#D55E00", "#00795A", "#B8508A", "#8A5A2B", "#7A4FBF", "#9A6A00", "#45506B")
_TURN = 0.61803398875
"""The golden ratio: however many hues were drawn, the next one falls into a wide gap."""


class Look(NamedTuple):
    """How a method is drawn.

    Attributes:
        hue: Index into ``HUES``; None is the ink.
        marker: Name of a marker of ``svg.marker``.
        dash: SVG's stroke-dasharray; None for a whole line.
    """

    hue: int | None
    marker: str
    dash: str | None

    @property
    def css(self) -> str:
        """The class of the page that sets the colour."""
        return "hue-ink" if self.hue is None else f"hue-{self.hue}"


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """The look of every method; no two are alike, and the named methods have theirs in every report."""
    chosen: dict[str, Look] = {}
    spare = 0
    for method in methods:
        if method == JOINT:
            chosen[method] = Look(None, "bar", "5 4")
        elif method in _KNOWN:
            chosen[method] = Look(*_KNOWN[method], None)
        else:
            hue, marker = _SPARE[spare % len(_SPARE)]
            chosen[method] = Look(hue, marker, _DASHES[spare // len(_SPARE) % len(_DASHES)])
            spare += 1
    return chosen


def class_colour(column: int) -> str:
    """The colour of the class with that logit column, dark enough for white letters; a class keeps it as others join.

    The first eight are chosen by hand; those after them turn round the hues.
    """
    if column < len(_CLASSES):
        return _CLASSES[column]
    turn = (column - len(_CLASSES)) * _TURN % 1.0
    light = (0.32, 0.4, 0.26)[column % 3]
    while True:
        red, green, blue = colorsys.hls_to_rgb(turn, light, 0.75)
        if 1.05 / (_luminance(red, green, blue) + 0.05) >= 4.5:  # WCAG 2.1, 1.4.3
            return f"#{round(255 * red):02X}{round(255 * green):02X}{round(255 * blue):02X}"
        light -= 0.02


def class_colours(names: Sequence[str]) -> dict[str, str]:
    """The colour of every class, names in the order of their logit columns."""
    return {name: class_colour(column) for column, name in enumerate(names)}


def _luminance(red: float, green: float, blue: float) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
