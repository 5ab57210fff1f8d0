from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from helpers import record

from incdet.evaluation.detections import Detections
from incdet.evaluation.unlabelled import find_unlabelled, ignoring

NAMES = ("cat", "dog", "bird")
LEFT, NEAR_LEFT, RIGHT = [2, 2, 20, 20], [3, 2, 21, 20], [28, 28, 46, 46]


def found(*items: tuple[str, Sequence[float], float]) -> Detections:
    return Detections(
        np.array([box for _, box, _ in items], np.float32).reshape(-1, 4),
        np.array([score for _, _, score in items], np.float32),
        np.array([NAMES.index(name) for name, _, _ in items], np.int64),
    )


def test_what_no_annotation_explains_is_told_once_for_each_place() -> None:
    labelled = record("a.png", ("cat",), boxes=[LEFT], coverage=("cat", "dog"))
    items = [("dog", NEAR_LEFT, 0.9), ("dog", RIGHT, 0.7), ("bird", RIGHT, 0.8), ("cat", [0, 30, 10, 46], 0.4)]
    seen = find_unlabelled([labelled], {1: found(*items)}, NAMES)
    assert [(one.name, one.covered) for one in seen] == [("bird", False)]
    seen = find_unlabelled([labelled], {1: found(*items)}, NAMES, lowest=0.4)
    assert [(one.name, round(one.score, 2)) for one in seen] == [("bird", 0.8), ("cat", 0.4)]


def test_an_ignored_object_explains_what_is_seen_there() -> None:
    labelled = record("a.png", ("cat",), boxes=[LEFT], ignore=[True], coverage=NAMES)
    assert find_unlabelled([labelled], {1: found(("dog", NEAR_LEFT, 0.9))}, NAMES) == []


def test_boxes_end_at_the_edge_of_the_picture_and_have_a_side() -> None:
    empty = record("a.png", coverage=NAMES)
    outside = found(("cat", [-9, -9, 60, 20], 0.9), ("cat", [48, 5, 70, 9], 0.9))
    assert [one.box for one in find_unlabelled([empty], {1: outside}, NAMES)] == [(0, 0, 48, 20)]


def test_covered_classes_become_ignored_regions_and_others_stay_unlabelled() -> None:
    labelled = record("a.png", ("cat",), boxes=[LEFT], coverage=("cat", "dog"))
    seen = find_unlabelled([labelled], {1: found(("dog", RIGHT, 0.9), ("bird", [2, 28, 20, 46], 0.8))}, NAMES)
    mended = ignoring(labelled, seen)
    assert mended.names == ("cat", "dog") and mended.ignore.tolist() == [False, True]
    assert mended.boxes[1].tolist() == pytest.approx(RIGHT) and mended.coverage == labelled.coverage
    assert ignoring(labelled, []) is labelled
