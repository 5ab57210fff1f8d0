from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import network
from PIL import Image, ImageShow

from incdet.app.load import Detector
from incdet.app.prediction import Prediction
from incdet.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def detector() -> Detector:
    model = network()
    for predictor in model.class_head.predictors:
        torch.nn.init.zeros_(predictor.bias)  # type: ignore[arg-type]
    return Detector(model.eval(), "a test")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def planes() -> torch.Tensor:
    return torch.from_numpy(PIXELS).permute(2, 0, 1).contiguous()


def test_every_kind_of_picture_shows_the_same(detector: Detector, photo: Path) -> None:
    expected = detector.predict(photo)
    (found,) = detector([planes() / 255])
    sides = found["boxes"][:, 2:] - found["boxes"][:, :2]
    kept = (found["scores"] >= 0.3) & (sides >= 0.01).all(1)
    assert len(expected) == int(kept.sum()) > 0
    assert np.array_equal(expected.boxes, found["boxes"][kept].numpy())
    alpha = np.dstack([PIXELS, np.zeros((40, 60), np.uint8)])
    kinds: list[Any] = [str(photo), PIXELS, alpha, Image.fromarray(PIXELS), Image.fromarray(alpha), planes()]
    kinds += [planes() / 255, PIXELS.astype(np.float32) / 255, PIXELS[:, ::-1][:, ::-1]]
    for one in (*kinds, *detector.predict(kinds, batch_size=2)):
        got = one if isinstance(one, Prediction) else detector.predict(one)
        assert got.names == expected.names and np.allclose(got.boxes, expected.boxes, atol=1e-4)
        assert (got.width, got.height) == (60, 40)
    assert detector.predict([]) == []
    grey = detector.predict(PIXELS[..., 0])
    assert np.array_equal(grey.boxes, detector.predict(np.dstack([PIXELS[..., 0]] * 3)).boxes)


def test_a_picture_of_pillow_is_turned_as_its_camera_says(detector: Detector, tmp_path: Path) -> None:
    turned = Image.fromarray(PIXELS)
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    from_file = detector.predict(tmp_path / "turned.png")
    assert (from_file.width, from_file.height) == (40, 60)
    with Image.open(tmp_path / "turned.png") as opened:
        assert np.array_equal(detector.predict(opened).boxes, from_file.boxes)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gone.jpg", "does not exist"),
        (3, "int: is no picture"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(3, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (torch.zeros(1, 3, 8, 8), r"shape \(1, 3, 8, 8\)"),
        (np.full((8, 8, 3), 200.0), "from 200 to 200"),
        (np.full((8, 8, 3), np.nan), "nan"),
        (np.zeros((8, 8, 3), np.int64), "int64"),
    ],
)
def test_what_is_no_picture_is_refused(detector: Detector, given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        detector.predict(given)
    with pytest.raises(InputError, match=said):
        detector.predict([PIXELS, given])


def test_thresholds_and_suppression_across_classes(detector: Detector) -> None:
    everything = detector.predict(PIXELS, threshold=0.0)
    assert len(detector.predict(PIXELS, threshold=1.0)) == 0
    some = detector.predict(PIXELS, threshold={"a": 1.0, "b": 0.0})
    assert set(everything.names) == {"a", "b"} and set(some.names) == {"b"}
    apart = detector.predict(PIXELS, threshold=0.0, across=True)
    assert 0 < len(apart) < len(everything)
    with pytest.raises(InputError, match="class 'c'"):
        detector.predict(PIXELS, threshold={"c": 0.1})


def test_a_prediction_lists_what_it_found(detector: Detector) -> None:
    prediction = detector.predict(PIXELS, threshold=0.0)
    first = next(iter(prediction))
    assert first.name == prediction.names[0] == prediction.classes[prediction.labels[0]]
    assert first.box == tuple(prediction.boxes[0].tolist()) and first.score == float(prediction.scores[0])
    assert f"{first.name} {first.score:.2f}" in repr(prediction) and "more" in repr(prediction)
    assert repr(detector.predict(PIXELS, threshold=1.0)) == "Prediction(60 x 40: nothing)"


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif", "webp"])
def test_it_is_saved_as_a_picture_of_its_own_size(detector: Detector, photo: Path, tmp_path: Path, kind: str) -> None:
    given = photo if kind == "png" else PIXELS
    file = detector.predict(given, threshold=0.0).save(tmp_path / "new" / f"found.{kind}")
    with Image.open(file) as opened:
        assert opened.size == (60, 40)
        assert np.abs(np.asarray(opened.convert("RGB")).astype(int) - PIXELS).mean() > 5


def test_it_is_saved_as_json_and_nothing_else(detector: Detector, photo: Path, tmp_path: Path) -> None:
    prediction = detector.predict(photo)
    value = json.loads(prediction.save(tmp_path / "found.json").read_text("utf-8"))
    assert value["detections"] == prediction.to_json() and value["image"] == str(photo)
    with pytest.raises(InputError, match=r"ends with \.txt"):
        prediction.save(tmp_path / "found.txt")
    photo.unlink()
    with pytest.raises(InputError, match="does not exist"):
        prediction.save(tmp_path / "found.png")


def test_it_is_shown_by_a_viewer_where_there_is_one(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Image.Image] = []
    monkeypatch.delitem(sys.modules, "IPython", raising=False)

    def view(image: Image.Image, title: str) -> bool:
        seen.append(image)
        return True

    monkeypatch.setattr(ImageShow, "show", view)
    detector.predict(PIXELS).show()
    assert seen[0].size == (60, 40)
    monkeypatch.setattr(ImageShow, "show", lambda image, title: False)
    with pytest.raises(InputError, match="no viewer"):
        detector.predict(PIXELS).show()
    assert detector.predict(PIXELS)._repr_png_().startswith(b"\x89PNG")


def test_it_becomes_detections_of_supervision(detector: Detector) -> None:
    supervision = pytest.importorskip("supervision")
    prediction = detector.predict(PIXELS)
    other = prediction.to_supervision()
    assert isinstance(other, supervision.Detections) and len(other) == len(prediction)
    assert np.array_equal(other.xyxy, prediction.boxes) and list(other["class_name"]) == prediction.names
    assert len(detector.predict(PIXELS, threshold=1.0).to_supervision()) == 0


def test_without_supervision_the_way_to_it_is_said(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'incdet\[supervision\]'"):
        detector.predict(PIXELS).to_supervision()
