"""COCO files as strangers write them: ids, flags, coverage, names and paths; all of it right or refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from incdet.data.formats import read_coco, write_coco
from incdet.data.formats.coco_checks import check_coco
from incdet.errors import InputError

Make = Callable[..., Any]


def edited(make_coco: Make, edit: Callable[[dict[str, Any]], object], **more: Any) -> Any:
    return make_coco(edit=edit, **more)


def rename_ids(new: Callable[[int], Any]) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["id"] = new(image["id"])
        for annotation in content["annotations"]:
            annotation["image_id"] = new(annotation["image_id"])

    return edit


# --- ids


@pytest.mark.parametrize(
    "new", [lambda n: 2**53 + n, lambda n: 2**70 + n, lambda n: -n, lambda n: f"img-{n}", lambda n: n or "x"]
)
def test_any_whole_number_or_text_is_an_image_id_and_is_written_back(
    make_coco: Make, new: Callable[[int], Any], tmp_path: Path
) -> None:
    own = edited(make_coco, rename_ids(new))
    found = read_coco(*own)
    assert [record.source_id for record in found.records] == [new(number) for number in range(1, 5)]
    assert [record.image_id for record in found.records] == [1, 2, 3, 4]
    write_coco(found.records, tmp_path / "again.json", found.names, found.source_ids, images=own.images)
    assert read_coco(tmp_path / "again.json", own.images) == found


def test_ids_written_with_and_without_quotation_marks_do_not_meet(make_coco: Make) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["annotations"][0]["image_id"] = "1"

    with pytest.raises(InputError, match="with or without quotation marks"):
        read_coco(*edited(make_coco, edit))


@pytest.mark.parametrize("number", [True, 1.5, None, [], "", {"a": 1}])
def test_anything_else_is_no_id(make_coco: Make, number: Any) -> None:
    with pytest.raises(InputError, match="has the id"):
        read_coco(*edited(make_coco, lambda content: content["images"][0].update(id=number)))


def test_categories_may_have_texts_for_ids(make_coco: Make) -> None:
    def edit(content: dict[str, Any]) -> None:
        for entry in content["categories"]:
            entry["id"] = f"c{entry['id']}"
        for entry in content["annotations"]:
            entry["category_id"] = f"c{entry['category_id']}"

    found = read_coco(*edited(make_coco, edit))
    assert found.source_ids == {"cat": 1, "dog": 2} and found.records[0].names == ("dog",)


# --- flags


@pytest.mark.parametrize("key", ["iscrowd", "difficult", "ignore"])
@pytest.mark.parametrize(
    ("value", "ignored"),
    [("0", False), ("False", False), (0.0, False), (None, False), ("", False), (False, False)]
    + [("1", True), ("true", True), ("True", True), (1.0, True), (True, True), (1, True)],
)
def test_a_flag_is_read_as_it_is_meant(make_coco: Make, key: str, value: Any, ignored: bool) -> None:
    own = edited(make_coco, lambda content: content["annotations"][0].update({key: value}))
    assert read_coco(*own).records[0].ignore.tolist() == [ignored]


@pytest.mark.parametrize("value", [2, -1, "maybe", [], {}, 0.5, "2"])
def test_what_is_no_flag_is_refused(make_coco: Make, value: Any) -> None:
    with pytest.raises(InputError, match="annotation 1: has iscrowd .* -> write 0 or 1"):
        read_coco(*edited(make_coco, lambda content: content["annotations"][0].update(iscrowd=value)))


# --- coverage


def test_federated_annotations_cover_what_they_say(make_coco: Make) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 3, "name": "cow"})
        for entry in content["images"]:
            entry.update(neg_category_ids=[], not_exhaustive_category_ids=[])
        content["images"][1].update(neg_category_ids=[3])
        content["images"][2].update(neg_category_ids=[3], not_exhaustive_category_ids=[2])

    found = read_coco(*edited(make_coco, edit))  # the images show dog, cat, dog, cat
    assert [record.coverage for record in found.records] == [{"dog"}, {"cat", "cow"}, {"cow"}, {"cat"}]
    assert [record.names for record in found.records] == [("dog",), ("cat",), (), ("cat",)]
    (warning,) = found.warnings
    assert "1 boxes of categories that are not annotated exhaustively" in warning.problem


def test_partial_coverage_is_written_for_other_programs_too(make_coco: Make, tmp_path: Path) -> None:
    own = edited(make_coco, lambda content: content["images"][0].update(neg_category_ids=[1]), images=2)
    found = read_coco(*own)
    assert [record.coverage for record in found.records] == [{"cat", "dog"}, {"cat", "dog"}]
    one = found.records[1].restrict(["cat"])
    write_coco([one], tmp_path / "again.json", found.names, found.source_ids, images=own.images)
    (entry,) = json.loads((tmp_path / "again.json").read_text())["images"]
    assert entry["covered_category_ids"] == [1] and entry["neg_category_ids"] == []
    assert read_coco(tmp_path / "again.json", own.images).records == (one,)


@pytest.mark.parametrize("key", ["neg_category_ids", "not_exhaustive_category_ids"])
@pytest.mark.parametrize("value", [7, [7], ["1"], [True], [[1]], "1"])
def test_coverage_of_unknown_categories_is_refused(make_coco: Make, key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"image 1: has {key}"):
        read_coco(*edited(make_coco, lambda content: content["images"][0].update({key: value})))


# --- class names


@pytest.mark.parametrize("name", [" cat", "cat \n", "\ufeffcat", "c\u0061t"])
def test_a_name_is_read_without_the_space_around_it(make_coco: Make, name: str) -> None:
    assert read_coco(*make_coco(names=(name, "dog"))).names == ("cat", "dog")


def test_names_that_are_equal_without_space_are_one_name(make_coco: Make) -> None:
    with pytest.raises(InputError, match="has the name cat of category 1|has the name 'cat '"):
        read_coco(*make_coco(names=("cat", "cat ")))


@pytest.mark.parametrize("name", ["\ud800tram", "a\0b", "x" * 5000, "\u200b\x07", 5, None, " "])
def test_a_name_that_cannot_be_written_is_refused(make_coco: Make, name: Any) -> None:
    with pytest.raises(InputError) as caught:
        read_coco(*edited(make_coco, lambda content: content["categories"][0].update(name=name)))
    assert caught.value.findings[0].item == "category 1"
    str(caught.value).encode("utf-8")
    assert len(str(caught.value.findings[0])) < 600


def placeholder(content: dict[str, Any], **more: Any) -> None:
    content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none", **more})


def test_the_placeholder_of_some_tools_is_no_class(make_coco: Make) -> None:
    found = read_coco(*edited(make_coco, placeholder))
    assert found.names == ("cat", "dog") and found.records[0].coverage == {"cat", "dog"}
    assert [(one.item, one.severity) for one in found.warnings] == [("category 0", "warning")]


def test_a_category_0_of_its_own_is_a_class(make_coco: Make) -> None:
    def used(content: dict[str, Any]) -> None:
        placeholder(content)
        content["annotations"][0]["category_id"] = 0

    def beside_others(content: dict[str, Any]) -> None:
        placeholder(content)
        content["categories"][1]["supercategory"] = "none"

    assert read_coco(*edited(make_coco, used)).names == ("animals", "cat", "dog")
    assert read_coco(*edited(make_coco, beside_others, folder="b")).names == ("animals", "cat", "dog")


# --- pictures


def test_back_slashes_and_the_folders_own_name_lead_to_the_picture(make_coco: Make) -> None:
    def edit(content: dict[str, Any]) -> None:
        for entry in content["images"]:
            entry["file_name"] = "images\\" + entry["file_name"]

    own = edited(make_coco, edit)
    for folder in (own.images, own.images.parent):
        assert read_coco(own.annotations, folder).records[0].image == own.images / "001.png"


def test_no_back_slash_is_ever_written(make_coco: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_coco(*make_coco())
    monkeypatch.setattr(os.path, "relpath", lambda path, start: "images/001.png")
    write_coco(found.records, tmp_path / "again.json", found.names, found.source_ids)
    assert "\\" not in (tmp_path / "again.json").read_text()


@pytest.mark.parametrize("name", ["../secret/001.png", "..\\secret\\001.png", "a/../../secret/001.png", "{absolute}"])
def test_a_path_that_leaves_the_folder_is_refused_with_a_way_that_works(
    make_coco: Make, tmp_path: Path, name: str
) -> None:
    path = name.format(absolute=tmp_path / "coco" / "secret" / "001.png")
    own = edited(make_coco, lambda content: [entry.update(file_name=path) for entry in content["images"]])
    shutil.copytree(own.images, own.images.parent / "secret")
    with pytest.raises(InputError, match=r"outside of .* \(3 more do so\) -> ") as caught:
        read_coco(*own)
    fix = caught.value.findings[0].fix
    folder = Path(fix.removeprefix("give --images ").removesuffix(" if you mean the picture there"))
    assert read_coco(own.annotations, folder).records[0].image.samefile(tmp_path / "coco" / "secret" / "001.png")


def test_an_absolute_path_inside_the_folder_is_taken(make_coco: Make, tmp_path: Path) -> None:
    inside = str(tmp_path / "coco" / "images" / "001.png")
    own = edited(make_coco, lambda content: content["images"][0].update(file_name=inside))
    assert read_coco(*own).records[0].image.samefile(inside)


@pytest.mark.parametrize("move", ["sub", "../elsewhere"])
def test_the_fix_for_a_picture_in_another_folder_works(make_coco: Make, move: str) -> None:
    own = make_coco()
    target = own.images / move
    target.mkdir()
    for picture in own.images.glob("*.png"):
        picture.rename(target / picture.name)
    with pytest.raises(InputError) as caught:
        read_coco(*own)
    fix = caught.value.findings[0].fix
    if move == "sub":
        assert fix == "there is sub/001.png: correct the file name"
    else:
        assert len(read_coco(own.annotations, Path(fix.removeprefix("give --images ")))) == 4


@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "a\0b.png", "\ud800.png", "x/" * 3000 + "a.png", " "])
def test_a_name_that_no_file_can_have_is_a_missing_picture(make_coco: Make, name: str) -> None:
    own = edited(make_coco, lambda content: content["images"][0].update(file_name=name))
    (finding,) = check_coco(own.annotations, own.images)
    assert finding.item == "image 1" and len(str(finding)) < 600
    str(finding).encode("utf-8")


# --- content that no program wrote


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "nests its brackets"),
        ('{"images": [' + "1" * 5000 + "]}", "thousands of digits"),
        ("image,xmin,ymin\na.jpg,1,2", "not JSON.*named .csv"),
        ("<annotation/>", "is not JSON"),
    ],
    ids=["deep", "digits", "table", "xml"],
)
def test_json_that_cannot_be_read_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=said):
        read_coco(tmp_path / "a.json", tmp_path)


def test_a_number_too_large_for_a_coordinate_is_refused(make_coco: Make) -> None:
    own = edited(make_coco, lambda content: content["annotations"][0].update(bbox=[1, 1, 10**400, 5]))
    with pytest.raises(InputError, match="annotation 1: its box .* is not a number"):
        read_coco(*own)


@pytest.mark.parametrize("side", [10**400, 10**7, 0, 96.5, True, "wide", float("nan")])
def test_a_size_no_picture_has_is_refused(make_coco: Make, side: Any) -> None:
    with pytest.raises(InputError, match="image 1: has the size"):
        read_coco(*edited(make_coco, lambda content: content["images"][0].update(width=side)))


@pytest.mark.parametrize("side", [64.0, "64", "64.0"])
def test_a_size_may_be_written_with_a_point_or_as_text(make_coco: Make, side: Any) -> None:
    assert read_coco(*edited(make_coco, lambda content: content["images"][0].update(width=side))).records[0].width == 64


def test_text_of_windows_is_read(make_coco: Make) -> None:
    own = make_coco()
    text = own.annotations.read_text("utf-8")
    for encoding in ("utf-8-sig", "utf-16"):
        own.annotations.write_text(text, encoding=encoding)
        assert len(read_coco(*own)) == 4


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    for path in (tmp_path / "a.json", Path("/dev/zero")):
        with pytest.raises(InputError, match="is no regular file"):
            read_coco(path, tmp_path)
