"""The score of detections on a test set: COCO AP equal to pycocotools', VOC AP by the devkit's rules.

A test set is scored whole: every record given counts, whether or not it holds one of the classes, since leaving out
images without them hides false alarms. What a record does not cover is unknown, so a detection of an uncovered class
is neither right nor wrong there; in a fully annotated set, which is the rule, nothing is uncovered.
Shapes: N detections, M boxes, I images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from incdet.evaluation.coco import coco_scores
from incdet.evaluation.confusion import Confusion, confusion, false_alarms
from incdet.evaluation.detections import Detections
from incdet.evaluation.matching import match_classes
from incdet.evaluation.metrics import (
    ClassScore,
    Interval,
    Matches,
    average_precision,
    paired_changes,
    precision_recall,
)

if TYPE_CHECKING:
    from incdet.data.records import Record


def score(
    records: Sequence[Record],
    detections: Mapping[int, Detections],
    names: Sequence[str],
    *,
    threshold: float = 0.5,
) -> dict[str, ClassScore | None]:
    """The score of every class in ``names`` on all of ``records``; None for a class without ground truth there.

    Args:
        records: The whole test set. ``ignore`` boxes are COCO's crowds and VOC's difficult objects: not to be found,
            and no mistake if found.
        detections: By image id; an image without an entry has no detections.
        names: What the labels of the detections mean.
        threshold: The deployed score threshold for precision and recall.

    Raises:
        ValueError: Two records of one image id, detections of an image that is not among the records, a label outside
            ``names``, or a detection that is not finite.
    """
    found = _aligned(records, detections, names)
    return _class_scores(records, found, names, match_classes(records, found, names), threshold)


class Measured(NamedTuple):
    """Everything that is kept of one look at the test set.

    Attributes:
        scores: By class, as ``score`` returns them.
        matches: By class, at IoU 0.5.
        confusion: Which class fires on which object.
        false_alarms: Of the ``old`` and the ``new`` classes, per image without any of them.
    """

    scores: dict[str, ClassScore | None]
    matches: dict[str, Matches]
    confusion: Confusion
    false_alarms: dict[str, float | None]


def measure(
    records: Sequence[Record],
    detections: Mapping[int, Detections],
    names: Sequence[str],
    old: Sequence[str] = (),
    *,
    threshold: float = 0.5,
) -> Measured:
    """``score`` and all else that a report shows, from one matching; ``old`` are the classes of earlier steps."""
    found = _aligned(records, detections, names)
    every = match_classes(records, found, names)
    groups = {"old": list(old), "new": [name for name in names if name not in old]}
    return Measured(
        _class_scores(records, found, names, every, threshold),
        dict(zip(names, every, strict=True)),
        confusion(records, found, names),
        {key: false_alarms(records, found, names, group) for key, group in groups.items()},
    )


def _class_scores(
    records: Sequence[Record],
    found: Sequence[Detections],
    names: Sequence[str],
    every: Sequence[Matches],
    threshold: float,
) -> dict[str, ClassScore | None]:
    scores: dict[str, ClassScore | None] = {}
    for name, coco, matches in zip(names, coco_scores(records, found, names), every, strict=True):
        if coco is None:
            scores[name] = None
            continue
        scores[name] = ClassScore(
            *coco,
            average_precision(matches, "voc07"),
            average_precision(matches, "voc12"),
            *precision_recall(matches, threshold),
        )
    return scores


def _aligned(records: Sequence[Record], detections: Mapping[int, Detections], names: Sequence[str]) -> list[Detections]:
    """The detections of every record, those of uncovered classes removed, after all checks."""
    known = [record.image_id for record in records]
    if len(set(known)) != len(known):
        raise ValueError("two records have the same image_id: their detections cannot be told apart")
    if stray := set(detections) - set(known):
        raise ValueError(f"detections of images that are not among the records, e.g. image_id {min(stray)}")
    aligned = []
    masks: dict[frozenset[str], NDArray[np.bool_]] = {}
    for record in records:
        item = detections.get(record.image_id, Detections.empty())
        boxes = np.asarray(item.boxes, np.float32).reshape(-1, 4)
        scores, labels = np.asarray(item.scores, np.float32), np.asarray(item.labels, np.int64)
        if not len(boxes) == len(scores) == len(labels):
            raise ValueError(f"image_id {record.image_id}: boxes, scores and labels differ in number")
        if labels.size and (labels.min() < 0 or labels.max() >= len(names)):
            raise ValueError(f"image_id {record.image_id}: label outside 0..{len(names) - 1}")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(f"image_id {record.image_id}: a detection is not finite")
        if record.coverage not in masks:
            masks[record.coverage] = np.array([name in record.coverage for name in names], dtype=bool)
        keep = masks[record.coverage][labels] if labels.size else np.zeros(0, dtype=bool)
        aligned.append(Detections(boxes[keep], scores[keep], labels[keep]))
    return aligned


def match(
    records: Sequence[Record],
    detections: Mapping[int, Detections],
    names: Sequence[str],
    name: str,
    *,
    iou: float = 0.5,
) -> Matches:
    """The detections of class ``name`` matched to the truth by the rule of the VOC devkit; input of ``metrics``.

    See `match_classes`, which does all classes at once. Overlaps are of continuous boxes; the devkit's ``+ 1`` belongs
    to inclusive pixel corners, which the VOC reader has already turned into continuous ones.
    """
    column, found = list(names).index(name), []
    for item in _aligned(records, detections, names):
        mine = item.labels == column
        found.append(Detections(item.boxes[mine], item.scores[mine], np.zeros(int(mine.sum()), np.int64)))
    return match_classes(records, found, [name], iou)[0]


def changes(
    records: Sequence[Record],
    before: Mapping[int, Detections],
    after: Mapping[int, Detections],
    names: Sequence[str],
    *,
    draws: int = 500,
    seed: int = 0,
) -> dict[str, Interval]:
    """The AP50 change of every class of an earlier model, with paired bootstrap intervals over the test images.

    Args:
        records: The whole test set.
        before: Detections of the earlier model, labels into ``names``.
        after: Detections of the later model; labels beyond ``names`` are the classes it learned since and are left out.
        names: The classes of the earlier model.
        draws: Number of resamples.
        seed: Seed of the resampling.
    """
    later = {}
    for image_id, item in after.items():
        known = item.labels < len(names)
        later[image_id] = Detections(item.boxes[known], item.scores[known], item.labels[known])
    first, second = (
        dict(zip(names, match_classes(records, _aligned(records, side, names), names), strict=True))
        for side in (before, later)
    )
    return paired_changes(first, second, names, draws=draws, seed=seed)
