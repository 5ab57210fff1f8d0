"""Where a run's records come from: the shapes data set, COCO files or a VOC devkit, as the configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from incdet.config import Config
from incdet.data.formats import read_coco
from incdet.data.formats.reader import open_annotations
from incdet.data.formats.splits import Purpose
from incdet.data.images import check_pictures
from incdet.data.records import LabelledSet, Record, merge
from incdet.data.shapes import write_shapes
from incdet.errors import Finding, InputError


class Source(NamedTuple):
    """Training and test records of a run and the classes they are annotated with."""

    train: list[Record]
    test: list[Record]
    names: tuple[str, ...]
    source_ids: dict[str, int]
    warnings: tuple[Finding, ...] = ()


def open_source(config: Config) -> Source:
    """Reads (or, for shapes, draws and reads) both splits of ``config.data``.

    Raises:
        InputError: Everything that is wrong with the files, all of it at once for each split.
    """
    data = config.data
    if data.format == "shapes":
        write_shapes(
            data.root, train=data.train_images, test=data.test_images, size=data.image_size, seed=data.draw_seed
        )
    train, test = _read(config, "train"), _read(config, "test")
    if data.format != "shapes" and (findings := check_pictures([*train.records, *test.records])):
        raise InputError(findings)
    source_ids = {**test.source_ids, **train.source_ids}
    return Source(
        list(train.records), list(test.records), tuple(train.names), source_ids, (*train.warnings, *test.warnings)
    )


def _read(config: Config, purpose: Purpose) -> LabelledSet:
    data, root = config.data, Path(config.data.root)
    if data.format == "voc":
        splits = data.train_splits if purpose == "train" else data.test_splits
        found = merge([open_annotations(root, None, split, purpose=purpose) for split in splits])
    elif data.format == "shapes":
        found = read_coco(root / f"{purpose}.json", root / "images")
    else:
        files = data.train if purpose == "train" else data.test
        assert files is not None, "the configuration refuses COCO data without both splits"
        found = open_annotations(root / files.annotations, root / files.images, purpose=purpose)
    return found if data.keep_empty or purpose == "test" else found.without_empty()
