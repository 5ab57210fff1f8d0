from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from incdet.data.dataset import image_size, read_image
from incdet.data.images import check_pictures
from incdet.data.records import Exif, Record
from incdet.data.resize import Geometry
from incdet.errors import InputError


def record(path: Path, width: int = 30, height: int = 20, exif: Exif = "auto", *, boxes: int = 1) -> Record:
    corners = np.array([[1, 1, 9, 9]] * boxes, np.float32).reshape(-1, 4)
    return Record(
        path, 7, width, height, corners, ("cat",) * boxes, np.zeros(boxes, np.bool_), frozenset({"cat"}), exif=exif
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
    return path


def turned(path: Path, orientation: int, width: int = 30, height: int = 20) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.new("RGB", (width, height))
    picture.paste((255, 255, 255), (0, 0, 4, 4))  # top left as stored
    picture.save(path, exif=exif, quality=100)
    return path


def test_a_picture_of_the_stated_size_is_fine(picture: Path) -> None:
    assert check_pictures([record(picture)]) == []


def test_a_picture_whose_size_tells_its_turn_is_fine(tmp_path: Path) -> None:
    path = turned(tmp_path / "turned.jpg", 6)
    assert check_pictures([record(path), record(path, 20, 30)]) == []


@pytest.mark.parametrize("width, height", [(31, 20), (30, 21), (60, 40), (20, 30)])
def test_another_size_is_named_with_both_sizes(picture: Path, width: int, height: int) -> None:
    (finding,) = check_pictures([record(picture, width, height)])
    assert finding.severity == "error" and finding.item == "image 7" and finding.file == str(picture)
    assert "30 x 20" in finding.problem and f"{width} x {height}" in finding.problem
    assert ("exchange them" in finding.fix) == ((width, height) == (20, 30))


def test_what_is_no_picture_is_named(tmp_path: Path, picture: Path) -> None:
    text, cut = tmp_path / "b.png", tmp_path / "c.png"
    text.write_text("not a picture")
    cut.write_bytes(picture.read_bytes()[:-30])
    found = check_pictures([record(tmp_path / "none.png"), record(text), record(cut)])
    assert [finding.problem.split(",")[0] for finding in found] == ["does not exist", "is no picture", "is cut off"]


def test_a_picture_too_thin_for_the_detector_is_refused_and_else_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "thin.png"
    cv2.imwrite(str(path), np.zeros((12, 2000, 3), np.uint8))
    thin = record(path, 2000, 12)
    assert check_pictures([thin], Geometry(800, 1333)) == []
    (error,) = check_pictures([thin], Geometry(96, 96))
    assert (error.severity, error.file) == ("error", str(path)) and "max_size" in error.fix
    (warning,) = check_pictures([thin])
    assert warning.severity == "warning" and "below 167 px" in warning.problem
    assert check_pictures([thin], Geometry(96, 167)) == []  # as the warning says


# --- a turn that the size does not tell


@pytest.mark.parametrize(
    "orientation, width, height", [(2, 30, 20), (3, 30, 20), (4, 30, 20), (6, 30, 30), (8, 30, 30)]
)
def test_a_turn_that_the_size_does_not_tell_is_asked_about(
    tmp_path: Path, orientation: int, width: int, height: int
) -> None:
    path = turned(tmp_path / "a.jpg", orientation, width, height)
    (warning,) = check_pictures([record(path, width, height), record(path, width, height)])
    assert warning.severity == "warning" and warning.problem.startswith("2 picture(s)")
    assert "--exif apply or --exif ignore" in warning.fix and "data.exif" in warning.fix
    answers: tuple[Exif, ...] = ("apply", "ignore")
    for answer in answers:
        assert check_pictures([record(path, width, height, answer)]) == []
    assert check_pictures([record(path, width, height, boxes=0)]) == []  # nothing lies anywhere


@pytest.mark.parametrize("orientation, corner", [(2, (0, -1)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_the_answer_is_what_the_pixels_are_read_by(tmp_path: Path, orientation: int, corner: tuple[int, int]) -> None:
    path = turned(tmp_path / "a.jpg", orientation, 30, 30)
    places: dict[Exif, tuple[int, int]] = {"ignore": (0, 0), "apply": corner, "auto": corner}
    for answer, place in places.items():
        pixels = read_image(record(path, 30, 30, answer))
        assert pixels[place].min() > 200, answer


def test_an_answer_that_does_not_fit_the_size_is_refused(tmp_path: Path) -> None:
    path = turned(tmp_path / "a.jpg", 6)
    frames: dict[Exif, tuple[int, int]] = {"apply": (30, 20), "ignore": (20, 30)}
    for answer, (width, height) in frames.items():
        wrong = record(path, width, height, answer)
        (finding,) = check_pictures([wrong])
        assert finding.severity == "error" and "exif" in finding.fix
        with pytest.raises(InputError):
            read_image(wrong)


def test_a_photograph_without_annotations_is_measured_or_refused(tmp_path: Path, picture: Path) -> None:
    assert image_size(picture) == (30, 20)
    assert image_size(turned(tmp_path / "b.jpg", 6)) == (20, 30)
    picture.write_bytes(picture.read_bytes()[:-30])
    with pytest.raises(InputError, match="is cut off"):
        image_size(picture)
