"""YOLO text files: a ``data.yaml`` that names classes and folders, and one ``.txt`` of normalised boxes a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incdet.config.yamlfile import write_yaml
from incdet.data.formats.draft import Draft, finish
from incdet.data.formats.textfile import read_text
from incdet.data.formats.yolo_layout import YoloNames, YoloPart
from incdet.data.records import Exif, LabelledSet, Record
from incdet.errors import Finding, InputError, shown
from incdet.files import write_text

NORMALISED = 1.5
"""A larger number is no share of a width or height, even of a box that hangs over the edge."""


@dataclass(frozen=True)
class _Line:
    """One line of a label file: where it stands, the class's row and the corners as shares of the picture."""

    item: str
    row: int
    corners: tuple[float, float, float, float]


def read_part(part: YoloPart, names: YoloNames, exif: Exif = "auto") -> LabelledSet:
    """The records of one split; a picture without a label file shows no object.

    A line is ``class cx cy w h``, or ``class x1 y1 x2 y2 ...`` for the outline of an object, which becomes its box.
    All numbers are shares of the picture as it is shown (after its camera's turn).

    Raises:
        InputError: With every fault of all files, or if no picture has a label file.
    """
    drafts = [_draft(picture, label, names, exif) for picture, label in part.pairs()]
    if not any(os.path.isfile(draft.file) for draft in drafts):
        first = f", for example {drafts[0].file}" if drafts else ""
        problem = f"no picture of {shown(str(part.pictures[0]))} has a label file{first}"
        raise InputError(Finding(str(part.file), "labels", problem, "put the .txt files into a folder `labels`"))
    ids = {name: row for row, name in enumerate(names.names)}
    return finish(drafts, names.names, ids, where=part.pictures[0])


def write_yolo(records: Sequence[Record], root: Path, split: str, names: Sequence[str], splits: Sequence[str]) -> None:
    """Write ``labels/<split>/*.txt`` for pictures that lie in ``root/images/<split>``, and ``data.yaml``.

    The format knows no ignored objects and no coverage: ``records`` may have neither.

    Args:
        records: Their pictures have names of their own.
        root: The data set's folder.
        split: Which split they are.
        names: All classes, in the order of their numbers.
        splits: All splits that ``data.yaml`` shall name.
    """
    rows = {name: row for row, name in enumerate(names)}
    for record in records:
        lines = []
        for name, (x1, y1, x2, y2) in zip(record.names, record.boxes.tolist(), strict=True):
            shares = (x1 + x2) / 2 / record.width, (y1 + y2) / 2 / record.height
            sides = (x2 - x1) / record.width, (y2 - y1) / record.height
            lines.append(" ".join(str(number) for number in (rows[name], *shares, *sides)))
        write_text(root / "labels" / split / f"{record.image.stem}.txt", "".join(f"{line}\n" for line in lines))
    content: dict[str, Any] = {"path": ".", **{name: f"images/{name}" for name in splits}}
    write_text(root / "data.yaml", write_yaml({**content, "nc": len(names), "names": list(names)}))


def _draft(picture: Path, label: Path, names: YoloNames, exif: Exif) -> Draft:
    draft = Draft(label, picture)
    if not draft.measure(exif):
        draft.report("picture", f"{shown(str(picture))} is no picture", "restore it, or remove it")
    elif os.path.exists(label):
        try:
            text = read_text(label)
        except InputError as error:
            draft.findings += error.findings
            return draft
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip() and (found := _parse(draft, number, line, names)):
                width, height = draft.size
                x1, y1, x2, y2 = found.corners
                corners = (x1 * width, y1 * height, x2 * width, y2 * height)
                draft.add(found.item, corners, names.names[found.row], stated=shown(line.strip()))
    return draft


def _parse(draft: Draft, number: int, line: str, names: YoloNames) -> _Line | None:
    item, words = f"line {number}", line.split()
    try:
        row, *values = (float(word) for word in words)
    except ValueError:
        draft.report(item, f"is {shown(line.strip())}", "write class, centre x, centre y, width and height as numbers")
        return None
    if row != row or row not in range(len(names.names)):
        known = ", ".join(f"{place} {shown(name)}" for place, name in list(enumerate(names.names))[:8])
        draft.report(item, f"has the class {shown(words[0])}", f"use one of those in {names.file.name}: {known}")
        return None
    corners = _corners(values, names.keypoints)
    if corners is None:
        problem = f"has {len(words)} numbers"
        fix = "write class, centre x, centre y, width, height; or class and the corners of an outline"
        if len(words) == 6:
            problem, fix = (
                f"{problem}, as detections with a score have",
                "leave the score out: these are no annotations",
            )
        draft.report(item, problem, fix)
        return None
    if any(abs(value) > NORMALISED for value in values):
        draft.report(item, f"is {shown(line.strip())}: these look like pixels", "divide by width and height")
        return None
    return _Line(item, int(row), corners)


def _corners(values: Sequence[float], keypoints: bool) -> tuple[float, float, float, float] | None:
    """The box of the numbers after the class: four of a box, with what follows of key points, or an outline's."""
    if len(values) == 4 or (keypoints and len(values) > 4):
        x, y, w, h = values[:4]
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    if len(values) < 6 or len(values) % 2:
        return None
    across, down = values[0::2], values[1::2]
    return min(across), min(down), max(across), max(down)
