"""What a detector sees and no annotation names: labels that were forgotten, or classes that nobody was asked for.

Shapes: N detections of an image, M annotated objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from incdet.evaluation.matching import pairwise_iou

if TYPE_CHECKING:
    from incdet.data.records import Record
    from incdet.evaluation.detections import Detections

SURE = 0.5
"""The lowest score of a detection that is worth a look."""
SAME_PLACE = 0.5
"""IoU from which on a detection is about an object that is annotated, whatever its class."""


class Unlabelled(NamedTuple):
    """An object that a detector sees where nothing is annotated.

    Attributes:
        record: The image.
        name: The class that is seen.
        score: In [0, 1].
        box: xyxy in pixels of the image, inside of it.
        covered: Whether the image claims that all objects of the class are annotated; if so, either the label or the
            detector is wrong.
    """

    record: Record
    name: str
    score: float
    box: tuple[float, float, float, float]
    covered: bool


def find_unlabelled(
    records: Sequence[Record], found: Mapping[int, Detections], names: Sequence[str], lowest: float = SURE
) -> list[Unlabelled]:
    """The detections that no annotated object explains, one for each place, the surest first.

    Args:
        records: Images with their annotations.
        found: Detections by image id; labels into ``names``.
        names: The classes of the detector.
        lowest: Detections with this score or more count, in [0, 1].
    """
    seen: list[Unlabelled] = []
    for record in records:
        item = found[record.image_id]
        boxes = np.clip(item.boxes.astype(np.float64), 0, [record.width, record.height] * 2)
        taken = [box for box in record.boxes.astype(np.float64)]
        for row in np.argsort(-item.scores, kind="stable"):
            box, name = boxes[row], names[int(item.labels[row])]
            if item.scores[row] < lowest or (box[2:] - box[:2] < 1).any():
                continue
            if not taken or pairwise_iou(box[None], np.stack(taken)).max() < SAME_PLACE:
                x1, y1, x2, y2 = box.tolist()
                place = (x1, y1, x2, y2)
                seen.append(Unlabelled(record, name, float(item.scores[row]), place, name in record.coverage))
                taken.append(box)
    return sorted(seen, key=lambda one: -one.score)


def ignoring(record: Record, seen: Sequence[Unlabelled]) -> Record:
    """The record with what was seen of its covered classes as ignored regions: neither object nor background.

    Args:
        record: As it was searched.
        seen: Those of this record.
    """
    own = [one for one in seen if one.covered]
    if not own:
        return record
    return replace(
        record,
        boxes=np.concatenate([record.boxes, np.array([one.box for one in own], np.float32)]),
        names=(*record.names, *(one.name for one in own)),
        ignore=np.concatenate([record.ignore, np.ones(len(own), np.bool_)]),
    )
