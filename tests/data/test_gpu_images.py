"""Batches from images on the device are the loader's batches; here the device is the CPU."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from incdet.data.augment import BoxPipeline, Changes, build_pipeline
from incdet.data.cache import ImageCache
from incdet.data.dataset import DetectionDataset, DrawSampler
from incdet.data.gpu_images import GpuImages, GpuLoader, needed_bytes
from incdet.data.photometric import Jitter
from incdet.data.records import Record
from incdet.data.resize import Geometry
from incdet.vocab import Vocabulary

CPU = torch.device("cpu")
VOCAB = Vocabulary((("a",),))
VIEWS = ("view", "slice", "select", "unsqueeze", "unbind", "alias", "detach", "expand")


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """Nine pictures of three sizes; the last record shows the first picture again."""
    rng, made = np.random.default_rng(0), []
    for number in range(9):
        width, height = ((40, 30), (30, 44), (50, 26))[number % 3]
        coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), cv2.resize(coarse, (width, height)))
        boxes = np.array([[2, 3, 20.5, 21], [5, 6, 5.05, 9]], np.float32)[: number % 3]
        made.append(
            Record(
                tmp_path / f"{number}.png",
                number,
                width,
                height,
                boxes,
                ("a",) * len(boxes),
                np.zeros(len(boxes), np.bool_),
                frozenset("a"),
            )
        )
    first = made[0]
    return [
        *made,
        Record(
            first.image,
            9,
            first.width,
            first.height,
            np.array([[1, 1, 9, 9]], np.float32),
            ("a",),
            np.ones(1, np.bool_),
            frozenset("a"),
        ),
    ]


def dataset(records: list[Record], pipeline: BoxPipeline | None, **more: Any) -> DetectionDataset:
    return DetectionDataset(records, VOCAB, pipeline, seed=4, **{"geometry": Geometry(32, 48), **more})


def gaps(data: DetectionDataset, count: int = 8) -> list[int]:
    """The largest difference of grey levels in each of ``count`` batches; everything else has to be equal."""
    sampler, found = DrawSampler(len(data), 4, seed=1), []
    loader = GpuLoader(data, sampler, GpuImages(data, CPU))
    for keys, (images, targets) in zip(sampler, itertools.islice(loader, count), strict=False):
        gap = 0
        for key, image, target in zip(keys, images, targets, strict=True):
            expected, other = data[key]
            assert image.shape == expected.shape and image.dtype == torch.uint8
            assert target.keys() == other.keys()
            assert all(np.array_equal(target[name], other[name]) for name in other)
            assert all(target[name].dtype == value.dtype for name, value in other.items() if isinstance(value, Tensor))
            gap = max(gap, int((image.int() - expected.int()).abs().max()))
        found.append(gap)
    return found


@pytest.mark.parametrize("pipeline", [None, build_pipeline(), build_pipeline(flip=1.0)])
def test_flipped_batches_are_the_loaders(records: list[Record], pipeline: BoxPipeline | None) -> None:
    assert gaps(dataset(records, pipeline)) == [0] * 8


def test_jittered_batches_are_the_loaders_within_a_grey_level(records: list[Record]) -> None:
    assert max(gaps(dataset(records, build_pipeline(photometric=True)), 30)) <= 1


def test_sizes_that_the_model_draws_later_leave_the_pictures_as_they_are(records: list[Record]) -> None:
    data = dataset(records, build_pipeline(), geometry=None)
    assert gaps(data) == [0] * 8


def test_each_picture_is_kept_once_and_the_need_is_known_before(records: list[Record]) -> None:
    data = dataset(records, None, geometry=None)
    assert needed_bytes(data) == 3 * 3 * (40 * 30 + 30 * 44 + 50 * 26)
    assert GpuImages(data, CPU)._pixels.numel() == needed_bytes(data)


@pytest.mark.parametrize("workers", [0, 2])
def test_filling_reports_and_leaves_the_cache_full(records: list[Record], workers: int) -> None:
    told: list[tuple[int, int]] = []
    data = dataset(records, build_pipeline(), cache=ImageCache(2**20))
    random = torch.get_rng_state()
    images = GpuImages(data, CPU, workers=workers, progress=lambda *values: told.append(values))
    assert torch.equal(torch.get_rng_state(), random), "the training draws other numbers with a cache than without"
    assert told == [(number, 9) for number in range(1, 10)]
    for record in records:
        record.image.unlink(missing_ok=True)
    assert np.array_equal(images.gather([3], [Changes()])[0].numpy(), data.planes(3))


def test_a_table_is_exact_and_touches_its_own_image_only(records: list[Record]) -> None:
    data = dataset(records, build_pipeline())
    images, table = GpuImages(data, CPU), np.arange(255, -1, -1, dtype=np.uint8)
    one, two = images.gather([1, 1], [Changes(False, Jitter(table)), Changes(True)])
    assert torch.equal(one, 255 - torch.from_numpy(data.planes(1)))
    assert np.array_equal(two.numpy(), data.planes(1)[:, :, ::-1])


def test_the_number_of_operations_does_not_grow_with_the_batch(records: list[Record]) -> None:
    images = GpuImages(dataset(records, build_pipeline()), CPU)
    changes = Changes(True, Jitter(np.arange(256, dtype=np.uint8), 0.8))
    for indices in ([0, 3], [0, 1]):  # of one size, and of two
        counts = []
        for times in (1, 4):
            with _Operations() as operations:
                images.gather(indices * times, [changes] * 2 * times)
            counts.append(operations.counts.total())
        assert counts[0] == counts[1] > 0
    assert not {name for name in operations.counts if "item" in name or "nonzero" in name or "_local_scalar" in name}


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what reaches the backend, without views, which are arithmetic of the host."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if not name.endswith(VIEWS):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def test_a_crop_cannot_be_drawn_without_pixels(records: list[Record]) -> None:
    with pytest.raises(ValueError, match="without the pixels"):
        dataset(records, build_pipeline(crop=True)).draw((0, 0))
