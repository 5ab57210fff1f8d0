"""What became of the old detections: the detector before and after a step on the same images, compared one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from incdet.data.records import Record
from incdet.evaluation.detections import Detections
from incdet.evaluation.matching import pairwise_iou

MOST = 50
"""Images to compare on, at most: every one is looked at twice."""
SURE = 0.3
"""Score from which on a detection counts as one that somebody would miss."""
OVERLAP = 0.5
"""IoU from which on a detection is the same object."""


class Proof(NamedTuple):
    """Old detections before and after.

    Attributes:
        images: Images that both detectors looked at.
        detections: What the old detector found in them, every score included.
        identical: Images where the new one finds exactly the same of the old classes: boxes, scores and order, bit for
            bit.
        sure: Detections of the old one with a score of at least ``SURE``.
        found: Those of them that the new one finds too, with that score, of the same class, in the same place.
    """

    images: int
    detections: int
    identical: int
    sure: int
    found: int

    @property
    def holds(self) -> bool:
        """Whether nothing has changed."""
        return self.identical == self.images

    def line(self) -> str:
        """For people."""
        if self.holds and self.images:
            what = f"all {self.detections:,} detections of old classes are what they were, bit for bit"
            return f"proved: on {self.images} images {what}"
        kept = f"{self.found} of {self.sure}" if self.sure else "none of none"
        return f"old detections (score of {SURE} and more) found again on {self.images} images: {kept}"


def images_of(test: Sequence[Record], train: Sequence[Record]) -> list[Record]:
    """The images to compare on: those that are measured on, else those that were learned from, spread evenly."""
    chosen = list(test or train)
    every = max(1, -(-len(chosen) // MOST))
    return chosen[::every]


def compare(before: Mapping[int, Detections], after: Mapping[int, Detections], known: int) -> Proof:
    """The detections of the two on the same images.

    Args:
        before: By image id, labels of the old detector.
        after: The same of the new one; labels from ``known`` on are new classes and left out.
        known: How many classes the old detector has.
    """
    total = identical = sure = found = 0
    for number, old in before.items():
        new = _of_old(after.get(number, Detections.empty()), known)
        total += len(old.scores)
        same = (np.array_equal(getattr(old, part), getattr(new, part)) for part in Detections._fields)
        identical += all(same)
        old, new = _sure(old), _sure(new)
        sure += len(old.scores)
        found += _found(old, new)
    return Proof(len(before), total, identical, sure, found)


def _of_old(one: Detections, known: int) -> Detections:
    rows = one.labels < known
    return Detections(one.boxes[rows], one.scores[rows], one.labels[rows])


def _sure(one: Detections) -> Detections:
    rows = one.scores >= SURE
    return Detections(one.boxes[rows], one.scores[rows], one.labels[rows])


def _found(old: Detections, new: Detections) -> int:
    """How many of ``old`` have a partner of their own in ``new``, the best overlap first."""
    boxes = (one.boxes.astype(np.float64) for one in (old, new))
    overlaps = pairwise_iou(*boxes) * (old.labels[:, None] == new.labels[None])
    count = 0
    while overlaps.size and overlaps.max() >= OVERLAP:
        row, column = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
        overlaps[row], overlaps[:, column] = 0.0, 0.0
        count += 1
    return count
