"""Label propagation: a network labels the exemplars for the classes that nobody annotated in them.

Shape letters: N detections of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torchvision.ops import box_iou

from incdet.data.records import Record
from incdet.evaluation.detections import Detections, detect
from incdet.memory.exemplars import Memory
from incdet.network.retinanet import IncrementalRetinaNet

DUPLICATE = 0.7
"""A detection that overlaps an annotated box by a higher IoU is that object under another name."""


def propagate(model: IncrementalRetinaNet, memory: Memory, sure: float, *, batch_size: int = 8) -> Memory:
    """The memory whose images cover all classes of ``model``; what was annotated stays (De Monte et al., 2024).

    Args:
        model: Labels; its mode is kept.
        memory: The exemplars.
        sure: Detections of at least this score become objects; those of at least half of it are to be ignored.
        batch_size: Images of a forward.
    """
    records = [replace(record, image_id=number) for number, record in enumerate(memory)]
    found = detect(model, records, batch_size=batch_size)
    labelled = iter(with_labels(record, found[number], model.vocab.names, sure) for number, record in enumerate(memory))
    return replace(
        memory, exemplars={name: tuple(next(labelled) for _ in ranked) for name, ranked in memory.exemplars.items()}
    )


def with_labels(record: Record, found: Detections, names: Sequence[str], sure: float) -> Record:
    """``record`` with the detections (N,) of classes that it does not cover; it then covers all ``names``."""
    missing = np.array([name not in record.coverage for name in names], dtype=np.bool_)
    boxes = found.boxes.clip(0, np.array([record.width, record.height] * 2, np.float32))
    usable = missing[found.labels] & (found.scores >= sure / 2) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if len(record.boxes) and len(boxes):
        overlap = box_iou(torch.from_numpy(boxes), torch.from_numpy(record.boxes.copy()))
        usable &= overlap.amax(dim=1).numpy() <= DUPLICATE
    return replace(
        record,
        boxes=np.concatenate([record.boxes, boxes[usable]]),
        names=(*record.names, *(names[label] for label in found.labels[usable])),
        ignore=np.concatenate([record.ignore, found.scores[usable] < sure]),
        coverage=record.coverage | frozenset(names),
    )
