"""Replay of exemplar objects: their crops are mixed into the step's images, or four of them make an image of their own.

After ABR (Liu et al., ICCV 2023): what is replayed are objects and not images, whose background may hold objects of the
new classes that nobody annotated. A batch stays a pure function of the seed and its number.
Shapes: M boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from incdet.data.dataset import DetectionDataset
from incdet.training.batches import Batch, Batches, rewritten

SMALLEST = 8
"""Crops with a shorter side in pixels are left out: nobody would know what they show."""
TRIES = 10
"""Places that are looked at for a crop; the one that covers least of what is annotated is taken."""
Target = Mapping[str, Any]


class Crop(NamedTuple):
    """An object cut out of an exemplar.

    Attributes:
        pixels: (3, H, W) uint8.
        column: Of its class.
    """

    pixels: Tensor
    column: int


def crops_of(images: DetectionDataset) -> list[Crop]:
    """Every annotated object of the exemplars, at the size that training shows it; difficult and tiny ones left out."""
    found = []
    for index in range(len(images)):
        pixels, target = images[(0, index)]
        for box, label, ignored in zip(target["boxes"], target["labels"], target["ignore"], strict=True):
            left, top, right, bottom = (round(edge) for edge in box.tolist())
            if not ignored and min(right - left, bottom - top) >= SMALLEST:
                found.append(Crop(pixels[:, top:bottom, left:right].clone(), int(label)))
    return found


class BoxReplay:
    """Changes batches.

    Args:
        crops: What is replayed, at least one.
        share: Of the images, those that are changed: half get one crop, half become a mosaic of four.
        seed: Of all draws, with the number of the batch and the process.
        rank: The process.
    """

    def __init__(self, crops: Sequence[Crop], share: float, seed: int, rank: int = 0) -> None:
        self.crops, self.share, self.seed, self.rank = crops, share, seed, rank

    def over(self, batches: Batches) -> Batches:
        """The stream with its images changed."""
        return rewritten(batches, self._changed)

    def _changed(self, number: int, batch: Batch) -> Batch:
        rng = np.random.default_rng([self.seed, self.rank, number])
        pairs = [self.change(image, target, rng) for image, target in zip(*batch, strict=True)]
        return [image for image, _ in pairs], [target for _, target in pairs]

    def change(self, image: Tensor, target: Target, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """One image (3, H, W) uint8 and its target, changed or as they are."""
        kind = rng.random()
        if kind >= self.share:
            return image, target
        drawn = [self.crops[int(place)] for place in rng.integers(len(self.crops), size=4)]
        return mixed(image, target, drawn[0], rng) if kind < self.share / 2 else mosaic(image, target, drawn)


def mixed(image: Tensor, target: Target, crop: Crop, rng: np.random.Generator) -> tuple[Tensor, Target]:
    """The image with a crop blended in where it covers least of what is annotated, the crop being at least half of it.

    The image's coverage stays: its other objects of the crop's class, if there are any, are not annotated. So the
    crop's box is learned, and that it is of none of the covered classes; which class it is the old network says.
    """
    height, width = image.shape[-2:]
    pixels = fitted(crop.pixels, height, width)
    tall, wide = pixels.shape[-2:]
    tops, lefts = rng.integers(height - tall + 1, size=TRIES), rng.integers(width - wide + 1, size=TRIES)
    boxes = torch.tensor(np.stack([lefts, tops, lefts + wide, tops + tall], axis=1), dtype=torch.float32)
    boxes = boxes.to(target["boxes"].device)
    covered = box_iou(boxes, target["boxes"]).sum(dim=1) if len(target["boxes"]) else boxes.new_zeros(TRIES)
    best = boxes[int(covered.argmin())]
    left, top = int(best[0]), int(best[1])
    weight = 0.5 + 0.5 * rng.random()
    result = image.clone()
    spot = result[:, top : top + tall, left : left + wide]
    spot.copy_((weight * pixels.to(image.device).float() + (1 - weight) * spot.float()).round().to(image.dtype))
    return result, _with_boxes(target, torch.cat([target["boxes"], best[None]]), [crop.column])


def mosaic(image: Tensor, target: Target, crops: Sequence[Crop]) -> tuple[Tensor, Target]:
    """An image of the same size that shows four crops and nothing else, so that every class is covered."""
    height, width = image.shape[-2:]
    result = torch.full_like(image, 114)
    boxes = []
    for place, crop in enumerate(crops):
        top, left = (place // 2) * (height // 2), (place % 2) * (width // 2)
        pixels = fitted(crop.pixels, height // 2, width // 2).to(image.device)
        tall, wide = pixels.shape[-2:]
        result[:, top : top + tall, left : left + wide] = pixels
        boxes.append([float(left), float(top), float(left + wide), float(top + tall)])
    empty = {**target, "labels": target["labels"][:0], "ignore": target["ignore"][:0]}
    changed = _with_boxes(empty, target["boxes"].new_tensor(boxes), [crop.column for crop in crops])
    return result, {**changed, "coverage": torch.ones_like(target["coverage"])}


def fitted(pixels: Tensor, height: int, width: int) -> Tensor:
    """A crop (3, h, w) uint8 made smaller, its shape kept, where it exceeds ``height`` or ``width``."""
    factor = min(height / pixels.shape[-2], width / pixels.shape[-1])
    if factor >= 1:
        return pixels
    size = [max(1, int(side * factor)) for side in pixels.shape[-2:]]
    small = F.interpolate(pixels[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
    return small[0].round().clamp(0, 255).to(pixels.dtype)


def _with_boxes(target: Target, boxes: Tensor, columns: Sequence[int]) -> Target:
    """The target with ``boxes`` for its own, whose last ones are of ``columns``."""
    labels = torch.cat([target["labels"], target["labels"].new_tensor(columns)])
    ignore = torch.cat([target["ignore"], target["ignore"].new_zeros(len(columns))])
    return {**target, "boxes": boxes, "labels": labels, "ignore": ignore}
