"""Detections matched to the truth by the rule of the VOC devkit, all classes and images in one pass.

Shapes: I images, N detections, M objects, P pairs of a detection and an object of its class in its image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from incdet.evaluation.metrics import Matches

if TYPE_CHECKING:
    from incdet.data.records import Record
    from incdet.evaluation.detections import Detections

Number = TypeVar("Number", np.bool_, np.int64, np.float64)


class _Objects(NamedTuple):
    """The truth, sorted by ``key`` = label * I + image: what can meet stands together.

    Attributes:
        key: (M,) int64.
        boxes: (M, 4) float64 xyxy.
        ignored: (M,) bool.
    """

    key: NDArray[np.int64]
    boxes: NDArray[np.float64]
    ignored: NDArray[np.bool_]


class _Guesses(NamedTuple):
    """The detections, sorted by ``key`` = label * I + image, in one image and class by score.

    Attributes:
        key: (N,) int64.
        boxes: (N, 4) float64 xyxy.
        scores: (N,) float64.
    """

    key: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]


def match_classes(
    records: Sequence[Record], found: Sequence[Detections], names: Sequence[str], iou: float = 0.5
) -> list[Matches]:
    """The matches of every class in ``names``.

    From the highest score down, a detection goes to the object of its class that it overlaps most: right if that object
    is still free and the overlap is at least ``iou``, wrong if it is taken or no overlap suffices, and left out if the
    object is ignored (difficult). Which object that is does not depend on what other detections have taken, so that
    all of them can be looked up at once.

    Args:
        records: The test set.
        found: The detections of every record, in their order; labels into ``names``.
        names: The classes.
        iou: The least overlap.
    """
    images = len(records)
    objects, guesses = _objects(records, names), _guesses(found, images)
    right, counted = _judge(guesses, objects, iou)
    places = len(names) * images
    positives = np.bincount(objects.key[~objects.ignored], minlength=places).reshape(len(names), images)
    label, image = np.divmod(guesses.key, images) if images else (guesses.key, guesses.key)
    label, image, scores, hits = label[counted], image[counted], guesses.scores[counted], right[counted]
    order = np.lexsort((-scores, label))
    ends = np.searchsorted(label[order], np.arange(len(names) + 1))
    return [
        Matches(scores[rows], hits[rows], image[rows], own)
        for rows, own in zip((order[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)), positives, strict=True)
    ]


def _objects(records: Sequence[Record], names: Sequence[str]) -> _Objects:
    column = {name: number for number, name in enumerate(names)}
    label = np.array([column.get(name, -1) for record in records for name in record.names], np.int64)
    image = np.repeat(np.arange(len(records)), [len(record.names) for record in records])
    order = np.argsort(label * len(records) + image, kind="stable")
    order = order[label[order] >= 0]
    boxes = _rows([record.boxes for record in records], 4, np.float64)
    ignored = _rows([record.ignore for record in records], None, np.bool_)
    return _Objects((label * len(records) + image)[order], boxes[order], ignored[order])


def _guesses(found: Sequence[Detections], images: int) -> _Guesses:
    label = _rows([item.labels for item in found], None, np.int64)
    scores = _rows([item.scores for item in found], None, np.float64)
    boxes = _rows([item.boxes for item in found], 4, np.float64)
    key = label * images + np.repeat(np.arange(len(found)), [len(item.labels) for item in found])
    order = np.lexsort((-scores, key))
    return _Guesses(key[order], boxes[order], scores[order])


def _judge(guesses: _Guesses, objects: _Objects, iou: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(right, counted), (N,) each."""
    right, counted = np.zeros(len(guesses.key), np.bool_), np.ones(len(guesses.key), np.bool_)
    first = np.searchsorted(objects.key, guesses.key, side="left")
    number = np.searchsorted(objects.key, guesses.key, side="right") - first
    judged = np.flatnonzero(number)
    if not len(judged):
        return right, counted
    first, number = first[judged], number[judged]
    starts = np.cumsum(number) - number
    target = np.arange(number.sum()) + np.repeat(first - starts, number)
    overlap = _overlap(guesses.boxes[np.repeat(judged, number)], objects.boxes[target])
    best = np.maximum.reduceat(overlap, starts)
    # The first of equals, as argmax takes it.
    reached = np.flatnonzero(overlap == np.repeat(best, number))
    target = target[reached[np.searchsorted(reached, starts)]]
    enough = best >= iou
    judged, target = judged[enough], target[enough]
    ignored = objects.ignored[target]
    counted[judged[ignored]] = False
    # Of the detections that go to one object the first, which scores most, has it.
    right[judged[~ignored][np.unique(target[~ignored], return_index=True)[1]]] = True
    return right, counted


def _overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU (P,) of xyxy boxes (P, 4), row by row; 0 where both are degenerate."""
    sides = (np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])).clip(min=0)
    common = sides.prod(axis=1)
    union = (first[:, 2:] - first[:, :2]).prod(axis=1) + (second[:, 2:] - second[:, :2]).prod(axis=1) - common
    iou: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return iou


def pairwise_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU (N, M) of xyxy boxes (N, 4) and (M, 4); 0 where both are degenerate."""
    count, other = len(first), len(second)
    return _overlap(np.repeat(first, other, axis=0), np.tile(second, (count, 1))).reshape(count, other)


def _rows(parts: Sequence[NDArray[Any]], width: int | None, dtype: type[Number]) -> NDArray[Number]:
    """The (n,) or (n, width) rows of all parts as ``dtype``, also where there is no part."""
    shape: tuple[int, ...] = () if width is None else (width,)
    empty = np.zeros((0, *shape), dtype)
    return np.concatenate([empty, *(np.asarray(part).reshape(-1, *shape) for part in parts)]).astype(dtype)
