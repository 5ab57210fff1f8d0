from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from incdet.data.records import Record
from incdet.evaluation.confusion import Confusion, confusion, false_alarms
from incdet.evaluation.detections import Detections

NAMES = ("cat", "dog", "bird")
LEFT, RIGHT, NEAR_LEFT, FAR = [0, 0, 40, 40], [100, 0, 140, 40], [4, 0, 44, 40], [160, 160, 190, 190]


def record(
    number: int, objects: dict[str, list[int]], ignored: Sequence[str] = (), covered: Sequence[str] = NAMES
) -> Record:
    boxes = np.array(list(objects.values()), np.float32).reshape(-1, 4)
    flags = np.array([name in ignored for name in objects], bool)
    return Record(Path("x.png"), number, 200, 200, boxes, tuple(objects), flags, frozenset([*covered, *objects]))


def found(*items: tuple[str, list[int], float]) -> Detections:
    return Detections(
        np.array([box for _, box, _ in items], np.float32).reshape(-1, 4),
        np.array([score for _, _, score in items], np.float32),
        np.array([NAMES.index(name) for name, _, _ in items], np.int64),
    )


def test_each_object_counts_once_for_each_class_that_fires_on_it() -> None:
    records = [record(7, {"cat": LEFT, "dog": RIGHT}), record(8, {"cat": LEFT})]
    detections = [
        found(
            ("cat", LEFT, 0.9), ("bird", NEAR_LEFT, 0.8), ("bird", LEFT, 0.5), ("bird", FAR, 0.7), ("dog", LEFT, 0.2)
        ),
        found(("bird", LEFT, 0.6)),
    ]
    counted = confusion(records, detections, NAMES)
    assert counted.objects == {"cat": 2, "dog": 1, "bird": 0}
    assert counted.fires == {"cat": {"cat": 1, "bird": 2}}
    assert counted.strays == {"bird": 1}
    assert counted.between(["cat", "dog"], ["bird"]) == [("cat", "bird", 2, 1.0)]
    assert counted.between(["bird"], ["cat", "dog"]) == []
    assert [one.image_id for one in counted.mistakes] == [7, 8, 7]
    assert [one.score for one in counted.mistakes] == pytest.approx([0.8, 0.6, 0.5])
    assert counted.mistakes[0].box == (4.0, 0.0, 44.0, 40.0)
    assert (counted.mistakes[0].true, counted.mistakes[0].detected) == ("cat", "bird")


def test_a_class_that_finds_its_own_object_beside_another_one_is_not_blamed() -> None:
    both = [record(1, {"cat": LEFT, "bird": NEAR_LEFT})]
    counted = confusion(both, [found(("bird", LEFT, 0.9))], NAMES)  # on the cat to the pixel, but a bird sits there too
    assert counted.fires == {"bird": {"bird": 1}} and counted.mistakes == ()


def test_ignored_and_foreign_objects_are_neither_counted_nor_a_stray() -> None:
    counted = confusion([record(1, {"cat": LEFT}, ignored=["cat"])], [found(("bird", LEFT, 0.9))], NAMES)
    assert (counted.objects["cat"], counted.fires, counted.strays) == (0, {}, {})
    foreign = confusion([record(1, {"boat": LEFT})], [found(("bird", LEFT, 0.9))], NAMES)
    assert (foreign.fires, foreign.strays) == ({}, {"bird": 1})


def test_nothing_found_and_nothing_there_count_nothing() -> None:
    empty = confusion([record(1, {}), record(2, {"cat": LEFT})], [Detections.empty(), Detections.empty()], NAMES)
    assert (empty.objects["cat"], empty.fires, empty.strays, empty.mistakes) == (1, {}, {}, ())
    assert confusion([record(1, {})], [found(("cat", LEFT, 0.9))], NAMES).strays == {"cat": 1}


def test_the_counts_survive_json() -> None:
    counted = confusion([record(1, {"cat": LEFT})], [found(("bird", LEFT, 0.9), ("cat", FAR, 0.9))], NAMES)
    again = Confusion.from_json(counted.to_json())
    assert again.to_json() == counted.to_json() and again.between(["cat"], ["bird"]) == [("cat", "bird", 1, 1.0)]


def test_false_alarms_are_counted_per_image_that_shows_none_of_the_group() -> None:
    records = [
        record(1, {"cat": LEFT}),
        record(2, {}),
        record(3, {"bird": LEFT}),
        record(4, {}, covered=("cat", "dog")),
    ]
    alarms = found(("bird", LEFT, 0.9), ("bird", FAR, 0.31), ("bird", FAR, 0.3), ("cat", LEFT, 0.9))
    detections = [alarms, Detections.empty(), alarms, alarms]  # image 3 shows a bird, image 4 does not say
    assert false_alarms(records, detections, NAMES, ["bird"]) == 1.0
    assert false_alarms(records, detections, NAMES, []) is None
    assert false_alarms(records[2:3], detections[2:3], NAMES, ["bird"]) is None
