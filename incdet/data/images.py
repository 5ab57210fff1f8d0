"""Whether the pictures are what the annotations say and can be trained on, before a run needs their pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from incdet.data.inspection import MOST_PIXELS, Picture
from incdet.data.picture_book import Progress, inspect_pictures
from incdet.data.records import Record
from incdet.data.resize import Geometry
from incdet.errors import Finding, InputError, errors_of, shown

THIN = 50
"""Sides of this ratio vanish in a small detector."""


def check_pictures(
    records: Iterable[Record], geometry: Geometry | None = None, progress: Progress | None = None
) -> list[Finding]:
    """What is wrong with the pictures of records: errors for those that cannot be trained on, each with its file.

    Each picture is decoded once and remembered, see ``picture_book``. A camera's turn (EXIF) is no fault where the
    stated size tells whether the boxes follow it; where it does not, one warning asks.

    Args:
        records: Their pictures are looked at.
        geometry: What the detector resizes them to; None warns of very thin ones only.
        progress: Called while pictures are decoded.
    """
    records = list(records)
    pictures = inspect_pictures((record.image for record in records), progress)
    findings, undecided = [], []
    for record in records:
        picture = pictures[record.image]
        if problem := _problem(record, picture):
            findings.append(_finding(record, *problem))
            continue
        findings += _thin(record, geometry)
        if _undecided(record, picture):
            undecided.append(record)
    return findings + _turn_warning(undecided)


def sound_records(records: Iterable[Record], geometry: Geometry | None = None) -> list[Record]:
    """The records whose pictures can be trained on; a width and height that were exchanged are put right.

    They are if all boxes of the record lie in the picture then.
    """
    records = list(records)
    pictures = inspect_pictures(record.image for record in records)
    sound = []
    for record in records:
        picture = pictures[record.image]
        size = (picture.width, picture.height)
        exchanged = not picture.problem and size == (record.height, record.width) != (record.width, record.height)
        if exchanged and _problem(record, picture) and bool((record.boxes[:, 2:] <= size).all()):
            record = replace(record, width=size[0], height=size[1])
        if not _problem(record, picture) and not errors_of(_thin(record, geometry)):
            sound.append(record)
    return sound


def _finding(record: Record, problem: str, fix: str) -> Finding:
    return Finding(shown(str(record.image), 300), f"image {shown(record.source_id)}", problem, fix)


def _problem(record: Record, picture: Picture) -> tuple[str, str] | None:
    if "pixels" in picture.problem:
        return picture.problem, f"scale it (and its boxes) to less than {MOST_PIXELS // 10**6} megapixels"
    if picture.problem:
        return picture.problem, "restore the picture, save it as JPEG or PNG, or remove its entry"
    sizes: dict[Literal["auto", "apply", "ignore"], set[tuple[int, int]]] = {
        "apply": {picture.turned},
        "ignore": {(picture.width, picture.height)},
        "auto": {picture.turned, (picture.width, picture.height)},
    }
    stated = (record.width, record.height)
    if stated in sizes[record.exif]:
        return None
    problem = f"is {picture.width} x {picture.height}, its annotation says {stated[0]} x {stated[1]}"
    if stated in sizes["auto"]:
        return f"{problem}: that is the size after its camera's turn", "say exif: auto"
    if stated == (picture.height, picture.width):
        return f"{problem}: width and height are exchanged", "exchange them in the annotation, if its boxes are right"
    return problem, "restore the picture or correct the annotation"


def _thin(record: Record, geometry: Geometry | None) -> list[Finding]:
    if geometry is not None:
        try:
            geometry.shape(record)
        except InputError as error:
            return error.findings
    short, long = sorted((record.width, record.height))
    if geometry is not None or long < THIN * short:
        return []
    least = -(-long // short)
    problem = f"is {record.width} x {record.height}: a detector whose max_size is below {least} px cannot see it"
    return [Finding(str(record.image), f"image {shown(record.source_id)}", problem, "crop it or remove it", "warning")]


def _undecided(record: Record, picture: Picture) -> bool:
    """Whether nothing tells in which of two frames of one size the boxes of a record lie."""
    same = picture.turned == (picture.width, picture.height)
    return record.exif == "auto" and picture.orientation != 1 and same and len(record.names) > 0


def _turn_warning(records: Sequence[Record]) -> list[Finding]:
    if not records:
        return []
    problem = (
        f"{len(records)} picture(s) are to be turned (EXIF), and their size does not tell whether the boxes were drawn "
        "before or after; they are taken as drawn after it (this is the first)"
    )
    fix = "look at one and say it: --exif apply or --exif ignore (in a configuration data.exif)"
    first = records[0]
    return [Finding(str(first.image), f"image {shown(first.source_id)}", problem, fix, "warning")]
