from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import network

from incdet.app.predict import predict
from incdet.errors import InputError
from incdet.network import checkpoint
from incdet.report.palette import class_colours


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = network()
    for predictor in model.class_head.predictors:
        torch.nn.init.zeros_(predictor.bias)  # type: ignore[arg-type]
    checkpoint.save(tmp_path / "step_1", model)
    return tmp_path / "step_1"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("a.jpg", "b.png")):
        noise = np.random.default_rng(number).integers(0, 255, (40, 60 + number, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), noise)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_every_picture_of_a_folder_gets_detections_and_a_drawing(
    saved: Path, photographs: Path, tmp_path: Path
) -> None:
    file = predict(saved, [photographs, photographs / "a.jpg"], tmp_path / "out", threshold=0.0, device="cpu")
    entries = json.loads(file.read_text())["images"]
    assert [(Path(entry["image"]).name, entry["width"]) for entry in entries] == [
        ("a.jpg", 60),
        ("b.png", 61),
        ("a.jpg", 60),
    ]
    assert entries[0]["detections"] == entries[2]["detections"] != []
    for entry in entries:
        for found in entry["detections"]:
            x1, y1, x2, y2 = found["box"]
            assert 0 <= x1 <= x2 <= entry["width"] and 0 <= y1 <= y2 <= entry["height"]
    assert all(cv2.imread(str(picture)) is not None for picture in (tmp_path / "out").glob("*.png"))
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_a_class_is_framed_in_the_colour_of_its_column(saved: Path, photographs: Path, tmp_path: Path) -> None:
    file = predict(saved, [photographs / "a.jpg"], tmp_path / "out", threshold=0.0, device="cpu")
    (entry,) = json.loads(file.read_text())["images"]
    drawn = cv2.imread(str(next((tmp_path / "out").glob("*.png"))))
    assert drawn is not None and drawn.shape[:2] == (entry["height"], entry["width"])
    shown = {"#" + pixel[::-1].tobytes().hex().upper() for pixel in drawn.astype(np.uint8).reshape(-1, 3)}
    colours = class_colours(checkpoint.load(saved).vocab.names)
    assert {colours[item["name"]] for item in entry["detections"]} <= shown


def test_the_threshold_keeps_the_rest_out(saved: Path, photographs: Path, tmp_path: Path) -> None:
    file = predict(saved, [photographs], tmp_path / "out", threshold=1.0, device="cpu")
    assert [entry["detections"] for entry in json.loads(file.read_text())["images"]] == [[], []]


@pytest.mark.parametrize("name, said", [("none.jpg", "does not exist"), ("notes.txt", "is no picture")])
def test_a_file_that_is_no_picture_is_refused(
    saved: Path, photographs: Path, tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        predict(saved, [photographs / name], tmp_path / "out")


def test_a_folder_without_pictures_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        predict(saved, [tmp_path / "empty"], tmp_path / "out")
