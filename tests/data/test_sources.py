from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_settings

from incdet.config import Config
from incdet.data.formats import read_coco, write_voc
from incdet.data.shapes import CLASSES
from incdet.data.sources import open_source
from incdet.errors import InputError


def coco_settings(train: Any, test: Any, root: Path, **more: Any) -> Config:
    splits = {
        name: {"annotations": str(one.annotations), "images": str(one.images)}
        for name, one in (("train", train), ("test", test))
    }
    return tiny_settings(root / "run", data={"format": "coco", "root": str(root), **splits, **more})


def test_shapes_are_drawn_once_and_read(tmp_path: Path) -> None:
    config = tiny_settings(tmp_path / "run", data={"train_images": 4, "test_images": 3})
    source = open_source(config)
    assert (len(source.train), len(source.test)) == (4, 3)
    assert source.names == tuple(sorted(CLASSES)) and set(source.source_ids) == set(CLASSES)
    assert all(one.coverage == frozenset(CLASSES) for one in source.train)
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "shapes").rglob("*.png")}
    assert len(drawn) == 7
    assert open_source(config) == source
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shapes").rglob("*.png")} == drawn


def empty_first(content: dict[str, Any]) -> None:
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 1]


@pytest.mark.parametrize("keep", [False, True])
def test_empty_images_train_by_choice_and_are_always_tested(
    make_coco: Callable[..., Any], tmp_path: Path, keep: bool
) -> None:
    train, test = make_coco(folder="a", edit=empty_first), make_coco(folder="b", edit=empty_first)
    source = open_source(coco_settings(train, test, tmp_path, keep_empty=keep))
    assert (len(source.train), len(source.test)) == (4 if keep else 3, 4)
    assert source.names == ("cat", "dog") and source.source_ids == {"cat": 1, "dog": 2}


def test_coco_files_lie_relative_to_the_root(make_coco: Callable[..., Any], tmp_path: Path) -> None:
    make_coco(folder="a")
    split = {"annotations": "annotations.json", "images": "images"}
    source = open_source(
        tiny_settings(
            tmp_path / "run", data={"format": "coco", "root": str(tmp_path / "a"), "train": split, "test": split}
        )
    )
    assert source.train == source.test and len(source.train) == 4


def test_a_devkit_is_read_by_year_and_split_and_splits_are_joined(
    make_coco: Callable[..., Any], tmp_path: Path
) -> None:
    own = make_coco(images=6)
    records = read_coco(*own).records
    home = tmp_path / "kit" / "VOCdevkit" / "VOC2007"
    shutil.copytree(own.images, home / "JPEGImages")
    for split, part in (("train", records[:2]), ("val", records[2:4]), ("test", records[4:])):
        write_voc(part, home, split, ("cat", "dog"))
    source = open_source(
        tiny_settings(
            tmp_path / "run",
            data={
                "format": "voc",
                "root": str(tmp_path / "kit"),
                "train_splits": ["2007_train", "2007_val"],
                "test_splits": ["2007_test"],
            },
        )
    )
    assert [one.image.name for one in source.train] == ["001.png", "002.png", "003.png", "004.png"]
    assert [one.names for one in source.test] == [one.names for one in records[4:]]
    assert {"cat", "dog"} <= set(source.names)


def test_faults_of_the_files_are_told(make_coco: Callable[..., Any], tmp_path: Path) -> None:
    good = make_coco(folder="a")
    bad = make_coco(folder="b", edit=lambda content: content["annotations"][0].update(category_id=77))
    with pytest.raises(InputError, match="77"):
        open_source(coco_settings(bad, good, tmp_path))
    with pytest.raises(InputError, match="77"):
        open_source(coco_settings(good, bad, tmp_path))
