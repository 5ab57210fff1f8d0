"""One picture file decoded once: its size, its camera's turn, what is wrong with it, and how to know it again."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from incdet.data.records import Exif

MOST_PIXELS = 178_956_970
"""A picture with more is refused by its header: decoded it takes half a gigabyte. Pillow's bound."""
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""What is opened; others of Pillow's run programs or were never meant for photographs."""
GRID = 16
"""Side of the grid of brightness steps that a look is made of; it has GRID * GRID bits."""
_ORIENTATION = 0x0112
_TURNED_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
"""Where OpenCV, which reads the pixels, follows the camera's turn."""
_LARGE = 40_000_000
_PADDING = 64
_one_large = threading.Lock()


class Picture(NamedTuple):
    """What is known of a picture file.

    Attributes:
        width: Of the stored pixels, 0 if it cannot be told.
        height: Of the stored pixels.
        orientation: How the camera says it has to be turned, 1 (not at all) to 8 (EXIF).
        problem: Why it cannot be trained on, "" if it can.
        digest: Of the file's bytes, 32 hexadecimal digits.
        look: Where the brightness rises along the rows of a small copy (dHash), 64 hexadecimal digits; "" for a
            picture without any detail, which looks like many others.
    """

    width: int = 0
    height: int = 0
    orientation: int = 1
    problem: str = ""
    digest: str = ""
    look: str = ""

    @property
    def turned(self) -> tuple[int, int]:
        """(width, height) after the camera's turn."""
        return (self.height, self.width) if self.orientation > 4 else (self.width, self.height)


def inspect_picture(path: Path) -> Picture:
    """Decodes a picture as training will, and looks whether all of it is there; never raises."""
    try:
        content = _content(path)
        with Image.open(io.BytesIO(content), formats=_formats()) as opened:
            (width, height), kind = opened.size, opened.format or ""
            orientation = _orientation(opened) if kind in _TURNED_FORMATS else 1
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        with _one_large if width * height > _LARGE else nullcontext():
            problem = _cut(content, kind)
            grey = _decoded(path, content, kind) if not problem else None
            problem = problem or ("" if grey is not None else _pillow_says(content) or "cannot be decoded by OpenCV")
        return Picture(width, height, orientation, problem, digest, "" if grey is None else _look(grey))
    except _Unreadable as error:
        return Picture(problem=str(error))
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        return Picture(problem=f"has {int(pixels[0]) if pixels else 'more':,} pixels, {MOST_PIXELS:,} are the most")
    except UnidentifiedImageError:
        return Picture(problem="is no picture, or of a kind that cannot be read")
    except Exception as error:  # decoders of strangers' bytes raise what they like
        return Picture(problem=f"cannot be decoded ({type(error).__name__})")


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Pillow and OpenCV from talking about large and odd pictures; for the main thread, around the others."""
    log = cv2.utils.logging
    before = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLogLevel(before)


def header_size(path: Path, exif: Exif = "auto") -> tuple[int, int] | None:
    """(width, height) of a picture as it is shown, after its camera's turn; None if it is no picture.

    Args:
        path: The file; its header alone is read.
        exif: ``ignore`` gives the size of the stored pixels.
    """
    try:
        _require_file(path)
        with Image.open(path, formats=_formats()) as opened:
            turn = _orientation(opened) if opened.format in _TURNED_FORMATS and exif != "ignore" else 1
            return Picture(opened.size[0], opened.size[1], turn).turned
    except Exception:
        return None


class _Unreadable(Exception):
    pass


@cache
def _formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _require_file(path: Path) -> None:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise _Unreadable("is a folder" if stat.S_ISDIR(mode) else "is a pipe, a socket or a device")


def _content(path: Path) -> bytes:
    try:
        _require_file(path)
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise _Unreadable("does not exist") from None
    except (OSError, ValueError) as error:
        raise _Unreadable(f"cannot be read ({getattr(error, 'strerror', error)})") from None


def _orientation(opened: Any) -> int:
    try:
        value = opened.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF is written by cameras of all kinds
        return 1
    return int(value) if value in range(1, 9) else 1


def _decoded(path: Path, content: bytes, kind: str) -> NDArray[np.uint8] | None:
    """The stored pixels in grey as OpenCV has them, (H, W) uint8, of a JPEG an eighth of them; None if it fails."""
    if kind in ("JPEG", "MPO"):
        flags = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    else:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        pixels = pixels if pixels is None else cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    return None if pixels is None else np.asarray(pixels, np.uint8)


def _cut(content: bytes, kind: str) -> str:
    """What says that the end of the file is not there; decoders fill what is missing with grey and say nothing."""
    if kind in ("JPEG", "MPO"):
        cut = content.rfind(b"\xff\xd9") < _scan_start(content)
    elif kind == "PNG":
        cut = b"IEND" not in content[-4096:]
    elif kind == "WEBP":
        cut = len(content) < 8 + int.from_bytes(content[4:8], "little") or content.endswith(bytes(_PADDING))
    else:
        return _pillow_says(content)
    return "is cut off" if cut else ""


def _scan_start(content: bytes) -> int:
    """Where the pixels of a JPEG begin, behind its header, which may hold a small JPEG with an end of its own."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA:
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return place


def _pillow_says(content: bytes) -> str:
    """Why Pillow cannot decode all of it; "" if it can."""
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as opened:
            opened.load()
    except OSError as error:
        return "is cut off" if "truncated" in str(error) else f"cannot be decoded ({error})"
    return ""


def _look(grey: NDArray[np.uint8]) -> str:
    small = cv2.resize(grey, (GRID + 1, GRID), interpolation=cv2.INTER_AREA).astype(np.int16)
    rises = small[:, 1:] > small[:, :-1]
    detailed = small.std() >= 2 and min(rises.sum(), (~rises).sum()) >= rises.size // 8
    return np.packbits(rises).tobytes().hex() if detailed else ""
