"""Which class fires on which object: the false alarms that people see when a new class answers to old objects.

Shapes: N detections and M objects of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from incdet.evaluation.matching import pairwise_iou

if TYPE_CHECKING:
    from incdet.data.records import Record
    from incdet.evaluation.detections import Detections

SHOWN = 0.3
"""Detections that score more than this are looked at: what a person sees on a picture."""
OVERLAP = 0.5


class Mistake(NamedTuple):
    """A detection on an object of another class.

    Attributes:
        image_id: The image it stands in.
        true: The object's class.
        detected: The detection's class.
        score: The detection's score, in (0, 1].
        box: The detection, xyxy pixels of the image file.
    """

    image_id: int
    true: str
    detected: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Confusion:
    """How often each class fires on the objects of each class; zeros are left out.

    Attributes:
        threshold: Detections with a higher score were looked at.
        objects: Objects of every class in the test set, ignored ones left out.
        fires: By the object's class and the detection's: the number of objects on which that class fired. With equal
            classes these are the objects that were found.
        strays: By class, detections that lie on no object at all.
        mistakes: The detections behind ``fires`` of two classes, the highest score first.
    """

    threshold: float
    objects: dict[str, int]
    fires: dict[str, dict[str, int]]
    strays: dict[str, int]
    mistakes: tuple[Mistake, ...] = ()

    def between(self, true: Sequence[str], detected: Sequence[str]) -> list[tuple[str, str, int, float]]:
        """(object's class, detection's class, objects, share of the objects) of two groups, the largest share first."""
        rows = [
            (one, other, number, number / self.objects[one])
            for one in true
            for other, number in self.fires.get(one, {}).items()
            if other != one and other in detected
        ]
        return sorted(rows, key=lambda row: (-row[3], -row[2], row[0], row[1]))

    def to_json(self) -> dict[str, Any]:
        """The ``confusion`` entry of scores.json; the mistakes stay out."""
        return {"threshold": self.threshold, "objects": self.objects, "fires": self.fires, "strays": self.strays}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Confusion:
        """The inverse of ``to_json``."""
        return cls(value["threshold"], value["objects"], value["fires"], value["strays"])


def confusion(
    records: Sequence[Record], found: Sequence[Detections], names: Sequence[str], threshold: float = SHOWN
) -> Confusion:
    """Counts on which objects the classes fire.

    A detection belongs to the object that it overlaps most with IoU 0.5 or more, one of its own class before any other,
    so that a class that rightly finds its own object beside another one is not blamed.

    Args:
        records: The test set.
        found: The detections of every record, in their order; labels into ``names``.
        names: The classes; objects of other classes count as nothing.
        threshold: Detections with a higher score are looked at.
    """
    column = {name: place for place, name in enumerate(names)}
    objects, strays = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    fires = np.zeros((len(names), len(names)), np.int64)
    mistakes: list[Mistake] = []
    for record, item in zip(records, found, strict=True):
        labels = np.array([column.get(name, -1) for name in record.names], np.int64)
        known = labels >= 0
        labels, boxes, ignored = labels[known], record.boxes[known], record.ignore[known]
        np.add.at(objects, labels[~ignored], 1)
        strong = np.flatnonzero(item.scores > threshold)
        target = _targets(item.boxes[strong], item.labels[strong], boxes, labels)
        np.add.at(strays, item.labels[strong[target < 0]], 1)
        hit = (target >= 0) & ~ignored[target] if len(labels) else np.zeros(len(strong), np.bool_)
        # One object counts once for each class that fires on it, however often.
        pairs = np.unique(np.stack([target[hit], item.labels[strong[hit]]], axis=1), axis=0)
        np.add.at(fires, (labels[pairs[:, 0]], pairs[:, 1]), 1)
        for row in np.flatnonzero(hit):
            place, true = strong[row], labels[target[row]]
            if true != item.labels[place]:
                x1, y1, x2, y2 = (float(edge) for edge in item.boxes[place])
                words = names[true], names[item.labels[place]]
                mistakes.append(Mistake(record.image_id, *words, float(item.scores[place]), (x1, y1, x2, y2)))
    mistakes.sort(key=lambda mistake: (-mistake.score, mistake.image_id))
    return Confusion(
        threshold,
        dict(zip(names, objects.tolist(), strict=True)),
        {name: counted for name, row in zip(names, fires, strict=True) if (counted := _counted(names, row))},
        _counted(names, strays),
        tuple(mistakes),
    )


def false_alarms(
    records: Sequence[Record],
    found: Sequence[Detections],
    names: Sequence[str],
    group: Sequence[str],
    threshold: float = SHOWN,
) -> float | None:
    """Detections of ``group`` that score more than ``threshold``, per image that shows no object of ``group``.

    Only images that are annotated for all of ``group`` can be said to show none.

    Args:
        records: The test set.
        found: The detections of every record, in their order; labels into ``names``.
        names: The classes.
        group: Some of ``names``, for example the new ones.
        threshold: Detections with a higher score count.

    Returns:
        None if every image shows an object of the group, or the group is empty.
    """
    wanted = set(group)
    columns = np.array([name in wanted for name in names], np.bool_)
    alarms = [
        int((columns[item.labels] & (item.scores > threshold)).sum())
        for record, item in zip(records, found, strict=True)
        if wanted and wanted <= record.coverage and not wanted.intersection(record.names)
    ]
    return float(np.mean(alarms)) if alarms else None


def _targets(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], objects: NDArray[np.float32], classes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The object (N,) that every detection belongs to, -1 for none."""
    if not len(boxes) or not len(objects):
        return np.full(len(boxes), -1, np.int64)
    overlap = pairwise_iou(boxes.astype(np.float64), objects.astype(np.float64))
    enough = overlap >= OVERLAP
    own = enough & (labels[:, None] == classes[None, :])
    worth = np.where(own, overlap + 1, np.where(enough, overlap, -1.0))
    best = worth.argmax(axis=1)
    return np.where(worth[np.arange(len(boxes)), best] >= 0, best, -1)


def _counted(names: Sequence[str], counts: NDArray[np.int64]) -> dict[str, int]:
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}
