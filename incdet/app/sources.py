"""What is to be looked at: pictures and videos by their paths, folders, and patterns; read one after another."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from incdet.app.photograph import SUFFIXES, Photograph, read_photograph
from incdet.data.inspection import quiet
from incdet.data.resize import to_planes
from incdet.errors import Finding, InputError, shown

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
"""How the names of video files end."""


class Source(NamedTuple):
    """A picture or a video.

    Attributes:
        file: Where it lies.
        name: What is made of it is called that, without an ending; with slashes where it lay in folders below the one
            that was given. No two sources of a list share one.
        relative: The file's own path from that folder, with slashes.
    """

    file: Path
    name: str
    relative: str

    @property
    def is_video(self) -> bool:
        """By its name."""
        return self.file.suffix.lower() in VIDEOS


class Frame(NamedTuple):
    """A picture to look at.

    Attributes:
        source: Where it comes from.
        picture: Its pixels.
        number: Of a video's frame, from 0; None for a picture.
        seconds: When a video shows it; None for a picture.
    """

    source: Source
    picture: Photograph
    number: int | None = None
    seconds: float | None = None


def find_sources(given: Sequence[str | Path], *, recursive: bool = False) -> list[Source]:
    """The pictures and videos that are meant, in order.

    Args:
        given: Files, whatever their names end with; folders, whose pictures and videos are taken; patterns such as
            ``photos/**/*.jpg``.
        recursive: Take those in folders below a folder too.

    Raises:
        InputError: A folder holds none, or nothing fits a pattern.
    """
    found: list[Source] = []
    taken: set[str] = set()
    for place in map(Path, given):
        for file, name in _inside(place, recursive):
            stem, number = name, 1
            while stem.lower() in taken:
                number += 1
                stem = f"{name}_{number}"
            taken.add(stem.lower())
            found.append(Source(file, stem, f"{name}{file.suffix}"))
    return found


def frames(source: Source, every: int = 1) -> Iterator[Frame]:
    """The picture, or every ``every``-th frame of the video from the first one on.

    Raises:
        InputError: It cannot be read; a video that is cut off gives the frames it has first.
    """
    if not source.is_video:
        yield Frame(source, read_photograph(source.file))
        return
    rate, number = rate_of(source), 0
    with _opened(source) as video:
        stated = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        while video.grab():
            if number % every == 0:
                there, pixels = video.retrieve()
                if not there:
                    break
                rgb = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
                yield Frame(source, Photograph(torch.from_numpy(to_planes(rgb))), number, number / rate)
            number += 1
    if number == 0:
        problem = "cannot be decoded" if source.file.is_file() else "does not exist"
        raise _refusal(source.file, "video", problem, "name a video that OpenCV reads, such as .mp4")
    if number < 0.98 * stated:
        problem = f"ends after {number} of the {stated} frames that it says it has"
        raise _refusal(source.file, "video", problem, "it is cut off: restore it; what is there was looked at")


def frame_count(source: Source, every: int = 1) -> int:
    """How many ``frames`` there will be, as far as a video tells."""
    if not source.is_video:
        return 1
    with _opened(source) as video:
        return max(1, -(-int(video.get(cv2.CAP_PROP_FRAME_COUNT)) // every))


def rate_of(source: Source) -> float:
    """Frames a second; 25 where a video does not tell."""
    with _opened(source) as video:
        rate = float(video.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate <= 1000 else 25.0


@contextmanager
def _opened(source: Source) -> Iterator[cv2.VideoCapture]:
    with quiet():
        video = cv2.VideoCapture(str(source.file))
    try:
        yield video
    finally:
        video.release()


def _inside(place: Path, recursive: bool) -> list[tuple[Path, str]]:
    """The files that a word means, and their names without endings."""
    known = (*SUFFIXES, *VIDEOS)
    if place.is_dir():
        every = sorted(place.rglob("*") if recursive else place.iterdir())
        files = [file for file in every if file.suffix.lower() in known and file.is_file()]
        if not files:
            deeper = "" if recursive else "; --recursive looks into the folders below too"
            fix = f"known endings: {', '.join(known)}{deeper}"
            raise _refusal(place, "folder", "holds no picture", fix)
        return [(file, file.relative_to(place).with_suffix("").as_posix()) for file in files]
    if not place.exists() and glob.has_magic(str(place)):
        files = [Path(name) for name in sorted(glob.glob(str(place), recursive=True)) if Path(name).is_file()]
        if not files:
            raise _refusal(place, "pattern", "fits no file", "quote it, or name the files")
        return [(file, file.stem) for file in files]
    return [(place, place.stem)]


def _refusal(file: Path, item: str, problem: str, fix: str) -> InputError:
    return InputError(Finding(shown(str(file), 300), item, problem, fix))
