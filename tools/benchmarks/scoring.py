"""Suite ``scoring``: COCO AP of 500 images, hotcoco fed with arrays against pycocotools fed with its dictionaries.

Both start from the same records and detections and are asked for the same: one area range, 100 detections an image
and class. A user of pycocotools who keeps its defaults waits longer still, for four area ranges.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Equality, Options, Row, measure
from incdet.data.records import Record
from incdet.evaluation.coco import precisions
from incdet.evaluation.detections import Detections

SIDE = 512


def rows(options: Options) -> Iterator[Row]:
    """20 classes with about 40 detections an image, and 80 with about 100; the work is the CPU's on any device."""
    # pycocotools has one thread, so hotcoco gets one as well; it asks when it is first used.
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    images = 25 if options.quick else 500
    for classes, guesses in ((20, 40), (80, 100)):
        yield _row(f"K={classes}", *make_test_set(images, classes, guesses), options)


def _row(case: str, records: list[Record], found: list[Detections], names: list[str], options: Options) -> Row:
    def ours() -> NDArray[np.float64]:
        return precisions(records, found, names, "hotcoco")

    def theirs() -> NDArray[np.float64]:
        return precisions(records, found, names, "pycocotools")

    mine, other = ours(), theirs()
    same = mine.shape == other.shape and mine.tobytes() == other.tobytes()
    number = sum(len(item.scores) for item in found)
    words = f"{number} detections, all {mine.size} precisions {'bit-equal' if same else 'DIFFER'}"
    return measure("scoring", case, ours, theirs, Equality(same, words), options, 3 if options.quick else 5)


def make_test_set(
    images: int, classes: int, guesses: int, seed: int = 0
) -> tuple[list[Record], list[Detections], list[str]]:
    """Records of 1 to 8 objects, some of them ignored, and detections that are near them or false alarms.

    Args:
        images: Number of records.
        classes: Number of classes.
        guesses: Mean number of detections of an image.
        seed: Of everything that is drawn.
    """
    rng = np.random.default_rng(seed)
    names = [f"class {number}" for number in range(classes)]
    records, found = [], []
    for image_id in range(1, images + 1):
        labels = rng.integers(0, classes, rng.integers(1, 9))
        corner = rng.uniform(0, 0.75 * SIDE, (len(labels), 2))
        boxes = np.concatenate((corner, corner + rng.uniform(10, 0.25 * SIDE, (len(labels), 2))), axis=1)
        ignored = rng.random(len(labels)) < 0.05
        own = tuple(names[label] for label in labels)
        records.append(
            Record(
                Path(f"{image_id}.png"), image_id, SIDE, SIDE, boxes.astype(np.float32), own, ignored, frozenset(names)
            )
        )
        source = rng.integers(0, len(labels), rng.integers(guesses // 2, guesses + guesses // 2 + 1))
        near = boxes[source] + rng.normal(0, 6, (len(source), 4))
        near[rng.random(len(source)) < 0.5, :2] -= 40  # false alarms
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        guessed = np.where(rng.random(len(source)) < 0.7, labels[source], rng.integers(0, classes, len(source)))
        scores = rng.random(len(source)).astype(np.float32)
        found.append(Detections(near.astype(np.float32), scores, guessed.astype(np.int64)))
    return records, found, names
