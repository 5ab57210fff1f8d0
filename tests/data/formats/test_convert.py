"""Every format is written and read back: what it can say comes back, what it cannot is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from incdet.data.formats.coco import write_coco
from incdet.data.formats.convert import FORMATS, Format, convert
from incdet.data.formats.reader import open_annotations, recognise
from incdet.data.records import Record
from incdet.errors import InputError

NAMES = ("zebra", 'R&D; cart, "blue"', "Käse", "电车")
IDS = {name: number for number, name in enumerate(NAMES, start=3)}


def make_records(folder: Path, *, count: int = 6, plain: bool = True, seed: int = 0) -> list[Record]:
    """Photographs with zero to four boxes at any place of float32, all classes shown by the first two."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(count):
        width, height = rng.integers(20, 90, 2).tolist()
        path = folder / f"photo {number}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        held = 4 if number < 2 else int(rng.integers(0, 4))
        low = rng.uniform(0, 0.6, (held, 2)) * (width, height)
        boxes = np.concatenate([low, low + rng.uniform(0.1, 0.4, (held, 2)) * (width, height)], axis=1)
        names = tuple(NAMES[(number + place) % 4] for place in range(held))
        coverage = frozenset(NAMES) if plain or number else frozenset(names) - {NAMES[0]}
        rows = [row for row, name in enumerate(names) if name in coverage]
        ignore = np.zeros(len(rows), bool) if plain else rng.random(len(rows)) < 0.5
        own = tuple(names[row] for row in rows)
        corners = boxes[rows].astype(np.float32)
        records.append(Record(path, number + 1, width, height, corners, own, ignore, coverage))
    return records


def source(tmp_path: Path, *splits: str, plain: bool = True) -> Path:
    root = tmp_path / "source"
    for seed, split in enumerate(splits):
        records = make_records(root / "images" / split, plain=plain, seed=seed)
        write_coco(records, root / f"{split or 'all'}.json", NAMES, IDS, images=root / "images" / split)
    return root


def told(records: Any) -> list[Any]:
    """What a format can say of an image: names of pictures and ids differ."""
    return [
        (r.width, r.height, r.boxes.tolist(), r.names, r.ignore.tolist(), sorted(r.coverage), r.image.read_bytes())
        for r in records
    ]


@pytest.mark.parametrize("target", FORMATS)
def test_what_is_written_comes_back(tmp_path: Path, target: Format) -> None:
    path = source(tmp_path, "")
    convert(path, target, tmp_path / "out")
    before, after = open_annotations(path), open_annotations(tmp_path / "out")
    assert told(after.records) == told(before.records)
    assert set(after.names) == set(NAMES) and after.warnings == ()


@pytest.mark.parametrize("target", ["coco", "voc", "labelme"])
def test_ignored_objects_and_coverage_come_back_where_a_format_can_hold_them(tmp_path: Path, target: Format) -> None:
    path = source(tmp_path, "", plain=False)
    (written,) = convert(path, target, tmp_path / "out")
    assert told(open_annotations(tmp_path / "out").records) == told(open_annotations(path).records)
    assert written.warnings == ()


@pytest.mark.parametrize(("target", "said"), [("yolo", ["objects", "coverage"]), ("csv", ["coverage"])])
def test_what_a_format_cannot_hold_is_told(tmp_path: Path, target: Format, said: list[str]) -> None:
    path = source(tmp_path, "", plain=False)
    (written,) = convert(path, target, tmp_path / "out")
    assert [warning.item for warning in written.warnings] == said
    kept = [
        [n for n, i in zip(r.names, r.ignore, strict=True) if not (i and target == "yolo")]
        for r in open_annotations(path).records
    ]
    assert [list(record.names) for record in open_annotations(tmp_path / "out").records] == kept


@pytest.mark.parametrize("target", FORMATS)
def test_splits_stay_apart_and_pictures_of_one_name_too(tmp_path: Path, target: Format) -> None:
    path = source(tmp_path, "train", "test")
    assert [len(one) for one in convert(path, target, tmp_path / "out")] == [6, 6]
    for purpose in ("train", "test"):
        before = open_annotations(path, purpose=purpose)
        after = open_annotations(tmp_path / "out", purpose=purpose)
        assert told(after.records) == told(before.records)
    assert len(recognise(tmp_path / "out").splits) == 2


