"""Which detections are shown: those above a threshold, and of several classes in one place perhaps only the best.

Shapes: N detections of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

from incdet.errors import Finding, InputError, suggest
from incdet.evaluation.detections import Detections
from incdet.evaluation.thresholds import FALLBACK

Threshold = float | Mapping[str, float]
"""The least score that is shown: one for all classes, or one for each; see ``threshold_of_columns``."""


def threshold_of_columns(threshold: Threshold, names: Sequence[str]) -> NDArray[np.float64]:
    """The least score (K,) of every class; one that a mapping leaves out has ``FALLBACK``.

    Raises:
        InputError: A threshold is not in [0, 1], or a name is none of ``names``.
    """
    given = threshold if isinstance(threshold, Mapping) else dict.fromkeys(names, threshold)
    for name, score in given.items():
        if name not in names:
            raise InputError(Finding("threshold", f"class {name!r}", "is unknown", suggest(name, names)))
        if not 0 <= score <= 1:
            raise InputError(Finding("threshold", f"class {name!r}", f"is {score}", "give a number in 0..1"))
    return np.array([given.get(name, FALLBACK) for name in names], np.float64)


def above(found: Detections, least: NDArray[np.float64]) -> Detections:
    """The detections that score the ``least`` (K,) of their class or more, in their order."""
    return taken(found, found.scores >= least[found.labels])


def best_of_place(found: Detections, overlap: float) -> Detections:
    """Suppression across classes: of detections that overlap more than ``overlap`` (IoU) the best stays, best first.

    The detector has done so within each class.
    """
    kept = nms(torch.from_numpy(found.boxes), torch.from_numpy(found.scores), overlap)
    return taken(found, kept.numpy())


def taken(found: Detections, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Detections:
    """The detections in ``rows``."""
    return Detections(found.boxes[rows], found.scores[rows], found.labels[rows])
