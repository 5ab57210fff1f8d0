from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from incdet.data.formats.reader import open_annotations, recognise
from incdet.errors import InputError

NAMES = "names: [cat, dog]\n"


def yolo(root: Path, labels: dict[str, str | None], head: str = f"train: images\n{NAMES}", folder: str = "") -> Path:
    """Pictures of 100 x 50 in ``images/<folder>`` with the text of their label files, None for no file."""
    for name, text in labels.items():
        for kind in ("images", "labels"):
            (root / kind / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "images" / folder / f"{name}.jpg"), np.zeros((50, 100, 3), np.uint8))
        if text is not None:
            (root / "labels" / folder / f"{name}.txt").write_text(text)
    if head:
        (root / "data.yaml").write_text(head)
    return root


@pytest.mark.parametrize("given", ["", "data.yaml"])
def test_boxes_and_outlines_become_corners(tmp_path: Path, given: str) -> None:
    yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.4\n\n1 0.1 0.2 0.3 0.2 0.3 0.6\n", "b": None, "c": ""})
    found = open_annotations(tmp_path / given)
    assert found.records[0].boxes.tolist() == pytest.approx(np.array([[40, 15, 60, 35], [10, 10, 30, 30]]))
    assert found.records[0].names == ("cat", "dog") and found.source_ids == {"cat": 0, "dog": 1}
    assert [len(record.names) for record in found.records] == [2, 0, 0]
    assert found.origin == f"{tmp_path / given}: YOLO, split train"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2 0.5 0.5 0.2 0.4", "line 1: has the class 2 -> use one of those in data.yaml: 0 cat, 1 dog"),
        ("-1 0.5 0.5 0.2 0.4", "has the class -1"),
        ("0.5 0.5 0.5 0.2 0.4", "has the class 0.5"),
        ("cat 0.5 0.5 0.2 0.4", "is cat 0.5"),
        ("nan 0.5 0.5 0.2 0.4", "has the class nan"),
        ("0 0.5 0.5 0.2", "has 4 numbers"),
        ("0 0.5 0.5 0.2 0.4 0.9", "as detections with a score have"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "has 8 numbers"),
        ("0 40 15 60 35", "look like pixels"),
        ("0 0.5 0.5 0 0.4", "is empty"),
        ("0 0.5 0.5 nan 0.4", "is not a number"),
        ("0 0.9 0.5 0.4 0.4", "10 px outside the image of 100 x 50"),
        ("0 0.5 0.5 0.2 0.4 " + "9" * 400, "has 6 numbers"),
    ],
)
def test_a_fault_names_the_file_and_the_line(tmp_path: Path, line: str, said: str) -> None:
    yolo(tmp_path, {"a": line})
    with pytest.raises(InputError, match=said) as caught:
        open_annotations(tmp_path)
    assert caught.value.findings[0].file == str(tmp_path / "labels" / "a.txt") and caught.value.findings[0].fix


def test_numbers_of_six_digits_are_not_called_clipped(tmp_path: Path) -> None:
    yolo(tmp_path, {"a": "0 0.500001 0.5 1.0 1.0"})
    assert open_annotations(tmp_path).warnings == ()


def test_key_points_follow_the_box(tmp_path: Path) -> None:
    yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.4 0.1 0.1 0.2 0.2"}, f"train: images\nkpt_shape: [2, 2]\n{NAMES}")
    assert open_annotations(tmp_path).records[0].boxes.tolist() == pytest.approx(np.array([[40, 15, 60, 35]]))


@pytest.mark.parametrize(
    "head",
    [
        f"path: .\ntrain: images/train\nval: images/val\n{NAMES}",
        f"train: ../images/train\nval: ../images/val\n{NAMES}",
        "path: ../datasets/mine\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n",
        f"train: [images/train]\nval: images\\val\n{NAMES}",
        f"path: {{root}}\ntrain: {{root}}/images/train\nval: images/val\n{NAMES}",
    ],
    ids=["plain", "one folder too high", "another path", "lists", "absolute"],
)
def test_splits_are_found_as_the_tools_write_them(tmp_path: Path, head: str) -> None:
    head = head.replace("{root}", str(tmp_path))
    yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.4"}, head, "train")
    yolo(tmp_path, {"b": "1 0.5 0.5 0.2 0.4", "c": None}, head, "val")
    assert recognise(tmp_path).splits == ("train", "val")
    assert [len(open_annotations(tmp_path, purpose=purpose)) for purpose in ("train", "test")] == [1, 2]


def test_pictures_may_be_listed_in_a_file(tmp_path: Path) -> None:
    yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.4", "b": "0 0.5 0.5 0.2 0.4"}, f"train: train.txt\n{NAMES}")
    (tmp_path / "train.txt").write_text("./images/b.jpg\n")
    assert [record.image.name for record in open_annotations(tmp_path).records] == ["b.jpg"]
    (tmp_path / "train.txt").write_text("/etc/b.jpg\n")
    with pytest.raises(InputError, match="not below"):
        open_annotations(tmp_path)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (f"train: gone\n{NAMES}", "key train: names gone, which is not below"),
        (f"train: /etc\n{NAMES}", "key train: names /etc"),
        (f"train: ../../etc\n{NAMES}", "key train: names ../../etc"),
        ("train: images\nnames: []\n", "key names: is"),
        ("train: images\nnames: 3\n", "key names: is 3"),
        ("train: images\nnames: {0: cat, 2: dog}\n", "numbers its classes"),
        ("train: images\nnames: [cat, 'cat ']\n", "class 1: has the name cat of class 0"),
        ("train: images\nnames: [cat, '']\n", "class 1: has the name"),
        ("train: [images\nnames: [cat]\n", "data.yaml"),
        ("train: &a [*a]\nnames: " + "[" * 3000, "data.yaml"),
    ],
)
def test_a_faulty_yaml_is_refused(tmp_path: Path, head: str, said: str) -> None:
    yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.4"}, head)
    with pytest.raises(InputError, match=said):
        open_annotations(tmp_path / "data.yaml")


def test_without_any_label_file_nothing_is_taken_for_empty(tmp_path: Path) -> None:
    yolo(tmp_path, {"a": None, "b": None})
    with pytest.raises(InputError, match="has a label file, for example .*labels/a.txt"):
        open_annotations(tmp_path)


def test_a_folder_of_label_files_with_its_list_of_classes_is_read(tmp_path: Path) -> None:
    yolo(tmp_path, {"a": "1 0.5 0.5 0.2 0.4"}, head="")
    (tmp_path / "labels" / "classes.txt").write_text("cat\ndog\n")
    found = open_annotations(tmp_path)
    assert found.names == ("cat", "dog") and found.records[0].names == ("dog",)
    for name in ("a.txt", "classes.txt"):
        (tmp_path / "labels" / name).rename(tmp_path / "images" / name)
    assert open_annotations(tmp_path / "images").records[0].names == ("dog",)


def test_shares_are_of_the_picture_as_it_is_shown_or_as_it_is_asked_for(tmp_path: Path) -> None:
    yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.4"})
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (100, 50)).save(tmp_path / "images" / "a.jpg", exif=turned)
    for exif, size in (("auto", (50, 100)), ("apply", (50, 100)), ("ignore", (100, 50))):
        (record,) = open_annotations(tmp_path, exif=exif).records  # type: ignore[arg-type]
        assert (record.width, record.height) == size


def test_references_that_would_grow_without_end_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.4"}, "\n".join([*lines, "train: images", "names: *a29", ""]))
    with pytest.raises(InputError, match="uses references"):
        open_annotations(tmp_path)
