"""The files that detections are written into: JSON, COCO, YOLO, CSV, pictures and videos at their own size."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import cv2

from incdet.app.prediction import Prediction
from incdet.app.sources import Frame, rate_of
from incdet.errors import Finding, OutputError
from incdet.evaluation.results import SCHEMA
from incdet.files import copy_file, write_bytes, write_json, write_text
from incdet.report.drawing import draw_detections

Format = Literal["json", "coco", "yolo", "csv", "pictures"]
FORMATS: tuple[Format, ...] = get_args(Format)
JSON, COCO, TABLE, LABELS = "detections.json", "coco.json", "detections.csv", "labels"


class Writer(Protocol):
    """Takes what was found, picture by picture, and writes it at the latest when all is done."""

    def add(self, frame: Frame, found: Prediction) -> None:
        """One more picture."""
        ...

    def close(self) -> None:
        """All pictures are through."""
        ...


def writer(kind: Format, folder: Path, names: Sequence[str], about: dict[str, Any], every: int = 1) -> Writer:
    """The writer of a format; ``about`` says how the detections were made, ``every`` which frames of videos come."""
    if kind == "json":
        return _Json(folder, about)
    if kind == "coco":
        return _Coco(folder, names, about)
    if kind == "yolo":
        return _Yolo(folder, names)
    return _Table(folder) if kind == "csv" else _Pictures(folder, names, every)


class _Json:
    """``detections.json``, the names of things as a person would say them."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self._file, self._about = folder / JSON, about
        self._images: list[dict[str, Any]] = []

    def add(self, frame: Frame, found: Prediction) -> None:
        when = {} if frame.number is None else {"frame": frame.number, "seconds": round(frame.seconds or 0.0, 3)}
        size = {"width": found.width, "height": found.height}
        self._images.append({"image": str(frame.source.file), **when, **size, "detections": found.to_json()})

    def close(self) -> None:
        write_json(self._file, {"schema": SCHEMA, **self._about, "images": self._images})


class _Coco:
    """``coco.json``: a data set of its own whose annotations have scores; they alone are COCO's list of results.

    The pictures are named from the folder that was given.
    """

    def __init__(self, folder: Path, names: Sequence[str], about: dict[str, Any]) -> None:
        self._file, self._about = folder / COCO, about
        self._categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
        self._images: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def add(self, frame: Frame, found: Prediction) -> None:
        number = len(self._images) + 1
        name = frame.source.relative if frame.number is None else f"{frame.source.relative}#{frame.number}"
        self._images.append({"id": number, "file_name": name, "width": found.width, "height": found.height})
        for one, label in zip(found, found.labels.tolist(), strict=True):
            x1, y1, x2, y2 = one.box
            entry = {"id": len(self._found) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0}
            box = [round(edge, 3) for edge in (x1, y1, x2 - x1, y2 - y1)]
            area = round(box[2] * box[3], 3)
            self._found.append({**entry, "bbox": box, "area": area, "score": round(one.score, 5)})

    def close(self) -> None:
        content = {"info": self._about, "images": self._images, "annotations": self._found}
        write_json(self._file, {**content, "categories": self._categories}, indent=None)


class _Yolo:
    """``labels/NAME.txt`` as YOLO's labels are, without scores, so that they can be trained on; and ``classes.txt``."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder / LABELS
        write_text(self._folder / "classes.txt", "".join(f"{name}\n" for name in names))

    def add(self, frame: Frame, found: Prediction) -> None:
        lines = []
        for one, label in zip(found, found.labels.tolist(), strict=True):
            x1, y1, x2, y2 = one.box
            middle = ((x1 + x2) / 2 / found.width, (y1 + y2) / 2 / found.height)
            sides = ((x2 - x1) / found.width, (y2 - y1) / found.height)
            lines.append(" ".join([str(label), *(f"{number:.6f}" for number in (*middle, *sides))]) + "\n")
        write_text(self._folder / f"{name_of(frame)}.txt", "".join(lines))

    def close(self) -> None:
        """Every file is written already."""


class _Table:
    """``detections.csv`` in DeepForest's columns and the score; a picture without any has a row of its own."""

    def __init__(self, folder: Path) -> None:
        self._file, self._text = folder / TABLE, io.StringIO()
        self._table = csv.writer(self._text, lineterminator="\n")
        self._table.writerow(["image_path", "frame", "xmin", "ymin", "xmax", "ymax", "label", "score"])

    def add(self, frame: Frame, found: Prediction) -> None:
        start = [frame.source.relative, "" if frame.number is None else frame.number]
        for one in found:
            self._table.writerow([*start, *(f"{edge:.2f}" for edge in one.box), one.name, f"{one.score:.4f}"])
        if not len(found):
            self._table.writerow([*start, *[""] * 6])

    def close(self) -> None:
        write_text(self._file, self._text.getvalue())


class _Pictures:
    """``NAME.png`` of every picture and ``NAME.mp4`` of every video, at the size of the source."""

    def __init__(self, folder: Path, names: Sequence[str], every: int) -> None:
        self._folder, self._names, self._every = folder, names, every
        self._film: _Film | None = None

    def add(self, frame: Frame, found: Prediction) -> None:
        drawn = draw_detections(frame.picture.pixels(), found.to_json(), self._names)
        pixels = cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)
        if frame.number is None:
            content = cv2.imencode(".png", pixels)[1].tobytes()
            write_bytes(self._folder / f"{frame.source.name}.png", content)
            return
        if self._film is None or self._film.source != frame.source:
            self.close()
            size = (pixels.shape[1], pixels.shape[0])
            self._film = _Film(self._folder / f"{frame.source.name}.mp4", frame, self._every, size)
        self._film.add(pixels)

    def close(self) -> None:
        if self._film is not None:
            self._film.close()
        self._film = None


class _Film:
    """An annotated video in the making; it lasts as long as its source, however many frames are left out."""

    def __init__(self, file: Path, frame: Frame, every: int, size: tuple[int, int]) -> None:
        self.source, self._file = frame.source, file
        self._folder = tempfile.TemporaryDirectory()  # OpenCV writes as it goes, and says nothing of a full disk
        self._draft = Path(self._folder.name) / file.name
        rate = rate_of(frame.source) / every
        self._film = cv2.VideoWriter(str(self._draft), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        if not self._film.isOpened():
            fix = "leave pictures out, such as --as json"
            raise OutputError(Finding(str(file), "video", "cannot be written by this OpenCV", fix))

    def add(self, pixels: Any) -> None:
        self._film.write(pixels)

    def close(self) -> None:
        self._film.release()
        copy_file(self._draft, self._file)
        self._folder.cleanup()


def name_of(frame: Frame) -> str:
    """What is made of a frame is called that; frames of a video have their number in it."""
    return frame.source.name if frame.number is None else f"{frame.source.name}_{frame.number:06d}"


def batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    """Up to ``size`` frames at a time."""
    batch: list[Frame] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
