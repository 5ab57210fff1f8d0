"""Fewer images for a step than the data have: how much a method needs is measured by what it is not given."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence

from incdet.data.records import Record


def few_of_each(records: Sequence[Record], names: Collection[str], most: int) -> list[Record]:
    """Images in an order that hangs on their ids alone, as long as one of their classes has fewer than ``most``.

    What is taken with a smaller ``most`` is, but for images of several classes, taken with a larger one too.

    Args:
        records: Of a step.
        names: The classes to count, those that the step learns.
        most: Images for each class; a class gets more where its objects stand beside a rarer class's.
    """
    taken: Counter[str] = Counter()
    chosen = set()
    for row in _shuffled(records):
        shown = _counted(records[row], names)
        if any(taken[name] < most for name in shown):
            taken.update(shown)
            chosen.add(row)
    return [records[row] for row in sorted(chosen)]


def with_share(records: Sequence[Record], names: Collection[str], share: float) -> list[Record]:
    """As many images as can be of which a share shows a class of ``names``; the others are left out.

    Args:
        records: Of a step.
        names: Earlier classes, whose labels the step hides.
        share: In [0, 1].
    """
    order = _shuffled(records)
    showing = [row for row in order if records[row].counts(names)]
    others = [row for row in order if not records[row].counts(names)]
    if len(showing) > share * len(records):
        showing = showing[: int(len(others) * share / (1 - share))]
    else:
        others = others[: round(len(showing) * (1 - share) / share)] if share else others
    return [records[row] for row in sorted({*showing, *others})]


def _counted(record: Record, names: Collection[str]) -> set[str]:
    return {name for name, skip in zip(record.names, record.ignore, strict=True) if not skip and name in names}


def _shuffled(records: Sequence[Record]) -> list[int]:
    """Rows in an order that does not hang on which other images there are."""
    keys = [hashlib.sha256(f"incdet scarce {record.source_id}".encode()).digest() for record in records]
    return sorted(range(len(records)), key=lambda row: keys[row])
