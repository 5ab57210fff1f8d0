"""The one door for annotations: whatever format they have, every verb opens them here and says what it found."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from incdet.data.formats import coco, labelme, table, voc, yolo, yolo_layout
from incdet.data.formats.coco_layout import coco_parts
from incdet.data.formats.splits import Purpose, choose_split
from incdet.data.formats.textfile import neighbours
from incdet.data.formats.voc_layout import VocPart, devkit_parts, folder_parts
from incdet.data.formats.yolo_layout import YoloNames, YoloPart
from incdet.data.images import check_pictures, sound_records
from incdet.data.picture_book import Progress
from incdet.data.records import Exif, FaultyData, LabelledSet
from incdet.data.resize import Geometry
from incdet.errors import Finding, InputError, errors_of


@dataclass(frozen=True)
class Annotations:
    """Annotations that were recognised but not read.

    Attributes:
        path: The file or folder that was given.
        format: What they are, for people.
        splits: Their splits; "" for data without any.
    """

    path: Path
    format: str
    splits: tuple[str, ...]
    _read: Callable[[str], LabelledSet]

    def read(self, split: str) -> LabelledSet:
        """The records of one of the splits.

        Raises:
            InputError: With every fault of its files.
        """
        others = (
            f" (of {', '.join(name or 'the folder itself' for name in self.splits)})" if len(self.splits) > 1 else ""
        )
        origin = f"{self.path}: {self.format}" + (f", split {split}{others}" if split else "")
        try:
            with _readable(self.path):
                return replace(self._read(split), origin=origin)
        except FaultyData as faulty:
            rest = faulty.rest
            raise FaultyData(faulty.findings, lambda: replace(rest(), origin=origin)) from None


def open_annotations(
    path: Path,
    images: Path | None = None,
    split: str | None = None,
    *,
    purpose: Purpose = "train",
    exif: Exif = "auto",
    geometry: Geometry | None = None,
    progress: Progress | None = None,
) -> LabelledSet:
    """The records of annotations in any of the known formats, with pictures that can be trained on.

    A verb opens its training data by ``open_annotations(data, images, split)`` and everything it measures on with
    ``purpose="test"``, which never takes a training split by itself; it prints ``describe()`` and the warnings.

    Args:
        path: A COCO, Labelme or CSV file, or a YOLO ``data.yaml``; a folder of COCO, VOC XML, Labelme, YOLO or CSV
            files, or of such folders, one a split; or a VOC devkit.
        images: The folder of the pictures, where they do not lie beside their annotations.
        split: Which split to read; None takes the one for ``purpose``.
        purpose: What the records are for.
        exif: Whether the pictures are turned as the camera says; ``auto`` tells it from the stated sizes.
        geometry: What the detector resizes pictures to, where one is known: too thin ones are refused.
        progress: Called while pictures are decoded that were not seen before.

    Raises:
        InputError: Everything that is wrong with the annotations, or else with the pictures.
    """
    found = recognise(path, images, exif)
    data = found.read(choose_split(found.splits, split, purpose, found.path))
    return with_pictures(data, exif, geometry, progress)


def with_pictures(
    data: LabelledSet, exif: Exif = "auto", geometry: Geometry | None = None, progress: Progress | None = None
) -> LabelledSet:
    """The same records after a look at their pictures, with its warnings; arguments and errors as above."""
    if exif != "auto":
        data = replace(data, records=tuple(replace(record, exif=exif) for record in data.records))
    findings = check_pictures(data.records, geometry, progress)
    if errors := errors_of(findings):
        raise FaultyData(errors, lambda: replace(data, records=tuple(sound_records(data.records, geometry))))
    return replace(data, warnings=(*data.warnings, *findings))


def recognise(path: Path, images: Path | None = None, exif: Exif = "auto") -> Annotations:
    """What kind of annotations ``path`` holds, and which splits; arguments as of ``open_annotations``.

    Raises:
        InputError: It does not exist, or holds nothing that is known.
    """
    path = Path(path)
    images = None if images is None else Path(images)
    if not os.path.exists(path):
        raise InputError(Finding(str(path), "file", "does not exist", f"give the annotations; {neighbours(path)}"))
    if images is not None and not os.path.isdir(images):
        fix = f"give the image folder; {neighbours(images)}"
        raise InputError(Finding(str(images), "folder", "does not exist", fix))
    with _readable(path):
        for name, find in _FORMATS.items():
            if found := find(path, images, exif):
                return Annotations(path, name, tuple(found), lambda split: found[split]())
    fix = "give COCO JSON, VOC XML, YOLO (data.yaml and .txt), Labelme JSON, or a .csv of boxes, or a folder of them"
    raise InputError(Finding(str(path), "folder" if path.is_dir() else "file", "holds no annotations", fix))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Says which folder or file may not be read."""
    try:
        yield
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise InputError(Finding(str(error.filename or path), "file", problem, "change its permissions")) from None


Readers = Mapping[str, Callable[[], LabelledSet]]


def _coco(path: Path, images: Path | None, exif: Exif) -> Readers:
    return {name: partial(coco.read_part, part) for name, part in coco_parts(path, images).items()}


def _labelme(path: Path, images: Path | None, exif: Exif) -> Readers:
    parts = labelme.labelme_parts(path, images)
    return {name: partial(labelme.read_parts, parts, name, exif) for name in parts}


def _devkit(path: Path, images: Path | None, exif: Exif) -> Readers:
    return _voc(devkit_parts(path, images) if path.is_dir() else {}, exif)


def _xml_folder(path: Path, images: Path | None, exif: Exif) -> Readers:
    return _voc(folder_parts(path, images) if path.is_dir() else {}, exif)


def _voc(parts: Mapping[str, VocPart], exif: Exif) -> Readers:
    return {name: partial(voc.read_parts, parts, [name], exif=exif) for name in parts}


def _table(path: Path, images: Path | None, exif: Exif) -> Readers:
    parts = table.table_parts(path, images)
    return {name: partial(table.read_parts, parts, name, exif) for name in parts}


def _yolo_yaml(path: Path, images: Path | None, exif: Exif) -> Readers:
    file = yolo_layout.yaml_file(path)
    return _yolo(yolo_layout.yaml_parts(file, images) if file is not None else None, exif)


def _yolo_folder(path: Path, images: Path | None, exif: Exif) -> Readers:
    return _yolo(yolo_layout.folder_parts(path, images) if path.is_dir() else None, exif)


def _yolo(found: tuple[YoloNames, Mapping[str, YoloPart]] | None, exif: Exif) -> Readers:
    if found is None:
        return {}
    names, parts = found
    return {name: partial(yolo.read_part, part, names, exif) for name, part in parts.items()}


_FORMATS: dict[str, Callable[[Path, Path | None, Exif], Readers]] = {
    "YOLO": _yolo_yaml,
    "VOC devkit": _devkit,
    "Labelme JSON": _labelme,
    "COCO JSON": _coco,
    "VOC XML": _xml_folder,
    "CSV": _table,
    "YOLO text": _yolo_folder,
}
