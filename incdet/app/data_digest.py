"""What a run was trained on, picture by picture, so that a resumed run is refused when its data have changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from incdet.data.datasets import Source
from incdet.data.records import Record
from incdet.errors import Finding, InputError
from incdet.files import reading
from incdet.seal import unsealed, write_sealed

FILE = "data.json"
_ITEM = "digests of the data"
_FIX = "put it back, or delete it to go on without the comparison"

Digests = Mapping[str, Sequence[object]]
"""Path of a picture below the folder of all -> digest of its annotation, bytes of its file."""


def record_digest(record: Record) -> str:
    """16 hex digits over size, boxes, class names, flags and coverage of one picture's annotation."""
    words = (record.width, record.height, record.names, sorted(record.coverage))
    total = hashlib.sha256(repr(words).encode("utf-8", "surrogatepass"))
    total.update(record.boxes.tobytes() + record.ignore.tobytes())
    return total.hexdigest()[:16]


def digests(records: Sequence[Record]) -> dict[str, list[object]]:
    """The digests of a split; they stay the same when the whole data set is moved."""
    if not records:
        return {}
    home = os.path.commonpath([record.image.parent for record in records])
    return {
        Path(os.path.relpath(record.image, home)).as_posix(): [record_digest(record), _bytes(record.image)]
        for record in records
    }


def keep_or_compare(root: Path, source: Source) -> None:
    """Stores what ``source`` holds in the run folder ``root``, or compares it with what is stored there.

    Raises:
        InputError: Annotations or pictures are not those that the run began with; says which.
    """
    path = root / FILE
    now: dict[str, dict[str, list[object]]] = {"train": digests(source.train), "test": digests(source.test)}
    if not path.is_file():
        write_sealed(path, {"schema": 1, **now}, indent=None)
        return
    with reading(path, _ITEM, _FIX):
        before = unsealed(path, json.loads(path.read_text(encoding="utf-8")), _ITEM, _FIX)
        findings = [finding for split in now for finding in _changes(split, before[split], now[split], root)]
    if findings:
        raise InputError(findings)


def _changes(split: str, before: Digests, now: Digests, root: Path) -> list[Finding]:
    kinds = {
        "are gone": [name for name in before if name not in now],
        "are new": [name for name in now if name not in before],
        "have another annotation": [name for name in now if name in before and before[name][0] != now[name][0]],
        "have another picture": [name for name in now if name in before and before[name][1] != now[name][1]],
    }
    fix = "put the data back as they were, or begin a new run in another folder"
    problem = "since the run began {} images {}, the first is {}"
    return [
        Finding(str(root), f"{split} data", problem.format(len(names), kind, min(names)), fix)
        for kind, names in kinds.items()
        if names
    ]


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
