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

from incdet.evaluation.metrics import Matches
from incdet.ops.assign import Assignment, assign

Triple = tuple[Tensor, Tensor, Tensor]

# Pairs of a doubtful box and an anchor whose overlap is computed at once.
CPU_PAIRS = 1 << 20
GPU_PAIRS = 1 << 26


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
        free: (P,) bool, its positive anchors that no annotated object has taken: they alone may pull a box.
        void: (image, anchor, column) of the doubtful entries, none of them positive.
        channels: (B, K) bool, the columns it speaks for.
    """

    assignment: Assignment
    free: Tensor
    void: Triple
    channels: Tensor


@torch.no_grad()
def pseudo_label(
    detections: Sequence[Mapping[str, Tensor]],
    targets: Sequence[Mapping[str, Any]],
    anchors: Tensor,
    annotated: Assignment,
    coverage: Tensor,
    thresholds: Thresholds,
    *,
    duplicate_iou: float = 0.7,
    void_iou: float = 0.4,
) -> PseudoLabels:
    """Turns the teacher's detections into targets for the channels that nobody annotated.

    The whole batch is one list of boxes, so that a GPU is asked as often for thirty images as for one.

    Args:
        detections: Per image ``boxes`` (N, 4), ``scores`` (N,), ``labels`` (N,) int64 columns, in prepared pixels.
        targets: The annotated targets of the same images.
        anchors: (A, 4) xyxy.
        annotated: Of the anchors to the annotated boxes.
        coverage: (B, K) bool, annotated channels.
        thresholds: Per teacher column.
        duplicate_iou: A detection that overlaps an annotated box by more is that object under an old name: dropped.
        void_iou: Anchors that overlap a doubtful box by at least this are ignored for its class.
    """
    channels = spoken_channels(coverage, thresholds.high.shape[0])
    boxes, scores, labels = (torch.cat([found[key] for found in detections]) for key in ("boxes", "scores", "labels"))
    image = _owners(detections, boxes.device)
    truth, owner = torch.cat([target["boxes"] for target in targets]), _owners(targets, boxes.device)
    usable = channels[image, labels] & (scores >= thresholds.low[labels])
    if len(boxes) and len(truth):
        stranger = image[:, None] != owner
        usable &= box_iou(boxes, truth).masked_fill_(stranger, 0).amax(dim=1) <= duplicate_iou
    sure = usable & (scores >= thresholds.high[labels])
    fixed = torch.cat([target["ignore"] if "ignore" in target else _none_of(target["boxes"]) for target in targets])
    accepted = _regroup(
        torch.cat([boxes, truth]),
        torch.cat([labels, torch.zeros_like(owner)]),
        torch.cat([image, owner]),
        torch.cat([sure, fixed]),
        len(boxes),
        len(targets),
    )
    assignment = assign(accepted, anchors)
    doubtful = (usable & ~sure).nonzero().squeeze(1)
    void = _near(boxes[doubtful], anchors, void_iou)
    voids = (image[doubtful[void[0]]], void[1], labels[doubtful[void[0]]])
    free = annotated.matched[assignment.image, assignment.anchor] < 0
    return PseudoLabels(assignment, free, _without_positives(voids, assignment, coverage.shape[1]), channels)


def spoken_channels(coverage: Tensor, columns: int) -> Tensor:
    """The channels (B, K) bool that nobody annotated and a teacher of ``columns`` classes speaks for."""
    known = torch.arange(coverage.shape[1], device=coverage.device) < columns
    return ~coverage & known


def _owners(parts: Sequence[Mapping[str, Tensor]], device: torch.device) -> Tensor:
    """The image of every box of a batch, (N,) int64."""
    counts = torch.tensor([len(part["boxes"]) for part in parts], dtype=torch.int64)
    return torch.arange(len(parts)).repeat_interleave(counts).to(device, non_blocking=True)


def _none_of(boxes: Tensor) -> Tensor:
    return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)


def _regroup(
    boxes: Tensor, labels: Tensor, image: Tensor, kept: Tensor, border: int, images: int
) -> list[dict[str, Tensor]]:
    """The ``kept`` (N,) boxes as targets, one an image, in their order; those from ``border`` on are to be ignored."""
    rows = kept.nonzero().squeeze(1)
    rows = rows[image[rows].argsort(stable=True)]
    held = torch.zeros(images, dtype=torch.int64, device=image.device)
    counts = held.index_add_(0, image[rows], torch.ones_like(rows)).tolist()
    columns = (torch.split(values, counts) for values in (boxes[rows], labels[rows], rows >= border))
    return [dict(zip(("boxes", "labels", "ignore"), one, strict=True)) for one in zip(*columns, strict=True)]


def _near(boxes: Tensor, anchors: Tensor, iou: float) -> tuple[Tensor, Tensor]:
    """Rows and anchors of all pairs that overlap by at least ``iou``, both (P,) int64."""
    step = max(1, (GPU_PAIRS if boxes.is_cuda else CPU_PAIRS) // max(1, len(anchors)))
    rows, places = [boxes.new_zeros(0, dtype=torch.int64)], [boxes.new_zeros(0, dtype=torch.int64)]
    for start in range(0, len(boxes), step):
        row, place = (box_iou(boxes[start : start + step], anchors) >= iou).nonzero(as_tuple=True)
        rows.append(row + start)
        places.append(place)
    return torch.cat(rows), torch.cat(places)


def _without_positives(void: Triple, assignment: Assignment, columns: int) -> Triple:
    """The void entries that no accepted box has made positive."""
    image, anchor, column = void
    anchors = assignment.matched.shape[1]
    keys = (image * anchors + anchor) * columns + column
    taken = (assignment.image * anchors + assignment.anchor) * columns + assignment.column
    free = (~torch.isin(keys, taken)).nonzero().squeeze(1)
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
