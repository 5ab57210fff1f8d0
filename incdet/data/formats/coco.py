"""COCO detection JSON: read after write is the identity on records."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from incdet.data.formats.coco_checks import COVERED, NEGATIVE, PARTIAL, CocoContent, CocoImage
from incdet.data.formats.coco_layout import CocoPart
from incdet.data.formats.jsonfile import load_json
from incdet.data.formats.values import LARGEST_ID, is_id
from incdet.data.records import FaultyData, LabelledSet, Record
from incdet.errors import Finding, errors_of
from incdet.files import write_json


def read_coco(annotations: Path, images: Path, *, keep_empty: bool = True) -> LabelledSet:
    """The records of a COCO file; every image is covered for all its categories unless it says otherwise.

    It says so by ``covered_category_ids``, or as LVIS does. ``iscrowd``, ``difficult`` and ``ignore`` make an object
    ignored. Boxes that leave the image by at most two pixels are clipped with a warning.

    Args:
        annotations: The JSON file.
        images: The folder that ``file_name`` is relative to.
        keep_empty: Whether images without any object become records.

    Raises:
        InputError: With every fault of the file, not only the first.
    """
    result = read_part(CocoPart(Path(annotations), Path(images)))
    return result if keep_empty else result.without_empty()


def read_part(part: CocoPart) -> LabelledSet:
    """The records of a COCO file whose pictures may still have to be found, see ``read_coco``."""
    content = load_json(part.file)
    found = CocoContent(part.file, part.folder(content), content)
    if errors := errors_of(found.findings):
        raise FaultyData(errors, lambda: _labelled(found))
    return _labelled(found)


def _labelled(found: CocoContent) -> LabelledSet:
    """The sound images of a file with their sound boxes."""
    found.images = {number: image for number, image in found.images.items() if image.is_sound}
    every, ids = frozenset(found.names.values()), _image_ids(list(found.images))
    records, partial = [], 0
    for number, image in zip(ids, found.images.values(), strict=True):
        coverage = _coverage(image, found.names, every)
        partial += _drop_partial(image, coverage)
        records.append(_record(image, number, coverage))
    source_ids = {
        name: number if isinstance(number, int) else position
        for position, (number, name) in enumerate(found.names.items(), start=1)
    }
    warnings = (*(f for f in found.findings if f.severity != "error"), *_partial_warning(found.file, partial))
    return LabelledSet(tuple(records), tuple(found.names.values()), source_ids, warnings)


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

    An image that does not cover all of ``names`` carries the extra key ``covered_category_ids`` and the two of LVIS.
    Images keep their source ids where these differ from one another.

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
    source, every = [record.source_id for record in records], frozenset(names)
    ids = source if len({*map(str, source)}) == len(source) else [record.image_id for record in records]
    for number, record in zip(ids, records, strict=True):
        place = _relative(record.image, root)
        entry: dict[str, Any] = {"id": number, "file_name": place, "width": record.width, "height": record.height}
        if record.coverage != every:
            entry[COVERED] = sorted(source_ids[name] for name in record.coverage)
            entry[NEGATIVE] = sorted(source_ids[name] for name in record.coverage - {*record.names})
            entry[PARTIAL] = []
        content["images"].append(entry)
        for box, name, ignore in zip(record.boxes.tolist(), record.names, record.ignore.tolist(), strict=True):
            head = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": source_ids[name]}
            content["annotations"].append(head | _sides(*box) | {"iscrowd": int(ignore)})
    write_json(path, content, indent=None)


def _sides(x1: float, y1: float, x2: float, y2: float) -> dict[str, Any]:
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}


def _image_ids(source_ids: Sequence[Hashable]) -> Sequence[int]:
    """The source's own numbers where every program can hold them, else 1, 2, ..."""
    own = [number for number in source_ids if isinstance(number, int) and 0 <= number < LARGEST_ID]
    return own if len(own) == len(source_ids) else range(1, len(source_ids) + 1)


def _coverage(image: CocoImage, names: Mapping[Hashable, str], every: frozenset[str]) -> frozenset[str]:
    """What is annotated exhaustively in an image: what its entry says, else every category.

    LVIS annotates an image for the categories that it shows, but for those it calls not exhaustive, and for some that
    it calls negative, which are absent (Gupta et al. 2019, section 3).
    """
    entry = image.entry
    told = {
        key: {names[number] for number in entry[key] if is_id(number) and number in names}
        for key in (COVERED, NEGATIVE, PARTIAL)
        if isinstance(entry.get(key), list)
    }
    if COVERED in told:
        return frozenset(told[COVERED])
    if not told:
        return every
    negative, partial = told.get(NEGATIVE, set()), told.get(PARTIAL, set())
    return frozenset(negative.union(image.names) - partial)


def _drop_partial(image: CocoImage, coverage: frozenset[str]) -> int:
    """Takes the boxes of categories away that LVIS calls not exhaustive there; how many they were."""
    rows = [row for row, name in enumerate(image.names) if name in coverage]
    dropped = len(image.names) - len(rows)
    image.boxes, image.ignore = [image.boxes[row] for row in rows], [image.ignore[row] for row in rows]
    image.names = [image.names[row] for row in rows]
    return dropped


def _partial_warning(file: Path, count: int) -> list[Finding]:
    if not count:
        return []
    problem = f"{count} boxes of categories that are not annotated exhaustively in their image were left out"
    return [Finding(str(file), PARTIAL, problem, "nothing: the category is unlabelled in that image", "warning")]


def _record(image: CocoImage, number: int, coverage: frozenset[str]) -> Record:
    assert image.path is not None, "an image without a picture has an error"
    return Record(
        image.path,
        number,
        *image.size,
        np.array(image.boxes, dtype=np.float32).reshape(-1, 4),
        tuple(image.names),
        np.array(image.ignore, dtype=np.bool_),
        coverage,
        image.source_id,
    )


def _relative(picture: Path, root: Path) -> str:
    """The picture's path from ``root`` with slashes, which every system reads."""
    try:
        return Path(os.path.relpath(picture, root)).as_posix()
    except ValueError:  # on another drive
        return picture.resolve().as_posix()
