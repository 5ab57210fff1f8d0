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
    _, total, classes = logits.shape
    index, score, per_image = _strongest(logits.float(), level_sizes, score_thresh, topk)
    row = index.div(classes, rounding_mode="floor")
    anchor, label = row % total, index % classes
    boxes = _CODER.decode_single(deltas.reshape(-1, 4)[row].float(), anchors[anchor])
    detections = []
    parts = zip(*(torch.split(values, per_image) for values in (boxes, score, label)), image_sizes, strict=True)
    for image_boxes, image_scores, image_labels, size in parts:
        clipped = box_ops.clip_boxes_to_image(image_boxes, size)
        keep = box_ops.batched_nms(clipped, image_scores, image_labels, nms_thresh)[:limit]
        detections.append({"boxes": clipped[keep], "scores": image_scores[keep], "labels": image_labels[keep]})
    return detections


def _strongest(
    logits: Tensor, level_sizes: Sequence[int], score_thresh: float, topk: int
) -> tuple[Tensor, Tensor, list[int]]:
    """The best ``topk`` entries of every image and level that score above the threshold.

    Returns:
        Flat indices into ``logits`` (P,), scores (P,), and how many belong to each image. An image's levels stand one
        after another, each sorted by score.
    """
    images, total, classes = logits.shape
    flat = logits.reshape(-1)
    index = (flat > _logit_floor(score_thresh)).nonzero().squeeze(1)
    score = torch.sigmoid(flat[index])
    # The floor may let a few too many through; the threshold itself applies to the score, and before topk, because
    # what stands beside equal scores decides their order.
    passed = score > score_thresh
    if not bool(passed.all()):
        index, score = index[passed], score[passed]
    level_ends = torch.tensor(level_sizes).cumsum(0) * classes
    ends = (torch.arange(images)[:, None] * (total * classes) + level_ends).flatten().to(index.device)
    # Flat indices ascend, so that each image and level is one stretch of them.
    stops = torch.searchsorted(index, ends).tolist()
    chosen, start = [], 0
    for stop in stops:
        # topk also where nothing is cut off: ties must leave it in torchvision's order.
        chosen.append(score[start:stop].topk(min(stop - start, topk)).indices + start)
        start = stop
    order = torch.cat(chosen)
    index, score = index[order], score[order]
    per_image = torch.bincount(index.div(total * classes, rounding_mode="floor"), minlength=images).tolist()
    return index, score, per_image


def _logit_floor(score: float) -> float:
    """A logit just below that of ``score``, by more than float32 can err in either of them."""
    if score <= 0.0:
        return -math.inf
    return math.log(score) - math.log1p(-score) - 1e-5 - 1e-6 / (1.0 - score) if score < 1.0 else 15.0
