"""New classes whose scores can be read: a shift of each new logit, fitted on the exemplars when a step is learned.

In the step's images every image shows a new object, in the world few do, so that new classes speak too loudly. A shift
of a class's logit changes how its scores read and not their order: its AP stays what it is, but for detections that
fall below the least score.

Shapes: N detections of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from incdet.data.records import Record
from incdet.evaluation.detections import Detections, detect
from incdet.evaluation.matching import match_classes, pairwise_iou
from incdet.network.retinanet import IncrementalRetinaNet

SPREAD = 1.0
"""Standard deviation that shifts are taken to have before anything is seen: few detections move a class little."""
_OVERLAP = 0.5


def calibrate(
    model: IncrementalRetinaNet,
    records: Sequence[Record],
    names: Sequence[str],
    strength: float,
    *,
    batch_size: int = 8,
) -> dict[str, float]:
    """Shifts the logits of ``names``, classes of the last step, in place; returns what each was shifted by.

    Args:
        model: The detector after the step.
        records: Exemplars of old and new classes. Where one does not cover a new class, the detections of it on
            annotated objects are wrong, for these are known to be something else; all others are unknown there.
        names: The classes.
        strength: Share of the fitted shift, in [0, 1].
        batch_size: Images of a forward.
    """
    own = [replace(record, image_id=number) for number, record in enumerate(records)]
    found = detect(model, own, batch_size=batch_size)
    known = [_judgeable(record, found[record.image_id], model.vocab.names) for record in own]
    shifts = {}
    for name in names:
        column = model.vocab.column(name)
        mine = [_of_column(item, column) for item in known]
        matches = match_classes(own, mine, [name])[0]
        shifts[name] = strength * fit_shift(matches.scores, matches.hits)
    with torch.no_grad():
        bias = model.class_head.class_biases()[-1]
        first = len(model.vocab) - bias.shape[1]
        for name, shift in shifts.items():
            bias[:, model.vocab.column(name) - first] += shift
    return shifts


def fit_shift(scores: NDArray[np.floating], hits: NDArray[np.bool_]) -> float:
    """The shift b of most posterior probability, if ``sigmoid(logit(score) + b)`` is the chance of being right.

    Detections weigh as much as they score, or the many that nobody would show would decide; b is normal around 0 with
    ``SPREAD``. The posterior is concave: Newton's method finds its maximum.

    Args:
        scores: (N,) in (0, 1).
        hits: (N,) whether each detection is right.
    """
    weight = np.clip(np.asarray(scores, np.float64), 1e-6, 1 - 1e-6)
    logits, right = np.log(weight) - np.log1p(-weight), np.asarray(hits, np.float64)
    shift = 0.0
    for _ in range(50):
        expected = 1 / (1 + np.exp(-(logits + shift)))
        slope = float(weight @ (right - expected)) - shift / SPREAD**2
        step = slope / (float(weight @ (expected * (1 - expected))) + 1 / SPREAD**2)
        shift += float(np.clip(step, -1, 1))
        if abs(step) < 1e-9:
            break
    return shift


def _judgeable(record: Record, found: Detections, names: Sequence[str]) -> Detections:
    """The detections that are known to be right or wrong: of covered classes, or on an annotated object."""
    kept = np.array([name in record.coverage for name in names], np.bool_)[found.labels]
    if len(record.boxes) and len(found.boxes):
        overlap = pairwise_iou(found.boxes.astype(np.float64), record.boxes.astype(np.float64))
        kept |= (overlap > _OVERLAP).any(axis=1)
    return Detections(found.boxes[kept], found.scores[kept], found.labels[kept])


def _of_column(found: Detections, column: int) -> Detections:
    """The detections of one class, as those of class 0."""
    mine = found.labels == column
    return Detections(found.boxes[mine], found.scores[mine], np.zeros(int(mine.sum()), np.int64))
