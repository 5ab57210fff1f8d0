"""Pictures travel at the size, and within a grey level of the pixels, that the detector's own resize gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from incdet.data import resize as module
from incdet.data.records import Record
from incdet.data.resize import Geometry, resize, to_image, to_planes
from incdet.errors import InputError


def record(height: int, width: int) -> Record:
    return Record(Path("a.jpg"), 7, width, height, np.zeros((0, 4), np.float32), (), np.zeros(0, np.bool_), frozenset())


@given(st.integers(20, 90), st.integers(20, 90), st.booleans())
def test_pixels_are_those_of_torchvision_within_a_grey_level(height: int, width: int, fixed: bool) -> None:
    size = (50, 40) if fixed else None
    transform = GeneralizedRCNNTransform(48, 64, [0.0] * 3, [1.0] * 3, size_divisible=1, fixed_size=size)
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    boxes = torch.tensor([[1.0, 2.0, width - 1.5, height - 2.5]])
    expected, targets = transform([torch.from_numpy(to_planes(image)) / 255], [{"boxes": boxes}])
    shape = Geometry(48, 64, size).shape(record(height, width))
    done = resize(image, shape)
    assert done.shape[:2] == shape == tuple(expected.tensors.shape[-2:])
    gap = np.abs(to_planes(done).astype(np.float64) - expected.tensors[0].numpy() * 255)
    assert gap.max() <= 1  # 0.5 of rounding, and OpenCV's weights of 11 bits
    moved = module.resize_boxes(boxes.numpy(), (height, width), shape)
    assert np.array_equal(moved, targets[0]["boxes"].numpy())
    assert np.array_equal(moved, resize_boxes(boxes, [height, width], list(shape)).numpy())


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(30, 900))
def test_a_box_of_the_whole_image_stays_inside(height: int, width: int, size: int) -> None:
    after = (size, size + 7)
    moved = module.resize_boxes(np.array([[0, 0, width, height]], np.float32), (height, width), after)
    assert moved.dtype == np.float32 and moved[0, 2] <= after[1] and moved[0, 3] <= after[0]
    assert np.allclose(moved[0, 2:], [after[1], after[0]], rtol=1e-6)


def test_planes_and_image_are_each_others_inverse() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    planes = to_planes(image)
    assert planes.flags.c_contiguous and np.array_equal(planes, image.transpose(2, 0, 1))
    assert np.array_equal(to_image(planes), image)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    assert resize(image, (4, 6)) is image


def test_a_thread_of_an_image_is_named() -> None:
    with pytest.raises(InputError, match=r"a\.jpg: image 7: .*after resizing"):
        Geometry(48, 64).shape(record(1, 2000))
