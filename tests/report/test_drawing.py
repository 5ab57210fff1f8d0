from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from incdet.report.drawing import draw_detections
from incdet.report.palette import class_colours

GREY = np.full((120, 200, 3), 128, np.uint8)


def item(name: str, *box: float) -> dict[str, Any]:
    return {"name": name, "score": 0.5, "box": list(box)}


def at(pixels: Any, x: int, y: int) -> str:
    return "#{:02X}{:02X}{:02X}".format(*pixels[y, x])


def test_a_class_has_the_same_colour_whatever_else_is_in_the_picture() -> None:
    names = ["cat", "dog", "bird"]
    alone = draw_detections(GREY, [item("bird", 20, 40, 80, 100)], names)
    beside = draw_detections(GREY, [item("bird", 20, 40, 80, 100), item("cat", 120, 40, 180, 100)], names)
    colours = class_colours(names)
    assert at(alone, 21, 70) == at(beside, 21, 70) == colours["bird"]
    assert at(beside, 121, 70) == colours["cat"]


def test_the_photograph_keeps_its_size_and_stays_as_it_was() -> None:
    drawn = draw_detections(GREY, [item("cat", 20, 40, 80, 100)], ["cat"])
    assert drawn.shape == GREY.shape and drawn.dtype == np.uint8 and (GREY == 128).all()
    assert (drawn[60:80, 40:60] == 128).all()  # nothing is painted over the object itself


@pytest.mark.parametrize("name", ["$x_{$", "[/b]", "<b>", "猫", "", "n" * 500, "two\nlines"])
def test_any_class_name_can_be_drawn(name: str) -> None:
    drawn = draw_detections(GREY, [item(name, -5, -5, 500, 400), item(name, 10, 10, 10, 10)], [name])
    assert (drawn != 128).any()
