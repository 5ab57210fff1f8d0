"""Where a run's records come from: the shapes data set or annotation files, as the configuration says."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

from incdet.config import Config
from incdet.data.formats import read_coco
from incdet.data.formats.reader import open_annotations
from incdet.data.formats.splits import Purpose
from incdet.data.leaks import find_leaks, leak_warnings
from incdet.data.picture_book import Progress
from incdet.data.records import LabelledSet, Record, merge
from incdet.data.resize import Geometry
from incdet.data.shapes import write_shapes
from incdet.errors import Finding


class Source(NamedTuple):
    """Training and test records of a run and the classes they are annotated with."""

    train: list[Record]
    test: list[Record]
    names: tuple[str, ...]
    source_ids: dict[str, int]
    warnings: tuple[Finding, ...] = ()


def open_source(config: Config, progress: Progress | None = None) -> Source:
    """Reads (or, for shapes, draws and reads) both splits of ``config.data``, and warns of pictures in both.

    Args:
        config: Its data, and the size to which its model resizes pictures.
        progress: Called while pictures are drawn, or decoded that were not seen before.

    Raises:
        InputError: Everything that is wrong with the annotations of a split, or else with its pictures.
    """
    data = config.data
    if data.format == "shapes":
        write_shapes(data.root, data.train_images, data.test_images, data.image_size, data.draw_seed, progress)
    train, test = _read(config, "train", progress), _read(config, "test", progress)
    warnings = [*train.warnings, *test.warnings]
    if data.format != "shapes":
        warnings += leak_warnings(find_leaks(train.records, test.records), "the training data", "the test data")
    source_ids = {**test.source_ids, **train.source_ids}
    return Source(list(train.records), list(test.records), tuple(train.names), source_ids, tuple(warnings))


def _read(config: Config, purpose: Purpose, progress: Progress | None) -> LabelledSet:
    data, root = config.data, Path(config.data.root)
    if data.format == "shapes":
        found = read_coco(root / f"{purpose}.json", root / "images")
    else:
        geometry = Geometry.smallest(config.model)
        opened = partial(open_annotations, purpose=purpose, exif=data.exif, geometry=geometry, progress=progress)
        found = merge([opened(*place) for place in _places(config, purpose)])
    return found if data.keep_empty or purpose == "test" else found.without_empty()


def _places(config: Config, purpose: Purpose) -> list[tuple[Path, Path | None, str | None]]:
    """Path, images and split of every part of one side."""
    data, root = config.data, Path(config.data.root)
    if data.format == "voc":
        return [(root, None, split) for split in (data.train_splits if purpose == "train" else data.test_splits)]
    files = data.train if purpose == "train" else data.test
    if files is None:
        return [(root, None, None)]
    return [(root / files.annotations, None if files.images is None else root / files.images, files.split)]
