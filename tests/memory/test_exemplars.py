from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from helpers import record
from hypothesis import given
from hypothesis import strategies as st

from incdet.data.records import Record
from incdet.errors import InputError
from incdet.memory.exemplars import Budget, Memory
from incdet.memory.selection import SELECTIONS, Features, Pool

NAMES = ("ant", "bee", "cow", "dog", "elk", "fox")
RULES = st.sampled_from(list(SELECTIONS))


def features(records: Sequence[Record], names: Sequence[str], seed: int = 0) -> Features:
    random = np.random.default_rng(seed)
    return {
        name: {i: random.normal(size=3).astype(np.float32) for i, one in enumerate(records) if name in one.names}
        for name in names
    }


def teach(memory: Memory, records: Sequence[Record], new: Sequence[str], selection: str, seed: int = 0) -> Memory:
    return memory.update(records, new, selection=selection, features=features(records, new), seed=seed)


def steps_of_records(masks: list[list[int]], cuts: tuple[int, ...]) -> list[tuple[tuple[str, ...], list[Record]]]:
    """Steps with their classes and images: ``masks`` holds, per step, a bit set of its classes for every image."""
    steps, start = [], 0
    for number, (count, images) in enumerate(zip(cuts, masks, strict=True)):
        names = NAMES[start : start + count]
        held = [[name for bit, name in enumerate(names) if mask >> bit & 1] for mask in images]
        steps.append((names, [record(f"{number}_{i}.png", own, coverage=names) for i, own in enumerate(held)]))
        start += count
    return steps


@given(
    masks=st.tuples(*[st.lists(st.integers(0, 3), max_size=9)] * 3).map(list),
    total=st.integers(6, 20),
    selection=RULES,
)
def test_the_total_budget_is_never_exceeded_and_every_class_gets_what_there_is(
    masks: list[list[int]], total: int, selection: str
) -> None:
    memory, known = Memory.empty(Budget(total=total)), 0
    for names, records in steps_of_records(masks, (2, 2, 2)):
        before, memory = memory, teach(memory, records, names, selection)
        known += 2
        quotas = memory.budget.quotas(NAMES[:known])
        assert sum(quotas.values()) == total and len(memory) <= total
        assert list(memory.exemplars) == list(NAMES[:known])
        stored = [one.image for one in memory]
        assert len(set(stored)) == len(stored)  # no image in two lists
        for name, ranked in memory.exemplars.items():
            assert len(ranked) <= quotas[name]
            assert all(name in one.names for one in ranked)
            if name in before.exemplars:
                assert ranked == before.exemplars[name][: quotas[name]]  # the tail alone is cut
            else:
                free = [one for one in records if name in one.names and one.image not in set(stored)]
                assert len(ranked) == quotas[name] or not free


@given(exclusive=st.integers(0, 8), per_class=st.integers(0, 5), selection=RULES)
def test_a_budget_per_class_is_exact(exclusive: int, per_class: int, selection: str) -> None:
    memory = Memory.empty(Budget(per_class=per_class))
    for names in (NAMES[:2], NAMES[2:4]):
        records = [record(f"{name}{i}.png", [name], coverage=names) for name in names for i in range(exclusive)]
        memory = teach(memory, records, names, selection)
    assert {name: len(ranked) for name, ranked in memory.exemplars.items()} == dict.fromkeys(
        NAMES[:4], min(exclusive, per_class)
    )


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_total_is_reached_exactly_with_images_enough(selection: str) -> None:
    memory = Memory.empty(Budget(total=11))
    for step, names in enumerate((NAMES[:2], NAMES[2:5]), start=1):
        records = [record(f"{name}{i}.png", [name], coverage=names) for name in names for i in range(12)]
        memory = teach(memory, records, names, selection)
        assert len(memory) == 11, step
    assert [len(ranked) for ranked in memory.exemplars.values()] == [3, 2, 2, 2, 2]


def test_rare_classes_choose_before_common_ones() -> None:
    both = [record(f"{i}.png", ["ant", "bee"]) for i in range(2)]
    ants = [record(f"a{i}.png", ["ant"], coverage=["ant", "bee"]) for i in range(5)]
    memory = teach(Memory.empty(Budget(per_class=2)), [*both, *ants], ["ant", "bee"], "random")
    assert {one.image for one in memory.exemplars["bee"]} == {one.image for one in both}
    assert len(memory.exemplars["ant"]) == 2


def test_an_image_remembered_for_an_old_class_is_not_chosen_again() -> None:
    old = Memory(Budget(per_class=3), {"ant": (record("x.png", ["ant"]),)})
    memory = teach(old, [record("x.png", ["bee"]), record("y.png", ["bee"])], ["bee"], "random")
    assert [str(one.image) for one in memory.exemplars["bee"]] == ["y.png"]


def test_exemplars_keep_boxes_and_coverage_and_ignored_objects_do_not_count() -> None:
    crowd = record("crowd.png", ["ant"], ignore=[True])
    kept = record("kept.png", ["ant", "ant"], coverage=["ant", "bee"], ignore=[True, False])
    memory = teach(Memory.empty(Budget(per_class=5)), [crowd, kept], ["ant"], "random")
    assert memory.exemplars["ant"] == (kept,)


def test_quotas() -> None:
    assert Budget(total=10).quotas("abc") == {"a": 4, "b": 3, "c": 3}
    assert Budget(total=0).quotas("abc") == {"a": 0, "b": 0, "c": 0}
    assert Budget(per_class=7).quotas("ab") == {"a": 7, "b": 7}


@pytest.mark.parametrize("values", [{}, {"total": 3, "per_class": 3}, {"total": -1}, {"per_class": -1}])
def test_an_unclear_budget_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(InputError, match="memory"):
        Budget(**values)


def test_a_budget_smaller_than_the_number_of_classes_is_refused() -> None:
    with pytest.raises(InputError, match="at least 4"):
        Budget(total=3).quotas("abcd")
    memory = Memory(Budget(total=2), {"ant": (), "bee": ()})
    with pytest.raises(InputError, match="memory.total"):
        teach(memory, [record("x.png", ["cow"])], ["cow"], "random")


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_class_is_chosen_by_the_named_rule_among_the_images_that_are_free(selection: str) -> None:
    records = [record(f"{i}.png", ["ant"] * (1 + i % 3), coverage=NAMES[:2]) for i in range(7)]
    old = Memory(Budget(per_class=3), {"bee": (record("2.png", ["bee"]),)})
    known = features(records, ["ant"])
    memory = old.update(records, ["ant"], selection=selection, features=known, seed=4)
    ranked = SELECTIONS[selection].rank(Pool("ant", [0, 1, 3, 4, 5, 6], records, known, 4), 3)
    assert [one.image.name for one in memory.exemplars["ant"]] == [f"{place}.png" for place in ranked]


def test_an_unknown_selection_is_named() -> None:
    with pytest.raises(ValueError, match="best.*herding"):
        Memory.empty(Budget(per_class=1)).update([record("x.png", ["ant"])], ["ant"], selection="best")
