"""Annotations of any format written in another one, with their pictures, as a data set of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from incdet.data.formats.coco import write_coco
from incdet.data.formats.labelme import write_labelme
from incdet.data.formats.reader import recognise, with_pictures
from incdet.data.formats.splits import apart, choose_split, purpose_of
from incdet.data.formats.table import write_table
from incdet.data.formats.voc import write_voc
from incdet.data.formats.yolo import write_yolo
from incdet.data.formats.yolo_layout import SPLITS as YOLO_SPLITS
from incdet.data.picture_book import Progress
from incdet.data.records import Exif, LabelledSet, Record
from incdet.errors import Finding, InputError, shown, suggest
from incdet.files import copy_file, require_output

Format = Literal["coco", "voc", "yolo", "labelme", "csv"]
FORMATS: tuple[Format, ...] = ("coco", "voc", "yolo", "labelme", "csv")
_UNNAMED = {"coco": "annotations", "voc": "default", "yolo": "train", "labelme": "", "csv": "annotations"}
"""What a split without a name is called in each format."""
_FOLDERS = {"coco": "images", "voc": "JPEGImages", "yolo": "images/{split}", "labelme": "{split}", "csv": "images"}
"""Where each format wants its pictures."""
_NO_IGNORED, _NO_COVERAGE, _NO_LIST = ("yolo",), ("yolo", "csv"), ("csv",)


def convert(
    path: Path,
    target: Format,
    out: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    exif: Exif = "auto",
    link: bool = False,
    progress: Progress | None = None,
) -> list[LabelledSet]:
    """Writes annotations in another format into a folder of their own, which ``open_annotations`` reads.

    Args:
        path: Annotations, see ``open_annotations``.
        target: The format to write.
        out: The folder to make; it is empty or does not exist.
        images: The folder of the pictures, where they lie apart.
        split: Which split; None takes all of them.
        exif: Whether the pictures are turned as the camera says.
        link: Make links to the pictures in place of copies.
        progress: Called while pictures are decoded.

    Returns:
        What was written of each split; the warnings say what the format cannot hold.

    Raises:
        InputError: Anything that is wrong with the annotations, or ``out`` holds something.
        OutputError: ``out`` cannot be written.
    """
    if target not in FORMATS:
        raise InputError(Finding("command line", f"format {target!r}", "is not known", suggest(target, FORMATS)))
    require_output(out, folder=True)
    if out.is_dir() and any(out.iterdir()):
        raise InputError(Finding(str(out), "folder", "is not empty", "name a folder that does not exist yet"))
    found = recognise(path, images, exif)
    names = apart(found.splits) if split is None else [choose_split(found.splits, split, "train", found.path)]
    data = {name: with_pictures(found.read(name), exif, progress=progress) for name in names}
    data = _with_all_names(data)
    titles = _titles(names, target, found.path)
    written = {titles[name]: _holdable(one, target, _unshown(data)) for name, one in data.items()}
    taken: set[Path] = set()
    placed = {
        name: _placed(one, out / _FOLDERS[target].format(split=name), taken, link) for name, one in written.items()
    }
    for name in placed:
        _WRITERS[target](_Job(out, placed), name)
    return [*written.values()]


def _titles(splits: Sequence[str], target: Format, path: Path) -> dict[str, str]:
    """What each split is called in the target: YOLO knows three names."""
    titles = {name: name or _UNNAMED[target] for name in splits}
    if target == "yolo":
        words = {name: purpose_of(title) or "train" for name, title in titles.items()}
        titles = {name: title if title in YOLO_SPLITS else words[name] for name, title in titles.items()}
    if len(set(titles.values())) < len(titles):
        problem = f"{', '.join(splits)} would get the same name"
        raise InputError(Finding(str(path), "splits", problem, f"convert one: --split {splits[0]}"))
    return titles


def _with_all_names(data: Mapping[str, LabelledSet]) -> dict[str, LabelledSet]:
    """Every split with the classes of all, for files of their own may name different ones."""
    ids: dict[str, int] = {}
    for one in data.values():
        for name in one.names:
            ids.setdefault(name, one.source_ids[name])
    if len(set(ids.values())) < len(ids):
        ids = {name: number for number, name in enumerate(ids, start=1)}
    return {split: replace(one, names=tuple(ids), source_ids=ids) for split, one in data.items()}


def _unshown(data: Mapping[str, LabelledSet]) -> list[str]:
    """The classes that no object has in any split."""
    own = {name for one in data.values() for record in one.records for name in record.names}
    return list(dict.fromkeys(name for one in data.values() for name in one.names if name not in own))


def _holdable(data: LabelledSet, target: Format, unshown: Sequence[str]) -> LabelledSet:
    """What the format can say of the records, with a warning for the rest; ``unshown`` classes have no object."""
    warnings = list(data.warnings)
    where, records, every = data.origin, data.records, frozenset(data.names)
    ignored = sum(int(record.ignore.sum()) for record in records)
    if target in _NO_IGNORED and ignored:
        records = tuple(_counted(record) for record in records)
        problem = f"{ignored} ignored objects were left out: {target} has no word for them"
        warnings.append(Finding(where, "objects", problem, "keep the source: they are not background", "warning"))
    partial = sum(record.coverage != every for record in records)
    if target in _NO_COVERAGE and partial:
        problem = f"{partial} images are annotated for some classes only, which {target} cannot say"
        warnings.append(Finding(where, "coverage", problem, "write COCO, VOC or Labelme instead", "warning"))
    if target in _NO_LIST and unshown:
        problem = f"{len(unshown)} without an object were left out: {shown(', '.join(unshown))}"
        fix = f"{target} knows a class by its objects alone: write another format, or name them where you train"
        warnings.append(Finding(where, "classes", problem, fix, "warning"))
    if data.truncated:
        problem = f"{data.truncated} objects lose the mark `truncated`"
        warnings.append(Finding(where, "objects", problem, "keep the source if something reads it", "warning"))
    if any(record.exif == "ignore" for record in records):
        problem = "the boxes lie in the pictures as stored"
        warnings.append(Finding(where, "exif", problem, "open the result with --exif ignore too", "warning"))
    return replace(data, records=records, warnings=tuple(warnings))


def _counted(record: Record) -> Record:
    rows = [row for row, ignored in enumerate(record.ignore) if not ignored]
    own = tuple(record.names[row] for row in rows)
    return replace(record, boxes=record.boxes[rows], names=own, ignore=record.ignore[rows])


def _placed(data: LabelledSet, folder: Path, taken: set[Path], link: bool) -> LabelledSet:
    """The records with their pictures in ``folder``, under names that differ (without endings) from all ``taken``."""
    records = []
    for record in data.records:
        stem, number = record.image.stem, 1
        while folder / stem.lower() in taken:
            number += 1
            stem = f"{record.image.stem}_{number}"
        taken.add(folder / stem.lower())
        target = folder / f"{stem}{record.image.suffix}"
        if link:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(os.path.abspath(record.image), target)
        else:
            copy_file(record.image, target)
        records.append(replace(record, image=target))
    return replace(data, records=tuple(records))


class _Job(NamedTuple):
    """What is written: the splits, whose pictures lie in the folder already."""

    out: Path
    splits: Mapping[str, LabelledSet]

    def shown(self) -> list[str]:
        """The classes that some object has: formats without a class list know no other, unless an image says so."""
        own = {name for one in self.splits.values() for record in one.records for name in record.names}
        return [name for one in self.splits.values() for name in one.names if name in own]


def _write_coco(job: _Job, split: str) -> None:
    data, out = job.splits[split], job.out
    write_coco(data.records, out / f"{split}.json", data.names, data.source_ids, images=out / "images")


def _write_voc(job: _Job, split: str) -> None:
    write_voc(job.splits[split].records, job.out, split, job.shown())


def _write_yolo(job: _Job, split: str) -> None:
    data = job.splits[split]
    write_yolo(data.records, job.out, split, data.names, [*job.splits])


def _write_labelme(job: _Job, split: str) -> None:
    write_labelme(job.splits[split].records, job.out / split, job.shown())


def _write_table(job: _Job, split: str) -> None:
    write_table(job.splits[split].records, job.out / f"{split}.csv", job.out / "images")


_WRITERS: dict[Format, Callable[[_Job, str], None]] = {
    "coco": _write_coco,
    "voc": _write_voc,
    "yolo": _write_yolo,
    "labelme": _write_labelme,
    "csv": _write_table,
}
