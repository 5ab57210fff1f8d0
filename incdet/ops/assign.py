"""Every anchor is positive for one box, background, or ignored, exactly as torchvision's Matcher decides.

Letters: B images, A anchors over all levels, G boxes of an image, P positive anchors.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

BACKGROUND = -1
IGNORED = -2

# The share of an anchor that must lie on an ignored box before the anchor is ignored too. A crowd region is much
# larger than the anchors inside it, so that IoU alone would call them background.
COVERED_SHARE = 0.5

# Pairs of one box and one anchor held at once. On a CPU the few working tensors then stay in the cache; on a GPU
# fewer and larger kernels are better.
CPU_PAIRS = 1 << 17
GPU_PAIRS = 1 << 26

# Up to this many pairs (16 MiB) the IoU is kept between the two passes; beyond, what is needed is computed again.
KEPT_PAIRS = 1 << 22


class Assignment(NamedTuple):
    """Which box every anchor answers for, and the positive anchors as flat lists in row-major order.

    Attributes:
        matched: (B, A) int64: the index of the box in its image, `BACKGROUND` or `IGNORED` (ignored).
        image: (P,) int64 image of each positive anchor.
        anchor: (P,) int64 index of each positive anchor.
        column: (P,) int64 logit column of the matched box.
        boxes: (P, 4) float32 matched box.
        positives: (B,) int64 number of positive anchors of each image.
        mask: None, or (P,) bool: the lists hold every anchor of the batch, P = B * A, and these are the positive ones.
            Then no shape depends on the data, so that a GPU need not be asked for one.
    """

    matched: Tensor
    image: Tensor
    anchor: Tensor
    column: Tensor
    boxes: Tensor
    positives: Tensor
    mask: Tensor | None = None

    def compact(self) -> Assignment:
        """The same assignment with the positive anchors alone in its lists."""
        if self.mask is None:
            return self
        lists = (self.image, self.anchor, self.column, self.boxes)
        image, anchor, column, boxes = (values[self.mask] for values in lists)
        return Assignment(self.matched, image, anchor, column, boxes, self.positives)


def assign(
    targets: Sequence[Mapping[str, Any]],
    anchors: Tensor,
    *,
    high: float = 0.5,
    low: float = 0.4,
    static: bool = False,
) -> Assignment:
    """Match ``anchors`` (A, 4) float32 to each image's boxes; integer-identical to torchvision's Matcher.

    An anchor takes the box of highest IoU if that is at least ``high``; it is `IGNORED` from ``low`` on and
    `BACKGROUND` below. Each box moreover claims the anchors that overlap it most, ties included; such an anchor
    answers for *its own* best box. torchvision's quirk is kept: a box that overlaps no anchor claims every anchor
    it has IoU 0 with, which is all of them.

    A box whose ``ignore`` flag is set matches nothing. Anchors that are not positive and have IoU >= ``low`` with
    an ignored box, or at least half of their own area on it, become `IGNORED`.

    Args:
        targets: One mapping per image: ``boxes`` (G, 4) xyxy, ``labels`` (G,) int64, optionally ``ignore`` (G,) bool.
        anchors: (A, 4) float32 xyxy with positive sides, on the same device.
        high: IoU from which an anchor is positive.
        low: IoU below which an anchor is background; above 0, at most ``high``.
        static: No output shape depends on the data (see ``Assignment.mask``), and the host waits for no device.

    Returns:
        The `Assignment`; no gradient flows through it.
    """
    if not 0 < low <= high:
        raise ValueError(f"0 < low <= high is needed, not low={low}, high={high}")
    with torch.no_grad():
        anchors = anchors.detach().float()
        boxes = [target["boxes"].detach().reshape(-1, 4).float() for target in targets]
        ignored = [target.get("ignore") for target in targets]
        matched = torch.full((len(boxes), len(anchors)), BACKGROUND, dtype=torch.int64, device=anchors.device)
        if len(anchors):
            match = _match_padded if static or anchors.is_cuda else _match_one_by_one
            match(boxes, ignored, anchors.t().contiguous(), high, low, matched)
        labels = [target["labels"] for target in targets]
        return _collect_all(matched, boxes, labels, anchors) if static else _collect(matched, boxes, labels)


def _starts(boxes: list[Tensor], device: torch.device) -> tuple[Tensor, int]:
    """Where each image's boxes begin in one list of all (B,), and how many there are."""
    ends = list(itertools.accumulate((len(group) for group in boxes), initial=0))
    return torch.tensor(ends[:-1], dtype=torch.int64).to(device, non_blocking=True), ends[-1]


