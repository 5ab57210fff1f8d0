"""Rules by which exemplars of a class are chosen and ranked, each a value."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from incdet.data.records import Record

Features = Mapping[str, Mapping[int, NDArray[np.float32]]]
"""Class name -> position of a record -> L2-normalised feature (C,)."""


@dataclass(frozen=True)
class Pool:
    """What a rule chooses from for one class.

    Attributes:
        name: The class.
        places: Positions in ``records`` that may be chosen.
        records: All candidates of the step.
        features: By class and position; None for a rule that needs none.
        seed: Of rules that draw.
    """

    name: str
    places: Sequence[int]
    records: Sequence[Record]
    features: Features | None = None
    seed: int = 0


class Selection(Protocol):
    """A rule: a pure function of the pool."""

    needs_features: ClassVar[bool]

    def rank(self, pool: Pool, count: int) -> list[int]:
        """At most ``count`` positions of the pool, best first."""
        ...


class Herding:
    """The images whose prefix means approximate the mean of all best (Castro et al. 2018, sec. 3.3; Welling 2009)."""

    needs_features: ClassVar[bool] = True

    def rank(self, pool: Pool, count: int) -> list[int]:
        """See ``Selection``."""
        if pool.features is None:
            raise ValueError("herding needs the features of the candidates")
        known = [place for place in pool.places if place in pool.features.get(pool.name, {})]
        if not known:
            return []
        return [known[row] for row in herd(np.stack([pool.features[pool.name][place] for place in known]), count)]


class Random:
    """A seeded draw."""

    needs_features: ClassVar[bool] = False

    def rank(self, pool: Pool, count: int) -> list[int]:
        """See ``Selection``."""
        # One generator a class: adding a class must not reshuffle the others.
        digest = int.from_bytes(hashlib.sha256(pool.name.encode()).digest()[:4], "big")
        order = np.random.default_rng([pool.seed, digest]).permutation(len(pool.places))
        return [pool.places[row] for row in order[:count]]


class ClassBalanced:
    """Greedily the image that keeps the numbers of boxes of the classes in the memory most even."""

    needs_features: ClassVar[bool] = False

    def rank(self, pool: Pool, count: int) -> list[int]:
        """See ``Selection``."""
        names = sorted({name for place in pool.places for name in pool.records[place].names})
        counts = {
            place: np.array([pool.records[place].names.count(name) for name in names], dtype=np.float64)
            for place in pool.places
        }
        chosen: list[int] = []
        total, rest = np.zeros(len(names)), list(pool.places)
        while rest and len(chosen) < count:
            best = min(rest, key=lambda place: (float(np.std(total + counts[place])), place))
            rest.remove(best)
            chosen.append(best)
            total += counts[best]
        return chosen


SELECTIONS: dict[str, Selection] = {"herding": Herding(), "random": Random(), "class-balanced": ClassBalanced()}
"""By the value of ``memory.selection``."""


def herd(features: NDArray[np.float32], count: int) -> list[int]:
    """Greedy herding: positions whose prefix means approximate the mean of all features best (Welling 2009).

    Args:
        features: (N, C).
        count: How many positions to rank, at most N are.

    Returns:
        Distinct positions, best first.
    """
    mean = features.mean(axis=0)
    total = np.zeros_like(mean)
    chosen: list[int] = []
    free = np.ones(len(features), dtype=bool)
    for step in range(1, min(count, len(features)) + 1):
        distance = np.linalg.norm(mean - (total + features) / step, axis=1)
        distance[~free] = np.inf
        best = int(distance.argmin())
        chosen.append(best)
        free[best] = False
        total = total + features[best]
    return chosen
