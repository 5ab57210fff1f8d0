"""Where a run's records come from: the shapes data set, COCO files or a VOC devkit, as the configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from incdet.config import Config
from incdet.data.formats import read_coco, read_voc
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


def _read(config: Config, split: str) -> LabelledSet:
    data, root = config.data, Path(config.data.root)
    keep_empty = data.keep_empty or split == "test"
    if data.format == "voc":
        splits = data.train_splits if split == "train" else data.test_splits
        parts = [read_voc(root, *_year_and_split(name), keep_empty=keep_empty) for name in splits]
        return merge(parts)
    if data.format == "shapes":
        return read_coco(root / f"{split}.json", root / "images", keep_empty=keep_empty)
    files = data.train if split == "train" else data.test
    assert files is not None, "the configuration refuses COCO data without both splits"
    return read_coco(root / files.annotations, root / files.images, keep_empty=keep_empty)


def _year_and_split(name: str) -> tuple[str | None, str]:
    year, _, split = name.rpartition("_")
    return year or None, split
