"""Labelme's JSON files, one a picture: rectangles, outlines and circles become boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incdet.data.formats.coco_layout import json_kind
from incdet.data.formats.draft import Draft, finish
from incdet.data.formats.jsonfile import load_json
from incdet.data.formats.pictures import ANNOTATION_FOLDERS, PicturesByStem, picture_folders
from incdet.data.formats.values import is_id, numbers, parse_flag, parse_side
from incdet.data.records import Exif, LabelledSet, Record
from incdet.errors import InputError, shown
from incdet.files import write_json
from incdet.vocab import clean_name, name_problem

IGNORED, BACKGROUND = "__ignore__", "_background_"
"""Labelme's own names: a region in which nothing counts, and what is no object."""
FLAGS = ("difficult", "ignore", "iscrowd")
_LINES = ("point", "line", "linestrip", "points")


@dataclass(frozen=True)
class LabelmePart:
    """One split: the folder of its JSON files (or one of them) and where their pictures may lie."""

    folder: Path
    pictures: tuple[Path, ...]

    def files(self) -> list[Path]:
        """The JSON files of Labelme's kind, sorted."""
        return [self.folder] if self.folder.is_file() else labelme_files(self.folder)


def labelme_files(folder: Path) -> list[Path]:
    """The JSON files of Labelme's kind directly in a folder, sorted."""
    files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".json" and path.is_file())
    return [path for path in files if json_kind(path) == "labelme"]


def labelme_parts(path: Path, images: Path | None = None) -> dict[str, LabelmePart]:
    """The splits of a folder of Labelme files: its sub-folders, or "" for files that are not split."""
    if path.is_file():
        own = path.suffix.lower() == ".json" and json_kind(path) == "labelme"
        return {"": LabelmePart(path, _pictures(path.parent, images))} if own else {}
    if not path.is_dir():
        return {}
    inside = [folder for folder in sorted(path.iterdir()) if folder.is_dir()]
    homes = [path, *(folder for folder in inside if folder.name.lower() in ANNOTATION_FOLDERS)]
    if home := next((home for home in homes if labelme_files(home)), None):
        return {"": LabelmePart(home, _pictures(home, images))}
    return {folder.name: LabelmePart(folder, _pictures(folder, images)) for folder in inside if labelme_files(folder)}


def read_parts(parts: Mapping[str, LabelmePart], chosen: str, exif: Exif = "auto") -> LabelledSet:
    """The records of one of ``parts``; their classes are the names in the files of all parts, sorted.

    Shapes of one group and one name are one object. A region called ``__ignore__`` counts for no class.

    Raises:
        InputError: With every fault of all files.
    """
    contents = {file: _load(file) for part in parts.values() for file in part.files()}
    names = tuple(sorted({name for content in contents.values() for name in _names(content)}))
    pictures = PicturesByStem(parts[chosen].pictures)
    drafts = [_draft(file, contents[file], pictures, names, exif) for file in parts[chosen].files()]
    return finish(drafts, names)


def write_labelme(records: Sequence[Record], folder: Path, names: Sequence[str]) -> None:
    """Write ``<name>.json`` into ``folder``, where the pictures of the records lie.

    Image id, coverage and ignored objects are kept in keys and flags that Labelme leaves alone.
    """
    for record in records:
        shapes = [
            {
                "label": name,
                "points": [box[:2], box[2:]],
                "group_id": None,
                "shape_type": "rectangle",
                "flags": {"difficult": True} if ignore else {},
            }
            for name, box, ignore in zip(record.names, record.boxes.tolist(), record.ignore.tolist(), strict=True)
        ]
        content: dict[str, Any] = {"version": "5.0.1", "flags": {}, "shapes": shapes}
        content |= {"imagePath": record.image.name, "imageData": None}
        content |= {"imageHeight": record.height, "imageWidth": record.width, "image_id": record.source_id}
        if record.coverage != frozenset(names):
            content["covered"] = sorted(record.coverage)
        write_json(folder / f"{record.image.stem}.json", content)


def _pictures(folder: Path, images: Path | None) -> tuple[Path, ...]:
    if images is None:
        return tuple(picture_folders(folder))
    return tuple(place for place in (images / folder.name, images) if place.is_dir()) or (images,)


def _load(file: Path) -> Any:
    """The content of a file, or what is wrong with it."""
    try:
        return load_json(file)
    except InputError as error:
        return error


