"""Suite ``replay``: what exemplars cost a training step, against the same step on the new images alone.

A step draws its batch (a tenth of it exemplars), from the cache of resized images, and trains on it. The share is
fixed, so the step should cost the same for any number of exemplars; what grows is the memory that holds them.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from benchmarks.harness import Equality, Options, Row, measure
from benchmarks.training import OurStep, Size, make_batch, make_detector, make_ours
from incdet.data.augment import build_pipeline
from incdet.data.cache import MIB, ImageCache
from incdet.data.dataset import DetectionDataset, DrawSampler, collate
from incdet.data.formats.coco import read_coco
from incdet.data.records import Record
from incdet.data.resize import Geometry
from incdet.data.shapes import write_shapes
from incdet.vocab import Vocabulary

NEW = 100
SHARE = 0.1


def rows(options: Options) -> Iterator[Row]:
    """A step with 10, 100 and 1,000 exemplars beside 100 new images."""
    size = Size("resnet18", 4, 64 if options.quick else 128, 6)
    counts = (10, 20) if options.quick else (10, 100, 1000)
    with tempfile.TemporaryDirectory() as folder:
        root = write_shapes(Path(folder), train=NEW + max(counts), test=1, size=size.pixels)
        records = read_coco(root / "train.json", root / "images").records
        for count in counts:
            yield _row(f"exemplars={count}", records[: NEW + count], size, options)


def _row(case: str, records: Sequence[Record], size: Size, options: Options) -> Row:
    ours, theirs = _Replay(records, size, options.device), _Replay(records[:NEW], size, options.device)
    held = [replay.cache.used / MIB for replay in (ours, theirs)]
    same = Equality(
        ours.shapes() == theirs.shapes(), f"the same batch shape, {held[0]:.1f} MiB of images, {held[1]:.1f} without"
    )
    return measure("replay", case, ours, theirs, same, options, 5 if not options.quick else None)


class _Replay:
    """A call draws the next batch and trains on it."""

    def __init__(self, records: Sequence[Record], size: Size, device: str) -> None:
        names = tuple(sorted({name for record in records for name in record.names}))
        geometry = Geometry(size.pixels, size.pixels)
        self.cache = ImageCache(256 * MIB)
        self.dataset = DetectionDataset(
            records, Vocabulary((names,)), build_pipeline(flip=0.5), geometry=geometry, cache=self.cache
        )
        for index in range(len(records)):
            self.dataset[0, index]
        shares = [(range(NEW), 1 - SHARE), (range(NEW, len(records)), SHARE)] if len(records) > NEW else None
        self._batches = map(DrawSampler(len(records), size.images, seed=0, shares=shares).batch, itertools.count())
        self._step = OurStep(make_ours(make_detector(size)), make_batch(size), device)

    def shapes(self) -> list[tuple[int, ...]]:
        """Those of the images of the next batch."""
        return [tuple(self.dataset[key][0].shape) for key in next(self._batches)]

    def __call__(self) -> Tensor:
        images, targets = collate([self.dataset[key] for key in next(self._batches)])
        return self._step.learn(self._step.model.prepare(images, targets))
