"""A record that exists is valid, equal by value, and cannot be written to."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from incdet.data.records import LabelledSet, Record, merge
from incdet.errors import InputError


def make(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "image": Path("a.png"),
        "image_id": 1,
        "width": 40,
        "height": 30,
        "boxes": [[0, 0, 40, 30], [1, 2, 3, 4.5]],
        "names": ("cat", "dog"),
        "ignore": [False, True],
        "coverage": {"cat", "dog", "cow"},
    }
    return Record(**{**values, **changes})


@pytest.mark.parametrize(
    "boxes",
    [
        [[0, 0, 0, 10], [1, 1, 2, 2]],
        [[5, 5, 4, 10], [1, 1, 2, 2]],
        [[0, 0, float("nan"), 5], [1, 1, 2, 2]],
        [[0, 0, float("inf"), 5], [1, 1, 2, 2]],
        [[-0.5, 0, 5, 5], [1, 1, 2, 2]],
        [[0, 0, 5, 30.5], [1, 1, 2, 2]],
    ],
)
def test_a_bad_box_is_refused_with_the_picture_named(boxes: list[list[float]]) -> None:
    with pytest.raises(InputError, match=r"a\.png"):
        make(boxes=boxes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 0}, "size"),
        ({"names": ("cat",)}, "1 names"),
        ({"ignore": [True]}, "1 ignore"),
        ({"coverage": {"cat"}}, "does not cover: dog"),
    ],
)
def test_broken_rules_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(**changes)


def test_every_bad_box_has_its_own_finding() -> None:
    with pytest.raises(InputError) as caught:
        make(boxes=[[3, 3, 3, 3], [9, 9, 99, 99]])
    assert len(caught.value.findings) == 2


def test_types_are_fixed_and_arrays_cannot_be_written() -> None:
    record = make()
    assert record.boxes.dtype == np.float32 and record.ignore.dtype == np.bool_
    with pytest.raises(ValueError, match="read-only"):
        record.boxes[0, 0] = 3
    with pytest.raises(ValueError, match="read-only"):
        record.ignore[0] = True


def test_the_given_array_stays_with_its_owner() -> None:
    boxes = np.array([[0, 0, 4, 4], [1, 1, 2, 2]], dtype=np.float32)
    record = make(boxes=boxes)
    boxes[0, 2] = 9
    assert record.boxes[0, 2] == 4


def test_equality_is_by_value() -> None:
    assert make() == make() and hash(make()) == hash(make())
    assert pickle.loads(pickle.dumps(make())) == make()
    for changes in (
        {"image_id": 2},
        {"boxes": [[0, 0, 40, 30], [1, 2, 3, 5]]},
        {"ignore": [False, False]},
        {"coverage": {"cat", "dog"}},
        {"names": ("cat", "cow")},
        {"image": Path("b.png")},
    ):
        assert make(**changes) != make()
    assert make() != "a.png"


def test_an_empty_image_is_a_record() -> None:
    record = make(boxes=[], names=(), ignore=[])
    assert record.boxes.shape == (0, 4) and not record.counts(record.coverage)


def test_restrict_drops_other_boxes_and_narrows_the_coverage() -> None:
    record = make().restrict(["dog", "horse"])
    assert record.names == ("dog",) and record.coverage == {"dog"}
    assert record.boxes.tolist() == [[1, 2, 3, 4.5]] and record.ignore.tolist() == [True]
    wider = make().restrict(["dog"], coverage=["dog", "cow", "horse"])
    assert wider.names == ("dog",) and wider.coverage == {"dog", "cow"}
    assert make().restrict(["cat", "dog"], coverage=["dog"]).names == ("dog",)


def test_an_ignored_object_does_not_count() -> None:
    assert make().counts(["cat"]) and not make().counts(["dog"])


def labelled(*records: Record, names: tuple[str, ...] = ("cat", "dog", "cow")) -> LabelledSet:
    return LabelledSet(records, names, {name: number for number, name in enumerate(names, start=1)})


def test_merge_keeps_ids_that_are_unique_and_renumbers_others() -> None:
    apart = merge([labelled(make(image_id=7)), labelled(make(image="b.png", image_id=3))])
    assert [record.image_id for record in apart.records] == [7, 3]
    together = merge([labelled(make(image_id=7)), labelled(make(image="b.png", image_id=7))])
    assert [record.image_id for record in together.records] == [1, 2]


def test_merge_refuses_other_classes_and_the_same_picture() -> None:
    with pytest.raises(InputError, match="differ in their classes: horse"):
        merge([labelled(make()), labelled(names=("cat", "dog", "cow", "horse"))])
    with pytest.raises(InputError, match="stands in the data 2 times"):
        merge([labelled(make(image_id=1)), labelled(make(image_id=2))])


def test_images_without_objects_can_be_left_out() -> None:
    both = labelled(make(), make(image="b.png", image_id=2, boxes=[], names=(), ignore=[]))
    assert len(both) == 2 and [record.image_id for record in both.without_empty().records] == [1]
