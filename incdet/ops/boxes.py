"""Box arithmetic shared by assignment, losses and decoding; everything is float32 xyxy in absolute pixels.

Letters: N boxes of any kind.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The widest growth a delta may ask for: exp() of an untrained delta must not overflow (torchvision's own limit).
MAX_LOG_SCALE = math.log(1000.0 / 16)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The deltas (N, 4) float32 that move ``anchors`` (N, 4) onto ``boxes`` (N, 4); both need positive sides.

    The parametrisation of R-CNN (Girshick et al., 2014) with unit weights, as RetinaNet uses it: centre shifts
    in units of the anchor's sides, and the logarithms of the ratios of the sides.
    """
    left, top, right, bottom = boxes.float().unbind(-1)
    anchor_left, anchor_top, anchor_right, anchor_bottom = anchors.float().unbind(-1)
    anchor_width, anchor_height = anchor_right - anchor_left, anchor_bottom - anchor_top
    width, height = right - left, bottom - top
    shift_x = ((left + 0.5 * width) - (anchor_left + 0.5 * anchor_width)) / anchor_width
    shift_y = ((top + 0.5 * height) - (anchor_top + 0.5 * anchor_height)) / anchor_height
    return torch.stack((shift_x, shift_y, torch.log(width / anchor_width), torch.log(height / anchor_height)), dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The boxes (..., 4) float32 that ``deltas`` (..., 4) make of ``anchors`` (broadcast); inverse of `encode_boxes`.

    Differentiable. Growth beyond 62.5 times the anchor's side is cut off, as torchvision does.
    """
    shift_x, shift_y, grow_x, grow_y = deltas.float().unbind(-1)
    left, top, right, bottom = anchors.float().unbind(-1)
    width, height = right - left, bottom - top
    centre_x = shift_x * width + (left + 0.5 * width)
    centre_y = shift_y * height + (top + 0.5 * height)
    half_width = 0.5 * (torch.exp(grow_x.clamp(max=MAX_LOG_SCALE)) * width)
    half_height = 0.5 * (torch.exp(grow_y.clamp(max=MAX_LOG_SCALE)) * height)
    return torch.stack(
        (centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height), dim=-1
    )


def giou_terms(predicted: Tensor, wanted: Tensor) -> Tensor:
    """``1 - GIoU`` (N,) of row-wise pairs of boxes (N, 4); differentiable, in [0, 2].

    Generalised intersection over union, Rezatofighi et al., 2019 (https://arxiv.org/abs/1902.09630), with
    torchvision's epsilon and its zero gradient where two boxes merely touch.
    """
    epsilon = 1e-7
    low, high = torch.max(predicted[:, :2], wanted[:, :2]), torch.min(predicted[:, 2:], wanted[:, 2:])
    sides = high - low
    overlap = (sides > 0).all(dim=1)
    intersection = torch.where(overlap, sides[:, 0] * sides[:, 1], sides.new_zeros(()))
    union = _areas(predicted) + _areas(wanted) - intersection
    hull = torch.max(predicted[:, 2:], wanted[:, 2:]) - torch.min(predicted[:, :2], wanted[:, :2])
    hull_area = hull[:, 0] * hull[:, 1]
    return 1 - (intersection / (union + epsilon) - (hull_area - union) / (hull_area + epsilon))


def covered_shares(boxes: Tensor, objects: Tensor) -> Tensor:
    """The largest share of the area of each of ``boxes`` (N, 4) that lies inside one of ``objects`` (M, 4), (N,)."""
    if not len(objects):
        return boxes.new_zeros(len(boxes))
    low = torch.max(boxes[:, None, :2], objects[None, :, :2])
    sides = (torch.min(boxes[:, None, 2:], objects[None, :, 2:]) - low).clamp(min=0)
    return sides.prod(dim=2).amax(dim=1) / _areas(boxes).clamp(min=1e-7)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
