from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import network

from incdet.app.found_files import FORMATS
from incdet.app.sources import find_sources
from incdet.app.verbs import predict as verb
from incdet.errors import InputError
from incdet.network import checkpoint
from incdet.network.calibration import Calibration

NAMES = ("a", "b")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = network()
    for predictor in model.class_head.predictors:
        torch.nn.init.zeros_(predictor.bias)  # type: ignore[arg-type]
    model.calibration = Calibration({"a": 0.4, "b": 1.0}, 2.0, 5, "a test")
    return checkpoint.save(tmp_path / "step_1", model)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, one of them in a folder below, and a text."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("one.jpg", "two.png", "deep/one.png")):
        cv2.imwrite(str(folder / name), noise(number))
    (folder / "notes.txt").write_text("no picture")
    return folder


def noise(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (40, 64, 3), dtype=np.uint8)


def film(file: Path, frames: int = 5) -> Path:
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 40))
    for number in range(frames):
        video.write(noise(number))
    video.release()
    return file


def words(saved: Path, *images: object, output: Path) -> list[object]:
    return ["predict", saved, "--images", *images, "--output", output, "--device", "cpu"]


def entries(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((output / "detections.json").read_text("utf-8"))["images"]
    return found


def test_all_formats_say_the_same(saved: Path, photos: Path, incdet_command: Callable[..., Any]) -> None:
    output = photos.parent / "found"
    done = incdet_command(*words(saved, photos, output=output), "--as", *FORMATS, "--recursive", "--threshold", "0.2")
    assert done.code == 0, done.err
    found = entries(output)
    assert [Path(entry["image"]).relative_to(photos).as_posix() for entry in found] == [
        "deep/one.png",
        "one.jpg",
        "two.png",
    ]
    total = sum(len(entry["detections"]) for entry in found)
    assert total > 3 and f"{total} detections in 3 pictures" in done.out
    coco = json.loads((output / "coco.json").read_text("utf-8"))
    assert [category["name"] for category in coco["categories"]] == [*NAMES] and len(coco["annotations"]) == total
    rows = list(csv.DictReader((output / "detections.csv").read_text("utf-8").splitlines()))
    assert len(rows) == total
    assert (output / "labels/classes.txt").read_text("utf-8") == "a\nb\n"
    per_image: list[list[dict[str, Any]]] = [[], [], []]
    for annotation in coco["annotations"]:
        per_image[annotation["image_id"] - 1].append(annotation)
    for entry, own, name in zip(found, per_image, ("deep/one", "one", "two"), strict=True):
        lines = (output / f"labels/{name}.txt").read_text("utf-8").splitlines()
        drawn = cv2.imread(str(output / f"{name}.png"))
        assert drawn is not None and drawn.shape == (40, 64, 3)
        for one, other, line in zip(entry["detections"], own, lines, strict=True):
            x, y, w, h = other["bbox"]
            assert one["box"] == pytest.approx([x, y, x + w, y + h], abs=0.02)
            label, *shares = (float(word) for word in line.split())
            assert NAMES[int(label)] == one["name"] == NAMES[other["category_id"] - 1]
            assert shares == pytest.approx([(x + w / 2) / 64, (y + h / 2) / 40, w / 64, h / 40], abs=1e-3)
    assert {row["label"] for row in rows} <= {*NAMES} and rows[0]["image_path"] == "deep/one.png"


def test_the_coco_file_can_be_opened_as_annotations(
    saved: Path, photos: Path, incdet_command: Callable[..., Any]
) -> None:
    output = photos.parent / "found"
    assert incdet_command(*words(saved, photos, output=output), "--as", "coco").code == 0
    assert sorted(path.name for path in output.iterdir()) == ["coco.json"]
    done = incdet_command("check", "--data", output / "coco.json", "--images", photos)
    assert done.code == 0 and "2 images" in done.out


def test_a_broken_file_is_skipped_and_the_exit_code_says_so(
    saved: Path, photos: Path, incdet_command: Callable[..., Any]
) -> None:
    whole = (photos / "one.jpg").read_bytes()
    (photos / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    cv2.imwrite(str(photos / "thin.png"), np.zeros((2, 900, 3), np.uint8))
    film(photos / "cut.mp4")
    (photos / "cut.mp4").write_bytes((photos / "cut.mp4").read_bytes()[:300])
    output = photos.parent / "found"
    done = incdet_command(*words(saved, photos, output=output), "--batch-size", "2")
    assert done.code == 3 and "Traceback" not in done.err
    assert "broken.jpg: picture: is cut off" in done.err and "cut.mp4" in done.err and "3 file(s)" in done.err
    assert "thin.png: 2 x 900: is 0 x 64 pixels after resizing" in done.err
    assert [Path(entry["image"]).name for entry in entries(output)] == ["one.jpg", "two.png"]
    gone = incdet_command(*words(saved, photos / "broken.jpg", output=photos.parent / "none"))
    assert gone.code == 2 and "broken.jpg" in gone.err and not (photos.parent / "none").exists()


def test_videos_are_looked_at_frame_by_frame_and_drawn(
    saved: Path, photos: Path, tmp_path: Path, incdet_command: Callable[..., Any]
) -> None:
    film(tmp_path / "film.mp4")
    output = tmp_path / "found"
    command = [*words(saved, tmp_path / "film.mp4", photos / "one.jpg", output=output), "--every", "2"]
    done = incdet_command(*command, "--as", "json", "pictures", "yolo")
    assert done.code == 0, done.err
    assert [(entry.get("frame"), entry.get("seconds")) for entry in entries(output)] == [
        (0, 0.0),
        (2, 0.2),
        (4, 0.4),
        (None, None),
    ]
    drawn = cv2.VideoCapture(str(output / "film.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(5.0) and drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert (drawn.get(cv2.CAP_PROP_FRAME_WIDTH), drawn.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (64, 40)
    drawn.release()
    assert {"film_000000.txt", "film_000004.txt"} <= {path.name for path in (output / "labels").iterdir()}


def test_thresholds_of_its_own_and_scaled_scores(
    saved: Path, photos: Path, incdet_command: Callable[..., Any], tmp_path: Path
) -> None:
    output = tmp_path / "found"
    done = incdet_command(*words(saved, photos, output=output), "--threshold", "auto")
    assert done.code == 0 and "temperature 2; both measured on 5 pictures (a test)" in done.out
    value = json.loads((output / "detections.json").read_text("utf-8"))
    assert (
        value["threshold"] == {"a": pytest.approx(0.4494, abs=1e-3), "b": pytest.approx(1.0, abs=2e-3)}
        and value["temperature"] == 2.0
    )
    scores = [one["score"] for entry in value["images"] for one in entry["detections"]]
    assert scores and min(scores) >= 0.449
    assert {one["name"] for entry in value["images"] for one in entry["detections"]} == {"a"}
    model = checkpoint.load(saved).model
    model.calibration = None
    checkpoint.save(saved, model)
    done = incdet_command(*words(saved, photos, output=tmp_path / "other"), "--threshold", "auto")
    assert done.code == 2 and "never calibrated" in done.err and not (tmp_path / "other").exists()


def test_across_classes_keeps_one_of_a_place(
    saved: Path, photos: Path, incdet_command: Callable[..., Any], tmp_path: Path
) -> None:
    counts = []
    for more in ([], ["--across-classes"]):
        output = tmp_path / f"found{len(more)}"
        assert incdet_command(*words(saved, photos, output=output), "--threshold", "0.2", *more).code == 0
        counts.append(sum(len(entry["detections"]) for entry in entries(output)))
    assert 0 < counts[1] < counts[0]


def test_sources_are_found_by_folder_and_pattern(photos: Path) -> None:
    assert [source.name for source in find_sources([photos])] == ["one", "two"]
    assert [source.name for source in find_sources([photos / "**" / "*.png"])] == ["one", "two"]
    assert [source.name for source in find_sources([photos, photos / "deep"])] == ["one", "two", "one_2"]
    with pytest.raises(InputError, match="fits no file"):
        find_sources([photos / "*.gif"])
    (photos / "empty" / "below").mkdir(parents=True)
    with pytest.raises(InputError, match="--recursive"):
        find_sources([photos / "empty"])


def test_what_an_earlier_call_drew_is_not_looked_at(
    saved: Path, photos: Path, incdet_command: Callable[..., Any]
) -> None:
    command = [*words(saved, photos, output=photos / "found"), "--recursive"]
    assert incdet_command(*command).code == 0
    assert incdet_command(*command).code == 0
    assert len(entries(photos / "found")) == 3


@pytest.mark.parametrize("given", [["--threshold", "2"], ["--threshold", "x"], ["--as", "xml"], ["--every", "0"]])
def test_bad_words_are_refused(saved: Path, photos: Path, incdet_command: Callable[..., Any], given: list[str]) -> None:
    done = incdet_command(*words(saved, photos, output=photos.parent / "found"), *given)
    assert done.code == 2 and "Traceback" not in done.err and not (photos.parent / "found").exists()


def test_the_help_lists_every_format() -> None:
    assert verb.FORMATS == FORMATS
