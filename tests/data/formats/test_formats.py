"""Read after write is the identity on records, for every format."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incdet.data.formats import read_coco, read_voc, write_coco, write_voc
from incdet.data.formats.voc import VOC_CLASSES
from incdet.data.records import Record
from incdet.errors import InputError

NAMES = ("zebra", "Heltec_ESP32 & Co", "Käse")
IDS = {"zebra": 3, "Heltec_ESP32 & Co": 7, "Käse": 90}


@st.composite
def record_lists(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Values of one to four records, without their pictures; corners are any float32."""
    found = []
    numbers = draw(st.lists(st.integers(0, 10**12), min_size=1, max_size=4, unique=True))
    for number in numbers:
        width, height = draw(st.integers(3, 900)), draw(st.integers(3, 900))
        coverage = frozenset(draw(st.sets(st.sampled_from(NAMES))))
        names = draw(st.lists(st.sampled_from(sorted(coverage)), max_size=4)) if coverage else []
        boxes = []
        for _ in names:
            sides = []
            for length in (width, height):
                low = draw(st.floats(0.0078125, length - 2, width=32) | st.just(0.0))
                # Wider than a pixel: a file of boxes within their first pixel is taken for normalised ones.
                sides.append((low, draw(st.floats(float(np.float32(low + 1.25)), length, width=32))))
            (x1, x2), (y1, y2) = sides
            boxes.append([x1, y1, x2, y2])
        ignore = draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
        found.append(
            {
                "image_id": number,
                "width": width,
                "height": height,
                "boxes": boxes,
                "names": tuple(names),
                "ignore": ignore,
                "coverage": coverage,
            }
        )
    return found


def on_disk(values: list[dict[str, Any]], folder: Path) -> list[Record]:
    folder.mkdir(parents=True)
    records = []
    for position, value in enumerate(values):
        (folder / f"{position:03}.jpg").touch()
        records.append(Record(image=folder / f"{position:03}.jpg", **value))
    return records


@given(record_lists())
def test_coco_round_trip(values: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        images = Path(root) / "images"
        records = on_disk(values, images)
        write_coco(records, Path(root) / "a" / "all.json", NAMES, IDS, images=images)
        found = read_coco(Path(root) / "a" / "all.json", images)
        assert list(found.records) == records
        assert found.names == NAMES and found.source_ids == IDS and found.warnings == ()


@given(record_lists())
def test_voc_round_trip(values: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        home = Path(root) / "VOC2031"
        records = on_disk(values, home / "JPEGImages")
        write_voc(records, home, "train", NAMES)
        found = read_voc(Path(root), "2031", "train", classes=NAMES)
        assert list(found.records) == records
        assert found.names == NAMES and found.source_ids == {name: i for i, name in enumerate(NAMES, start=1)}


@settings(max_examples=10)
@given(record_lists())
def test_coco_to_voc_and_back(values: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        home = Path(root) / "VOC2031"
        records = on_disk(values, home / "JPEGImages")
        write_coco(records, Path(root) / "all.json", NAMES, IDS)
        write_voc(read_coco(Path(root) / "all.json", Path(root)).records, home, "train", NAMES)
        assert list(read_voc(home, None, "train", classes=NAMES).records) == records


def test_a_stopped_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    path.write_text("old")
    record = Record(
        tmp_path / "a.png",
        1,
        8,
        8,
        np.array([[0, 0, 4, 4]], np.float32),
        ("cat",),
        np.array([False]),
        frozenset({"cat"}),
    )
    with pytest.raises(KeyError):
        write_coco([record], path, ["cat"], {})
    assert path.read_text() == "old"


# --- COCO -------------------------------------------------------------------------------------------------------------


def coco(root: Path, annotations: list[dict[str, Any]], **image: Any) -> Path:
    (root / "a.png").touch()
    content = {
        "images": [{"id": 5, "file_name": "a.png", "width": 100, "height": 50, **image}],
        "annotations": [
            {"id": number, "image_id": 5, "category_id": 1, **entry} for number, entry in enumerate(annotations)
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 1, "name": "cat"}],
    }
    path = root / "coco.json"
    path.write_text(json.dumps(content))
    return path


def test_coco_boxes_become_corners_and_classes_follow_their_ids(tmp_path: Path) -> None:
    found = read_coco(coco(tmp_path, [{"bbox": [10, 20, 30, 5]}]), tmp_path)
    assert found.records[0].boxes.tolist() == [[10, 20, 40, 25]]
    assert found.names == ("cat", "dog") and found.records[0].coverage == {"cat", "dog"}
    assert found.records[0].image == tmp_path / "a.png"


@pytest.mark.parametrize("key", ["iscrowd", "difficult", "ignore"])
def test_coco_flags_make_an_object_ignored(tmp_path: Path, key: str) -> None:
    path = coco(tmp_path, [{"bbox": [1, 1, 9, 9], key: 1}, {"bbox": [1, 1, 9, 9], key: 0}])
    assert read_coco(path, tmp_path).records[0].ignore.tolist() == [True, False]


def test_coco_clips_two_pixels_with_one_warning(tmp_path: Path) -> None:
    path = coco(tmp_path, [{"bbox": [-1.5, 20, 30, 5]}, {"bbox": [0, 0, 102, 50]}, {"bbox": [0, 0, 2, 2]}])
    found = read_coco(path, tmp_path)
    assert found.records[0].boxes.tolist() == [[0, 20, 28.5, 25], [0, 0, 100, 50], [0, 0, 2, 2]]
    (warning,) = found.warnings
    assert warning.severity == "warning" and "2 box(es)" in warning.problem and "2 px" in warning.problem


def test_coco_images_without_objects_are_kept_by_choice(tmp_path: Path) -> None:
    path = coco(tmp_path, [])
    assert len(read_coco(path, tmp_path)) == 1 and len(read_coco(path, tmp_path, keep_empty=False)) == 0


def test_the_known_faults_of_the_official_release_are_left_out(tmp_path: Path) -> None:
    path = coco(tmp_path, [{"bbox": [1, 1, 9, 0]}, {"bbox": [1, 1, 9, 9]}])
    with pytest.raises(InputError, match="is empty"):
        read_coco(path, tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "info": {"description": "COCO 2017 Dataset"}}))
    found = read_coco(path, tmp_path)
    assert found.records[0].names == ("cat",) and "known fault" in found.warnings[0].problem


