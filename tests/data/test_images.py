from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from incdet.data.images import check_pictures
from incdet.data.records import Record


def record(path: Path, width: int = 30, height: int = 20) -> Record:
    nothing = np.zeros((0, 4), np.float32)
    return Record(path, 7, width, height, nothing, (), np.zeros(0, np.bool_), frozenset({"cat"}))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
    return path


def test_a_picture_of_the_stated_size_is_fine(picture: Path) -> None:
    assert check_pictures([record(picture)]) == []


def test_a_picture_that_the_camera_turned_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 20)).save(path, exif=turned)
    assert check_pictures([record(path), record(path, 20, 30)]) == []


@pytest.mark.parametrize("width, height", [(31, 20), (30, 21), (60, 40)])
def test_another_size_is_named_with_both_sizes(picture: Path, width: int, height: int) -> None:
    (finding,) = check_pictures([record(picture, width, height)])
    assert finding.severity == "error" and finding.item == "image 7"
    assert "30 x 20" in finding.problem and f"{width} x {height}" in finding.problem


def test_what_is_no_picture_is_named(tmp_path: Path, picture: Path) -> None:
    text, cut = tmp_path / "b.png", tmp_path / "c.png"
    text.write_text("not a picture")
    cut.write_bytes(picture.read_bytes()[:12])
    found = check_pictures([record(tmp_path / "none.png"), record(text), record(cut)])
    assert [finding.problem.split(",")[0] for finding in found] == ["does not exist", "is no picture", "is no picture"]
