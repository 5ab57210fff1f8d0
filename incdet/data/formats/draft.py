"""One annotated image while its files are read: findings instead of exceptions, a record when all is well."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from incdet.data.formats.boxes import ROUNDING, Corners, clipped_warning, judge_box
from incdet.data.formats.values import LARGEST_ID
from incdet.data.inspection import header_size
from incdet.data.records import Exif, FaultyData, LabelledSet, Record
from incdet.errors import Finding, errors_of, shown, suggest
from incdet.vocab import name_problem


@dataclass
class Draft:
    """What the annotation of an image says.

    Attributes:
        file: The annotation file.
        image: Its picture; not there if a finding says so.
        source_id: The id that the format states, None where it states none.
        size: (width, height) in pixels, (0, 0) if it is not known.
        boxes: xyxy inside the image.
        names: Of the boxes.
        ignore: Of the boxes.
        covered: The classes that are annotated here, None for all.
        clipped: (object, pixels) of boxes that left the image by a pixel or two.
        truncated: Objects marked as cut off by the edge or hidden; they count as any other.
        findings: Everything that is wrong.
    """

    file: Path
    image: Path
    source_id: int | str | None = None
    size: tuple[int, int] = (0, 0)
    boxes: list[Corners] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ignore: list[bool] = field(default_factory=list)
    covered: frozenset[str] | None = None
    clipped: list[tuple[str, float]] = field(default_factory=list)
    truncated: int = 0
    findings: list[Finding] = field(default_factory=list)

    def report(self, item: str, problem: str, fix: str, severity: str = "error") -> None:
        """Adds a finding about the file."""
        self.findings.append(Finding(str(self.file), item, problem, fix, severity))

    def require_picture(self) -> bool:
        """Whether the picture is there; reports it if not."""
        if os.path.isfile(self.image):
            return True
        fix = f"put it there, or give --images with its folder; {shown(self.file.name)} calls it so"
        self.report("picture", f"{shown(str(self.image))} does not exist", fix)
        return False

    def check_name(self) -> None:
        """Reports a picture whose name is no text, which no file could hold."""
        try:
            str(self.image).encode("utf-8")
        except UnicodeEncodeError:
            self.report("picture", f"{shown(str(self.image))} has a name that is no text", "rename it")

    def measure(self, exif: Exif = "auto") -> bool:
        """Takes the size from the picture's header; whether that worked."""
        self.size = header_size(self.image, exif) or (0, 0)
        return self.size != (0, 0)

    def add(self, item: str, corners: Sequence[float], name: str, ignore: bool = False, stated: str = "") -> None:
        """Adds a box, or a finding with what the file ``stated``.

        Args:
            item: The object, for messages.
            corners: xyxy in pixel edges.
            name: Of its class.
            ignore: Whether it does not count.
            stated: The coordinates as the file has them.
        """
        if not all(self.size):
            return
        x1, y1, x2, y2 = corners
        verdict = judge_box(x1, y1, x2, y2, *self.size)
        if verdict.corners is None:
            self.report(item, f"its box {stated or [*corners]} {verdict.problem}", verdict.fix)
            return
        if verdict.excess > ROUNDING:
            self.clipped.append((f"{self.file.name} {item}", verdict.excess))
        self.boxes.append(verdict.corners)
        self.names.append(name)
        self.ignore.append(ignore)

    def record(self, image_id: int, every: frozenset[str]) -> Record:
        """The finished record, which covers ``every`` class unless the file says which."""
        return Record(
            self.image,
            image_id,
            *self.size,
            np.array(self.boxes, dtype=np.float32).reshape(-1, 4),
            tuple(self.names),
            np.array(self.ignore, dtype=np.bool_),
            every if self.covered is None else self.covered,
            image_id if self.source_id is None else self.source_id,
        )


def finish(
    drafts: Sequence[Draft],
    names: Sequence[str],
    ids: Mapping[str, int] | None = None,
    findings: Sequence[Finding] = (),
    where: Path | None = None,
) -> LabelledSet:
    """The records of ``drafts``, or all that is wrong with them.

    Args:
        drafts: In the order of the records; at least one.
        names: The class list.
        ids: The category id of each name; 1, 2, ... in their order if not given.
        findings: What was found before.
        where: The place that clipped boxes are reported for; the folder of the first file if not given.

    Raises:
        InputError: With every fault of all files.
    """
    for one in drafts:
        one.check_name()
    told = [*findings, *(finding for one in drafts for finding in one.findings)]
    source_ids = dict(ids) if ids is not None else {name: number for number, name in enumerate(names, start=1)}
    if errors := errors_of([*told, *_unknown_names(drafts, names)]):
        raise FaultyData(errors, lambda: LabelledSet(_records(_sound(drafts, names), names), tuple(names), source_ids))
    told += clipped_warning(where or drafts[0].file.parent, [entry for one in drafts for entry in one.clipped])
    truncated = sum(one.truncated for one in drafts)
    return LabelledSet(_records(drafts, names), tuple(names), source_ids, tuple(told), truncated=truncated)


def _records(drafts: Sequence[Draft], names: Sequence[str]) -> tuple[Record, ...]:
    every = frozenset(names)
    return tuple(one.record(number, every) for one, number in zip(drafts, _image_ids(drafts), strict=True))


def _sound(drafts: Sequence[Draft], names: Sequence[str]) -> list[Draft]:
    """The images whose picture and size are known, with their objects of known classes."""
    kept = []
    for one in drafts:
        if all(one.size) and os.path.isfile(one.image):
            covered = one.covered if one.covered is None else one.covered & frozenset(names)
            known = frozenset(names) if covered is None else covered
            rows = [row for row, name in enumerate(one.names) if name in known]
            boxes, ignore = [one.boxes[row] for row in rows], [one.ignore[row] for row in rows]
            kept.append(
                replace(one, boxes=boxes, names=[one.names[row] for row in rows], ignore=ignore, covered=covered)
            )
    return kept


def _unknown_names(drafts: Sequence[Draft], classes: Sequence[str]) -> list[Finding]:
    known = frozenset(classes)
    return [
        Finding(str(one.file), f"class {name!r}", "has a label without a category", suggest(name, classes))
        for one in drafts
        for name in sorted({*one.names, *(one.covered or ())} - known)
        if name and not name_problem(name)
    ]


def _image_ids(drafts: Sequence[Draft]) -> list[int]:
    """The ids that the files state or the digits of the pictures' names, else 1, 2, ..."""
    stated = [one.source_id for one in drafts]
    whole = [number for number in stated if isinstance(number, int) and 0 <= number < LARGEST_ID]
    if len(set(whole)) == len(drafts):
        return whole
    stems = [one.image.stem.replace("_", "") for one in drafts]
    # 000005 and 2007_000027 stay recognisable and never meet, so VOC 2007 and 2012 can be merged.
    if all(stem.isdecimal() and len(stem) < 16 for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(drafts) + 1))
