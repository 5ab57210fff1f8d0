from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from incdet.data.inspection import Picture, header_size, inspect_picture, quiet

PHOTOGRAPH = cv2.resize(
    np.random.default_rng(5).integers(0, 255, (12, 16, 3), dtype=np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC
)


def saved(path: Path, pixels: Any = PHOTOGRAPH, **more: Any) -> Path:
    Image.fromarray(pixels[:, :, ::-1]).save(path, **more)
    return path


def exif(orientation: int) -> Image.Exif:
    value = Image.Exif()
    value[0x0112] = orientation
    return value


def png_header(width: int, height: int) -> bytes:
    chunks = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"\0")
    parts = [struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def inspect(path: Path) -> Picture:
    with quiet():
        return inspect_picture(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif"])
def test_a_sound_picture_of_every_kind_has_a_size_and_no_problem(tmp_path: Path, suffix: str) -> None:
    picture = inspect(saved(tmp_path / f"a.{suffix}"))
    assert (picture.width, picture.height, picture.orientation, picture.problem) == (320, 240, 1, "")
    assert len(picture.digest) == 32 and len(picture.look) == 64


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_picture_that_is_cut_off_is_found_whatever_its_decoder_fills_in(
    tmp_path: Path, suffix: str, share: float
) -> None:
    path = saved(tmp_path / f"a.{suffix}", exif=exif(1)) if suffix == "jpg" else saved(tmp_path / f"a.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert inspect(path).problem
    path.write_bytes(content[: int(share * len(content))].ljust(len(content), b"\0"))  # as a full disk leaves it
    assert inspect(path).problem or suffix in ("bmp", "tif")  # black is a colour there


def test_the_small_picture_in_a_header_does_not_hide_a_cut(tmp_path: Path) -> None:
    small = io.BytesIO()
    Image.fromarray(PHOTOGRAPH[::8, ::8]).save(small, "JPEG")
    header = b"Exif\0\0" + small.getvalue()
    content = saved(tmp_path / "a.jpg").read_bytes()
    whole = content[:2] + b"\xff\xe1" + struct.pack(">H", len(header) + 2) + header + content[2:]
    (tmp_path / "a.jpg").write_bytes(whole)
    assert inspect(tmp_path / "a.jpg").problem == ""
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2 + len(header) // 2])
    assert inspect(tmp_path / "a.jpg").problem == "is cut off"


def test_bytes_behind_the_end_are_no_harm(tmp_path: Path) -> None:
    for suffix in ("jpg", "png"):
        path = saved(tmp_path / f"a.{suffix}")
        path.write_bytes(path.read_bytes() + bytes(2000))
        assert inspect(path).problem == ""


def test_a_picture_of_floats_cannot_be_trained_on(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).random((40, 60)).astype(np.float32)).save(tmp_path / "a.tif")
    assert "cannot be decoded" in inspect(tmp_path / "a.tif").problem


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(30_000, 30_000))
    assert "900,000,000 pixels" in inspect(tmp_path / "a.png").problem
    assert header_size(tmp_path / "a.png") is None


def test_what_is_no_file_or_no_picture_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "script.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%stdin) run\n")
    names = ("text.png", "empty.jpg", "script.jpg", "folder.jpg", "pipe.jpg", "none.jpg", "x" * 5000)
    problems = [inspect(tmp_path / name).problem for name in names]
    assert all(problem.startswith("is no picture") for problem in problems[:3])
    assert problems[3:6] == ["is a folder", "is a pipe, a socket or a device", "does not exist"]
    assert "cannot be read" in problems[6]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_s_turn_is_that_of_the_decoder(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = saved(tmp_path / f"a.{suffix}", exif=exif(orientation))
    picture = inspect(path)
    assert picture.orientation == orientation
    decoded = cv2.imread(str(path))
    assert decoded is not None and picture.turned == header_size(path) == decoded.shape[1::-1]


@pytest.mark.parametrize("value", [0, 9, 700])
def test_a_turn_that_does_not_exist_is_none(tmp_path: Path, value: int) -> None:
    assert inspect(saved(tmp_path / "a.jpg", exif=exif(value))).orientation == 1


def test_one_photograph_looks_alike_however_it_is_saved(tmp_path: Path) -> None:
    def bits(path: Path) -> NDArray[np.uint8]:
        return np.unpackbits(np.frombuffer(bytes.fromhex(inspect(path).look), np.uint8))

    first = bits(saved(tmp_path / "a.png"))
    half = cv2.resize(PHOTOGRAPH, (160, 120), interpolation=cv2.INTER_AREA)
    for other in (saved(tmp_path / "b.jpg", quality=40), saved(tmp_path / "c.png", half)):
        assert (bits(other) != first).sum() < 20
    assert (bits(saved(tmp_path / "d.png", PHOTOGRAPH[:, ::-1].copy())) != first).sum() > 60


def test_a_picture_without_detail_has_no_look(tmp_path: Path) -> None:
    grey = np.full((60, 80, 3), 90, np.uint8)
    grey[:30] = 200
    assert inspect(saved(tmp_path / "a.png", grey)).look == ""
