from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from incdet.data.records import Record
from incdet.data.scarce import few_of_each, with_share

NAMES = ("ant", "bee", "cow", "dog")


def record(number: int, *names: str, ignored: int = 0) -> Record:
    """An image whose first ``ignored`` objects do not count."""
    boxes = np.array([[0.0, 0, 5, 5]] * len(names), np.float32).reshape(-1, 4)
    ignore = np.arange(len(names)) < ignored
    return Record(Path(f"{number}.png"), number, 10, 10, boxes, names, ignore, frozenset(NAMES))


def ids(records: list[Record]) -> list[int]:
    return [r.image_id for r in records]


images = st.lists(st.lists(st.sampled_from(NAMES), max_size=3), max_size=30).map(
    lambda shown: [record(number, *names) for number, names in enumerate(shown, start=1)]
)


@given(images, st.integers(1, 6))
def test_every_class_gets_its_images_or_all_it_has_and_no_image_is_there_for_nothing(
    records: list[Record], most: int
) -> None:
    chosen = few_of_each(records, NAMES[:2], most)
    have, got = (Counter(name for r in some for name in {*r.names} & {*NAMES[:2]}) for some in (records, chosen))
    assert all(got[name] >= min(most, have[name]) for name in NAMES[:2])
    assert len(chosen) <= 2 * most  # each was taken for a class that lacked it
    assert ids(chosen) == [r.image_id for r in records if r.image_id in ids(chosen)]


def test_fewer_images_of_one_class_are_a_part_of_more() -> None:
    records = [record(number, "ant") for number in range(1, 40)]
    sizes = [few_of_each(records, ["ant"], most) for most in (1, 5, 20, 99)]
    assert [len(one) for one in sizes] == [1, 5, 20, 39]
    assert all({*ids(few)} <= {*ids(more)} for few, more in zip(sizes, sizes[1:], strict=False))
    assert ids(few_of_each(records[::-1], ["ant"], 5)) == ids(sizes[1])[::-1]  # whatever their order


def test_objects_that_do_not_count_are_no_images_of_their_class() -> None:
    assert ids(few_of_each([record(1, "ant", ignored=1), record(2, "bee")], ["ant", "bee"], 3)) == [2]


@pytest.mark.parametrize(
    ("share", "showing", "others"), [(0, 0, 30), (0.1, 3, 30), (0.25, 10, 30), (0.5, 10, 10), (1, 10, 0)]
)
def test_images_are_left_out_on_one_side_until_the_share_holds(share: float, showing: int, others: int) -> None:
    records = [record(n, "ant", "dog") if n % 4 == 0 else record(n, "ant") for n in range(1, 41)]
    chosen = with_share(records, ["dog"], share)
    assert (sum(r.counts(["dog"]) for r in chosen), sum(not r.counts(["dog"]) for r in chosen)) == (showing, others)
    assert ids(chosen) == [r.image_id for r in records if r.image_id in ids(chosen)]
