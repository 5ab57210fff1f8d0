"""Every anchor is positive for one box, background, or ignored, exactly as torchvision's Matcher decides.

Letters: B images, A anchors over all levels, G boxes of an image, N images matched at once, P positive anchors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

BACKGROUND = -1
BETWEEN = -2

# The share of an anchor that must lie on an ignored box before the anchor is ignored too. A crowd region is much
# larger than the anchors inside it, so that IoU alone would call them background.
COVERED_SHARE = 0.5

# Pairs of one box and one anchor held at once. On a CPU the few working tensors then stay in the cache; on a GPU
# fewer and larger kernels are better.
CPU_PAIRS = 1 << 17
GPU_PAIRS = 1 << 26

# Up to this many pairs (64 MiB) the IoU is kept between the two passes; beyond it is computed again.
KEPT_PAIRS = 1 << 24


class Assignment(NamedTuple):
    """Which box every anchor answers for, and the positive anchors as flat lists in row-major order.

    Attributes:
        matched: (B, A) int64: the index of the box in its image, `BACKGROUND` or `BETWEEN` (ignored).
        image: (P,) int64 image of each positive anchor.
        anchor: (P,) int64 index of each positive anchor.
        column: (P,) int64 logit column of the matched box.
        boxes: (P, 4) float32 matched box.
        positives: (B,) int64 number of positive anchors of each image.
    """

    matched: Tensor
    image: Tensor
    anchor: Tensor
    column: Tensor
    boxes: Tensor
    positives: Tensor


def assign(targets: Sequence[Mapping[str, Any]], anchors: Tensor, *, high: float = 0.5, low: float = 0.4) -> Assignment:
    """Match ``anchors`` (A, 4) float32 to each image's boxes; integer-identical to torchvision's Matcher.

    An anchor takes the box of highest IoU if that is at least ``high``; it is `BETWEEN` from ``low`` on and
    `BACKGROUND` below. Each box moreover claims the anchors that overlap it most, ties included; such an anchor
    answers for *its own* best box. torchvision's quirk is kept: a box that overlaps no anchor claims every anchor
    it has IoU 0 with, which is all of them.

    A box whose ``ignore`` flag is set matches nothing. Anchors that are not positive and have IoU >= ``low`` with
    an ignored box, or at least half of their own area on it, become `BETWEEN`.

    Args:
        targets: One mapping per image: ``boxes`` (G, 4) xyxy, ``labels`` (G,) int64, optionally ``ignore`` (G,) bool.
        anchors: (A, 4) float32 xyxy with positive sides, on the same device.
        high: IoU from which an anchor is positive.
        low: IoU below which an anchor is background; at most ``high``.

    Returns:
        The `Assignment`; no gradient flows through it.
    """
    if low > high:
        raise ValueError(f"low ({low}) must not exceed high ({high})")
    with torch.no_grad():
        anchors = anchors.detach().float()
        boxes = [target["boxes"].detach().reshape(-1, 4).float() for target in targets]
        ignored = [target.get("ignore") for target in targets]
        matched = torch.full((len(boxes), len(anchors)), BACKGROUND, dtype=torch.int64, device=anchors.device)
        if len(anchors):
            match = _match_on_device if anchors.is_cuda else _match_one_by_one
            match(boxes, ignored, anchors, high, low, matched)
        return _collect(matched, boxes, [target["labels"] for target in targets])


def _collect(matched: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Assignment:
    """Gather the positive anchors; the boxes of all images are one list, so that one look-up serves the batch."""
    positive = matched >= 0
    image, anchor = positive.nonzero(as_tuple=True)
    starts, count = [], 0
    for group in boxes:
        starts.append(count)
        count += len(group)
    start = torch.tensor(starts, dtype=torch.int64).to(matched.device, non_blocking=True)
    if not count:
        return Assignment(
            matched, image, anchor, image.new_zeros(0), matched.new_zeros((0, 4), dtype=torch.float32), positive.sum(1)
        )
    flat = start[image] + matched[image, anchor]
    column = torch.cat([label.reshape(-1) for label in labels])[flat].long()
    return Assignment(matched, image, anchor, column, torch.cat(boxes)[flat], positive.sum(1))


def _match_one_by_one(
    boxes: list[Tensor], ignored: list[Tensor | None], anchors: Tensor, high: float, low: float, matched: Tensor
) -> None:
    """The CPU's order of work: no padding, and nothing is computed for images that have nothing to match."""
    sides = anchors.t().contiguous()
    for row, group, flags in zip(matched, boxes, ignored, strict=True):
        if not len(group):
            continue
        crowd = flags.reshape(1, -1).bool() if flags is not None and bool(flags.any()) else None
        real = None if crowd is None else ~crowd
        row.copy_(_match(group[None], real, sides, high, low, CPU_PAIRS)[0])
        if crowd is not None:
            _ignore(row[None], group[None], crowd, sides, low, CPU_PAIRS)


