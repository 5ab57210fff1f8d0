"""One door: every format is recognised, its split chosen by one rule, and told."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from incdet.data.formats.reader import open_annotations, recognise
from incdet.errors import InputError

BOX = "<bndbox><xmin>11</xmin><ymin>11</ymin><xmax>50</xmax><ymax>50</ymax></bndbox>"
TRAM = f"<object><name>tram</name><difficult>0</difficult>{BOX}</object>"


def write_picture(path: Path, size: tuple[int, int] = (96, 64), grey: int = 120) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((size[1], size[0], 3), grey, np.uint8))
    return path


def write_voc_xml(path: Path, body: str = TRAM, picture: str = "", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "" if encoding == "utf-8" else f'<?xml version="1.0" encoding="{encoding}"?>'
    size = "<size><width>96</width><height>64</height><depth>3</depth></size>"
    text = f"{head}<annotation><filename>{picture or path.stem + '.jpg'}</filename>{size}{body}</annotation>"
    path.write_text(text, encoding=encoding)
    return path


def voc_folder(folder: Path, count: int = 2, **more: Any) -> Path:
    for number in range(count):
        write_picture(folder / f"p{number}.jpg")
        write_voc_xml(folder / f"p{number}.xml", **more)
    return folder


def devkit(home: Path, lists: dict[str, list[str]]) -> Path:
    for split, stems in lists.items():
        (home / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (home / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems))
        for stem in stems:
            write_picture(home / "JPEGImages" / f"{stem.split()[0]}.jpg")
            write_voc_xml(home / "Annotations" / f"{stem.split()[0]}.xml")
    return home


# --- which split


def test_test_data_of_a_folder_with_train_and_test_are_its_test_folder(tmp_path: Path) -> None:
    voc_folder(tmp_path / "train", 4), voc_folder(tmp_path / "test", 2)
    test, train = open_annotations(tmp_path, purpose="test"), open_annotations(tmp_path)
    assert {record.image.parent.name for record in test.records} == {"test"} and len(train) == 4
    assert test.describe() == f"{tmp_path}: VOC XML, split test (of test, train): 2 images, 2 boxes, 1 classes"
    assert len(open_annotations(tmp_path, split="train", purpose="test")) == 4
    assert recognise(tmp_path).splits == ("test", "train")


def test_without_a_test_folder_there_is_nothing_to_test_on(tmp_path: Path) -> None:
    voc_folder(tmp_path / "train")
    with pytest.raises(InputError, match="no split to test on, only train -> name one: --split train"):
        open_annotations(tmp_path, purpose="test")
    assert len(open_annotations(tmp_path, split="train", purpose="test")) == 2
    assert len(open_annotations(tmp_path / "train", purpose="test")) == 2  # the folder itself was named


def test_both_parts_of_a_split_folder_have_the_classes_of_all(tmp_path: Path) -> None:
    voc_folder(tmp_path / "train")
    voc_folder(tmp_path / "valid", body=TRAM.replace("tram", "bus"))
    assert open_annotations(tmp_path).names == open_annotations(tmp_path, purpose="test").names == ("bus", "tram")


@pytest.mark.parametrize("lists", [("test", "trainval"), ("train", "val"), ("default",)])
def test_a_devkit_may_have_the_lists_it_likes(tmp_path: Path, lists: tuple[str, ...]) -> None:
    devkit(tmp_path / "kit", {name: [f"{name}_{number}" for number in range(2)] for name in lists})
    train, test = open_annotations(tmp_path / "kit"), open_annotations(tmp_path / "kit", purpose="test")
    assert train.records[0].image.stem.startswith(("train", "default")) and len(train) == 2
    assert test.records[0].image.stem.startswith(("test", "val", "default"))


def test_the_lists_of_single_classes_are_no_splits(tmp_path: Path) -> None:
    home = devkit(tmp_path / "VOC2007", {"trainval": ["000001", "000002"], "test": ["000003"]})
    (home / "ImageSets" / "Main" / "cat_trainval.txt").write_text("000001 -1\n000002  1\n")
    assert open_annotations(tmp_path).origin.endswith("split 2007_trainval (of 2007_test, 2007_trainval)")
    with pytest.raises(InputError, match="there is no '2012_trainval'"):
        open_annotations(tmp_path, split="2012_trainval")


def test_names_of_a_list_may_have_spaces_endings_and_folders(tmp_path: Path) -> None:
    home = devkit(tmp_path / "kit", {"train": ["one", "two", "three"]})
    (home / "Annotations" / "three.xml").rename(home / "Annotations" / "my photo.xml")
    (home / "JPEGImages" / "three.jpg").rename(home / "JPEGImages" / "my photo.jpg")
    (home / "ImageSets" / "Main" / "train.txt").write_text("one.jpg\nJPEGImages/two.jpg\nmy photo\n")
    assert [record.image.stem for record in open_annotations(home).records] == ["one", "two", "my photo"]


def test_a_list_that_repeats_its_names_many_times_is_read_in_linear_time(tmp_path: Path) -> None:
    home = devkit(tmp_path / "kit", {"train": ["a"]})
    (home / "ImageSets" / "Main" / "train.txt").write_text("".join(f"x{n % 5_000}\n" for n in range(40_000)))
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        open_annotations(home)
    assert len(caught.value.findings) == 10_000  # neither annotation nor picture of any of them
    assert time.process_time() - began < 10


def test_years_of_a_devkit_are_told_apart(tmp_path: Path) -> None:
    devkit(tmp_path / "VOCdevkit" / "VOC2007", {"trainval": ["000001"]})
    devkit(tmp_path / "VOCdevkit" / "VOC2012", {"trainval": ["2008_000001"]})
    with pytest.raises(InputError, match="several splits.*--split 2007_trainval"):
        open_annotations(tmp_path)
    assert open_annotations(tmp_path, split="2007_trainval").records[0].image_id == 1


# --- COCO


def test_a_coco_file_finds_its_pictures_near_it(make_coco: Callable[..., Any], tmp_path: Path) -> None:
    own = make_coco()
    assert open_annotations(own.annotations).records[0].image == own.images / "001.png"
    (tmp_path / "coco" / "annotations").mkdir()
    moved = own.annotations.rename(tmp_path / "coco" / "annotations" / "instances_train2017.json")
    own.images.rename(tmp_path / "coco" / "train2017")
    assert len(open_annotations(tmp_path / "coco")) == len(open_annotations(moved)) == 4
    with pytest.raises(InputError, match="add --images DIR"):
        open_annotations(Path(shutil.move(moved, tmp_path / "lone.json")))
    assert len(open_annotations(tmp_path / "lone.json", tmp_path / "coco" / "train2017")) == 4


def test_a_folder_of_coco_files_has_them_as_splits(make_coco: Callable[..., Any], tmp_path: Path) -> None:
    own = make_coco()
    for name in ("train", "test", "notes"):
        shutil.copy(own.annotations, tmp_path / "coco" / f"{name}.json")
    own.annotations.unlink()
    (tmp_path / "coco" / "notes.json").write_text('{"author": "me"}')
    found = open_annotations(tmp_path / "coco", purpose="test")
    assert found.origin == f"{tmp_path / 'coco'}: COCO JSON, split test (of test, train)"


def test_a_folder_for_each_split_with_its_coco_file_is_read(make_coco: Callable[..., Any], tmp_path: Path) -> None:
    for name, count in (("train", 3), ("valid", 2)):
        own = make_coco(folder=f"kit/{name}", images=count)
        own.annotations.rename(own.annotations.with_name("_annotations.coco.json"))
        for picture in own.images.iterdir():
            picture.rename(tmp_path / "kit" / name / picture.name)
    assert [len(open_annotations(tmp_path / "kit", purpose=p)) for p in ("train", "test")] == [3, 2]


@pytest.mark.parametrize("content", ['{"a": 1}', "[1]", ""])
def test_what_is_no_annotation_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.txt").write_text(content)
    for path, said in ((tmp_path / "a.txt", "holds no annotations"), (tmp_path, "holds no annotations")):
        with pytest.raises(InputError, match=said):
            open_annotations(path)
    with pytest.raises(InputError, match="does not exist.*did you mean 'a.txt'"):
        open_annotations(tmp_path / "b.txt")


# --- XML as tools write it


@pytest.mark.parametrize(
    "body",
    [
        f"<object>{BOX}<name>tram</name></object>",
        f"<object><!-- checked --><name><![CDATA[tram]]></name>{BOX}</object>",
        f'<object id="3"><name lang="en"> tram\n</name>{BOX}</object>',
        f"<object><name>tram</name>{BOX}<part><name>wheel</name>{BOX}</part></object>",
    ],
    ids=["box first", "comment", "attribute", "part"],
)
def test_objects_are_read_whatever_their_order_and_markup(tmp_path: Path, body: str) -> None:
    found = open_annotations(voc_folder(tmp_path, body=body))
    assert found.names == ("tram",) and found.records[0].boxes.tolist() == [[10, 10, 50, 50]]


@pytest.mark.parametrize(
    ("name", "encoding"), [("R&amp;D cart", "utf-8"), ("café", "ISO-8859-1"), ("电车", "gb2312")], ids=str
)
def test_names_are_read_in_every_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    found = open_annotations(voc_folder(tmp_path, body=TRAM.replace("tram", name), encoding=encoding))
    assert found.names == (name.replace("&amp;", "&"),)


@pytest.mark.parametrize("suffix", [".tif", ".JPG", ".jpeg", ".PNG", ".webp", ".Tiff"])
def test_pictures_of_every_suffix_are_found(tmp_path: Path, suffix: str) -> None:
    write_voc_xml(tmp_path / "p0.xml", picture="other.tif")
    write_picture(tmp_path / f"p0{suffix}")
    assert open_annotations(tmp_path).records[0].image.name == f"p0{suffix}"


def test_a_mask_beside_the_picture_is_not_the_picture(tmp_path: Path) -> None:
    voc_folder(tmp_path)
    for number in range(2):
        write_picture(tmp_path / f"p{number}.png")
    assert [one.image.name for one in open_annotations(tmp_path).records] == ["p0.jpg", "p1.jpg"]
    for number in range(2):  # and the other way round
        write_voc_xml(tmp_path / f"p{number}.xml", picture=f"C:\\old\\p{number}.PNG")
    assert [one.image.name for one in open_annotations(tmp_path).records] == ["p0.png", "p1.png"]


def test_the_name_of_an_earlier_copy_falls_back_on_the_picture_beside(tmp_path: Path) -> None:
    voc_folder(tmp_path, picture="DSC_0001.JPG")
    assert [one.image.name for one in open_annotations(tmp_path).records] == ["p0.jpg", "p1.jpg"]


@pytest.mark.parametrize("given", ["", "annotations"])
@pytest.mark.parametrize("images", [None, "images"])
def test_annotations_and_pictures_may_lie_apart(tmp_path: Path, given: str, images: str | None) -> None:
    for number in range(2):
        write_picture(tmp_path / "images" / f"p{number}.jpg")
        write_voc_xml(tmp_path / "annotations" / f"p{number}.xml", picture=f"p{number}")
    found = open_annotations(tmp_path / given, None if images is None else tmp_path / images)
    assert [one.image.parent.name for one in found.records] == ["images", "images"]


def test_pictures_apart_are_found_in_each_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_picture(tmp_path / "images" / split / "p0.jpg")
        write_voc_xml(tmp_path / "annotations" / split / "p0.xml")
    found = open_annotations(tmp_path, purpose="test")
    assert found.records[0].image == tmp_path / "images" / "test" / "p0.jpg"


@pytest.mark.parametrize("width", ["96.0", " 96 "])
def test_a_width_may_be_written_with_a_point(tmp_path: Path, width: str) -> None:
    voc_folder(tmp_path)
    for path in tmp_path.glob("*.xml"):
        path.write_text(path.read_text().replace(">96<", f">{width}<"))
    assert open_annotations(tmp_path).records[0].width == 96


@pytest.mark.parametrize(
    ("text", "ignored"),
    [("0", False), ("1", True), ("False", False), ("true", True), ("1.0", True), ("", False), ("Unspecified", None)],
)
def test_difficult_is_a_flag_or_refused(tmp_path: Path, text: str, ignored: bool | None) -> None:
    voc_folder(tmp_path, body=TRAM.replace(">0<", f">{text}<"))
    if ignored is None:
        with pytest.raises(InputError, match=r"object 1 \(tram\): has difficult Unspecified -> write 0 or 1"):
            open_annotations(tmp_path)
    else:
        assert open_annotations(tmp_path).records[0].ignore.tolist() == [ignored]


def test_names_that_differ_in_composition_alone_are_one_class(tmp_path: Path) -> None:
    voc_folder(tmp_path, body=TRAM.replace("tram", "caf\u00e9"))
    write_voc_xml(tmp_path / "p1.xml", body=TRAM.replace("tram", "cafe\u0301 "))
    assert open_annotations(tmp_path).names == ("caf\u00e9",)


def test_a_missing_picture_says_where_it_should_lie(tmp_path: Path) -> None:
    voc_folder(tmp_path)
    (tmp_path / "p1.jpg").unlink()
    with pytest.raises(InputError) as caught:
        open_annotations(tmp_path)
    assert [str(tmp_path / "p1.jpg") in finding.problem for finding in caught.value.findings] == [True]


def test_the_origin_survives_a_file_of_json(make_coco: Callable[..., Any]) -> None:
    own = make_coco(edit=lambda content: content["images"].reverse())
    own.annotations.write_text("\ufeff" + json.dumps(json.loads(own.annotations.read_text())), encoding="utf-8")
    assert open_annotations(own.annotations, own.images).describe().endswith("COCO JSON: 4 images, 4 boxes, 2 classes")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "none.json"])
def test_a_path_that_no_file_can_have_does_not_exist(make_coco: Callable[..., Any], tmp_path: Path, name: str) -> None:
    own = make_coco()
    with pytest.raises(InputError, match="does not exist"):
        open_annotations(tmp_path / name)
    with pytest.raises(InputError, match="folder: does not exist"):
        open_annotations(own.annotations, tmp_path / name)


def test_what_may_not_be_read_is_named(
    make_coco: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make_coco()

    def refuse(path: Any) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(InputError, match=r"images/?: file: cannot be read \(Permission denied\)"):
        open_annotations(own.annotations, own.images)
