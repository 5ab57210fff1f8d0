from __future__ import annotations

from collections import Counter

import pytest
from helpers import record
from hypothesis import given
from hypothesis import strategies as st

from incdet.data.holdout import hold_out
from incdet.data.records import Record

CLASSES = ("cat", "dog", "cow")


def records(*shown: tuple[str, ...]) -> list[Record]:
    return [record(f"{number}.png", names, number=number, coverage=CLASSES) for number, names in enumerate(shown, 1)]


def counts(part: list[Record]) -> Counter[str]:
    return Counter(name for one in part for name in set(one.names))


def test_every_class_is_held_out_in_its_share() -> None:
    data = records(*[("cat",)] * 20, *[("dog",)] * 10, *[("cat", "dog")] * 10, *[("cow",)] * 5)
    rest, held = hold_out(data, CLASSES, 0.2)
    assert counts(held) == {"cat": 6, "dog": 4, "cow": 1}
    assert sorted([*rest, *held], key=lambda one: one.image_id) == data
    assert [one.image_id for one in rest] == sorted(one.image_id for one in rest)


def test_the_draw_is_seeded() -> None:
    data = records(*[("cat",)] * 30)
    first, again, other = (hold_out(data, CLASSES, 0.3, seed=seed)[1] for seed in (0, 0, 1))
    assert first == again != other


def test_a_class_with_few_images_is_learned_from_all_of_them() -> None:
    data = records(*[("cat", "cow")] * 4, *[("cat",)] * 6)
    rest, held = hold_out(data, CLASSES, 0.2)
    assert counts(held) == {"cat": 2} and counts(rest)["cow"] == 4
    assert hold_out(records(*[("cow",)] * 4), CLASSES, 0.2)[1] == []


def test_no_more_than_asked_for() -> None:
    data = records(*[("cat",)] * 30, *[("dog",)] * 30)
    assert len(hold_out(data, CLASSES, 0.5, most=7)[1]) == 7
    assert hold_out(data, CLASSES, 0.0)[1] == []


def test_ignored_objects_make_no_image_of_a_class() -> None:
    data = [record("a.png", ("cat",), number=one, ignore=[True], coverage=CLASSES) for one in range(1, 11)]
    assert hold_out(data, CLASSES, 0.5)[1] == []


@given(st.lists(st.sets(st.sampled_from(CLASSES)), max_size=40), st.floats(0, 0.99), st.integers(0, 5))
def test_no_class_loses_more_than_its_share(shown: list[set[str]], share: float, seed: int) -> None:
    data = records(*(tuple(sorted(names)) for names in shown))
    rest, held = hold_out(data, CLASSES, share, seed=seed)
    assert len(rest) + len(held) == len(data)
    for name in CLASSES:
        assert counts(held)[name] <= share * counts(data)[name]


def test_a_share_of_one_is_for_nobody() -> None:
    with pytest.raises(ValueError, match="share"):
        hold_out(records(("cat",)), CLASSES, 1.0)