def _names(content: Any) -> list[str]:
    shapes = content.get("shapes") if isinstance(content, dict) else None
    listed = shapes if isinstance(shapes, list) else ()
    labels = [shape.get("label") for shape in listed if isinstance(shape, dict)]
    own = [clean_name(str(label)) for label in labels if not name_problem(label)]
    covered = content.get("covered", []) if isinstance(content, dict) else []
    own += [clean_name(name) for name in covered if not name_problem(name)] if isinstance(covered, list) else []
    return [name for name in own if name not in (IGNORED, BACKGROUND)]


def _draft(file: Path, content: Any, pictures: PicturesByStem, names: Sequence[str], exif: Exif) -> Draft:
    draft = Draft(file, pictures.folders[0] / f"{file.stem}.jpg")
    if isinstance(content, InputError):
        draft.findings += content.findings
        return draft
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        draft.report("file", "holds no list of shapes", "give a file of Labelme")
        return draft
    path = content.get("imagePath")
    draft.image = pictures.find(file.stem, path if isinstance(path, str) else "") or draft.image
    draft.source_id = content["image_id"] if is_id(content.get("image_id")) else None
    if isinstance(content.get("covered"), list):
        draft.covered = frozenset(_names({"covered": content["covered"]}))
    width, height = parse_side(content.get("imageWidth")), parse_side(content.get("imageHeight"))
    draft.size = (width, height) if width and height else (0, 0)
    if draft.require_picture() and not all(draft.size) and not draft.measure(exif):
        draft.report("imageWidth", "is not stated, and the picture cannot be read", "restore the picture")
    _take_shapes(draft, content["shapes"], names)
    return draft


def _take_shapes(draft: Draft, shapes: Sequence[Any], names: Sequence[str]) -> None:
    objects: dict[Any, tuple[list[float], bool]] = {}
    for position, shape in enumerate(shapes, start=1):
        item = f"shape {position}"
        if not isinstance(shape, dict):
            draft.report(item, f"is {shown(shape)}", "remove it")
        elif problem := name_problem(shape.get("label")):
            draft.report(item, problem, "name its class")
        else:
            own, group = clean_name(str(shape["label"])), shape.get("group_id")
            item = f"{item} ({shown(own)})"
            if own != BACKGROUND and (found := _shape(draft, item, shape)):
                key = (own, f"group {group} ({shown(own)})") if isinstance(group, int) else (own, item)
                objects[key] = _joined(objects.get(key, found), found)
    for (own, item), (corners, ignore) in objects.items():
        for name in names if own == IGNORED else [own]:
            draft.add(item, corners, name, ignore or own == IGNORED)


def _shape(draft: Draft, item: str, shape: Mapping[str, Any]) -> tuple[list[float], bool] | None:
    """The box of a shape and whether it is ignored; None, with a finding, for one that has none."""
    kind = shape.get("shape_type") or "polygon"
    corners, ignore = _corners(shape.get("points"), kind), _flag(shape)
    if kind in _LINES:
        draft.report(item, f"is a {kind}, which has no size: left out", "nothing, or draw a box", "warning")
    elif corners is None:
        draft.report(item, f"has the points {shown(shape.get('points'))}", "draw it anew")
    elif ignore is None:
        draft.report(item, f"has the flags {shown(shape.get('flags'))}", "write true or false")
    else:
        return corners, ignore
    return None


def _joined(first: tuple[list[float], bool], second: tuple[list[float], bool]) -> tuple[list[float], bool]:
    (x1, y1, x2, y2), (left, top, right, bottom) = first[0], second[0]
    return [min(x1, left), min(y1, top), max(x2, right), max(y2, bottom)], first[1] or second[1]


def _flag(shape: Mapping[str, Any]) -> bool | None:
    flags = shape.get("flags") or {}
    if not isinstance(flags, dict):
        return None
    values = [parse_flag(flags[key]) for key in FLAGS if key in flags]
    return None if None in values else any(values)


def _corners(points: Any, kind: str) -> list[float] | None:
    """The xyxy box around a shape's points, for a circle around its rim; None if there are too few."""
    rows = [numbers(point, 2) for point in points] if isinstance(points, list) else []
    found = [row for row in rows if row is not None]
    if len(found) < 2 or len(found) < len(rows):
        return None
    if kind == "circle":
        (x, y), rim = found[0], found[1]
        radius = math.dist((x, y), rim)
        return [x - radius, y - radius, x + radius, y + radius]
    across, down = [x for x, _ in found], [y for _, y in found]
    return [min(across), min(down), max(across), max(down)]