# --- VOC --------------------------------------------------------------------------------------------------------------


def xml(*objects: tuple[str, Any], size: str = "<width>20</width><height>10</height>", head: str = "") -> str:
    body = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>{int(name == 'cow')}</difficult><bndbox>"
        + "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for name, box in objects
    )
    return f"<annotation>{head}<size>{size}<depth>3</depth></size>{body}</annotation>"


def devkit(root: Path, files: dict[str, str], split: str = "trainval", year: str = "2007") -> Path:
    home = root / "VOCdevkit" / f"VOC{year}"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in files))
    for stem, text in files.items():
        (home / "Annotations" / f"{stem}.xml").write_text(text)
        cv2.imwrite(str(home / "JPEGImages" / f"{stem}.jpg"), np.zeros((10, 20, 3), np.uint8))
    return home


def test_voc_counts_from_one_and_its_corners_belong_to_the_box(tmp_path: Path) -> None:
    devkit(tmp_path, {"000005": xml(("cat", (1, 1, 20, 10)), ("cow", (3, 4, 3, 4)))})
    found = read_voc(tmp_path, "2007", "trainval")
    (record,) = found.records
    assert record.boxes.tolist() == [[0, 0, 20, 10], [2, 3, 3, 4]] and record.ignore.tolist() == [False, True]
    assert found.names == VOC_CLASSES and record.coverage == set(VOC_CLASSES) and record.image_id == 5
    assert found.warnings == ()


