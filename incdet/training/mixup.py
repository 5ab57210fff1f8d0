"""Pictures that nobody annotated, made of those of a batch, so that a teacher can say more of what it knows.

The function-matching recipe of Beyer et al. (Knowledge distillation: a good teacher is patient and consistent, CVPR
2022): strong crops and mixup (Zhang et al., ICLR 2018), with teacher and student looking at the same pixels. The images
of a step show little of the world that the old detector has seen; what it says of their enlarged and blended parts,
where an object is seldom whole, tells what it takes for background. A batch stays a pure function of the seed and its
number; what several processes add is made of each one's own images, and is not what one process adds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from incdet.training.batches import Batch, Batches, rewritten
from incdet.training.box_replay import Target

SMALLEST = 0.5
"""Share of a picture's width and height that a crop has at least; it is enlarged to the whole again."""
BLENDED = 0.5
"""Share of the crops that another crop shines through, with at most half of the weight."""


class Mixup:
    """Adds pictures to batches.

    Args:
        share: Pictures that are added for each one of a batch; a remainder goes to one of several batches.
        seed: Of all draws, with the number of the batch and the process.
        rank: The process.
        world: How many processes there are.
    """

    def __init__(self, share: float, seed: int, rank: int = 0, world: int = 1) -> None:
        self.share, self.seed, self.rank, self.world = share, seed, rank, world

    def over(self, batches: Batches) -> Batches:
        """The stream with its batches enlarged."""
        return rewritten(batches, self._enlarged)

    def _enlarged(self, number: int, batch: Batch) -> Batch:
        images, targets = batch
        # A stream of its own: the replay of objects draws by the same three numbers.
        rng = np.random.default_rng([self.seed, self.rank, number, 1])
        more = [unlabelled(images, targets, rng) for _ in range(self.count(number, len(images)))]
        return [*images, *(image for image, _ in more)], [*targets, *(target for _, target in more)]

    def count(self, number: int, images: int) -> int:
        """How many pictures are added to batch ``number`` of ``images``."""
        batch, each = number * self.world + self.rank, self.share * images
        # A share such as 0.1 of ten images is a rounding error away from a whole number.
        before, after = (int(each * place + 1e-6) for place in (batch, batch + 1))
        return after - before


def unlabelled(images: Sequence[Tensor], targets: Sequence[Target], rng: np.random.Generator) -> tuple[Tensor, Target]:
    """A crop of one of ``images`` (3, H, W) uint8 at its full size, half of the time blended with a crop of another.

    Its target has no box, covers no class, and says that it was ``made``.
    """
    first, second = (int(place) for place in rng.integers(len(images), size=2))
    size = (int(images[first].shape[-2]), int(images[first].shape[-1]))
    pixels = enlarged_crop(images[first], size, rng)
    if rng.random() < BLENDED:
        weight = rng.uniform(0.5, 1.0)
        pixels = weight * pixels + (1 - weight) * enlarged_crop(images[second], size, rng)
    target = targets[first]
    nothing = {name: target[name][:0] for name in ("boxes", "labels", "ignore")}
    covered = {"coverage": torch.zeros_like(target["coverage"])}
    return pixels.round().clamp(0, 255).to(images[first].dtype), {**target, **nothing, **covered, "made": True}


def enlarged_crop(image: Tensor, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """A random part of ``image`` (3, H, W) of the same proportions, resized to ``size``; float32 grey levels."""
    height, width = image.shape[-2:]
    zoom = rng.uniform(SMALLEST, 1.0)
    tall, wide = max(1, int(height * zoom)), max(1, int(width * zoom))
    top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    part = image[None, :, top : top + tall, left : left + wide].float()
    return F.interpolate(part, size, mode="bilinear", align_corners=False)[0]
