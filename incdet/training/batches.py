"""What a phase trains on: numbered batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

Batch = tuple[Sequence[Tensor], Sequence[Mapping[str, Any]]]
Batches = Callable[[int], Iterable[Batch]]
"""Number of batches already drawn -> the endless rest of the stream; a pure function of its argument."""


def rewritten(batches: Batches, change: Callable[[int, Batch], Batch]) -> Batches:
    """The stream with every batch changed by a pure function of its number and of itself, from wherever it begins."""

    def rest(drawn: int) -> Iterable[Batch]:
        return (change(number, batch) for number, batch in enumerate(batches(drawn), start=drawn))

    return rest
