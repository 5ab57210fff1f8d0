"""A cache of resized pictures in host memory, one for all loader processes.

It is anonymous shared memory: forked workers inherit it and see what the others have put in, and no size limit of a
shared-memory file system stands in the way. Where workers are started otherwise, each gets its share of the budget.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from incdet.data.resize import Planes

MIB = 2**20


class Place(NamedTuple):
    """What a slot holds: the picture and the (height, width) it was resized to; another size is another place."""

    image: Path
    height: int
    width: int

    @property
    def nbytes(self) -> int:
        """Bytes of its (3, H, W) uint8 planes."""
        return 3 * self.height * self.width


class _Slot(NamedTuple):
    planes: Planes
    ready: NDArray[np.uint8]


@dataclass
class _Segment:
    """One mapping: the planes of its places behind one another, then a byte for each that says they are there."""

    nbytes: int
    slots: dict[Place, _Slot] = field(default_factory=dict)

    @classmethod
    def of(cls, places: list[Place]) -> _Segment:
        size = sum(place.nbytes for place in places)
        memory = np.frombuffer(mmap.mmap(-1, size + len(places)), dtype=np.uint8)
        segment, start = cls(size), 0
        for number, place in enumerate(places):
            planes = memory[start : start + place.nbytes].reshape(3, place.height, place.width)
            segment.slots[place] = _Slot(planes, memory[size + number : size + number + 1])
            start += place.nbytes
        return segment


class ImageCache:
    """Resized pictures up to a byte budget; what does not fit is made anew each time.

    Nothing is evicted while it is in use: with images drawn in random order every entry is as good as another.

    Args:
        budget: Bytes of planes; 0 keeps none.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._segments: list[_Segment] = []
        self._slots: dict[Place, _Slot] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A process that was not forked cannot see the mappings; ``share`` gives it a part of its own.
        return {"budget": self.budget, "_segments": [], "_slots": {}}

    @property
    def used(self) -> int:
        """Bytes that are laid out for planes."""
        return sum(segment.nbytes for segment in self._segments)

    def reserve(self, places: Iterable[Place]) -> int:
        """Lays out slots for ``places``, in their order as far as the budget goes; to be called before workers start.

        Slots of earlier calls stay as long as there is room; those that ``places`` does not name make way.

        Returns:
            How many of the (distinct) places have a slot.
        """
        wanted = dict.fromkeys(places)
        missing = [place for place in wanted if place not in self._slots]
        if self.used + sum(place.nbytes for place in missing) > self.budget:
            self._segments = [one for one in self._segments if not wanted.keys().isdisjoint(one.slots)]
        room, fitting = self.budget - self.used, []
        self._slots = {place: slot for segment in self._segments for place, slot in segment.slots.items()}
        for place in wanted:
            if place not in self._slots and place.nbytes <= room:
                fitting.append(place)
                room -= place.nbytes
        if fitting:
            self._segments.append(_Segment.of(fitting))
            self._slots |= self._segments[-1].slots
        return sum(place in self._slots for place in wanted)

    def get(self, place: Place, make: Callable[[], Planes]) -> Planes:
        """The (3, H, W) uint8 planes of ``place``, read-only, from its slot or from ``make``, which fills the slot."""
        slot = self._slots.get(place)
        if slot is None:
            return make()
        if not slot.ready[0]:
            # Two processes may do this at the same time: both write the same bytes, and the flag comes last.
            slot.planes[:] = make()
            slot.ready[0] = 1
        planes: Planes = slot.planes.view()
        planes.flags.writeable = False
        return planes

    def share(self, processes: int, places: Iterable[Place]) -> None:
        """In a worker: use the inherited slots, or else lay out own ones within a fair part of the budget."""
        if not self._segments:
            self.budget //= max(1, processes)
            self.reserve(places)
