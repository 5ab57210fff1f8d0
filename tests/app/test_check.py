"""``incdet check``: counts, all faults at once, pictures of other sets, and a copy without what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from incdet.vocab import Vocabulary

Make = Callable[..., Any]


def spoil(content: dict[str, Any]) -> None:
    """One of each: an empty box, a far one, one outside, an unknown class, a repeated object, a missing picture."""
    content["annotations"][0].update(bbox=[5, 5, 0, 9])
    content["annotations"][1].update(bbox=[500, 5, 20, 9])
    content["annotations"][2].update(category_id=77)
    content["annotations"].append({**content["annotations"][3], "id": 99})
    content["images"].append({"id": 50, "file_name": "gone.png", "width": 64, "height": 48})


def test_counts_and_all_findings_are_printed(make_coco: Make, incdet_command: Make) -> None:
    own = make_coco(edit=spoil)
    (own.images / "003.png").write_bytes((own.images / "003.png").read_bytes()[:-40])
    done = incdet_command("check", "--data", own.annotations)
    assert done.code == 2
    for said in (
        "annotation 1: its box",
        "annotation 2",
        "label 77",
        "missing picture gone.png",
        "image 3: is cut off",
    ):
        assert said in done.out
    assert "3 images, 2 boxes, 2 classes" in done.out and "stand(s) twice" in done.out
    assert f"{own.annotations}: 5 error(s), " in done.out


def test_the_repaired_copy_is_clean_and_the_source_stays(make_coco: Make, incdet_command: Make, tmp_path: Path) -> None:
    own = make_coco(edit=spoil)
    before = own.annotations.read_bytes()
    done = incdet_command("check", "--data", own.annotations, "--fix", tmp_path / "fixed")
    assert done.code == 2  # what was given is faulty, and whoever asks for a copy is told so
    words = done.out.splitlines()[-1].rpartition("to be used by ")[2].split()
    again = incdet_command("check", *words)
    assert again.code == 0, again.out
    assert "4 images, 1 boxes, 2 classes" in again.out and "0 error(s)" in again.out
    assert own.annotations.read_bytes() == before
    assert [entry["id"] for entry in json.loads((tmp_path / "fixed" / "annotations.json").read_text())["images"]] == [
        1,
        2,
        3,
        4,
    ]
    assert incdet_command("check", "--data", own.annotations, "--fix", tmp_path / "fixed").code == 2


def test_exchanged_sides_are_put_right_where_the_boxes_allow_it(
    make_coco: Make, incdet_command: Make, tmp_path: Path
) -> None:
    def exchange(content: dict[str, Any]) -> None:
        for entry in content["images"]:
            entry.update(width=48, height=64)
        content["annotations"][1].update(bbox=[8, 10, 20, 50])

    own = make_coco(edit=exchange)
    done = incdet_command("check", "--data", own.annotations, "--fix", tmp_path / "fixed")
    assert done.out.count("width and height are exchanged") == 4
    images = json.loads((tmp_path / "fixed" / "annotations.json").read_text())["images"]
    assert [(entry["id"], entry["width"], entry["height"]) for entry in images] == [
        (1, 64, 48),
        (3, 64, 48),
        (4, 64, 48),
    ]


@pytest.mark.parametrize("suffix", ["xml", "csv", "txt"])
def test_other_formats_are_repaired_too(make_coco: Make, incdet_command: Make, tmp_path: Path, suffix: str) -> None:
    target = {"xml": "voc", "csv": "csv", "txt": "yolo"}[suffix]
    incdet_command("convert", "--data", make_coco().annotations, "--to", target, "--output", tmp_path / "own")
    path = sorted(path for path in (tmp_path / "own").rglob(f"*.{suffix}") if "ImageSets" not in path.parts)[0]
    text = path.read_text()
    path.write_text(text.replace("<xmax>40", "<xmax>2").replace(",40,", ",2,").replace("0.5\n", "-0.5\n"))
    assert path.read_text() != text
    done = incdet_command("check", "--data", tmp_path / "own", "--fix", tmp_path / "fixed")
    assert done.code == 2 and "negative size" in done.out
    again = incdet_command("check", *done.out.splitlines()[-1].rpartition("to be used by ")[2].split())
    assert again.code == 0 and "error(s)" in again.out


def photographs(root: Path, seeds: range) -> None:
    rows = ["image_path,xmin,ymin,xmax,ymax,label"]
    root.mkdir(parents=True)
    for seed in seeds:
        coarse = np.random.default_rng(seed).integers(0, 255, (10, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f"{seed}.jpg"), cv2.resize(coarse, (120, 100), interpolation=cv2.INTER_CUBIC))
        rows.append(f"{seed}.jpg,10,10,50,50,cat")
    (root / "boxes.csv").write_text("\n".join(rows))


def test_pictures_of_two_sets_are_compared(incdet_command: Make, tmp_path: Path) -> None:
    photographs(tmp_path / "a", range(4))
    photographs(tmp_path / "b", range(3, 6))
    done = incdet_command("check", "--data", tmp_path / "a", "--against", tmp_path / "b")
    assert done.code == 0 and "1 picture(s) of" in done.out and "are copies: 3.jpg = " in done.out
    clean = incdet_command("check", "--data", tmp_path / "a", "--against", tmp_path / "c")
    assert clean.code == 2 and "does not exist" in clean.err
    photographs(tmp_path / "c", range(7, 9))
    (tmp_path / "c" / "boxes.csv").write_text((tmp_path / "c" / "boxes.csv").read_text().replace("cat", "Cat"))
    done = incdet_command("check", "--data", tmp_path / "c", "--against", tmp_path / "a")
    assert "class 'Cat': looks like 'cat'" in done.out and "picture(s) of" not in done.out


def test_copies_inside_a_set_are_told(incdet_command: Make, tmp_path: Path) -> None:
    photographs(tmp_path / "a", range(3))
    shutil.copy(tmp_path / "a" / "0.jpg", tmp_path / "a" / "2.jpg")
    done = incdet_command("check", "--data", tmp_path / "a")
    assert done.code == 0 and "1 stand(s) twice, as copies under two names: 2.jpg = 0.jpg" in done.out


def test_splits_of_one_set_are_compared_with_each_other(incdet_command: Make, tmp_path: Path) -> None:
    photographs(tmp_path / "x", range(4))
    root = tmp_path / "kit"
    incdet_command("convert", "--data", tmp_path / "x", "--to", "labelme", "--output", root / "train")
    shutil.copytree(root / "train", root / "test")
    done = incdet_command("check", "--data", root)
    assert done.code == 0 and "4 picture(s) of split test and of split train are copies" in done.out
    assert done.out.count(": Labelme JSON, split ") >= 2
    only = incdet_command("check", "--data", root, "--split", "train")
    assert "picture(s) of" not in only.out and "split test" not in only.out


def test_the_answer_about_the_cameras_turn_is_taken(incdet_command: Make, tmp_path: Path) -> None:
    from PIL import Image

    photographs(tmp_path / "a", range(2))
    exif = Image.Exif()
    exif[0x0112] = 3
    for path in (tmp_path / "a").glob("*.jpg"):
        Image.open(path).save(path, exif=exif)
    asked = incdet_command("check", "--data", tmp_path / "a")
    assert asked.code == 0 and "2 picture(s) are to be turned" in asked.out
    for answer in ("apply", "ignore"):
        assert ", 0 warning(s)" in incdet_command("check", "--data", tmp_path / "a", "--exif", answer).out


class Sees(torch.nn.Module):
    """A detector that finds a cat and a cow at fixed places of every picture."""

    vocab = Vocabulary((("cat", "cow"),))

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        boxes = torch.tensor([[8.0, 10.0, 40.0, 34.0], [44.0, 2.0, 60.0, 20.0], [44.0, 26.0, 60.0, 46.0]])
        scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1])
        return [{"boxes": boxes, "scores": scores, "labels": labels} for _ in images]


def test_a_detector_is_asked_for_forgotten_labels(
    make_coco: Make, incdet_command: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incdet.network.importing.load_detector", lambda *_: Sees())
    own, fixed = make_coco(), tmp_path / "fixed"
    done = incdet_command("check", "--data", own.annotations, "--detector", "any", "--fix", fixed)
    assert done.code == 0
    assert "class 'cat': the detector sees 4 in 4 image(s) without a label, the surest in image 1 at" in done.out
    assert "class 'cow': is not annotated here; the detector sees 4 in 4 image(s)" in done.out
    written = json.loads((fixed / "annotations.json").read_text())["annotations"]
    assert [(one["category_id"], one["bbox"]) for one in written if one["iscrowd"]] == [(1, [44, 2, 16, 18])] * 4
    again = incdet_command("check", "--data", fixed / "annotations.json", "--images", own.images, "--detector", "any")
    assert "without a label" not in again.out and "4 objects ignored" in again.out
    none = incdet_command("check", "--data", own.annotations, "--detector", "any", "--lowest", "0.95")
    assert "the detector sees" not in none.out


def test_a_detector_that_is_none_is_refused_before_anything_is_read(make_coco: Make, incdet_command: Make) -> None:
    done = incdet_command("check", "--data", make_coco().annotations, "--detector", "nowhere/step_1")
    assert done.code == 2 and done.out == "" and "nowhere/step_1" in done.err
    assert incdet_command("check", "--data", "x.json", "--detector", "x", "--lowest", "1.5").code == 2
