"""Pseudo-labels: the teacher's detections speak for classes that an image does not annotate, in three zones.

A detection of an uncovered class with a score of at least ``high`` is a positive; between ``low`` and ``high`` its
anchors are ignored for that class alone; everything else is background. Thresholds are fitted per class.

Shape letters: B images, A anchors, K student columns, O <= K teacher columns, N detections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from incdet.assign import Assignment, assign
from incdet.metrics import Matches

Triple = tuple[Tensor, Tensor, Tensor]


class Thresholds(NamedTuple):
    """Scores per teacher column, both (O,) float32 in [0, 1], low <= high."""

    high: Tensor
    low: Tensor

    def to(self, device: torch.device | str) -> Thresholds:
        """The same thresholds on ``device``."""
        return Thresholds(self.high.to(device), self.low.to(device))


class PseudoLabels(NamedTuple):
    """What the teacher says about the uncovered channels of a batch.

    Attributes:
        assignment: Anchors of the accepted boxes.
        void: (image, anchor, column) of the doubtful entries, none of them positive.
        channels: (B, K) bool, the columns it speaks for.
    """

    assignment: Assignment
    void: Triple
    channels: Tensor


@torch.no_grad()
def pseudo_label(
    detections: Sequence[Mapping[str, Tensor]],
    targets: Sequence[Mapping[str, Any]],
    anchors: Tensor,
    coverage: Tensor,
    thresholds: Thresholds,
    *,
    duplicate_iou: float = 0.7,
    void_iou: float = 0.4,
) -> PseudoLabels:
    """Turns the teacher's detections into targets for the channels that nobody annotated.

    Args:
        detections: Per image ``boxes`` (N, 4), ``scores`` (N,), ``labels`` (N,) int64 columns, in prepared pixels.
        targets: The annotated targets of the same images.
        anchors: (A, 4) xyxy.
        coverage: (B, K) bool, annotated channels.
        thresholds: Per teacher column.
        duplicate_iou: A detection that overlaps an annotated box by more is that object under an old name: dropped.
        void_iou: Anchors that overlap a doubtful box by at least this are ignored for its class.
    """
    teacher_columns = thresholds.high.shape[0]
    channels = ~coverage
    channels[:, teacher_columns:] = False
    accepted, voids = [], []
    for number, (found, target) in enumerate(zip(detections, targets, strict=True)):
        boxes, scores, labels = found["boxes"], found["scores"], found["labels"]
        usable = channels[number, labels] & (scores >= thresholds.low[labels])
        if target["boxes"].numel() and boxes.numel():
            usable &= box_iou(boxes, target["boxes"]).amax(dim=1) <= duplicate_iou
        sure = usable & (scores >= thresholds.high[labels])
        doubtful = usable & ~sure
        ignore = target.get("ignore")
        fixed = target["boxes"][ignore] if ignore is not None else target["boxes"][:0]
        accepted.append(_with_ignored(boxes[sure], labels[sure], fixed))
        near = box_iou(boxes[doubtful], anchors) >= void_iou
        row, anchor = near.nonzero(as_tuple=True)
        voids.append((torch.full_like(anchor, number), anchor, labels[doubtful][row]))
    assignment = assign(accepted, anchors)
    return PseudoLabels(assignment, _without_positives(voids, assignment, coverage.shape[1]), channels)


def _with_ignored(boxes: Tensor, labels: Tensor, ignored: Tensor) -> dict[str, Tensor]:
    return {
        "boxes": torch.cat([boxes, ignored]),
        "labels": torch.cat([labels, labels.new_zeros(len(ignored))]),
        "ignore": torch.cat(
            [
                torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device),
                torch.ones(len(ignored), dtype=torch.bool, device=boxes.device),
            ]
        ),
    }


def _without_positives(voids: Sequence[Triple], assignment: Assignment, columns: int) -> Triple:
    """The void entries that no accepted box has made positive."""
    image, anchor, column = (torch.cat(parts) for parts in zip(*voids, strict=True))
    anchors = assignment.matched.shape[1]
    keys = (image * anchors + anchor) * columns + column
    taken = (assignment.image * anchors + assignment.anchor) * columns + assignment.column
    free = ~torch.isin(keys, taken)
    return image[free], anchor[free], column[free]


def fit_thresholds(
    scores: Sequence[NDArray[np.float32]],
    matches: Sequence[Matches | None],
    *,
    bounds: tuple[float, float] = (0.15, 0.7),
    low_share: float = 0.5,
) -> Thresholds:
    """Per-class thresholds: the cut of best F1 where the truth is known (exemplars), else two means of the scores.

    Args:
        scores: The teacher's detection scores on the step's images, an array (N_c,) for each teacher column.
        matches: Its detections on the exemplars against their annotations; None where a class has no exemplar.
        bounds: Range that ``high`` is clipped to: a class seen in few exemplars must not switch itself off.
        low_share: ``low`` is this share of ``high``.

    Returns:
        Thresholds with O entries.
    """
    cuts = [
        _best_f1_cut(match) if match is not None and match.hits.any() else _two_means_cut(values)
        for values, match in zip(scores, matches, strict=True)
    ]
    high = torch.tensor(np.clip(np.asarray(cuts, dtype=np.float32), *bounds))
    return Thresholds(high, high * low_share)


def _best_f1_cut(match: Matches) -> float:
    """The score of the last detection kept by the cut of best F1; scores are sorted from high to low."""
    f1 = 2 * np.cumsum(match.hits) / (np.arange(1, len(match.hits) + 1) + match.positives.sum())
    return float(match.scores[int(np.argmax(f1))])


def _two_means_cut(scores: NDArray[np.floating[Any]], rounds: int = 20) -> float:
    """The middle between the two cluster centres of one-dimensional 2-means; 0.4 where there is nothing to cluster."""
    if len(scores) < 2 or float(np.ptp(scores)) == 0.0:
        return 0.4
    # In float32 the middle of two neighbours rounds onto one of them and leaves its cluster empty.
    scores = scores.astype(np.float64)
    cut = float(scores.min() + scores.max()) / 2
    for _ in range(rounds):
        cut = float(scores[scores <= cut].mean() + scores[scores > cut].mean()) / 2
    return cut
