from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from helpers import record
from hypothesis import given
from hypothesis import strategies as st

from incdet.data.records import Record
from incdet.errors import InputError
from incdet.memory.exemplars import Budget, Features, Memory, herd

NAMES = ("ant", "bee", "cow", "dog", "elk", "fox")
SELECTIONS = st.sampled_from(["herding", "random", "class-balanced"])


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
    selection=SELECTIONS,
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


@given(exclusive=st.integers(0, 8), per_class=st.integers(0, 5), selection=SELECTIONS)
def test_a_budget_per_class_is_exact(exclusive: int, per_class: int, selection: str) -> None:
    memory = Memory.empty(Budget(per_class=per_class))
    for names in (NAMES[:2], NAMES[2:4]):
        records = [record(f"{name}{i}.png", [name], coverage=names) for name in names for i in range(exclusive)]
        memory = teach(memory, records, names, selection)
    assert {name: len(ranked) for name, ranked in memory.exemplars.items()} == dict.fromkeys(
        NAMES[:4], min(exclusive, per_class)
    )


@pytest.mark.parametrize("selection", ["herding", "random", "class-balanced"])
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


# --- selections


def slow_herd(points: list[list[float]], count: int) -> list[int]:
    """At every place the point that brings the mean of the chosen nearest to the mean of all."""
    mean = [sum(axis) / len(points) for axis in zip(*points, strict=True)]
    chosen: list[int] = []
    while len(chosen) < min(count, len(points)):

        def distance(i: int) -> float:
            rows = [points[j] for j in (*chosen, i)]
            own = [sum(axis) / len(rows) for axis in zip(*rows, strict=True)]
            return sum(((a - b) ** 2 for a, b in zip(mean, own, strict=True)), 0.0)

        chosen.append(min((i for i in range(len(points)) if i not in chosen), key=distance))
    return chosen


@given(seed=st.integers(0, 2**31 - 1), size=st.integers(1, 9), count=st.integers(0, 12))
def test_herding_equals_the_greedy_rule_written_out(seed: int, size: int, count: int) -> None:
    points = np.random.default_rng(seed).normal(size=(size, 4)).astype(np.float32)
    ranked = herd(points, count)
    assert ranked == slow_herd(points.astype(float).tolist(), count)
    assert len(set(ranked)) == len(ranked) == min(count, size)


def test_herding_ranks_by_the_features_of_the_class() -> None:
    records = [record(f"{i}.png", ["ant"]) for i in range(4)]
    own = {"ant": {i: np.array([value], np.float32) for i, value in enumerate((0.0, 4.0, 1.9, 2.2))}}
    memory = Memory.empty(Budget(per_class=2)).update(records, ["ant"], features=own)
    assert [one.image.name for one in memory.exemplars["ant"]] == ["2.png", "3.png"]
    with pytest.raises(ValueError, match="features"):
        Memory.empty(Budget(per_class=2)).update(records, ["ant"])


def test_random_choice_is_fixed_by_its_seed_and_by_the_class_alone() -> None:
    records = [record(f"{name}{i}.png", [name], coverage=NAMES[:2]) for name in NAMES[:2] for i in range(20)]
    empty = Memory.empty(Budget(per_class=5))
    first = empty.update(records, NAMES[:2], selection="random", seed=1)
    assert first == empty.update(records, NAMES[:2], selection="random", seed=1)
    assert first != empty.update(records, NAMES[:2], selection="random", seed=2)
    alone = empty.update(records, NAMES[:1], selection="random", seed=1)
    assert alone.exemplars["ant"] == first.exemplars["ant"]
    longer = Memory.empty(Budget(per_class=9)).update(records, NAMES[:1], selection="random", seed=1)
    assert longer.exemplars["ant"][:5] == alone.exemplars["ant"]


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=5))
def test_class_balanced_choice_takes_at_each_place_the_evenest_image(counts: list[tuple[int, int, int]]) -> None:
    names = NAMES[:3]
    records = [
        record(f"{i}.png", [name for name, n in zip(names, row, strict=True) for _ in range(n)], coverage=names)
        for i, row in enumerate(counts)
    ]
    memory = Memory.empty(Budget(per_class=3)).update(records, ["ant"], selection="class-balanced")
    present = [i for i in range(3) if any(row[i] for row in counts)]

    def spread(chosen: Sequence[int]) -> float:
        sums = [sum(counts[i][column] for i in chosen) for column in present]
        mean = sum(sums) / len(sums)
        return sum((value - mean) ** 2 for value in sums)

    chosen: list[int] = []
    for one in memory.exemplars["ant"]:
        best = min(spread([*chosen, i]) for i in range(len(records)) if i not in chosen)
        chosen.append(int(one.image.stem))
        assert spread(chosen) == pytest.approx(best)
    assert len(chosen) == min(3, len(records))


def test_an_unknown_selection_is_named() -> None:
    with pytest.raises(ValueError, match="best"):
        Memory.empty(Budget(per_class=1)).update([record("x.png", ["ant"])], ["ant"], selection="best")
