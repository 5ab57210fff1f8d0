"""The lists and layouts under ``datasets/`` agree with the readers, and the download check reports what is missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import yaml

from incdet.data.formats.voc import VOC_CLASSES
from incdet.data.protocols import class_order, parse_steps


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "datasets" / "check_download.py"
    spec = importlib.util.spec_from_file_location("check_download", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def coco_ids(repository: Path) -> dict[str, int]:
    found: dict[str, int] = yaml.safe_load((repository / "datasets" / "coco" / "ids.yaml").read_text())
    return found


def test_coco_has_eighty_classes_with_their_ids(repository: Path) -> None:
    ids = coco_ids(repository)
    assert len(ids) == 80 and len(set(ids.values())) == 80
    never_used = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert set(ids.values()) == set(range(1, 91)) - never_used
    assert (ids["person"], ids["stop sign"], ids["toothbrush"]) == (1, 13, 90)


@pytest.mark.parametrize(
    ("file", "order"), [("classes.txt", "id"), ("alphabetical.txt", "alphabetical"), ("shuffle123.txt", "shuffle:123")]
)
def test_coco_order_files_are_what_they_say(repository: Path, file: str, order: str) -> None:
    ids = coco_ids(repository)
    path = str(repository / "datasets" / "coco" / file)
    listed = class_order(path, tuple(ids), ids)
    assert listed == class_order(order, tuple(ids), ids) and len(listed) == 80
    assert len(parse_steps("40+10x4", listed)) == 5


def test_voc_list_is_the_readers(repository: Path) -> None:
    ids = {name: number for number, name in enumerate(VOC_CLASSES, start=1)}
    listed = class_order(str(repository / "datasets" / "voc" / "classes.txt"), VOC_CLASSES, ids)
    assert listed == VOC_CLASSES == class_order("alphabetical", VOC_CLASSES, ids)


def voc_root(root: Path, images: int) -> Path:
    home = root / "VOCdevkit" / "VOC2007"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (home / folder).mkdir(parents=True)
    stems = [f"{number:06d}" for number in range(images)]
    (home / "ImageSets" / "Main" / "test.txt").write_text("\n".join(stems))
    for stem in stems:
        (home / "JPEGImages" / f"{stem}.jpg").touch()
        (home / "Annotations" / f"{stem}.xml").write_text(
            "<annotation><size><width>9</width><height>9</height></size></annotation>"
        )
    return root


def test_a_short_voc_download_is_noticed(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = voc_root(tmp_path, 3)
    assert script.main(["voc", "--root", str(root), "--splits", "2007_test"]) == 2
    assert "there are 3, the release has 4952" in capsys.readouterr().out
    layout = {"2007": {"folder": "VOCdevkit/VOC2007", "splits": {"test": 3}}}
    assert script.check_voc(root, ["2007_test"], layout) == []
    (root / "VOCdevkit" / "VOC2007" / "Annotations" / "000001.xml").unlink()
    (finding,) = script.check_voc(root, ["2007_test"], layout)
    assert "000001.xml" in finding.file


def test_missing_voc_folders_and_splits_are_named(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["voc", "--root", str(tmp_path), "--splits", "2012_trainval", "2012_nothing"]) == 2
    printed = capsys.readouterr().out
    assert "VOC2012: folder: does not exist" in printed and "2012_nothing: is not a split" in printed


def test_coco_downloads_are_compared_with_the_release(
    script: ModuleType, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    cv2.imwrite(str(tmp_path / "val2017" / "a.jpg"), np.zeros((8, 8, 3), np.uint8))
    categories = [{"id": number, "name": name} for name, number in coco_ids(repository).items()]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}],
        "categories": categories,
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}],
    }
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(content))
    layout = {
        "val": {
            "annotations": "annotations/instances_val2017.json",
            "images": "val2017",
            "counts": {"images": 1, "annotations": 1},
        }
    }
    assert script.check_coco_folder(tmp_path, ["val"], layout) == []
    content["categories"] = categories[:-1]
    path.write_text(json.dumps(content))
    assert "not the 80" in script.check_coco_folder(tmp_path, ["val"], layout)[0].problem
    assert script.main(["coco", "--root", str(tmp_path)]) == 2
    printed = capsys.readouterr().out
    assert "instances_train2017.json: file: does not exist" in printed
    assert "there are 1, the release has 5000" in printed
