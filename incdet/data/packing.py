"""Batches on their way out of a loader process: the pixels of all images in one tensor, everything else by value.

A tensor between processes costs a file handle, a mapping and its first touch. A batch of 8 images and their targets is
40 of them; packed it is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

Target = dict[str, Any]
Batch = tuple[list[Tensor], list[Target]]


class PackedBatch(NamedTuple):
    """A batch for the road.

    Attributes:
        pixels: All images behind one another, (sum of 3 * H * W,) uint8.
        shapes: Of each image.
        targets: Of each image, with arrays in place of tensors.
    """

    pixels: Tensor
    shapes: list[tuple[int, ...]]
    targets: list[Target]


def pack(samples: Sequence[tuple[Tensor, Target]]) -> PackedBatch:
    """Collates (image, target) pairs; the images are uint8 and contiguous."""
    images = [image for image, _ in samples]
    targets = [
        {key: value.numpy() if isinstance(value, Tensor) else value for key, value in target.items()}
        for _, target in samples
    ]
    return PackedBatch(_behind_one_another(images), [tuple(image.shape) for image in images], targets)


def unpack(batch: PackedBatch) -> Batch:
    """The images, as views of the one tensor, and the targets."""
    parts = torch.split(batch.pixels, [int(np.prod(shape)) for shape in batch.shapes])
    targets = [
        {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in target.items()}
        for target in batch.targets
    ]
    return [part.view(shape) for part, shape in zip(parts, batch.shapes, strict=True)], targets


def _behind_one_another(images: Sequence[Tensor]) -> Tensor:
    """All elements in one tensor; those that lie so already are not copied."""
    ends = [image.data_ptr() + image.numel() for image in images]
    one_storage = len({image.untyped_storage().data_ptr() for image in images}) == 1
    if one_storage and [image.data_ptr() for image in images[1:]] == ends[:-1]:
        return torch.as_strided(images[0], (ends[-1] - images[0].data_ptr(),), (1,))
    return torch.cat([image.view(-1) for image in images])


class PackedLoader:
    """The batches of a loader that collates by ``pack``, unpacked."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Batch]:
        return map(unpack, self.loader)
