"""A batch comes out of its parcel as it went in, in one tensor."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch import Tensor

from incdet.data.packing import pack, unpack


def sample(height: int, width: int, boxes: int) -> tuple[Tensor, dict[str, Any]]:
    generator = torch.Generator().manual_seed(height)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    return image, {
        "boxes": torch.rand(boxes, 4, generator=generator),
        "labels": torch.arange(boxes),
        "ignore": torch.ones(boxes, dtype=torch.bool),
        "image_id": 7,
        "flipped": True,
    }


def test_packing_and_unpacking_change_nothing() -> None:
    samples = [sample(4, 6, 2), sample(5, 3, 0), sample(4, 6, 1)]
    packed = pack(samples)
    assert packed.pixels.shape == (2 * 3 * 24 + 3 * 15,)
    tensors = [value for target in packed.targets for value in target.values() if isinstance(value, Tensor)]
    assert not tensors, "each of them would cost a file handle"
    images, targets = unpack(packed._replace(targets=pickle.loads(pickle.dumps(packed.targets))))
    for (image, target), other, label in zip(samples, images, targets, strict=True):
        assert other.dtype == torch.uint8 and torch.equal(image, other)
        assert target.keys() == label.keys() and target["image_id"] == label["image_id"]
        for key in ("boxes", "labels", "ignore"):
            assert label[key].dtype == target[key].dtype and torch.equal(label[key], target[key])
            label[key].zero_()  # what arrives may be written to


def test_images_that_lie_behind_one_another_are_not_copied() -> None:
    memory = torch.arange(3 * 10, dtype=torch.uint8)
    one, two = memory[:18].view(3, 2, 3), memory[18:].view(3, 2, 2)
    packed = pack([(one, {}), (two, {})])
    assert packed.pixels.data_ptr() == memory.data_ptr() and torch.equal(packed.pixels, memory)
    assert torch.equal(pack([(two, {}), (one, {})]).pixels, torch.cat([memory[18:], memory[:18]]))
    assert torch.equal(pack([(two, {})]).pixels, memory[18:])
