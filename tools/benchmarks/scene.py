"""The input that the suites share: a batch of random boxes before RetinaNet's real anchor pyramid.

Letters: B images, A anchors over all levels, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen

STRIDES = (8, 16, 32, 64, 128)


class LossInputs(NamedTuple):
    """Tensors as a detector leaves them before its losses.

    Attributes:
        targets: One dictionary per image, torchvision's format, 1 to 14 boxes.
        anchors: (A, 4) float32.
        level_sizes: Anchors of each level.
        logits: (B, A, K) float32, near the prior of an untrained head.
        deltas: (B, A, 4) float32.
    """

    targets: list[dict[str, Tensor]]
    anchors: Tensor
    level_sizes: list[int]
    logits: Tensor
    deltas: Tensor


def make_scene(classes: int, *, device: str, images: int = 8, pixels: int = 512, seed: int = 0) -> LossInputs:
    """The same scene for the same arguments on every machine; ``pixels`` is the side of the square images."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [-(-pixels // stride) for stride in STRIDES]
    features = [torch.zeros(1, 1, size, size) for size in sizes]
    batch = ImageList(torch.zeros(1, 3, pixels, pixels), [(pixels, pixels)])
    anchors: Tensor = _default_anchorgen()(batch, features)[0]
    targets = []
    for _ in range(images):
        count = int(torch.randint(1, 15, (), generator=generator))
        corner = torch.rand(count, 2, generator=generator) * (pixels * 0.9)
        side = pixels * (0.02 + 0.6 * torch.rand(count, 2, generator=generator).square())
        boxes = torch.cat((corner, (corner + side).clamp(max=pixels)), dim=1)
        labels = torch.randint(0, classes, (count,), generator=generator)
        targets.append({"boxes": boxes.to(device), "labels": labels.to(device)})
    logits = torch.randn(images, len(anchors), classes, generator=generator) - 4
    deltas = torch.randn(images, len(anchors), 4, generator=generator) * 0.1
    per_cell = len(anchors) // sum(size * size for size in sizes)
    level_sizes = [per_cell * size * size for size in sizes]
    return LossInputs(targets, anchors.to(device), level_sizes, logits.to(device), deltas.to(device))
