"""Suite ``loader``: JPEG files to batches of images and boxes, against torchvision's v2 transforms.

One process, one thread, the same files: B pictures of 500 x 375 pixels, to a shorter side of 512 pixels. Theirs is the
pipeline of torchvision's detection references with its photometric distortion, hue included; ours jitters brightness,
contrast, gamma and saturation. The two therefore draw different images, and equality is taken where nothing is drawn:
flipped and resized, boxes within 1e-4 pixels and grey levels within 1. The case ``decode, flip`` is the same work on
both sides. In ``device cache`` ours gathers the batch from uint8 images on the device, theirs is as before. Peak memory
is not compared: OpenCV's and Pillow's is not torch's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks.harness import Equality, Options, Row, measure
from incdet.data.augment import build_pipeline
from incdet.data.cache import MIB, ImageCache
from incdet.data.dataset import DetectionDataset, collate
from incdet.data.gpu_images import GpuImages, gpu_batch
from incdet.data.records import Record
from incdet.data.resize import Geometry
from incdet.vocab import Vocabulary

WIDTH, HEIGHT, BATCH = 500, 375, 8
SHORT, LONG = 512, 853
VOCAB = Vocabulary((("thing",),))
Sample = tuple[Tensor, dict[str, Any]]


def rows(options: Options) -> Iterator[Row]:
    """Decoding every time, with jitter and without; and from the cache of resized images."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            records = write_photographs(Path(folder), BATCH if options.quick else 4 * BATCH)
            equality = _equality(records)
            yield _row("decode", records, equality, options)
            yield _row("decode, flip", records, equality, options, jitter=False)
            yield _row("RAM cache", records, equality, options, cache=ImageCache(256 * MIB))
            yield _row("device cache", records, equality, options, resident=True)
    finally:
        cv2.setNumThreads(threads)


def write_photographs(folder: Path, count: int, seed: int = 0) -> list[Record]:
    """JPEG files with the detail of photographs (about 70 kB each, noise of all wavelengths) and one to six boxes."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(count):
        picture = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        for scale in (4, 16, 64, 256):
            coarse = rng.normal(0, 18, (HEIGHT // scale + 2, WIDTH // scale + 2, 3)).astype(np.float32)
            picture += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        picture += 120 + rng.normal(0, 6, (HEIGHT, WIDTH, 1)).astype(np.float32)
        file = folder / f"{number:04}.jpg"
        cv2.imwrite(str(file), np.clip(picture, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
        boxes = int(rng.integers(1, 7))
        corners = rng.random((boxes, 2)) * (WIDTH * 0.6, HEIGHT * 0.6)
        sides = (0.05 + 0.3 * rng.random((boxes, 2))) * (WIDTH, HEIGHT)
        edges = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
        nothing = np.zeros(boxes, np.bool_)
        records.append(Record(file, number, WIDTH, HEIGHT, edges, ("thing",) * boxes, nothing, frozenset({"thing"})))
    return records


def _row(
    case: str,
    records: Sequence[Record],
    equality: Equality,
    options: Options,
    *,
    jitter: bool = True,
    cache: ImageCache | None = None,
    resident: bool = False,
) -> Row:
    """A call is a batch; every call draws anew, and the next ``BATCH`` pictures."""
    data = _our_data(records, build_pipeline(photometric=jitter), cache)
    images = GpuImages(data, torch.device(options.device)) if resident else None
    theirs = _their_pipeline(jitter=jitter)
    drawn = {"ours": 0, "theirs": 0}

    def keys(side: str) -> list[tuple[int, int]]:
        start = drawn[side]
        drawn[side] += BATCH
        return [(draw, draw % len(records)) for draw in range(start, start + BATCH)]

    def ours_batch() -> object:
        if images is not None:
            return gpu_batch(data, images, keys("ours"))
        return collate(data.__getitems__(keys("ours")))

    def theirs_batch() -> object:
        return tuple(zip(*(_their_sample(records[index], theirs) for _, index in keys("theirs")), strict=True))

    for _ in range(len(records) // BATCH if cache is not None else 0):
        ours_batch()  # fills the cache
    return replace(measure("loader", case, ours_batch, theirs_batch, equality, options), peak_ratio=None)


def _our_data(records: Sequence[Record], pipeline: Any, cache: ImageCache | None = None) -> DetectionDataset:
    return DetectionDataset(records, VOCAB, pipeline, geometry=Geometry(SHORT, LONG), cache=cache)


def _their_pipeline(*, jitter: bool, flip: float = 0.5) -> Callable[..., Any]:
    """``DetectionPresetTrain`` of torchvision's references, and the resize that its detectors do in float."""
    steps = [v2.ToImage()]
    if jitter:
        steps.append(v2.RandomPhotometricDistort())
    steps += [
        v2.RandomHorizontalFlip(p=flip),
        v2.Resize(SHORT, max_size=LONG, antialias=False),
        v2.ToDtype(torch.float32, scale=True),
        v2.SanitizeBoundingBoxes(),
        v2.ToPureTensor(),
    ]
    pipeline: Callable[..., Any] = v2.Compose(steps)
    return pipeline


def _their_sample(record: Record, pipeline: Callable[..., Any]) -> Sample:
    with Image.open(record.image) as file:
        picture = file.convert("RGB")
    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(record.boxes.copy()), format="XYXY", canvas_size=(record.height, record.width)
    )
    sample: Sample = pipeline(picture, {"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.int64)})
    return sample


def _equality(records: Sequence[Record]) -> Equality:
    """Every picture flipped and resized by both."""
    data, theirs = _our_data(records, build_pipeline(flip=1.0)), _their_pipeline(jitter=False, flip=1.0)
    levels = pixels = 0.0
    for index, record in enumerate(records):
        (mine, target), (image, other) = data[index], _their_sample(record, theirs)
        if mine.shape != image.shape or len(target["boxes"]) != len(other["boxes"]):
            return Equality(False, f"sizes differ: {tuple(mine.shape)} and {tuple(image.shape)}")
        levels = max(levels, float((mine.float() - (image * 255).round()).abs().max()))
        pixels = max(pixels, float((target["boxes"] - other["boxes"]).abs().max()))
    words = f"flipped and resized, boxes within {pixels:.1e} px, grey levels within {levels:.0f}"
    return Equality(levels <= 1 and pixels <= 1e-4, words)
