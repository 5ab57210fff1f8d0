from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from helpers import record
from hypothesis import given
from hypothesis import strategies as st

from incdet.data.dataset import read_image
from incdet.data.records import Record
from incdet.errors import InputError
from incdet.memory.exemplars import Budget, Memory
from incdet.memory.selection import Features, herd

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


# --- the manifest


@pytest.fixture
def on_disk(tmp_path: Path) -> Memory:
    import cv2

    data = tmp_path / "data"
    data.mkdir()
    rows = []
    for number, names in enumerate(permutations(NAMES[:2])):
        path = data / f"{number}.png"
        cv2.imwrite(str(path), np.full((48, 48, 3), 60 * number + 20, np.uint8))
        rows.append(record(path, names, number=number + 5, coverage=NAMES[:3], ignore=[False, number == 1]))
    return Memory(Budget(total=6), {"ant": (rows[1],), "bee": (rows[0],), "cow": ()})


def test_a_manifest_reproduces_the_memory(on_disk: Memory, tmp_path: Path) -> None:
    path = tmp_path / "run" / "memory" / "step_1.json"
    assert on_disk.save(path) is on_disk
    assert Memory.load(path) == on_disk
    value = json.loads(path.read_text())
    assert value["images"] == 2 and value["bytes"] == on_disk.bytes > 0
    assert sorted(one.name for one in path.parent.iterdir()) == ["step_1.json"]


def test_the_manifest_continues_as_the_memory_would(on_disk: Memory, tmp_path: Path) -> None:
    on_disk.save(tmp_path / "step_1.json")
    more = [record(f"n{i}.png", ["dog"]) for i in range(4)]
    here, there = (teach(one, more, ["dog"], "random") for one in (on_disk, Memory.load(tmp_path / "step_1.json")))
    assert here == there


@pytest.mark.parametrize("moved", [False, True])
def test_with_copied_pixels_the_old_data_may_go(on_disk: Memory, tmp_path: Path, moved: bool) -> None:
    path = tmp_path / "run" / "step_1.json"
    before = {name: [read_image(one) for one in ranked] for name, ranked in on_disk.exemplars.items()}
    saved = on_disk.save(path, copy_images=True)
    shutil.rmtree(tmp_path / "data")
    if moved:
        path = path.parent.rename(tmp_path / "elsewhere") / path.name
    loaded = Memory.load(path)
    assert moved or loaded == saved
    for name, ranked in loaded.exemplars.items():
        assert [one.names for one in ranked] == [one.names for one in on_disk.exemplars[name]]
        assert all(one.image.is_relative_to(path.parent) for one in ranked)
        for one, pixels in zip(ranked, before[name], strict=True):
            assert np.array_equal(read_image(one), pixels)


def test_copies_of_equal_names_do_not_collide_and_are_copied_once(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "1.jpg").write_bytes(bytes([number]))
    memory = Memory(Budget(per_class=2), {"ant": tuple(record(tmp_path / str(n) / "1.jpg", ["ant"]) for n in range(2))})
    saved = memory.save(tmp_path / "run" / "step_1.json", copy_images=True)
    assert [one.image.read_bytes() for one in saved] == [b"\0", b"\1"]
    assert saved.save(tmp_path / "run" / "step_2.json", copy_images=True) == saved
    assert len(list((tmp_path / "run" / "images").iterdir())) == 2


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="step_9.json.*does not exist"):
        Memory.load(tmp_path / "step_9.json")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_manifest_that_is_cut_off_is_refused(on_disk: Memory, tmp_path: Path, share: float) -> None:
    path = tmp_path / "step_1.json"
    on_disk.save(path)
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(InputError, match="step_1.json.*cut off"):
        Memory.load(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"exemplars": {"ant": [{}]}, "budget": {"total": 1}}'])
def test_json_that_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "step_1.json"
    path.write_text(text)
    with pytest.raises(InputError, match="step_1.json"):
        Memory.load(path)


def test_a_manifest_whose_images_are_gone_is_refused(on_disk: Memory, tmp_path: Path) -> None:
    on_disk.save(tmp_path / "step_1.json")
    (tmp_path / "data" / "0.png").unlink()
    with pytest.raises(InputError, match="1 images are missing.*0.png"):
        Memory.load(tmp_path / "step_1.json")
