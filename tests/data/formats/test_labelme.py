from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from incdet.data.formats.reader import open_annotations
from incdet.errors import InputError


def shape(
    label: Any = "cat", points: Any = ((30, 5), (10, 25)), kind: str = "rectangle", **more: Any
) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def labelme(folder: Path, *shapes: Any, name: str = "a", **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"{name}.jpg"), np.zeros((50, 100, 3), np.uint8))
    content: dict[str, Any] = {
        "version": "5.0.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": f"{name}.jpg",
        "imageData": None,
    }
    content |= {"imageHeight": 50, "imageWidth": 100, **more}
    (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_every_kind_of_shape_becomes_its_box(tmp_path: Path) -> None:
    labelme(
        tmp_path,
        shape(),
        shape(points=[[1, 2], [9, 3], [4, 8]], kind="polygon"),
        shape("dog", points=[[50, 25], [50, 35]], kind="circle"),
        shape("dog", points=[[60, 20], [70, 30]], kind="mask", mask="iVBORw0"),
    )
    found = open_annotations(tmp_path)
    assert found.records[0].boxes.tolist() == [[10, 5, 30, 25], [1, 2, 9, 8], [40, 15, 60, 35], [60, 20, 70, 30]]
    assert found.names == ("cat", "dog") and found.describe().endswith("Labelme JSON: 1 images, 4 boxes, 2 classes")


def test_shapes_of_one_group_are_one_object(tmp_path: Path) -> None:
    first, second = [[1, 2], [9, 3], [4, 8]], [[20, 2], [29, 3], [24, 18]]
    labelme(
        tmp_path,
        shape(points=first, kind="polygon", group_id=1),
        shape(points=second, kind="polygon", group_id=1),
        shape("dog", points=second, kind="polygon", group_id=1),
    )
    assert open_annotations(tmp_path).records[0].boxes.tolist() == [[1, 2, 29, 18], [20, 2, 29, 18]]


def test_what_has_no_size_is_left_out_and_told(tmp_path: Path) -> None:
    labelme(tmp_path, shape(), shape(points=[[3, 3]], kind="point"), shape("_background_"))
    found = open_annotations(tmp_path)
    assert found.records[0].names == ("cat",) and found.names == ("cat",)
    assert [warning.item for warning in found.warnings] == ["shape 2 (cat)"]


def test_an_ignored_region_counts_for_no_class(tmp_path: Path) -> None:
    labelme(tmp_path, shape("__ignore__"), shape(), shape("dog", flags={"difficult": "true"}))
    (record,) = open_annotations(tmp_path).records
    assert record.names == ("cat", "dog", "cat", "dog")
    assert record.ignore.tolist() == [True, True, False, True]


@pytest.mark.parametrize("path", ["a.jpg", "..\\pictures\\a.jpg", "../../elsewhere/a.jpg", "IMG_1.jpg", None, 3])
def test_the_picture_is_found_by_its_name_and_never_elsewhere(tmp_path: Path, path: Any) -> None:
    labelme(tmp_path, shape(), imagePath=path)
    assert open_annotations(tmp_path).records[0].image == tmp_path / "a.jpg"


@pytest.mark.parametrize("side", [None, 0, "wide"])
def test_a_missing_size_is_taken_from_the_picture(tmp_path: Path, side: Any) -> None:
    labelme(tmp_path, shape(), imageHeight=side)
    assert open_annotations(tmp_path).records[0].height == 50


def test_files_may_be_split_apart_or_given_one_by_one(tmp_path: Path) -> None:
    labelme(tmp_path / "kit" / "train", shape("cow")), labelme(tmp_path / "kit" / "test", shape())
    assert open_annotations(tmp_path / "kit", purpose="test").names == ("cat", "cow")
    assert len(open_annotations(tmp_path / "kit" / "test" / "a.json")) == 1
    (tmp_path / "kit" / "images").mkdir()
    for split in ("train", "test"):
        (tmp_path / "kit" / split / "a.jpg").rename(tmp_path / "kit" / "images" / "a.jpg")
    assert len(open_annotations(tmp_path / "kit", tmp_path / "kit" / "images")) == 1


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ([shape(label=None)], "shape 1: has the name None"),
        ([shape(label=" ")], "shape 1: has the name"),
        ([shape(points=[[1, 2]])], r"shape 1 \(cat\): has the points"),
        ([shape(points=[[1, 2], [3]])], "has the points"),
        ([shape(points=[[1, 2], ["3", 4]])], "has the points"),
        ([shape(points={"a": 1})], "has the points"),
        ([shape(points=[[1, 2], [1, 9]])], "is empty"),
        ([shape(points=[[1, 2], [1e400, 9]])], "is not a number"),
        ([shape(points=[[1, 2], [10**400, 9]])], "is not a number"),
        ([shape(points=[[1, 2], [140, 9]])], "40 px outside the image of 100 x 50"),
        ([shape(flags={"difficult": "maybe"})], "has the flags"),
        ([shape(flags=[1])], "has the flags"),
        ([7], "shape 1: is 7"),
    ],
)
def test_faults_name_the_file_and_the_shape(tmp_path: Path, shapes: list[Any], said: str) -> None:
    labelme(tmp_path, *shapes)
    with pytest.raises(InputError, match=said) as caught:
        open_annotations(tmp_path)
    assert caught.value.findings[0].file == str(tmp_path / "a.json") and caught.value.findings[0].fix


def test_a_missing_picture_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    labelme(tmp_path, shape()), labelme(tmp_path, shape(), name="b")
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.json").write_text((tmp_path / "b.json").read_text()[:-30])
    with pytest.raises(InputError) as caught:
        open_annotations(tmp_path)
    assert [Path(finding.file).name for finding in caught.value.findings] == ["a.json", "b.json"]
