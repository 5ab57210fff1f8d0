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
        held: Exemplars that the memory has already, of other classes.
    """

    name: str
    places: Sequence[int]
    records: Sequence[Record]
    features: Features | None = None
    seed: int = 0
    held: Sequence[Record] = ()


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


class Matching:
    """Greedily the image that brings the classes' shares of the boxes in the memory nearest to wanted ones.

    Nearest is the smallest ``KL(wanted || memory)``. Wanted are equal shares (OCDM, Liang et al., 2021, arXiv
    2111.11210) or those of all images of the step (CL-DETR, Liu et al., CVPR 2023). Counted are the classes that the
    pool's images are annotated for, in the exemplars that the memory holds already too. In both papers the memory is
    one list; here each class has its quota of images, and the rule chooses within it.

    Args:
        even: Equal shares are wanted, else the step's own.
    """

    needs_features: ClassVar[bool] = False

    def __init__(self, *, even: bool) -> None:
        self._even = even

    def rank(self, pool: Pool, count: int) -> list[int]:
        """See ``Selection``."""
        names = sorted({name for record in pool.records for name in record.names})
        own = box_counts([pool.records[place] for place in pool.places], names)
        total = box_counts(pool.held, names).sum(axis=0)
        wanted = np.ones(len(names)) if self._even else box_counts(pool.records, names).sum(axis=0)
        chosen: list[int] = []
        free = np.ones(len(own), dtype=bool)
        while free.any() and len(chosen) < count:
            distance = divergences(wanted, total + own)
            distance[~free] = np.inf
            best = int(distance.argmin())
            free[best] = False
            chosen.append(pool.places[best])
            total = total + own[best]
        return chosen


SELECTIONS: dict[str, Selection] = {
    "herding": Herding(),
    "random": Random(),
    "class-balanced": ClassBalanced(),
    "ocdm": Matching(even=True),
    "distribution": Matching(even=False),
}
"""By the value of ``memory.selection``."""

SMOOTHING = 1e-3
"""Boxes that every class is taken to have more, so that a class without any is far away and not infinitely far."""


def box_counts(records: Sequence[Record], names: Sequence[str]) -> NDArray[np.float64]:
    """(N, C) the number of boxes of each of the C classes in each of the N records."""
    rows = [[record.names.count(name) for name in names] for record in records]
    return np.array(rows, np.float64).reshape(len(records), len(names))


def divergences(wanted: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """``KL(wanted || counts)`` of the shares of the C classes, (N,) from (C,) and (N, C) numbers of boxes."""
    shares = wanted / wanted.sum()
    present = shares > 0
    theirs = (counts + SMOOTHING) / (counts + SMOOTHING).sum(axis=1, keepdims=True)
    distances: NDArray[np.float64] = np.log(shares[present] / theirs[:, present]) @ shares[present]
    return distances


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
