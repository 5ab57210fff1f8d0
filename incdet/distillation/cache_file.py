"""The archive: a teacher's guidance for every image of a phase, and the file that spares a resumed run the asking.

A file is used only if it was made by the same teacher, from the same data, under the same geometry, and is whole.
Shape letters: I images, E entries (an image, flipped or not), K student and O teacher columns, L levels, N rows of
responses, P pseudo-positive, U ignored and V void entries, T terms.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from incdet.data.records import Record
from incdet.files import replacing

FORMAT = "incdet responses 1"


class Archive(NamedTuple):
    """What the teacher's answers to all entries mean, on the host, one entry behind the other.

    Of each kind of list, entry e has the stretch from ``ends[e]`` on, up to ``ends[e + 1]``. Anchors are those of the
    entry's own canvas.

    Attributes:
        entry: (I, 2) int64, the entry of an image as it is and flipped; -1 where that is never drawn.
        grids: (E, L, 2) int64, rows and columns of every level of the entry's canvas.
        channels: (E, K) bool, which the pseudo-labels speak for.
        row_ends: (E + 1,) int64.
        row_anchor: (N,) int64.
        logits: (N, O) float32.
        deltas: (N, 4) float32.
        rows: (N, T) bool, which of the method's T terms listen.
        positive_ends: (E + 1,) int64; anchors of accepted pseudo-boxes.
        positive_anchor: (P,) int64.
        positive_column: (P,) int64.
        positive_box: (P, 4) float32 xyxy in prepared pixels.
        positive_free: (P,) bool, not taken by an annotated object.
        between_ends: (E + 1,) int64; anchors that are neither pseudo-positive nor background.
        between_anchor: (U,) int64.
        void_ends: (E + 1,) int64; doubtful entries.
        void_anchor: (V,) int64.
        void_column: (V,) int64.
    """

    entry: Tensor
    grids: Tensor
    channels: Tensor
    row_ends: Tensor
    row_anchor: Tensor
    logits: Tensor
    deltas: Tensor
    rows: Tensor
    positive_ends: Tensor
    positive_anchor: Tensor
    positive_column: Tensor
    positive_box: Tensor
    positive_free: Tensor
    between_ends: Tensor
    between_anchor: Tensor
    void_ends: Tensor
    void_anchor: Tensor
    void_column: Tensor

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
            records: File names, sizes, annotations and order count.
            geometry: All else the answers depend on: sizes, anchors, thresholds, the method; as a JSON value.
        """
        pictures = [
            [
                one.image.name,
                one.width,
                one.height,
                _file_size(one.image),
                one.boxes.tolist(),
                one.names,
                one.ignore.tolist(),
                sorted(one.coverage),
            ]
            for one in records
        ]
        return cls(
            "/".join(_digest(state) for state in states),
            _hash(json.dumps(pictures).encode()),
            _hash(json.dumps(geometry, sort_keys=True).encode()),
        )


def save(path: Path, archive: Archive, key: Key) -> None:
    """Writes the file whole or not at all; its folder is made where it is missing."""
    tensors = {name: values.contiguous() for name, values in archive._asdict().items()}
    with replacing(path) as draft:
        save_file(tensors, draft, {"format": FORMAT, "content": _digest(tensors), **key._asdict()})


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