def _match_on_device(
    boxes: list[Tensor], ignored: list[Tensor | None], anchors: Tensor, high: float, low: float, matched: Tensor
) -> None:
    """The GPU's order of work: images padded to one size and matched together, without waiting for the device."""
    most = max((len(group) for group in boxes), default=0)
    if not most:
        return
    padded = anchors.new_zeros((len(boxes), most, 4))
    real = torch.zeros((len(boxes), most), dtype=torch.bool, device=anchors.device)
    crowd = torch.zeros_like(real)
    for index, (group, flags) in enumerate(zip(boxes, ignored, strict=True)):
        padded[index, : len(group)] = group
        real[index, : len(group)] = True
        if flags is not None:
            crowd[index, : len(group)] = flags.bool()
    real &= ~crowd
    sides = anchors.t().contiguous()
    together = max(1, GPU_PAIRS // (most * len(anchors)))
    for start in range(0, len(boxes), together):
        chosen = slice(start, start + together)
        matched[chosen] = _match(padded[chosen], real[chosen], sides, high, low, GPU_PAIRS)
    if any(flags is not None for flags in ignored):
        _ignore(matched, padded, crowd, sides, low, GPU_PAIRS)


def _overlap(boxes: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and IoU, both (N, G, A), of ``boxes`` (N, G, 4) with anchors given as ``sides`` (4, A).

    The order of the floating-point operations is torchvision's: the IoU must come out equal to the last bit.
    """
    left, top, right, bottom = (edge[..., None] for edge in boxes.unbind(-1))
    width = torch.minimum(right, sides[2]).sub_(torch.maximum(left, sides[0])).clamp_(min=0)
    height = torch.minimum(bottom, sides[3]).sub_(torch.maximum(top, sides[1])).clamp_(min=0)
    intersection = width.mul_(height)
    areas = (sides[2] - sides[0]) * (sides[3] - sides[1])
    union = torch.add((right - left) * (bottom - top), areas, out=height).sub_(intersection)
    return intersection, torch.div(intersection, union, out=union)


def _match(boxes: Tensor, real: Tensor | None, sides: Tensor, high: float, low: float, pairs: int) -> Tensor:
    """(N, A) matches of ``boxes`` (N, G, 4) with anchors ``sides`` (4, A); only ``real`` (N, G) boxes can win.

    Two passes over blocks of anchors, because which anchor a box claims is known only after the last one.
    """
    blocks = _blocks(boxes, sides, pairs)
    keep = boxes.shape[0] * boxes.shape[1] * sides.shape[1] <= KEPT_PAIRS
    kept: list[Tensor] = []
    values, indices, tops = [], [], []
    for block in blocks:
        iou = _masked_iou(boxes, real, block)
        value, index = iou.max(dim=1)
        values.append(value)
        indices.append(index)
        tops.append(iou.amax(dim=2))
        if keep:
            kept.append(iou)
    best = torch.stack(tops).amax(dim=0) if len(tops) > 1 else tops[0]
    if real is not None:
        best = best.masked_fill(~real, 2.0)  # no IoU is 2, so that a padded box claims nothing
    claims = []
    for number, block in enumerate(blocks):
        iou = kept[number] if keep else _masked_iou(boxes, real, block)
        claims.append((iou == best[..., None]).any(dim=1))
    value, index, claimed = torch.cat(values, 1), torch.cat(indices, 1), torch.cat(claims, 1)
    lost = torch.where(value < low, BACKGROUND, BETWEEN)
    return torch.where((value >= high) | claimed, index, lost)


def _masked_iou(boxes: Tensor, real: Tensor | None, sides: Tensor) -> Tensor:
    iou = _overlap(boxes, sides)[1]
    return iou if real is None else iou.masked_fill_(~real[..., None], -1.0)


def _blocks(boxes: Tensor, sides: Tensor, pairs: int) -> tuple[Tensor, ...]:
    """Views of ``sides`` (4, A) along the anchors, each of about ``pairs`` pairs with ``boxes`` (N, G, 4)."""
    return sides.split(max(1, pairs // (boxes.shape[0] * boxes.shape[1])), dim=1)


def _ignore(matched: Tensor, boxes: Tensor, crowd: Tensor, sides: Tensor, low: float, pairs: int) -> None:
    """Turn anchors of ``matched`` (N, A) that are not positive and lie on a ``crowd`` (N, G) box into `BETWEEN`."""
    start = 0
    for block in _blocks(boxes, sides, pairs):
        intersection, iou = _overlap(boxes, block)
        areas = (block[2] - block[0]) * (block[3] - block[1])
        hit = (iou >= low).logical_or_(intersection >= areas * COVERED_SHARE).logical_and_(crowd[..., None]).any(1)
        view = matched[:, start : start + block.shape[1]]
        view.masked_fill_(hit & (view < 0), BETWEEN)
        start += block.shape[1]
