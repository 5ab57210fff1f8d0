"""Records: one annotated image each, valid by construction.

Shape letters: M boxes of an image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from incdet.errors import Finding, InputError, shown

Exif = Literal["auto", "apply", "ignore"]
Boxes = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Record:
    """If a record exists it is valid: boxes finite, positive and inside the image, names covered, coverage stated.

    Attributes:
        image: The picture on disk.
        image_id: A number unique in a data set, from 0 and below 2^53, by which detections are kept. The source's own
            where that is such a number in every image, else counted from 1.
        width: Image width in pixels, > 0.
        height: Image height in pixels, > 0.
        boxes: (M, 4) float32 xyxy in absolute pixels, 0 <= x1 < x2 <= width, 0 <= y1 < y2 <= height.
        names: The class name of every box; each one is in ``coverage``.
        ignore: (M,) bool, True for objects that neither training nor evaluation counts (crowds, difficult ones).
        coverage: The classes whose objects are *all* annotated here. Anything else is unlabelled, not absent.
        source_id: What the source calls the image, any whole number or text; ``image_id`` if not given.
        exif: Whether the camera's turn of the picture is followed: ``auto`` does where the size agrees with it.

    Raises:
        InputError: With a finding for every broken rule.
    """

    image: Path
    image_id: int
    width: int
    height: int
    boxes: Boxes
    names: tuple[str, ...]
    ignore: Mask
    coverage: frozenset[str]
    source_id: int | str = ""
    exif: Exif = "auto"

    def __post_init__(self) -> None:
        boxes = np.array(self.boxes, dtype=np.float32).reshape(-1, 4)
        ignore = np.array(self.ignore, dtype=np.bool_).reshape(-1)
        # A record is shared by views, caches and threads, so nobody may write into it.
        boxes.flags.writeable = False
        ignore.flags.writeable = False
        if not isinstance(self.image, Path):  # to take it apart again costs more than all checks
            object.__setattr__(self, "image", Path(self.image))
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "ignore", ignore)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "coverage", frozenset(self.coverage))
        if self.source_id == "":
            object.__setattr__(self, "source_id", self.image_id)
        problems = self._problems()
        if problems:
            raise InputError(
                [Finding(str(self.image), f"image {shown(self.source_id)}", what, fix) for what, fix in problems]
            )

    def _problems(self) -> list[tuple[str, str]]:
        if self.width <= 0 or self.height <= 0:
            return [(f"has the size {self.width} x {self.height}", "state the size of the picture in pixels")]
        count = len(self.boxes)
        if len(self.names) != count or len(self.ignore) != count:
            return [
                (
                    f"has {count} boxes, {len(self.names)} names and {len(self.ignore)} ignore flags",
                    "give every box one name and one flag",
                )
            ]
        problems = []
        unknown = sorted(set(self.names) - self.coverage)
        if unknown:
            problems.append(
                (
                    f"has boxes of classes it does not cover: {', '.join(unknown)}",
                    "add them to the coverage or drop the boxes",
                )
            )
        if count and not bool(np.isfinite(self.boxes).all()):
            problems.append(("has a box that is not finite", "remove the box"))
        elif count:
            x1, y1, x2, y2 = self.boxes.T
            inside = (x1 >= 0) & (y1 >= 0) & (x2 <= self.width) & (y2 <= self.height)
            for index in np.flatnonzero(~(inside & (x2 > x1) & (y2 > y1))):
                problems.append(
                    (
                        f"box {index} {self.boxes[index].tolist()} is empty or leaves the image "
                        f"of {self.width} x {self.height}",
                        "use x1 < x2, y1 < y2 inside the image",
                    )
                )
        return problems

    def _key(self) -> tuple[object, ...]:
        return (
            self.image,
            self.image_id,
            self.source_id,
            self.width,
            self.height,
            self.names,
            self.coverage,
            self.exif,
            (self.boxes + np.float32(0)).tobytes(),
            self.ignore.tobytes(),
        )  # + 0 makes -0.0 equal to 0.0

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Record) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def restrict(self, names: Iterable[str], coverage: Iterable[str] | None = None) -> Record:
        """The record with the boxes of ``names`` alone, covering those of ``coverage`` that it covers already.

        ``coverage`` is ``names`` if not given; a box outside of it goes too.
        """
        names = frozenset(names)
        covered = self.coverage & (names if coverage is None else frozenset(coverage))
        kept = names & covered
        rows = [row for row, name in enumerate(self.names) if name in kept]
        own = tuple(self.names[row] for row in rows)
        return replace(self, boxes=self.boxes[rows], names=own, ignore=self.ignore[rows], coverage=covered)

    def counts(self, names: Iterable[str]) -> bool:
        """Whether the image holds an object of ``names`` that is not ignored."""
        wanted = frozenset(names)
        return any(name in wanted and not skip for name, skip in zip(self.names, self.ignore, strict=True))


@dataclass(frozen=True)
class LabelledSet:
    """What a reader returns: valid records and the classes they are written in.

    Attributes:
        records: In the order of the source; image ids are unique.
        names: All classes of the source, in the order of their ids.
        source_ids: The category id of every name; its position from 1 where the source has texts for ids.
        warnings: What was repaired on the way (for example boxes clipped by a pixel).
        origin: Where the records come from, for people: the format, the place and the split.
        truncated: Objects that the source marks as cut off; records do not keep the mark, for nothing counts by it.
    """

    records: tuple[Record, ...]
    names: tuple[str, ...]
    source_ids: dict[str, int]
    warnings: tuple[Finding, ...] = field(default=(), compare=False)
    origin: str = field(default="", compare=False)
    truncated: int = field(default=0, compare=False)

    def __len__(self) -> int:
        return len(self.records)

    def without_empty(self) -> LabelledSet:
        """The set without images that hold no object at all."""
        kept = tuple(record for record in self.records if record.names)
        return replace(self, records=kept)

    def describe(self) -> str:
        """Where the records come from and how many there are, one line."""
        boxes = sum(len(record.names) for record in self.records)
        return f"{self.origin}: {len(self.records)} images, {boxes} boxes, {len(self.names)} classes"


class FaultyData(InputError):
    """Annotations or pictures with faults.

    Attributes:
        rest: Makes what remains of the set when everything that is at fault is left out.
    """

    def __init__(self, findings: Iterable[Finding], rest: Callable[[], LabelledSet]) -> None:
        super().__init__(findings)
        self.rest = rest


def merge(parts: Sequence[LabelledSet]) -> LabelledSet:
    """The union of sets that speak of the same classes, records one part after another.

    Where two pictures share an id, all images are numbered anew from 1.

    Raises:
        InputError: The parts differ in their classes, or a picture stands in two of them.
    """
    first = parts[0]
    records = tuple(record for part in parts for record in part.records)
    findings = []
    for part in parts[1:]:
        if part.source_ids != first.source_ids:
            odd = sorted(set(part.names) ^ set(first.names)) or sorted(part.names)
            findings.append(
                Finding(
                    "data set",
                    "classes",
                    f"the parts differ in their classes: {', '.join(odd[:10])}",
                    "read every part with the same class list",
                )
            )
    pictures = Counter(record.image for record in records)
    findings += [
        Finding(str(image), "picture", f"stands in the data {count} times", "list it in one split only")
        for image, count in pictures.items()
        if count > 1
    ]
    if findings:
        raise InputError(findings)
    if len({record.image_id for record in records}) < len(records):
        records = tuple(replace(record, image_id=number) for number, record in enumerate(records, start=1))
    warnings = tuple(warning for part in parts for warning in part.warnings)
    origin = "; ".join(dict.fromkeys(part.origin for part in parts))
    truncated = sum(part.truncated for part in parts)
    return LabelledSet(records, first.names, first.source_ids, warnings, origin, truncated)
