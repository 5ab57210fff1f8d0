"""Buffers for batches, used again once nobody looks at them any more."""

from __future__ import annotations

import weakref

import numpy as np
from numpy.typing import NDArray

MOST_FREE = 4
"""A training loop holds a batch or two, and as many are being made."""


class BufferPool:
    """Gives out uint8 arrays; the memory of one that has been let go serves the next.

    What the system takes for fresh memory, page by page, is several times the cost of writing a mirrored image.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def __reduce__(self) -> tuple[type[BufferPool], tuple[()]]:
        return BufferPool, ()  # another process starts with a pool of its own

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """(nbytes,) of any content; it returns to the pool when the last view of it, or tensor on it, is gone."""
        fitting = [row for row, buffer in enumerate(self._free) if buffer.nbytes >= nbytes]
        # Too small is of no use to a batch of this size: it makes way.
        buffer = self._free.pop(fitting[0]) if fitting else np.empty(nbytes, dtype=np.uint8)
        if not fitting and self._free:
            self._free.pop(0)
        lent = buffer[:nbytes]
        weakref.finalize(lent, self._return, buffer).atexit = False
        return lent

    def _return(self, buffer: NDArray[np.uint8]) -> None:
        if len(self._free) < MOST_FREE:
            self._free.append(buffer)
