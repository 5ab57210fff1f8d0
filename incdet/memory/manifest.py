"""The memory on disk: a JSON manifest, with the pixels beside it where they are to outlive the old data set.

The manifest carries the digest of every picture and of itself, so that a memory whose pictures were exchanged, or that
was edited or cut off, is refused and not trained on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from incdet.data.records import Record
from incdet.errors import Finding, InputError
from incdet.files import copy_file, reading, sha256, write_json
from incdet.memory.exemplars import Budget, Memory

_WAYS_OUT = (
    "restore them; or let `incdet extend` choose others from --old-data, or go on without exemplars (memory.total=0)"
)


def save_memory(memory: Memory, path: Path, *, root: Path | None = None, copy_images: bool = False) -> Memory:
    """Writes the manifest of ``memory``, whole or not at all.

    Args:
        memory: What to keep.
        path: The JSON file.
        root: Pictures below this folder are named relative to the manifest, so that the whole folder may be moved.
            Default: the manifest's own folder.
        copy_images: Put the pixels into a folder ``images`` beside the manifest, so that the old data set may go.

    Returns:
        The memory as saved: with ``copy_images`` its records point at the copies.

    Raises:
        OutputError: The disk refuses.
    """
    saved = _copied(memory, path.parent / "images") if copy_images else memory
    content = {
        "budget": {"total": saved.budget.total, "per_class": saved.budget.per_class},
        "images": len(saved),
        "bytes": saved.bytes,
        "exemplars": {
            name: [_to_json(record, path.parent, root or path.parent) for record in ranked]
            for name, ranked in saved.exemplars.items()
        },
    }
    write_json(path, {**content, "sha256": _digest(content)}, indent=1)
    return saved


def load_memory(path: Path) -> Memory:
    """Reads a manifest and checks every picture it names; manifests of earlier versions carry no digests.

    Raises:
        InputError: The file is missing, cut off or changed, or a picture is missing or another one.
    """
    with reading(path, "memory manifest", "put back the file that the run wrote"):
        content = json.loads(path.read_text(encoding="utf-8"))
        told = content.pop("sha256", None)
        entries = [(entry, _from_json(entry, path.parent)) for rank in content["exemplars"].values() for entry in rank]
        records = iter(record for _, record in entries)
        exemplars = {name: tuple(next(records) for _ in ranked) for name, ranked in content["exemplars"].items()}
        memory = Memory(Budget(**content["budget"]), exemplars)
    if told is not None and told != _digest(content):
        raise _refusal(path, "was changed after the run wrote it", "put back the file that the run wrote")
    missing = [record.image for record in memory if not record.image.is_file()]
    if missing:
        raise _refusal(path, f"{len(missing)} images are missing, the first is {missing[0]}", _WAYS_OUT)
    other = [record.image for entry, record in entries if entry.get("sha256") not in (None, sha256(record.image))]
    if other:
        problem = f"{len(other)} images are not those that were stored, the first is {other[0]}"
        raise _refusal(path, problem, _WAYS_OUT)
    return memory


def _refusal(path: Path, problem: str, fix: str) -> InputError:
    return InputError(Finding(str(path), "memory manifest", problem, fix))


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _copied(memory: Memory, folder: Path) -> Memory:
    def copied(record: Record) -> Record:
        if record.image.parent.resolve() == folder.resolve():
            return record
        # Two data sets may both hold a 000001.jpg: the name carries a digest of the content.
        digest = sha256(record.image)
        target = folder / f"{record.image.stem}_{digest[:8]}{record.image.suffix}"
        if not target.is_file() or sha256(target) != digest:
            copy_file(record.image, target)
        return replace(record, image=target)

    kept = {name: tuple(copied(record) for record in ranked) for name, ranked in memory.exemplars.items()}
    return replace(memory, exemplars=kept)


def _to_json(record: Record, home: Path, root: Path) -> dict[str, Any]:
    image = record.image.resolve()
    inside = image.is_relative_to(root.resolve())
    return {
        "image": Path(os.path.relpath(image, home.resolve())).as_posix() if inside else str(image),
        "sha256": sha256(image),
        "image_id": record.image_id,
        "width": record.width,
        "height": record.height,
        "boxes": [[float(edge) for edge in box] for box in record.boxes],
        "names": list(record.names),
        "ignore": [bool(flag) for flag in record.ignore],
        "coverage": sorted(record.coverage),
        "source_id": record.source_id,
        "exif": record.exif,
    }


def _from_json(value: Mapping[str, Any], home: Path) -> Record:
    return Record(
        image=Path(os.path.normpath(home / value["image"])),
        image_id=value["image_id"],
        width=value["width"],
        height=value["height"],
        boxes=np.asarray(value["boxes"], dtype=np.float32).reshape(-1, 4),
        names=tuple(value["names"]),
        ignore=np.asarray(value["ignore"], dtype=bool),
        coverage=frozenset(value["coverage"]),
        source_id=value.get("source_id", ""),
        exif=value.get("exif", "auto"),
    )
