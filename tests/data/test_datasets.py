from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import tiny_settings

from incdet.config import Config
from incdet.data.datasets import open_source
from incdet.data.formats import read_coco, write_voc
from incdet.data.formats.convert import Format, convert
from incdet.data.shapes import CLASSES
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


def test_pictures_of_both_splits_are_told_before_training(make_coco: Callable[..., Any], tmp_path: Path) -> None:
    train, test = make_coco(folder="a"), make_coco(folder="b", images=2)
    source = open_source(coco_settings(train, test, tmp_path))
    (warning,) = source.warnings
    # The photographs of the second maker are copies of the first two of the first one's, which repeat themselves.
    assert "4 picture(s) of the training data and of the test data are copies" in warning.problem


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_picture_that_cannot_be_trained_on_is_refused_before(
    make_coco: Callable[..., Any], tmp_path: Path, side: str
) -> None:
    good, bad = make_coco(folder="a"), make_coco(folder="b")
    (bad.images / "002.png").write_bytes((bad.images / "002.png").read_bytes()[:-40])
    sides = (bad, good) if side == "train" else (good, bad)
    with pytest.raises(InputError, match=r"b/images/002.png: image 2: is cut off"):
        open_source(coco_settings(*sides, tmp_path))


def test_a_picture_that_would_vanish_in_the_detector_is_refused_before(
    make_coco: Callable[..., Any], tmp_path: Path
) -> None:
    def thin(content: dict[str, Any]) -> None:
        content["images"][0].update(width=64, height=1)
        content["annotations"][0].update(bbox=[2, 0, 9, 1])

    good, bad = make_coco(folder="a"), make_coco(folder="b", edit=thin)
    cv2.imwrite(str(bad.images / "001.png"), np.zeros((1, 64, 3), np.uint8))
    with pytest.raises(InputError, match="001.png: image 1: is 0 x 48 pixels after resizing"):
        open_source(coco_settings(good, bad, tmp_path))


def test_the_answer_about_the_cameras_turn_reaches_the_records(make_coco: Callable[..., Any], tmp_path: Path) -> None:
    own = make_coco()
    source = open_source(coco_settings(own, own, tmp_path, exif="ignore"))
    assert {record.exif for record in [*source.train, *source.test]} == {"ignore"}


@pytest.mark.parametrize("target", ["coco", "voc", "yolo", "labelme", "csv"])
def test_a_folder_of_any_format_is_recognised(make_coco: Callable[..., Any], tmp_path: Path, target: Format) -> None:
    for split, count in (("train", 4), ("test", 2)):
        own = make_coco(folder=f"source/{split}", images=count)
        own.annotations.rename(own.annotations.with_name("_annotations.coco.json"))
    convert(tmp_path / "source", target, tmp_path / "data")
    source = open_source(tiny_settings(tmp_path / "run", data={"format": "auto", "root": str(tmp_path / "data")}))
    assert (len(source.train), len(source.test), source.names) == (4, 2, ("cat", "dog"))


def test_each_side_may_name_its_own_annotations_and_split(make_coco: Callable[..., Any], tmp_path: Path) -> None:
    own = make_coco(folder="a")
    convert(make_coco(folder="b", images=2).annotations, "voc", tmp_path / "b_voc")
    train = {"annotations": str(own.annotations)}
    test = {"annotations": str(tmp_path / "b_voc"), "split": "default"}
    data = {"format": "auto", "root": str(tmp_path), "train": train, "test": test}
    source = open_source(tiny_settings(tmp_path / "run", data=data))
    assert (len(source.train), len(source.test)) == (4, 2)
    with pytest.raises(InputError, match="there is no 'val'"):
        open_source(tiny_settings(tmp_path / "run", data={**data, "test": {**test, "split": "val"}}))
