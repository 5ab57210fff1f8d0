"""Every fault of a COCO file has a finding that names the file, the object and the fix."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incdet.data.formats.boxes import TOLERANCE, judge_box
from incdet.data.formats.coco import read_coco
from incdet.data.formats.coco_checks import check_coco
from incdet.errors import InputError

Edit = Callable[[dict[str, Any]], object]


def box(*values: Any) -> Edit:
    return lambda content: content["annotations"][1].update(bbox=list(values))


def both(content: dict[str, Any]) -> None:
    content["annotations"][0]["bbox"] = [1, 1, 0, 4]
    content["annotations"][2]["category_id"] = 77


FAULTS: dict[str, tuple[Edit, str, str]] = {
    "empty box": (box(5, 5, 0, 9), "annotation 2", "is empty"),
    "negative box": (box(5, 5, -4, 9), "annotation 2", "negative size"),
    "not a number": (box(5, 5, math.nan, 9), "annotation 2", "not a number"),
    "infinite": (box(5, 5, math.inf, 9), "annotation 2", "not a number"),
    "outside": (box(50, 5, 20, 9), "annotation 2", "6 px outside the image of 64 x 48"),
    "far outside": (box(500, 5, 20, 9), "annotation 2", "outside"),
    "three numbers": (box(5, 5, 20), "annotation 2", r"has the bbox \[5, 5, 20\]"),
    "text box": (box(5, 5, "20", 9), "annotation 2", "has the bbox"),
    "no box": (lambda c: c["annotations"][1].pop("bbox"), "annotation 2", "has the bbox None"),
    "label": (lambda c: c["annotations"][1].update(category_id=9), "annotation 2", "label 9 without a category"),
    "no label": (lambda c: c["annotations"][1].pop("category_id"), "annotation 2", "label None"),
    "image of annotation": (lambda c: c["annotations"][1].update(image_id=99), "annotation 2", "image 99.*not listed"),
    "annotation twice": (lambda c: c["annotations"][1].update(id=1), "annotation 1", "id of an earlier"),
    "category name twice": (lambda c: c["categories"][1].update(name="cat"), "category 2", "'cat' of category 1"),
    "category id twice": (lambda c: c["categories"].append({"id": 1, "name": "cow"}), "category 1", "defined twice"),
    "category without name": (lambda c: c["categories"][1].pop("name"), "category 2", "name None"),
    "category without id": (lambda c: c["categories"][1].pop("id"), "category at position 1", "id None"),
    "image twice": (lambda c: c["images"][1].update(id=1), "image 1", "listed twice"),
    "image without id": (lambda c: c["images"][1].pop("id"), "image at position 1", "id None"),
    "image without size": (lambda c: c["images"][1].pop("width"), "image 2", "size None x 48"),
    "image without file": (lambda c: c["images"][1].pop("file_name"), "image 2", "file_name None"),
    "missing picture": (lambda c: c["images"][1].update(file_name="gone.png"), "image 2", "missing picture gone.png"),
    "missing folder": (lambda c: c["images"][1].update(file_name="x/002.png"), "image 2", "missing picture x/002.png"),
    "coverage": (lambda c: c["images"][1].update(covered_category_ids=[1, 8]), "image 2", r"covered.*\[1, 8\]"),
    "no categories": (lambda c: c.pop("categories"), "key 'categories'", "is missing"),
    "empty images": (lambda c: c.update(images=[]), "key 'images'", "is empty"),
    "annotations no list": (lambda c: c.update(annotations={}), "key 'annotations'", "not a list"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_the_reader_refuses_it(name: str, make_coco: Callable[..., Any]) -> None:
    edit, item, problem = FAULTS[name]
    data = make_coco(edit=edit)
    findings = [f for f in check_coco(data.annotations, data.images) if f.severity == "error" and f.item == item]
    assert findings, "no finding names the object"
    assert findings[0].file == str(data.annotations) and findings[0].fix
    with pytest.raises(InputError, match=problem):
        read_coco(data.annotations, data.images)


def test_a_sound_file_has_no_findings(make_coco: Callable[..., Any]) -> None:
    data = make_coco()
    assert check_coco(data.annotations, data.images) == []


def test_all_faults_are_reported_at_once(make_coco: Callable[..., Any]) -> None:
    data = make_coco(edit=both)
    with pytest.raises(InputError) as caught:
        read_coco(data.annotations, data.images)
    assert {finding.item for finding in caught.value.findings} == {"annotation 1", "annotation 3"}


def test_corners_mistaken_for_width_and_height_get_one_finding(make_coco: Callable[..., Any]) -> None:
    def corners(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            x, y, w, h = entry["bbox"]
            entry["bbox"] = [x + 20, y, x + w + 20, y + h]

    data = make_coco(edit=corners)
    (finding,) = check_coco(data.annotations, data.images)
    assert "corners" in finding.problem and "4 of them leave the image" in finding.problem
    assert "x2 - x1" in finding.fix


def test_normalised_boxes_get_one_finding(make_coco: Callable[..., Any]) -> None:
    def normalise(content: dict[str, Any]) -> None:
        for entry in content["annotations"]:
            entry["bbox"] = [0.1, 0.2, 0.3, 0.25]

    data = make_coco(edit=normalise)
    (finding,) = check_coco(data.annotations, data.images)
    assert "normalised" in finding.problem


def test_a_picture_under_another_suffix_is_pointed_at(make_coco: Callable[..., Any]) -> None:
    data = make_coco(edit=lambda content: content["images"][0].update(file_name="001.jpg"))
    (finding,) = check_coco(data.annotations, data.images)
    assert "001.png" in finding.fix


def test_one_picture_under_two_ids_is_a_warning(make_coco: Callable[..., Any]) -> None:
    data = make_coco(edit=lambda content: content["images"][1].update(file_name="001.png"))
    (finding,) = check_coco(data.annotations, data.images)
    assert finding.severity == "warning" and "image 1" in finding.problem


def test_missing_files_point_at_their_neighbours(make_coco: Callable[..., Any]) -> None:
    data = make_coco()
    (finding,) = check_coco(data.annotations.with_name("anotations.json"), data.images)
    assert "does not exist" in finding.problem and "annotations.json" in finding.fix
    (finding,) = check_coco(data.annotations, data.images.with_name("image"))
    assert finding.item == "folder" and "images" in finding.fix
    with pytest.raises(InputError, match="is a folder"):
        read_coco(data.images, data.images)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.995])
def test_a_file_that_is_cut_off_is_called_that(make_coco: Callable[..., Any], share: float) -> None:
    data = make_coco()
    text = data.annotations.read_text()
    data.annotations.write_text(text[: int(len(text) * share)])
    (finding,) = check_coco(data.annotations, data.images)
    assert "cut off" in finding.problem and finding.file == str(data.annotations)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{'images': []}", "is not JSON"),
        ('[{"image_id": 1}]', "detection results"),
        ("3", "no JSON object"),
    ],
)
def test_a_file_of_another_kind_is_refused(make_coco: Callable[..., Any], text: str, words: str) -> None:
    data = make_coco()
    data.annotations.write_text(text)
    with pytest.raises(InputError, match=words):
        read_coco(data.annotations, data.images)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_coco(tmp_path / "a.json", tmp_path)


@given(st.lists(st.floats(-50, 150, width=32), min_size=4, max_size=4))
def test_a_box_is_inside_after_the_verdict_or_refused_with_a_reason(values: list[float]) -> None:
    x1, y1, x2, y2 = values
    verdict = judge_box(x1, y1, x2, y2, 100, 80)
    if verdict.corners is None:
        assert verdict.problem and verdict.fix
    else:
        left, top, right, bottom = verdict.corners
        assert 0 <= left < right <= 100 and 0 <= top < bottom <= 80 and verdict.excess <= TOLERANCE
        assert max(abs(a - b) for a, b in zip(values, verdict.corners, strict=True)) == verdict.excess


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-1, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


def entries(*keys: str) -> st.SearchStrategy[Any]:
    entry = st.fixed_dictionaries({}, optional={key: st.integers(0, 3) | ANYTHING for key in keys})
    return st.lists(entry | ANYTHING, max_size=3) | st.lists(entry, min_size=1, max_size=4)


@settings(max_examples=200)
@given(
    ANYTHING
    | st.fixed_dictionaries(
        {
            "images": entries("id", "file_name", "width", "height", "covered_category_ids"),
            "categories": entries("id", "name"),
            "annotations": entries("id", "image_id", "category_id", "bbox"),
            "info": ANYTHING,
        }
    )
)
def test_no_content_makes_the_check_itself_fail(content: Any) -> None:
    findings = check_coco(Path("a.json"), Path("nowhere"), json.loads(json.dumps([content]))[0])
    assert findings[0].file == "nowhere"
    assert all(finding.problem and finding.fix for finding in findings)
