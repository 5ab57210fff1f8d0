"""From dense outputs to detections, for a whole batch; labels and boxes equal torchvision's ``postprocess_detections``.

Nearly all of the B * A * K logits are far below the threshold, or below the best thousand of their level. Reading
them once, as maxima of blocks, finds the few blocks that can hold a candidate; what follows touches those alone.

Shape letters: B images, A anchors over all levels, K classes, L levels, P candidates of the batch, N detections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import boxes as box_ops

_CODER = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
BLOCK = 96
"""Logits a block: wide enough for the reduction to run at the speed of memory."""
TRICK_BOXES = 1000
"""Up to here torchvision's ``batched_nms`` shifts classes apart on a CPU, in float32; above it goes class by class."""
TOGETHER_BOXES = 1 << 16
"""Most boxes of one suppression on a GPU, which compares all pairs: 512 MiB of flags."""


class Limits(NamedTuple):
    """What a detection must satisfy; see `select_detections`."""

    score_thresh: float
    nms_thresh: float
    topk: int
    limit: int


class Candidates(NamedTuple):
    """Entries of the logits that may become detections; an image's levels stand one after another.

    Attributes:
        entry: (P,) int64, into the flat logits.
        score: (P,) float32.
        place: (P,) int64, ``image * L + level``, ascending.
        pruned: (B, L) bool, where only entries about as high as the ``topk``-th are among them, not all above the
            threshold.
    """

    entry: Tensor
    score: Tensor
    place: Tensor
    pruned: Tensor


@torch.no_grad()
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

    On a GPU the host waits for a number of results that does not depend on B (unless there are more than 65,536
    candidates, of which a trained detector has few hundred an image). Equal scores leave a CPU in torchvision's order;
    on a GPU, where torchvision's own order is left open, the earlier anchor comes first.

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
    limits = Limits(score_thresh, nms_thresh, topk, limit)
    if logits.device.type == "mps":
        # It has no float64, and sorts and searches as the CPU does are not to be had there.
        on_host = logits.contiguous().cpu()
        found = _select_by_image(on_host, deltas.cpu(), anchors.cpu(), level_sizes, image_sizes, limits)
        return [{key: value.to(logits.device) for key, value in image.items()} for image in found]
    select = _select_together if logits.is_cuda else _select_by_image
    return select(logits.contiguous(), deltas, anchors, level_sizes, image_sizes, limits)


def _select_by_image(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    level_sizes: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
    limits: Limits,
    prune: bool = True,
) -> list[dict[str, Tensor]]:
    """`select_detections` on a CPU, where many small suppressions are cheaper than a large one."""
    images, _, classes = logits.shape
    found = _candidates(logits, level_sizes, limits, prune)
    # The floor lets a few too many through; the threshold applies to the score.
    above = found.score > limits.score_thresh
    found = Candidates(found.entry[above], found.score[above], found.place[above], found.pruned)
    chosen, per_image, ties = _strongest(found, limits.topk)
    boxes = _decode(found.entry[chosen], deltas, anchors, classes, image_sizes)
    score, label = found.score[chosen], found.entry[chosen] % classes
    detections = []
    parts = zip(*(torch.split(values, per_image) for values in (boxes, score, label)), strict=True)
    for image, (own_boxes, own_score, own_label) in enumerate(parts):
        keep = _suppress(own_boxes, own_score, own_label, limits.nms_thresh)[: limits.limit]
        kept = own_score[keep]
        # Nothing that scores less than the last detection has had a part in them.
        last = float(kept[-1]) if 0 < len(keep) == limits.limit else 0.0
        if ties[image] >= last:
            one = slice(image, image + 1)
            detections += _select_by_image(
                logits[one], deltas[one], anchors, level_sizes, image_sizes[one], limits, prune=False
            )
        else:
            detections.append({"boxes": own_boxes[keep], "scores": kept, "labels": own_label[keep]})
    return detections


