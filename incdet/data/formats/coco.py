"""COCO detection JSON: read after write is the identity on records."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from incdet.data.formats.checks import check_coco, errors_of, is_official_coco, judge_box, load_json
from incdet.data.records import LabelledSet, Record
from incdet.errors import InputError
from incdet.files import write_json


def read_coco(annotations: Path, images: Path, *, keep_empty: bool = True) -> LabelledSet:
    """The records of a COCO file; every image is covered for all its categories unless it says otherwise.

    ``iscrowd``, ``difficult`` and ``ignore`` make an object ignored. Boxes that leave the image by at most two pixels
    are clipped with a warning.

    Args:
        annotations: The JSON file.
        images: The folder that ``file_name`` is relative to.
        keep_empty: Whether images without any object become records.

    Raises:
        InputError: With every fault of the file, not only the first.
    """
    annotations, images = Path(annotations), Path(images)
    content = load_json(annotations)
    findings = check_coco(annotations, images, content)
    errors = errors_of(findings)
    if errors:
        raise InputError(errors)
    categories = {entry["id"]: entry["name"] for entry in sorted(content["categories"], key=lambda entry: entry["id"])}
    grouped: dict[int, list[dict[str, Any]]] = {}
    for entry in content["annotations"]:
        grouped.setdefault(entry["image_id"], []).append(entry)
    records = tuple(
        _record(entry, grouped.get(entry["id"], []), categories, images, is_official_coco(content))
        for entry in content["images"]
    )
    result = LabelledSet(
        records, tuple(categories.values()), {name: number for number, name in categories.items()}, tuple(findings)
    )
    return result if keep_empty else result.without_empty()


def write_coco(
    records: Sequence[Record],
    path: Path,
    names: Sequence[str],
    source_ids: Mapping[str, int],
    *,
    images: Path | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write records so that ``read_coco(path, images)`` returns them unchanged.

    An image that does not cover all of ``names`` carries the extra key ``covered_category_ids``.

    Args:
        records: Their names must be among ``names``.
        path: The JSON file to write; it appears complete or not at all.
        names: All classes.
        source_ids: The category id of each.
        images: The folder that ``file_name`` shall be relative to; default: the folder of ``path``.
        info: Goes into the file's ``info``.
    """
    path = Path(path)
    root = Path(images) if images is not None else path.parent
    content: dict[str, Any] = {
        "info": dict(info or {}),
        "images": [],
        "annotations": [],
        "categories": [{"id": source_ids[name], "name": name} for name in names],
    }
    for record in records:
        entry: dict[str, Any] = {
            "id": record.image_id,
            "file_name": os.path.relpath(record.image, root),
            "width": record.width,
            "height": record.height,
        }
        if record.coverage != frozenset(names):
            entry["covered_category_ids"] = sorted(source_ids[name] for name in record.coverage)
        content["images"].append(entry)
        for box, name, ignore in zip(record.boxes.tolist(), record.names, record.ignore.tolist(), strict=True):
            x1, y1, x2, y2 = box
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": record.image_id,
                    "category_id": source_ids[name],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(ignore),
                }
            )
    write_json(path, content, indent=None)


def _record(
    entry: dict[str, Any], annotations: list[dict[str, Any]], categories: dict[int, str], images: Path, drop_empty: bool
) -> Record:
    width, height = entry["width"], entry["height"]
    boxes, names, ignore = [], [], []
    for annotation in annotations:
        x, y, w, h = annotation["bbox"]
        if drop_empty and min(w, h) == 0:
            continue
        boxes.append(judge_box(x, y, x + w, y + h, width, height).corners)
        names.append(categories[annotation["category_id"]])
        ignore.append(any(annotation.get(key) for key in ("iscrowd", "difficult", "ignore")))
    covered = entry.get("covered_category_ids", categories)
    return Record(
        images / entry["file_name"],
        entry["id"],
        width,
        height,
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        tuple(names),
        np.array(ignore, dtype=np.bool_),
        frozenset(categories[number] for number in covered),
    )
