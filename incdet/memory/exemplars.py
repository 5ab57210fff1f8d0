"""The exemplar memory: a few images of every class seen, ranked, within an exact budget of images.

Every exemplar is credited to one class and keeps the boxes and the coverage it had when it was stored. Removal cuts
the tail of each class's ranking; nothing is ranked again (Castro et al., ECCV 2018, sec. 3.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from incdet.data.records import Record
from incdet.errors import Finding, InputError
from incdet.memory.selection import SELECTIONS, Features, Pool


@dataclass(frozen=True)
class Budget:
    """How many images the memory may hold: ``total`` over all classes, or ``per_class`` of each.

    Raises:
        InputError: Neither or both are given, or a number is negative.
    """

    total: int | None = None
    per_class: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.total, self.per_class) if value is not None]
        if len(given) != 1 or given[0] < 0:
            raise InputError(
                Finding(
                    "config",
                    "key memory",
                    f"total={self.total}, per_class={self.per_class}",
                    "give exactly one of memory.total and memory.per_class, 0 or more",
                )
            )

    def quotas(self, names: Sequence[str]) -> dict[str, int]:
        """Images of each class; with ``total`` the remainder goes to the first classes, so that they sum to it.

        Raises:
            InputError: The total is positive but smaller than the number of classes.
        """
        if self.per_class is not None:
            return dict.fromkeys(names, self.per_class)
        total = self.total or 0
        if 0 < total < len(names):
            raise InputError(
                Finding(
                    "config",
                    "key memory.total",
                    f"{total} images cannot hold one of each of {len(names)} classes",
                    f"set memory.total to at least {len(names)}",
                )
            )
        share, rest = divmod(total, max(1, len(names)))
        return {name: share + (rank < rest) for rank, name in enumerate(names)}


@dataclass(frozen=True)
class Memory:
    """Ranked exemplars of every class; an image stands in one list only.

    Attributes:
        budget: The bound that ``update`` keeps.
        exemplars: Class name -> records, best first.
    """

    budget: Budget
    exemplars: Mapping[str, tuple[Record, ...]]

    @classmethod
    def empty(cls, budget: Budget) -> Memory:
        """A memory that holds nothing yet."""
        return cls(budget, {})

    def __iter__(self) -> Iterator[Record]:
        return (record for ranked in self.exemplars.values() for record in ranked)

    def __len__(self) -> int:
        return sum(len(ranked) for ranked in self.exemplars.values())

    @property
    def bytes(self) -> int:
        """Bytes of the stored images on disk."""
        return sum(record.image.stat().st_size for record in self)

    def reduce(self, names: Sequence[str]) -> Memory:
        """The memory cut to the quotas that hold when ``names`` are known: each list loses its tail."""
        quotas = self.budget.quotas(names)
        kept = {name: ranked[: quotas.get(name, 0)] for name, ranked in self.exemplars.items()}
        return replace(self, exemplars=kept)

    def update(
        self,
        candidates: Sequence[Record],
        new: Sequence[str],
        *,
        selection: str = "herding",
        features: Features | None = None,
        seed: int = 0,
    ) -> Memory:
        """The memory after a step: old lists cut to their new quotas, the step's classes chosen from ``candidates``.

        Args:
            candidates: The step's records, with the coverage they are to keep.
            new: The step's classes.
            selection: One of ``SELECTIONS``.
            features: As given by ``object_features``.
            seed: Of ``random``.

        Returns:
            A memory of at most the budget; exactly the quota of each class that has as many images.
        """
        known = [*self.exemplars, *(name for name in new if name not in self.exemplars)]
        quotas = self.budget.quotas(known)
        reduced = self.reduce(known)
        used = {record.image for record in reduced}
        chosen: dict[str, tuple[Record, ...]] = dict(reduced.exemplars)
        if selection not in SELECTIONS:
            raise ValueError(f"unknown selection {selection!r}; known: {', '.join(SELECTIONS)}")
        # Rare classes choose first, or a common class would take the few images they have.
        pools = {name: [i for i, record in enumerate(candidates) if _holds(record, name)] for name in new}
        for name in sorted(new, key=lambda name: (len(pools[name]), list(new).index(name))):
            free = [i for i in pools[name] if candidates[i].image not in used]
            held = [record for own in chosen.values() for record in own]
            ranked = SELECTIONS[selection].rank(Pool(name, free, candidates, features, seed, held), quotas[name])
            chosen[name] = tuple(candidates[i] for i in ranked)
            used.update(record.image for record in chosen[name])
        return replace(self, exemplars={name: chosen.get(name, ()) for name in known})


def _holds(record: Record, name: str) -> bool:
    return any(own == name and not ignored for own, ignored in zip(record.names, record.ignore, strict=True))