@pytest.mark.parametrize("first", FORMATS)
def test_any_format_can_be_the_source_of_any_other(tmp_path: Path, first: Format) -> None:
    path = source(tmp_path, "")
    convert(path, first, tmp_path / "first")
    for second in FORMATS:
        convert(tmp_path / "first", second, tmp_path / f"second_{second}", link=True)
        after = open_annotations(tmp_path / f"second_{second}")
        assert told(after.records) == told(open_annotations(path).records)


def test_a_class_without_an_object_stays_covered_where_a_format_can_say_so(
    make_coco: Callable[..., Any], tmp_path: Path
) -> None:
    own = make_coco(edit=lambda content: content["categories"].append({"id": 9, "name": "cow"}))
    targets: tuple[Format, ...] = ("coco", "voc", "yolo", "labelme")
    for target in targets:
        convert(own.annotations, target, tmp_path / "out" / target)
        assert open_annotations(tmp_path / "out" / target).records[0].coverage == {"cat", "dog", "cow"}


def test_a_table_says_which_classes_it_loses(make_coco: Callable[..., Any], tmp_path: Path) -> None:
    own = make_coco(edit=lambda content: content["categories"].append({"id": 9, "name": "cow"}))
    (written,) = convert(own.annotations, "csv", tmp_path / "out")
    (warning,) = written.warnings
    assert "1 without an object were left out: cow" in warning.problem
    assert open_annotations(tmp_path / "out").names == ("cat", "dog")


def test_the_mark_of_cut_off_objects_is_read_and_its_loss_told(make_coco: Callable[..., Any], tmp_path: Path) -> None:
    convert(make_coco().annotations, "voc", tmp_path / "voc")
    assert open_annotations(tmp_path / "voc").truncated == 0
    first = next(file for file in sorted((tmp_path / "voc").rglob("*.xml")) if "<object>" in file.read_text("utf-8"))
    text = first.read_text("utf-8")
    first.write_text(text.replace("<difficult>", "<truncated>1</truncated><difficult>", 1), "utf-8")
    (written,) = convert(tmp_path / "voc", "coco", tmp_path / "again")
    assert written.truncated == 1 and [warning.problem for warning in written.warnings] == [
        "1 objects lose the mark `truncated`"
    ]
    first.write_text(text.replace("<difficult>", "<truncated>perhaps</truncated><difficult>", 1), "utf-8")
    (warning,) = open_annotations(tmp_path / "voc").warnings
    assert warning.problem == "has truncated perhaps" and first.name in warning.file


def test_classes_of_the_challenge_do_not_grow_to_all_twenty(make_coco: Callable[..., Any], tmp_path: Path) -> None:
    convert(make_coco().annotations, "voc", tmp_path / "out")
    assert open_annotations(tmp_path / "out").records[0].coverage == {"cat", "dog"}


def test_what_is_refused(make_coco: Callable[..., Any], tmp_path: Path) -> None:
    own = make_coco()
    with pytest.raises(InputError, match="did you mean 'yolo'"):
        convert(own.annotations, "yollo", tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is not empty"):
        convert(own.annotations, "yolo", own.images)
    with pytest.raises(InputError, match="does not exist"):
        convert(tmp_path / "none.json", "yolo", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_verb_converts_and_says_what_is_lost(
    make_coco: Callable[..., Any], incdet_command: Callable[..., Any], tmp_path: Path
) -> None:
    own = make_coco(edit=lambda content: content["annotations"][0].update(iscrowd=1))
    done = incdet_command("convert", "--data", own.annotations, "--to", "yolo", "--output", tmp_path / "out")
    assert done.code == 0
    assert f"{own.annotations}: COCO JSON: 4 images, 3 boxes, 2 classes" in done.out
    assert "1 ignored objects were left out" in done.out and f"written: {tmp_path / 'out'}" in done.out
    again = incdet_command("convert", "--data", own.annotations, "--to", "yolo", "--output", tmp_path / "out")
    assert again.code == 2 and "is not empty" in again.err


def test_the_verb_offers_what_the_function_knows() -> None:
    from incdet.app.verbs import convert as verb

    assert verb.FORMATS == FORMATS
