"""What a set of valid records is like: counts for people, and what is worth a look though nothing refuses it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from incdet.data.records import LabelledSet, Record
from incdet.errors import Finding, shown
from incdet.vocab import look_alike_warnings

SAME = 1.0
"""Pixels by which the edges of two boxes of one object may differ."""
TINY = 2.0
"""Pixels: a box with a shorter side hardly shows what it is."""
MOST_CLASSES = 40
"""Classes that get a line of their own."""


def count_lines(data: LabelledSet) -> list[str]:
    """How many images, boxes and objects of each class there are, a line each."""
    boxes: Counter[str] = Counter()
    images: Counter[str] = Counter()
    for record in data.records:
        boxes.update(record.names)
        images.update(set(record.names))
    names = sorted(data.names, key=lambda name: (-boxes[name], name))
    width = max((len(shown(name)) for name in names[:MOST_CLASSES]), default=5)
    lines = [f"  {'class':<{width}}  {'boxes':>7}  {'images':>7}"]
    lines += [f"  {shown(name):<{width}}  {boxes[name]:>7}  {images[name]:>7}" for name in names[:MOST_CLASSES]]
    if len(names) > MOST_CLASSES:
        rest = names[MOST_CLASSES:]
        lines.append(f"  ... and {len(rest)} more classes with {sum(boxes[name] for name in rest)} boxes")
    ignored = sum(int(record.ignore.sum()) for record in data.records)
    empty = sum(not record.names for record in data.records)
    partial = sum(record.coverage != frozenset(data.names) for record in data.records)
    lines.append(f"  {ignored} objects ignored, {empty} images without any object, {partial} images annotated in part")
    return lines


def review(data: LabelledSet) -> list[Finding]:
    """Warnings: objects that stand twice, tiny ones, classes without any object or with names that look alike."""
    twice = [(record, row) for record in data.records if len(record.names) > 1 for row in repeated(record)]
    tiny = [(record, row) for record in data.records for row in _tiny(record)]
    shown_classes = {name for record in data.records for name in record.names}
    findings = [
        *_told(data, twice, "stand(s) twice, in the same class and place", "remove one of the two: --fix OUT does"),
        *_told(data, tiny, f"has a side below {TINY:g} px", "remove it, or nothing if the object is so small"),
    ]
    for name in data.names:
        if name not in shown_classes:
            problem, fix = "has no object", "annotate some, or take it off the list"
            findings.append(Finding(data.origin, f"class {shown(name)!r}", problem, fix, "warning"))
    for place, name in enumerate(data.names):
        findings += look_alike_warnings(data.origin, [name], data.names[:place])
    return findings


def repeated(record: Record) -> list[int]:
    """The rows of boxes that an earlier one of the same class and place makes superfluous."""
    names = np.array(record.names)
    near = np.abs(record.boxes[:, None] - record.boxes[None]).max(axis=2, initial=0) <= SAME
    rows: list[int] = np.flatnonzero(np.tril(near & (names[:, None] == names[None]), -1).any(axis=1)).tolist()
    return rows


def without_repeated(record: Record) -> Record:
    """The record with every object once."""
    dropped = repeated(record) if len(record.names) > 1 else []
    if not dropped:
        return record
    rows = [row for row in range(len(record.names)) if row not in dropped]
    own = tuple(record.names[row] for row in rows)
    return replace(record, boxes=record.boxes[rows], names=own, ignore=record.ignore[rows])


def _tiny(record: Record) -> list[int]:
    sides = record.boxes[:, 2:] - record.boxes[:, :2]
    rows: list[int] = np.flatnonzero((sides < TINY).any(axis=1)).tolist() if len(sides) else []
    return rows


def _told(data: LabelledSet, found: Sequence[tuple[Record, int]], problem: str, fix: str) -> list[Finding]:
    if not found:
        return []
    record, row = found[0]
    box = ", ".join(f"{edge:g}" for edge in record.boxes[row].tolist())
    item = f"image {shown(record.source_id)}"
    first = f"{len(found)} box(es): the first, {shown(record.names[row])} ({box}), {problem}"
    return [Finding(data.origin, item, first, fix, "warning")]