def _select_together(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    level_sizes: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
    limits: Limits,
) -> list[dict[str, Tensor]]:
    """`select_detections` with one call of everything for the whole batch, for a GPU."""
    images, _, classes = logits.shape
    found = _candidates(logits, level_sizes, limits)
    chosen = _ranked(found, images * len(level_sizes), limits)
    if len(chosen) > TOGETHER_BOXES and images > 1:
        half = images // 2
        return [
            detection
            for part in (slice(half), slice(half, None))
            for detection in _select_together(
                logits[part], deltas[part], anchors, level_sizes, image_sizes[part], limits
            )
        ]
    index, score = found.entry[chosen], found.score[chosen]
    label, image = index % classes, found.place[chosen].div(len(level_sizes), rounding_mode="floor")
    boxes = _decode(index, deltas, anchors, classes, image_sizes)
    # The classes of an image are shifted apart in float32 as torchvision does, the images in float64, which is exact.
    widest = torch.zeros(images, device=boxes.device).scatter_reduce(0, image, boxes.amax(1), "amax")
    apart = boxes + (label.to(boxes) * (widest[image] + 1))[:, None]
    span = 2.0 ** math.ceil(math.log2(classes * (max(max(size) for size in image_sizes) + 2)))
    keep = box_ops.nms(apart.double() + (image * span)[:, None], score.double(), limits.nms_thresh)
    image, by_image = image[keep].sort(stable=True)
    keep = keep[by_image]
    boxes, score, label = boxes[keep], score[keep], label[keep]
    numbers = (image == torch.arange(images, device=image.device)[:, None]).sum(1).tolist()
    rows = zip(*(torch.split(values, numbers) for values in (boxes, score, label)), strict=True)
    return [
        {"boxes": own[: limits.limit], "scores": scores[: limits.limit], "labels": labels[: limits.limit]}
        for own, scores, labels in rows
    ]


class _Layout(NamedTuple):
    """How the logits (A * K,) of an image fall into blocks, which never span two levels; NB blocks.

    Attributes:
        width: Logits a block.
        spans: Where each level starts and stops.
        start: (NB,) int64, first logit of a block.
        fresh: (NB,) int64, how many logits of a block belong to the one before: the last block of a level ends with it.
        level: (NB,) int64.
        overlapping: Whether ``fresh`` is not all 0.
    """

    width: int
    spans: list[tuple[int, int]]
    start: Tensor
    fresh: Tensor
    level: Tensor
    overlapping: bool


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # the tables outlive the call
def _layout(level_sizes: tuple[int, ...], classes: int, device: torch.device) -> _Layout:
    width = min(BLOCK, min(level_sizes) * classes)
    spans: list[tuple[int, int]] = []
    start: list[Tensor] = []
    fresh, level = [], []
    for number, size in enumerate(level_sizes):
        first = spans[-1][1] if spans else 0
        stop = first + size * classes
        begin = torch.arange(first, stop, width)
        moved = (begin + width - stop).clamp(min=0)
        spans.append((first, stop))
        start.append(begin - moved)
        fresh.append(moved)
        level.append(torch.full_like(begin, number))
    starts, overlap, levels = (torch.cat(parts).to(device) for parts in (start, fresh, level))
    return _Layout(width, spans, starts, overlap, levels, bool(overlap.any()))


def _candidates(logits: Tensor, level_sizes: Sequence[int], limits: Limits, prune: bool = True) -> Candidates:
    """All entries that score above the threshold, or those that can be among the best ``topk``, and few others."""
    images = logits.shape[0]
    layout = _layout(tuple(level_sizes), logits.shape[-1], logits.device)
    flat = logits.flatten(1)
    lowest = _floor(torch.tensor(limits.score_thresh, dtype=torch.float64)).item()
    floors = torch.full((images, len(level_sizes)), lowest, device=logits.device)
    live = []
    for level, (first, stop) in enumerate(layout.spans):
        peaks = _peaks(flat[:, first:stop], layout.width)
        if prune and peaks.shape[1] > limits.topk:
            # As many blocks as topk reach this, each with an entry of its own.
            bound = peaks.nan_to_num(-math.inf, math.inf, -math.inf).topk(limits.topk, sorted=False).values.amin(1)
            floors[:, level].clamp_(min=_floor(bound.double().sigmoid()).float())
        # Written so that a NaN hides no neighbour.
        live.append(~(peaks < floors[:, level, None]))
    image, block = torch.cat(live, dim=1).nonzero().unbind(1)
    start = image * flat.shape[1] + layout.start[block]
    place = image * len(level_sizes) + layout.level[block]
    windows = flat.view(-1).as_strided((flat.numel() - layout.width + 1, layout.width), (1, 1)).index_select(0, start)
    passed = windows >= floors.flatten()[place][:, None]
    if layout.overlapping:
        passed &= torch.arange(layout.width, device=logits.device) >= layout.fresh[block][:, None]
    row, column = passed.nonzero().unbind(1)
    score = _sigmoid(windows[row, column].float())
    index, place = start[row] + column, place[row]
    return Candidates(index, score, place, floors > lowest)


