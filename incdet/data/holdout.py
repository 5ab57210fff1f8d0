"""Images held out of training, to measure on: seeded, and with every class in both parts in like shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from incdet.data.records import Record


def hold_out(
    records: Sequence[Record], names: Sequence[str], share: float, *, seed: int = 0, most: int | None = None
) -> tuple[list[Record], list[Record]]:
    """Splits ``records`` into what is trained on and what is measured on, both in source order.

    Of the images of each class ``floor(share * n)`` are held out and no more, so that a class with few images is
    learned from all of them: an image that shows such a class is never held out. The rarest classes choose first.

    Args:
        records: Annotated images.
        names: The classes to share out; what others an image shows plays no part.
        share: Of each class's images, in [0, 1).
        seed: Of the draw.
        most: Images to hold out at most.

    Returns:
        Training and held-out records; the latter are empty where no class has enough images.

    Raises:
        ValueError: ``share`` is out of its range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must be in [0, 1), not {share}")
    wanted = frozenset(names)
    shown = [frozenset(name for name in record.names if record.counts([name])) & wanted for record in records]
    images = Counter(name for classes in shown for name in classes)
    quota = {name: int(share * count) for name, count in images.items()}
    drawn = np.random.default_rng(seed).permutation(len(records)).tolist()
    taken: Counter[str] = Counter()
    held: set[int] = set()
    for name in sorted(quota, key=lambda one: (images[one], one)):
        for row in drawn:
            if taken[name] >= quota[name] or len(held) == most:
                break
            if row not in held and name in shown[row] and all(taken[one] < quota[one] for one in shown[row]):
                held.add(row)
                taken.update(shown[row])
    parts: tuple[list[Record], list[Record]] = ([], [])
    for row, record in enumerate(records):
        parts[row in held].append(record)
    return parts