@pytest.mark.parametrize("part", ["", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_voc_is_found_from_each_of_its_folders(tmp_path: Path, part: str) -> None:
    devkit(tmp_path, {"000005": xml(("cat", (1, 1, 20, 10)))})
    assert len(read_voc(tmp_path / part, None, "trainval")) == 1


def test_voc_years_can_be_merged_because_their_ids_differ(tmp_path: Path) -> None:
    devkit(tmp_path, {"000005": xml(("cat", (1, 1, 20, 10)))})
    devkit(tmp_path, {"2007_000027": xml(("cow", (1, 1, 20, 10)))}, year="2012")
    assert [read_voc(tmp_path, year, "trainval").records[0].image_id for year in ("2007", "2012")] == [5, 2007000027]
    with pytest.raises(InputError, match="2007, 2012"):
        read_voc(tmp_path, None, "trainval")


def test_voc_with_classes_of_its_own_takes_all_that_the_devkit_names(tmp_path: Path) -> None:
    devkit(tmp_path, {"000001": xml(("yak", (1, 1, 20, 10)))}, split="test")
    devkit(tmp_path, {"000002": xml(("cat", (1, 1, 20, 10)), ("emu", (1, 1, 20, 10)))})
    found = read_voc(tmp_path, None, "trainval")
    assert found.names == ("cat", "emu", "yak") and found.records[0].coverage == {"cat", "emu", "yak"}


def test_a_plain_folder_of_xml_has_the_classes_of_its_siblings(tmp_path: Path) -> None:
    for folder, name in (("train", "resistor"), ("test", "diode")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "b.xml").write_text(xml((name, (1, 1, 20, 10)), head="<filename>other.jpg</filename>"))
        (tmp_path / folder / "b.png").touch()
        (tmp_path / folder / "other.jpg").touch()
    found = read_voc(tmp_path, None, "train")
    assert found.names == ("diode", "resistor")
    assert found.records[0].image == tmp_path / "train" / "b.png" and found.records[0].image_id == 1
    assert read_voc(tmp_path / "test", None, "anything").names == ("diode",)


def test_voc_takes_a_missing_size_from_the_picture(tmp_path: Path) -> None:
    devkit(tmp_path, {"000005": xml(("cat", (1, 1, 20, 10)), size="<width>0</width>")})
    found = read_voc(tmp_path, None, "trainval")
    assert (found.records[0].width, found.records[0].height) == (20, 10)
    assert [warning.severity for warning in found.warnings] == ["warning"]


def test_voc_boxes_that_count_from_zero_are_clipped_with_a_warning(tmp_path: Path) -> None:
    devkit(tmp_path, {"000005": xml(("cat", (0, 0, 20, 10)))})
    found = read_voc(tmp_path, None, "trainval")
    assert found.records[0].boxes.tolist() == [[0, 0, 20, 10]] and "1 px" in found.warnings[0].problem


def test_voc_images_without_objects_are_kept_by_choice(tmp_path: Path) -> None:
    devkit(tmp_path, {"000005": xml(), "000006": xml(("cat", (1, 1, 20, 10)))})
    assert len(read_voc(tmp_path, None, "trainval")) == 2
    assert len(read_voc(tmp_path, None, "trainval", keep_empty=False)) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (xml(("cat", (5, 1, 4, 10))), "is empty"),
        (xml(("cat", (9, 1, 4, 10))), "negative size"),
        (xml(("cat", ("nan", 1, 4, 10))), "not a number"),
        (xml(("cat", ("left", 1, 4, 10))), "not a number"),
        (xml(("cat", (1, 1, 40, 10))), "20 px outside the image of 20 x 10"),
        (xml(("cat", (1, 1, 4, 10))).replace("<name>cat</name>", ""), "has no name"),
        (xml(("cat", (1, 1, 4, 10)))[:-30], "is cut off"),
        (xml(("cat", (1, 1, 4, 10))).replace("<size>", "<sizes>"), "is not XML"),
    ],
)
def test_voc_faults_name_the_file(tmp_path: Path, text: str, words: str) -> None:
    devkit(tmp_path, {"000005": text})
    with pytest.raises(InputError, match=words) as caught:
        read_voc(tmp_path, None, "trainval")
    assert caught.value.findings[0].file.endswith("000005.xml") and caught.value.findings[0].fix


def test_voc_reports_the_faults_of_all_files_at_once(tmp_path: Path) -> None:
    home = devkit(
        tmp_path,
        {
            "000005": xml(("cat", (9, 1, 4, 10))),
            "000006": xml(("cat", (1, 1, 40, 10))),
            "000007": xml(),
            "000008": xml(),
        },
    )
    (home / "Annotations" / "000007.xml").unlink()
    (home / "JPEGImages" / "000008.jpg").unlink()
    with pytest.raises(InputError) as caught:
        read_voc(tmp_path, None, "trainval")
    assert [Path(finding.file).stem for finding in caught.value.findings] == ["000005", "000006", "000007", "000008"]


def test_voc_names_a_class_outside_the_given_list(tmp_path: Path) -> None:
    devkit(tmp_path, {"000005": xml(("cta", (1, 1, 4, 10)))})
    with pytest.raises(InputError, match="'cta'.*did you mean 'cat'"):
        read_voc(tmp_path, None, "trainval", classes=["cat", "dog"])


@pytest.mark.parametrize(
    ("year", "split", "words"),
    [
        ("2007", "trainvall", "did you mean 'trainval'"),
        ("2008", "trainval", "no VOC2008"),
    ],
)
def test_voc_splits_and_years_that_are_not_there(tmp_path: Path, year: str, split: str, words: str) -> None:
    devkit(tmp_path, {"000005": xml()})
    with pytest.raises(InputError, match=words):
        read_voc(tmp_path, year, split)


def test_voc_lists_may_repeat_but_not_be_empty(tmp_path: Path) -> None:
    home = devkit(tmp_path, {"000005": xml(), "000006": xml()})
    listed = home / "ImageSets" / "Main" / "trainval.txt"
    listed.write_text("000006\n000005\n000006\n000005\n")
    found = read_voc(tmp_path, None, "trainval")
    assert [record.image.stem for record in found.records] == ["000006", "000005"]
    (warning,) = found.warnings
    assert warning.item == "image 000006" and "listed twice (1 more" in warning.problem
    listed.write_text("\n")
    with pytest.raises(InputError, match="names no image"):
        read_voc(tmp_path, None, "trainval")


def test_a_folder_without_annotations_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a VOC devkit nor XML"):
        read_voc(tmp_path, None, "train")
    with pytest.raises(InputError, match="does not exist"):
        read_voc(tmp_path / "nowhere", None, "train")
