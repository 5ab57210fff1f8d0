"""From dense outputs to detections, for a whole batch; labels and boxes equal torchvision's ``postprocess_detections``.

Shape letters: B images, A anchors over all levels, K classes, L levels, N detections of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import boxes as box_ops

_CODER = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))


def select_detections(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    level_sizes: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
    *,
    score_thresh: float,
    nms_thresh: float,
    topk: int,
    limit: int,
) -> list[dict[str, Tensor]]:
    """The detections of every image, best first.

    torchvision walks over images and levels and takes the sigmoid of every logit. Here one comparison finds all
    candidates of the batch, and sigmoid, decoding and clipping touch those alone.

    Args:
        logits: (B, A, K), any float dtype.
        deltas: (B, A, 4), any float dtype.
        anchors: (A, 4) float32 xyxy, levels one after another.
        level_sizes: Anchors of each of the L levels; they sum to A.
        image_sizes: (height, width) of each image without its padding, boxes are clipped to it.
        score_thresh: Scores are higher than this, in [0, 1].
        nms_thresh: IoU above which the weaker of two boxes of one class is dropped.
        topk: Most candidates of an image and level before suppression.
        limit: Most detections of an image.

    Returns:
        Per image ``boxes`` (N, 4) float32, ``scores`` (N,) float32, ``labels`` (N,) int64 logit columns.
    """
    images, _, classes = logits.shape
    image, anchor, label, score = _candidates(logits.float(), score_thresh)
    ends = torch.tensor(level_sizes, device=logits.device).cumsum(0)
    level = torch.bucketize(anchor, ends, right=True)
    counts = torch.bincount(image * len(level_sizes) + level, minlength=images * len(level_sizes)).tolist()
    chosen, start = [], 0
    for count in counts:
        # topk also where nothing is cut off: ties must leave it in torchvision's order.
        chosen.append(score[start : start + count].topk(min(count, topk)).indices + start)
        start += count
    order = torch.cat(chosen)
    anchor, label, score = anchor[order], label[order], score[order]
    boxes = _CODER.decode_single(deltas[image[order], anchor].float(), anchors[anchor])
    kept = [min(count, topk) for count in counts]
    per_image = [sum(kept[row : row + len(level_sizes)]) for row in range(0, len(kept), len(level_sizes))]
    detections = []
    parts = zip(*(torch.split(values, per_image) for values in (boxes, score, label)), image_sizes, strict=True)
    for image_boxes, image_scores, image_labels, size in parts:
        clipped = box_ops.clip_boxes_to_image(image_boxes, size)
        keep = box_ops.batched_nms(clipped, image_scores, image_labels, nms_thresh)[:limit]
        detections.append({"boxes": clipped[keep], "scores": image_scores[keep], "labels": image_labels[keep]})
    return detections


def _candidates(logits: Tensor, score_thresh: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, anchor, class and score of every entry above the threshold, in row-major order, each (P,)."""
    _, anchors, classes = logits.shape
    flat = logits.reshape(-1)
    index = (flat > _logit_floor(score_thresh)).nonzero().squeeze(1)
    score = torch.sigmoid(flat[index])
    # The floor lets a few too many through; the threshold itself is applied to the score, as torchvision does.
    passed = score > score_thresh
    index, score = index[passed], score[passed]
    row = index.div(classes, rounding_mode="floor")
    return row.div(anchors, rounding_mode="floor"), row % anchors, index % classes, score


def _logit_floor(score: float) -> float:
    """A logit that is certainly not above that of ``score``, whatever the rounding of the sigmoid."""
    if score <= 0.0:
        return -math.inf
    return math.log(score) - math.log1p(-score) - 1e-3 if score < 1.0 else 15.0