def _collect_all(matched: Tensor, boxes: list[Tensor], labels: list[Tensor], anchors: Tensor) -> Assignment:
    """Every anchor of the batch in the lists; one that is not positive answers for itself, in column 0."""
    images, count = matched.shape
    positive = matched >= 0
    mask = positive.view(-1)
    place = torch.arange(images * count, device=matched.device)
    image, anchor = place // count, place % count
    start, total = _starts(boxes, matched.device)
    # One more entry for the anchors without a box, so that the look-up has a place for them when there is no box.
    chosen = torch.where(mask, start[image] + matched.view(-1), total)
    column = torch.cat([*(label.reshape(-1).long() for label in labels), start.new_zeros(1)])[chosen]
    own = torch.cat([*boxes, anchors.new_zeros((1, 4))])[chosen]
    return Assignment(
        matched, image, anchor, column, torch.where(mask[:, None], own, anchors[anchor]), positive.sum(1), mask
    )


def _collect(matched: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Assignment:
    """Gather the positive anchors; the boxes of all images are one list, so that one look-up serves the batch."""
    positive = matched >= 0
    flat = positive.view(-1).nonzero()[:, 0]
    image, anchor = flat // matched.shape[1], flat % matched.shape[1]
    start, count = _starts(boxes, matched.device)
    if not count:
        return Assignment(
            matched, image, anchor, image.new_zeros(0), matched.new_zeros((0, 4), dtype=torch.float32), positive.sum(1)
        )
    chosen = start[image] + matched.view(-1)[flat]
    column = torch.cat([label.reshape(-1) for label in labels])[chosen].long()
    return Assignment(matched, image, anchor, column, torch.cat(boxes)[chosen], positive.sum(1))


def _match_one_by_one(
    boxes: list[Tensor], ignored: list[Tensor | None], sides: Tensor, high: float, low: float, matched: Tensor
) -> None:
    """The CPU's order of work: no padding, and the rare anchor that is near a box is looked at apart."""
    for row, group, flags in zip(matched, boxes, ignored, strict=True):
        if flags is None or not bool(flags.any()):
            _match_one(group, sides, high, low, row)
            continue
        crowd = flags.reshape(-1).bool()
        real = (~crowd).nonzero()[:, 0]
        _match_one(group[real], sides, high, low, row)
        # The match is an index among the real boxes; the caller knows all of them.
        row.copy_(torch.where(row >= 0, real[row.clamp(min=0)], row) if len(real) else row)
        _ignore(row, group[crowd], sides, low, CPU_PAIRS)


def _match_one(boxes: Tensor, sides: Tensor, high: float, low: float, row: Tensor) -> None:
    """Write the matches of one image's ``boxes`` (G, 4) into ``row`` (A,), which holds `BACKGROUND`.

    Two passes over blocks of anchors, because which anchors a box claims is known only after the last one. Only
    anchors that are near a box or claimed by one, a few in a thousand, need to know which box is their best.
    """
    if not len(boxes):
        return
    starts, blocks = _blocks(len(boxes), sides, CPU_PAIRS)
    keep = len(boxes) * sides.shape[1] <= KEPT_PAIRS
    kept: list[Tensor | None] = []
    tops: list[Tensor] = []
    for start, block in zip(starts, blocks, strict=True):
        iou = _overlap(boxes, block)[1]
        kept.append(iou if keep else None)
        tops.append(iou.amax(dim=1))
        near = (iou.amax(dim=0) >= low).nonzero()[:, 0]
        value, index = iou[:, near].max(dim=0)
        row[near + start] = index.masked_fill_(value < high, IGNORED)
    top = torch.stack(tops)
    best = top.amax(dim=0)
    for block_index, held in enumerate((top == best).unbind()):
        chosen = held.nonzero()[:, 0]
        if not len(chosen):
            continue
        block, iou_kept = blocks[block_index], kept[block_index]
        iou = _overlap(boxes[chosen], block)[1] if iou_kept is None else iou_kept[chosen]
        claimed = (iou == best[chosen, None]).any(dim=0).nonzero()[:, 0]
        row[claimed + starts[block_index]] = _overlap(boxes, block[:, claimed])[1].max(dim=0).indices


def _match_padded(
    boxes: list[Tensor], ignored: list[Tensor | None], sides: Tensor, high: float, low: float, matched: Tensor
) -> None:
    """The GPU's order of work: images padded to one size and matched together, never waiting for the device."""
    most = max(len(group) for group in boxes)
    if not most:
        return
    padded, real, crowd = _pad(boxes, ignored, most)
    together = max(1, GPU_PAIRS // (most * sides.shape[1]))
    for first in range(0, len(boxes), together):
        part = slice(first, first + together)
        intersection, iou = _overlap(padded[part], sides)
        hit = None
        if crowd is not None:
            hit = _on_ignored(intersection, iou, sides, low).logical_and_(crowd[part, :, None]).any(dim=1)
        iou.masked_fill_(~real[part, :, None], -1.0)
        value, index = iou.max(dim=1)
        best = iou.amax(dim=2, keepdim=True).masked_fill_(~real[part, :, None], 2.0)  # no IoU is 2: claims nothing
        claimed = (iou == best).any(dim=1)
        lost = torch.where(value < low, BACKGROUND, IGNORED)
        if hit is not None:
            lost = lost.masked_fill_(hit, IGNORED)
        matched[part] = torch.where((value >= high) | claimed, index, lost)


def _pad(boxes: list[Tensor], ignored: list[Tensor | None], most: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Boxes (B, ``most``, 4), and which of them are (B, ``most``) real and ignored; None if no image has flags.

    The number of operations does not depend on B: all boxes are placed at once.
    """
    device = boxes[0].device
    places = [image * most + place for image, group in enumerate(boxes) for place in range(len(group))]
    index = torch.tensor(places, dtype=torch.int64).to(device, non_blocking=True)
    padded = boxes[0].new_zeros((len(boxes) * most, 4)).index_copy_(0, index, torch.cat(boxes))
    real = torch.zeros(len(boxes) * most, dtype=torch.bool, device=device).index_fill_(0, index, True)
    crowd = None
    if any(flags is not None for flags in ignored):
        none = torch.zeros(most, dtype=torch.bool, device=device)
        given = [
            none[: len(group)] if flags is None else flags.reshape(-1).bool()
            for group, flags in zip(boxes, ignored, strict=True)
        ]
        crowd = torch.zeros_like(real).index_copy_(0, index, torch.cat(given))
        real &= ~crowd
        crowd = crowd.view(len(boxes), most)
    return padded.view(len(boxes), most, 4), real.view(len(boxes), most), crowd


def _overlap(boxes: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and IoU, both (..., G, A), of ``boxes`` (..., G, 4) with anchors given as ``sides`` (4, A).

    The order of the floating-point operations is torchvision's: the IoU must come out equal to the last bit.
    """
    left, top, right, bottom = (edge[..., None] for edge in boxes.unbind(-1))
    width = torch.minimum(right, sides[2]).sub_(torch.maximum(left, sides[0])).clamp_(min=0)
    height = torch.minimum(bottom, sides[3]).sub_(torch.maximum(top, sides[1])).clamp_(min=0)
    intersection = width.mul_(height)
    areas = (sides[2] - sides[0]) * (sides[3] - sides[1])
    union = torch.add((right - left) * (bottom - top), areas, out=height).sub_(intersection)
    return intersection, torch.div(intersection, union, out=union)


def _blocks(boxes: int, sides: Tensor, pairs: int) -> tuple[range, tuple[Tensor, ...]]:
    """Views of ``sides`` (4, A) along the anchors, each of about ``pairs`` pairs with ``boxes``, and their starts."""
    size = max(1, pairs // max(1, boxes))
    return range(0, sides.shape[1], size), torch.split(sides, size, dim=1)


def _ignore(row: Tensor, boxes: Tensor, sides: Tensor, low: float, pairs: int) -> None:
    """Turn the anchors of ``row`` (A,) that are not positive and lie on one of ``boxes`` (G, 4) into `IGNORED`."""
    for start, block in zip(*_blocks(len(boxes), sides, pairs), strict=True):
        hit = _on_ignored(*_overlap(boxes, block), block, low).any(dim=0)
        view = row[start : start + block.shape[1]]
        view.masked_fill_(hit & (view < 0), IGNORED)


def _on_ignored(intersection: Tensor, iou: Tensor, sides: Tensor, low: float) -> Tensor:
    """Which anchors, given as ``sides`` (4, A), an ignored box silences; all are (..., G, A)."""
    areas = (sides[2] - sides[0]) * (sides[3] - sides[1])
    return (iou >= low).logical_or_(intersection >= areas * COVERED_SHARE)
