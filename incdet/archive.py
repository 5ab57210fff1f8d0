"""The archive: a teacher's answers about every image of a phase, and the file that spares a resumed run the asking.

A file is used only if it was made by the same teacher, from the same data, under the same geometry, and is whole.
Shape letters: I images, E entries (an image, flipped or not), N rows, O teacher columns, L levels, S selections,
D detections.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from incdet.data.records import Record

FORMAT = "incdet responses 1"


class Archive(NamedTuple):
    """The answers to all entries, on the host, one behind the other.

    Attributes:
        entry: (I, 2) int64, the entry of an image as it is and flipped; -1 where that is never drawn.
        grids: (E, L, 2) int64, rows and columns of every level of the entry's canvas.
        row_ends: (E + 1,) int64; entry e has the rows from ``row_ends[e]`` on, up to ``row_ends[e + 1]``.
        anchor: (N,) int64 among the anchors of the entry's canvas.
        logits: (N, O) float32.
        deltas: (N, 4) float32.
        heard: (N, S) bool, which of the question's selections take the row.
        box_ends: (E + 1,) int64, as ``row_ends`` for the detections.
        boxes: (D, 4) float32 xyxy in prepared pixels.
        scores: (D,) float32.
        labels: (D,) int64 columns.
    """

    entry: Tensor
    grids: Tensor
    row_ends: Tensor
    anchor: Tensor
    logits: Tensor
    deltas: Tensor
    heard: Tensor
    box_ends: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(part.nbytes for part in self)


class Key(NamedTuple):
    """What an archive depends on, each part as a digest; two archives of one key are the same."""

    teacher: str
    data: str
    geometry: str

    @classmethod
    def of(cls, states: Iterable[Mapping[str, Tensor]], records: Sequence[Record], geometry: Mapping[str, Any]) -> Key:
        """The key of what these teachers' weights say about these pictures.

        Args:
            states: State dicts of the networks that answer.
            records: File names, sizes and order count.
            geometry: All else the answers depend on: sizes, anchors, thresholds, selections; as a JSON value.
        """
        pictures = [[one.image.name, one.width, one.height, _file_size(one.image)] for one in records]
        return cls(
            "/".join(_digest(state) for state in states),
            _hash(json.dumps(pictures).encode()),
            _hash(json.dumps(geometry, sort_keys=True).encode()),
        )


def save(path: Path, archive: Archive, key: Key) -> None:
    """Writes the file whole or not at all; its folder is made where it is missing."""
    tensors = {name: values.contiguous() for name, values in archive._asdict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, {"format": FORMAT, "content": _digest(tensors), **key._asdict()})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, key: Key) -> tuple[Archive | None, str]:
    """The archive of ``path``, or why there is none to be used: a reason in words, empty where there is no file."""
    if not path.is_file():
        return None, ""
    try:
        with safe_open(path, "pt") as file:
            known = file.metadata() or {}
            if known.get("format") != FORMAT:
                return None, "it is no file of this version"
            other = [name for name, digest in key._asdict().items() if known.get(name) != digest]
            if other:
                return None, f"it was made with another {' and another '.join(other)}"
            tensors = {name: file.get_tensor(name) for name in Archive._fields}
    except (SafetensorError, OSError, ValueError) as fault:
        return None, f"it cannot be read ({fault})"
    if _digest(tensors) != known.get("content"):
        return None, "its content was changed"
    return Archive(**tensors), ""


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
