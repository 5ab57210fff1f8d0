from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from incdet.report.palette import class_colours
from incdet.report.photos import UNITS, found, mistake, overlap, store, truth

COLOURS = class_colours(["cat", "dog"])
ENTRY: dict[str, Any] = {
    "image_id": 7,
    "image": "samples/images/7.jpg",
    "width": 120,
    "height": 60,
    "truth": [
        {"box": [10, 10, 40, 40], "name": "cat", "ignore": False},
        {"box": [60, 10, 90, 40], "name": "dog", "ignore": False},
        {"box": [0, 0, 5, 5], "name": "dog", "ignore": True},
        {"box": [0, 50, 5, 55], "name": "boat", "ignore": False},
    ],
    "detections": [
        {"box": [11, 10, 41, 40], "name": "cat", "score": 0.9},
        {"box": [60, 10, 90, 40], "name": "cat", "score": 0.5},
        {"box": [60, 10, 90, 40], "name": "dog", "score": 0.29},
    ],
}


@pytest.fixture(autouse=True)
def picture(tmp_path: Path) -> None:
    ENTRY["image"] = str(tmp_path / "7.jpg")
    (tmp_path / "7.jpg").write_bytes(b"any picture")


def frames(drawn: str) -> list[tuple[str, str | None]]:
    """(colour, dash) of every frame, without the halos."""
    rects = ElementTree.fromstring(drawn).iter("rect")
    return [
        (r.attrib["stroke"], r.attrib.get("stroke-dasharray"))
        for r in rects
        if r.get("stroke-opacity") is None and "stroke" in r.attrib
    ]


def words(drawn: str) -> list[str]:
    return [str(part.text) for part in ElementTree.fromstring(drawn).iter("text")]


def test_right_wrong_and_missed_look_different() -> None:
    drawn = found(ENTRY, ["cat", "dog"], COLOURS)
    assert frames(drawn) == [("#fff", "1.00 3.00"), (COLOURS["cat"], "5.00 3.00"), (COLOURS["cat"], None)]
    assert words(drawn) == ["cat 90", "cat 50"]
    assert "missed objects: 1" in drawn
    assert "missed objects: 0" in found(ENTRY, ["cat"], COLOURS)  # the dog was not known yet


def test_the_truth_shows_known_objects_that_count() -> None:
    drawn = truth(ENTRY, ["cat", "dog"], COLOURS)
    assert words(drawn) == ["cat", "dog"]
    assert frames(drawn) == [(COLOURS["dog"], None), (COLOURS["cat"], None)]
    (identity,) = re.findall('id="([^"]+)"', store([ENTRY, dict(ENTRY)]))  # once, however often it is asked for
    assert f'href="#{identity}"' in drawn and 'viewBox="0.0 0.0 240.0 120.0"' in drawn


@pytest.mark.parametrize("box", [[0, 0, 10, 10], [110, 50, 120, 60], [0, 0, 120, 60], [50, 20, 70, 40]])
def test_a_mistake_is_shown_close_up_and_inside_the_picture(box: list[float]) -> None:
    drawn = mistake({**ENTRY, "box": box, "true": "cat", "detected": "dog", "score": 0.8}, COLOURS)
    left, top, width, height = map(float, ElementTree.fromstring(drawn).attrib["viewBox"].split())
    assert left >= 0 and top >= 0 and left + width <= UNITS and top + height <= UNITS / 2
    scale = UNITS / 120
    assert left <= box[0] * scale and top <= box[1] * scale
    assert left + width >= box[2] * scale and top + height >= box[3] * scale
    assert words(drawn) == ["dog 80"]


def test_overlap_is_the_share_of_the_union() -> None:
    assert overlap([0, 0, 10, 10], [5, 0, 15, 10]) == pytest.approx(1 / 3)
    assert overlap([0, 0, 1, 1], [2, 2, 3, 3]) == 0 and overlap([0, 0, 0, 0], [0, 0, 0, 0]) == 0
