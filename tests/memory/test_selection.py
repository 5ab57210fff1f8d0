from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from helpers import record
from hypothesis import given
from hypothesis import strategies as st

from incdet.data.records import Record
from incdet.memory.selection import SELECTIONS, ClassBalanced, Herding, Matching, Pool, Random, herd

NAMES = ("ant", "bee", "cow")


def pictures(*held: Sequence[str]) -> list[Record]:
    return [record(f"{number}.png", names, coverage=NAMES) for number, names in enumerate(held)]


def test_rules_by_their_names_and_what_they_need() -> None:
    assert list(SELECTIONS) == ["herding", "random", "class-balanced", "ocdm", "distribution"]
    assert [name for name, rule in SELECTIONS.items() if rule.needs_features] == ["herding"]


@given(
    name=st.sampled_from(list(SELECTIONS)),
    places=st.lists(st.integers(0, 8), unique=True, max_size=9),
    count=st.integers(0, 12),
)
def test_every_rule_ranks_distinct_places_of_the_pool_and_a_longer_list_begins_as_a_shorter_one(
    name: str, places: list[int], count: int
) -> None:
    records = pictures(*(["ant"] * (1 + n % 3) + ["bee"] * (n % 2) for n in range(9)))
    generator = np.random.default_rng(0)
    features = {"ant": {place: generator.normal(size=3).astype(np.float32) for place in range(9)}}
    pool = Pool("ant", places, records, features, 1)
    ranked = SELECTIONS[name].rank(pool, count)
    assert len(set(ranked)) == len(ranked) == min(count, len(places)) and set(ranked) <= set(places)
    assert SELECTIONS[name].rank(pool, len(places))[: len(ranked)] == ranked


# --- herding


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
    records = pictures(*[["ant", "bee"]] * 4)
    values = {"ant": (0.0, 4.0, 1.9, 2.2), "bee": (0.0, 1.0, 9.0, 9.0)}
    features = {
        name: {place: np.array([value], np.float32) for place, value in enumerate(own)} for name, own in values.items()
    }
    assert Herding().rank(Pool("ant", range(4), records, features), 2) == [2, 3]
    assert Herding().rank(Pool("bee", range(4), records, features), 1) == [1]


def test_herding_needs_features_and_passes_over_places_without_one() -> None:
    records = pictures(["ant"], ["ant"])
    with pytest.raises(ValueError, match="features"):
        Herding().rank(Pool("ant", [0, 1], records), 2)
    one = {"ant": {1: np.ones(3, np.float32)}}
    assert Herding().rank(Pool("ant", [0, 1], records, one), 2) == [1]
    assert Herding().rank(Pool("bee", [0, 1], records, one), 2) == []


# --- a seeded draw


def test_a_draw_is_fixed_by_its_seed_and_by_the_class_alone() -> None:
    records = pictures(*[["ant", "bee"]] * 20)

    def drawn(name: str, seed: int, count: int = 5) -> list[int]:
        return Random().rank(Pool(name, range(20), records, seed=seed), count)

    assert drawn("ant", 1) == drawn("ant", 1) == drawn("ant", 1, 9)[:5]
    assert drawn("ant", 1) != drawn("ant", 2) and drawn("ant", 1) != drawn("bee", 1)


# --- the evenest numbers of boxes


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=5))
def test_class_balanced_choice_takes_at_each_place_the_evenest_image(counts: list[tuple[int, int, int]]) -> None:
    records = pictures(*([name for name, n in zip(NAMES, row, strict=True) for _ in range(n)] for row in counts))
    ranked = ClassBalanced().rank(Pool("ant", range(len(records)), records), 3)
    present = [column for column in range(3) if any(row[column] for row in counts)]

    def spread(chosen: Sequence[int]) -> float:
        sums = [sum(counts[i][column] for i in chosen) for column in present]
        mean = sum(sums) / len(sums)
        return sum((value - mean) ** 2 for value in sums)

    for number, place in enumerate(ranked):
        before = ranked[:number]
        best = min(spread([*before, i]) for i in range(len(records)) if i not in before)
        assert spread([*before, place]) == pytest.approx(best)
    assert len(ranked) == min(3, len(records))


# --- wanted shares of the classes


def slow_distance(wanted: Sequence[float], counts: Sequence[float]) -> float:
    """KL divergence of shares, with a thousandth of a box more for every class."""
    more = [count + 1e-3 for count in counts]
    shares = [share / sum(wanted) for share in wanted]
    return sum(p * math.log(p / (c / sum(more))) for p, c in zip(shares, more, strict=True) if p > 0)


@pytest.mark.parametrize("even", [True, False])
@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=5))
def test_matching_takes_at_each_place_the_image_that_brings_the_shares_nearest(
    even: bool, counts: list[tuple[int, int, int]]
) -> None:
    records = pictures(*([name for name, n in zip(NAMES, row, strict=True) for _ in range(n)] for row in counts))
    held = [record("x.png", ["bee", "bee"]), record("y.png", ["dog"])]  # a dog is of no class of the step
    ranked = Matching(even=even).rank(Pool("ant", range(len(records)), records, held=held), 3)
    present = [column for column in range(3) if any(row[column] for row in counts)]
    wanted = [1.0 if even else float(sum(row[column] for row in counts)) for column in present]

    def distance(chosen: Sequence[int]) -> float:
        return slow_distance(wanted, [2 * (column == 1) + sum(counts[i][column] for i in chosen) for column in present])

    for number, place in enumerate(ranked):
        before = ranked[:number]
        best = min(distance([*before, i]) for i in range(len(records)) if i not in before)
        assert distance([*before, place]) == pytest.approx(best)
    assert len(ranked) == min(3, len(records))


def test_even_shares_and_the_shares_of_the_step_want_other_images() -> None:
    records = pictures(["ant", "bee"], ["ant"], *[["ant", "ant", "ant", "bee"]] * 4)
    pool = Pool("ant", range(6), records)
    assert SELECTIONS["ocdm"].rank(pool, 1) == [0] and SELECTIONS["distribution"].rank(pool, 1) == [2]
