"""Results and detections made by hand, for every test of what is measured and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from incdet.data.records import Record
from incdet.evaluation.detections import Detections
from incdet.evaluation.metrics import ClassScore
from incdet.evaluation.results import Results

CLASSES = ("cat", "dog", "bird")
STEPS = [["cat", "dog"], ["bird"], ["boat"]]
PROTOCOL = {"name": "2+1+1", "order": "file", "images": "overlap", "hash": "5ca1ab1e", "steps": STEPS}
NAMES = [name for step in STEPS for name in step]


def one(ap50: float) -> ClassScore:
    return ClassScore(ap50 / 2, ap50, ap50 - 0.01, ap50 + 0.01, 0.75, None)


def run(method: str, *after: float, protocol: dict[str, Any] = PROTOCOL, steps: tuple[int, ...] = (1, 2, 3)) -> Results:
    """Results whose old classes score ``after[t - 1]`` after step t, the new class 0.6; no dog is in the test set."""
    results = Results(method, 7, "tiny", protocol)
    for step, old in zip(steps, after, strict=True):
        seen = [name for names in STEPS[:step] for name in names]
        scores: dict[str, ClassScore | None] = {name: one(0.6 if name in STEPS[step - 1] else old) for name in seen}
        scores["dog"] = None
        memory, seconds = {"images": 12, "bytes": 3_400_000}, {"train": 50.0, "evaluate": 10.0}
        results.add_step(step, scores, 100 * step, memory, seconds)
    return results


def scene(seed: int, images: int = 60, grid: int = 4) -> tuple[list[Record], list[Detections]]:
    """Boxes on a coarse grid, so that overlaps, scores and whole boxes are often equal."""
    rng = np.random.default_rng(seed)
    everything = frozenset((*CLASSES, "boat"))
    records, found = [], []
    for image_id in range(images):
        sides: list[NDArray[np.float32]] = []
        for count in rng.integers(0, 9, 2):
            corner = rng.integers(0, 40 // grid, (count, 2)) * grid
            sides.append(np.concatenate([corner, corner + grid * rng.integers(3, 9, (count, 2))], 1).astype(np.float32))
        names = tuple(rng.choice(["cat", "dog", "boat"], len(sides[0])).tolist())
        ignored = rng.random(len(sides[0])) < 0.2
        records.append(Record(Path("x.png"), image_id, 200, 200, sides[0], names, ignored, everything))
        copied = np.where(rng.random((len(sides[1]), 1)) < 0.5, np.resize(sides[0], sides[1].shape), sides[1])
        copied = copied if len(sides[0]) else sides[1]
        scores = np.round(rng.random(len(copied)), 1).astype(np.float32)
        found.append(Detections(copied.astype(np.float32), scores, rng.integers(0, 3, len(copied))))
    return records, found