def _peaks(values: Tensor, width: int) -> Tensor:
    """The maxima (B, NB) of blocks of ``width`` of a level (B, n), the last one narrower where they do not fit."""
    whole = values.shape[1] // width * width
    peaks = values[:, :whole].view(len(values), -1, width).amax(2)
    if whole < values.shape[1]:
        peaks = torch.cat((peaks, values[:, whole:].amax(1, keepdim=True)), dim=1)
    return peaks


def _floor(score: Tensor) -> Tensor:
    """Logits just below those of scores (float64), by more than float32 can err in either of them."""
    return torch.logit(score.clamp(0.0, 1.0) * (1 - 1e-5))


def _sigmoid(logits: Tensor) -> Tensor:
    """The sigmoid of (P,) float32; on a CPU by vector instructions alone, as scalar ones differ in the last bit."""
    if logits.is_cuda:
        return torch.sigmoid(logits)
    return torch.sigmoid(pad(logits, (0, -len(logits) % 64)))[: len(logits)]


def _strongest(found: Candidates, topk: int) -> tuple[Tensor, list[int], list[float]]:
    """The best ``topk`` candidates of every image and level, best first.

    Returns:
        Their rows, how many belong to each image, and each image's highest score that two entries of a pruned level
        share (-1 without): which of the two comes first, only ``topk`` over all entries knows.
    """
    images, levels = found.pruned.shape
    stops = torch.searchsorted(found.place, torch.arange(images * levels), right=True).tolist()
    chosen, per_image, ties, start = [], [0] * images, [-1.0] * images, 0
    for place, (stop, pruned) in enumerate(zip(stops, found.pruned.flatten().tolist(), strict=True)):
        number = min(stop - start, topk)
        # topk also where nothing is cut off: ties must leave it in torchvision's order.
        best = found.score[start:stop].topk(min(stop - start, topk + 1) if pruned else number)
        if pruned:
            shared = best.values[1:][best.values[1:] == best.values[:-1]]
            if len(shared):
                ties[place // levels] = max(ties[place // levels], float(shared[0]))
        chosen.append(best.indices[:number] + start)
        per_image[place // levels] += number
        start = stop
    return torch.cat(chosen), per_image, ties


def _ranked(found: Candidates, places: int, limits: Limits) -> Tensor:
    """The rows of the best ``topk`` candidates of every image and level, best first, without a loop."""
    # Bits of positive floats are ordered as they are.
    key = (found.place << 32) + (0x7FFFFFFF - found.score.view(torch.int32).long())
    order = key.sort(stable=True).indices
    place = found.place[order]
    first = torch.searchsorted(place, torch.arange(places, device=place.device))
    rank = torch.arange(len(order), device=place.device) - first[place]
    return order[(rank < limits.topk) & (found.score[order] > limits.score_thresh)]


def _decode(
    index: Tensor, deltas: Tensor, anchors: Tensor, classes: int, image_sizes: Sequence[tuple[int, int]]
) -> Tensor:
    """The boxes (P, 4) float32 of flat indices into the logits, clipped to their images."""
    row = index.div(classes, rounding_mode="floor")
    total = len(anchors)
    boxes = _CODER.decode_single(deltas.reshape(-1, 4)[row].float(), anchors[row % total])
    ends = torch.tensor([(width, height) * 2 for height, width in image_sizes], dtype=boxes.dtype)
    ends = ends.to(boxes.device, non_blocking=True)[row.div(total, rounding_mode="floor")]
    return torch.minimum(boxes.clamp(min=0), ends)


def _suppress(boxes: Tensor, score: Tensor, label: Tensor, thresh: float) -> Tensor:
    """``torchvision.ops.batched_nms`` of one image on a CPU, class by class without searching for each class."""
    if len(boxes) <= TRICK_BOXES:
        together: Tensor = box_ops.batched_nms(boxes, score, label, thresh)
        return together
    label, order = label.sort(stable=True)
    numbers = [number for number in torch.bincount(label).tolist() if number]
    parts = (torch.split(values, numbers) for values in (boxes[order], score[order], order))
    kept = [
        rows[box_ops.nms(own, scores, thresh)] if len(rows) > 1 else rows
        for own, scores, rows in zip(*parts, strict=True)
    ]
    keep = torch.cat(kept).sort().values
    # torchvision's own call: it is not stable, and equal scores must leave it in the same order.
    return keep[score[keep].sort(descending=True).indices]
