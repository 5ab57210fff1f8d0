"""The memory that training takes, told before it is taken: a forward without data counts what autograd would keep."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from incdet.network.retinanet import ImageBatch, IncrementalRetinaNet

LOSSES = 2.0
"""What backward, losses, cuDNN's workspace and the allocator's gaps add to what is kept, as a factor."""
COPIES = 6
"""Float32 copies of the parameters: student, gradient, two moments of AdamW, two teachers."""


class Footprint(NamedTuple):
    """Bytes that training takes.

    Attributes:
        image: For each image of a batch.
        fixed: Once.
    """

    image: int
    fixed: int

    def images(self, memory: int) -> int:
        """How many images a batch may hold in ``memory`` bytes; 0 where not even one fits."""
        return max(0, (memory - self.fixed) // self.image)


def footprint(model: IncrementalRetinaNet, shape: tuple[int, int]) -> Footprint:
    """What training ``model`` in float32 on images padded to ``shape`` (H, W) takes, by an estimate from above.

    The network runs on the meta device, where tensors have shapes and no content: in a fraction of a second and without
    any memory.
    """
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        kept[value.untyped_storage()._cdata] = value
        return value

    student = copy.deepcopy(model).to("meta").train()
    own = {value.untyped_storage()._cdata for value in (*student.parameters(), *student.buffers())}
    batch = ImageBatch(torch.zeros(1, 3, *shape, device="meta"), [shape], [shape], None)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        student.dense(batch)
    held = sum(value.untyped_storage().nbytes() for place, value in kept.items() if place not in own)
    weights = sum(value.numel() * value.element_size() for value in student.parameters())
    return Footprint(int(LOSSES * max(held, 1)), COPIES * weights)
