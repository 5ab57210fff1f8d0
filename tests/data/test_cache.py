"""The cache keeps its budget, is shared by all processes that were forked, and never confuses sizes."""

from __future__ import annotations

import multiprocessing
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from incdet.data.cache import ImageCache, Place
from incdet.data.resize import Planes

PLACES = [Place(Path(f"{number}.jpg"), 4, 5 + number) for number in range(6)]


class Maker:
    """Makes planes that differ from place to place, and counts how often."""

    def __init__(self) -> None:
        self.made: Counter[Place] = Counter()

    def __call__(self, place: Place) -> Callable[[], Planes]:
        def make() -> Planes:
            self.made[place] += 1
            return planes_of(place)

        return make


def planes_of(place: Place) -> Planes:
    rng = np.random.default_rng([place.height, place.width])
    return rng.integers(0, 256, (3, place.height, place.width), dtype=np.uint8)


def test_what_fits_is_made_once_and_the_rest_every_time() -> None:
    budget = sum(place.nbytes for place in PLACES[:4]) + 10
    cache, maker = ImageCache(budget), Maker()
    assert cache.reserve(PLACES) == 4 and cache.used == budget - 10
    for _ in range(3):
        for place in PLACES:
            assert np.array_equal(cache.get(place, maker(place)), planes_of(place))
    assert maker.made == {place: 1 if place in PLACES[:4] else 3 for place in PLACES}


def test_without_a_budget_nothing_is_kept() -> None:
    cache, maker = ImageCache(0), Maker()
    assert cache.reserve(PLACES) == 0 and cache.used == 0
    cache.get(PLACES[0], maker(PLACES[0]))
    cache.get(PLACES[0], maker(PLACES[0]))
    assert maker.made[PLACES[0]] == 2


def test_a_picture_that_stands_in_two_records_has_one_slot() -> None:
    cache = ImageCache(10**6)
    assert cache.reserve([PLACES[0], PLACES[0]]) == 1 and cache.used == PLACES[0].nbytes


def test_another_size_of_the_same_picture_is_another_entry() -> None:
    small, large = Place(Path("a.jpg"), 4, 6), Place(Path("a.jpg"), 8, 12)
    cache, maker = ImageCache(10**6), Maker()
    cache.reserve([small])
    cache.get(small, maker(small))
    cache.reserve([large])
    assert cache.get(large, maker(large)).shape == (3, 8, 12)
    assert maker.made == {small: 1, large: 1}


def test_a_slot_is_read_only() -> None:
    cache = ImageCache(10**6)
    cache.reserve(PLACES)
    for _ in range(2):
        with pytest.raises(ValueError, match="read-only"):
            cache.get(PLACES[0], lambda: planes_of(PLACES[0]))[:] = 0


def test_a_picture_that_cannot_be_read_leaves_its_slot_empty() -> None:
    def fail() -> Planes:
        raise OSError("gone")

    cache, maker = ImageCache(10**6), Maker()
    cache.reserve(PLACES)
    with pytest.raises(OSError, match="gone"):
        cache.get(PLACES[0], fail)
    assert np.array_equal(cache.get(PLACES[0], maker(PLACES[0])), planes_of(PLACES[0]))


def test_a_later_phase_finds_what_an_earlier_one_left() -> None:
    cache, maker = ImageCache(10**6), Maker()
    cache.reserve(PLACES[:3])
    for place in PLACES[:3]:
        cache.get(place, maker(place))
    assert cache.reserve(PLACES) == 6
    for place in PLACES:
        cache.get(place, maker(place))
    assert maker.made == dict.fromkeys(PLACES, 1)
    assert cache.used == sum(place.nbytes for place in PLACES)


def test_what_a_phase_does_not_use_makes_way_for_it() -> None:
    cache, maker = ImageCache(sum(place.nbytes for place in PLACES[3:])), Maker()
    assert cache.reserve(PLACES[:3]) == 3
    assert cache.reserve(PLACES[3:]) == 3
    assert cache.used == cache.budget
    cache.get(PLACES[0], maker(PLACES[0]))
    cache.get(PLACES[0], maker(PLACES[0]))
    assert maker.made[PLACES[0]] == 2


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_what_a_forked_process_puts_in_the_others_see() -> None:
    cache, maker = ImageCache(10**6), Maker()
    cache.reserve(PLACES)
    child = multiprocessing.get_context("fork").Process(target=_fill, args=(cache,))
    child.start()
    child.join()
    assert child.exitcode == 0
    for place in PLACES:
        assert np.array_equal(cache.get(place, maker(place)), planes_of(place))
    assert not maker.made


def _fill(cache: ImageCache) -> None:
    cache.share(2, PLACES)
    for place in PLACES:
        cache.get(place, lambda place=place: planes_of(place))  # type: ignore[misc]


def test_a_process_that_was_not_forked_keeps_its_share_of_the_budget() -> None:
    cache, maker = ImageCache(2 * sum(place.nbytes for place in PLACES[:3])), Maker()
    cache.reserve(PLACES)
    sent: ImageCache = pickle.loads(pickle.dumps(cache))
    assert sent.used == 0 and cache.used > 0
    sent.share(2, PLACES)
    assert sent.budget == cache.budget // 2 and sent.used == sum(place.nbytes for place in PLACES[:3])
    for _ in range(2):
        assert np.array_equal(sent.get(PLACES[0], maker(PLACES[0])), planes_of(PLACES[0]))
    assert maker.made[PLACES[0]] == 1
