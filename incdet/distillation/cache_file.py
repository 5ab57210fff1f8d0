"""The cache file: what teachers say about every image of a phase, so that a resumed run need not ask again.

A file is used only if it was made by the same teachers, from the same data, under the same rule, and is whole.
Shape letters: I images, E entries (an image, flipped or not), L levels, N places of a list.
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
from incdet.distillation.teacher_targets import Entries
from incdet.files import replacing

FORMAT = "incdet responses 2"


class Ragged(NamedTuple):
    """One list of places of every entry, one entry behind the other.

    Attributes:
        ends: (E + 1,) int64; entry e has the places from ``ends[e]`` on, up to ``ends[e + 1]``.
        anchor: (N,) int64, of the entry's own canvas.
        values: (N, ...) each.
    """

    ends: Tensor
    anchor: Tensor
    values: Mapping[str, Tensor]

    @classmethod
    def joined(cls, parts: Sequence[tuple[Entries, int]]) -> Ragged:
        """The places of several batches, each with its number of images, on the host."""
        counts = [torch.bincount(entries.image.cpu(), minlength=images) for entries, images in parts]
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(counts).cumsum(dim=0)])
        anchor = torch.cat([entries.anchor.cpu() for entries, _ in parts])
        names = parts[0][0].values
        return cls(ends, anchor, {name: torch.cat([entries[name].cpu() for entries, _ in parts]) for name in names})

    def stretches(self, entries: Tensor) -> Entries:
        """The places of ``entries`` (B,), whose position in ``entries`` is their image."""
        starts, counts = self.ends[entries], self.ends[entries + 1] - self.ends[entries]
        owner = torch.arange(len(entries)).repeat_interleave(counts)
        before = counts.cumsum(dim=0) - counts
        place = torch.arange(len(owner)) + (starts - before)[owner]
        return Entries(owner, self.anchor[place], {name: value[place] for name, value in self.values.items()})


class CachedTargets(NamedTuple):
    """What the terms of a method keep of the teachers' answers to all entries, on the host.

    Attributes:
        entry: (I, 2) int64, the entry of an image as it is and flipped; -1 where that is never drawn.
        grids: (E, L, 2) int64, rows and columns of every level of the entry's canvas.
        lists: By ``term/list``.
    """

    entry: Tensor
    grids: Tensor
    lists: Mapping[str, Ragged]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by a name of its own."""
        found = {"entry": self.entry, "grids": self.grids}
        for name, ragged in self.lists.items():
            found |= {f"{name}/ends": ragged.ends, f"{name}/anchor": ragged.anchor}
            found |= {f"{name}/value/{key}": value for key, value in ragged.values.items()}
        return found

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> CachedTargets:
        """The inverse of ``tensors``."""
        names = [name.removesuffix("/ends") for name in tensors if name.endswith("/ends")]
        lists = {}
        for name in names:
            start = f"{name}/value/"
            values = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
            lists[name] = Ragged(tensors[f"{name}/ends"], tensors[f"{name}/anchor"], values)
        return cls(tensors["entry"], tensors["grids"], lists)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(part.nbytes for part in self.tensors().values())


class Key(NamedTuple):
    """What cached targets depend on, each part as a digest; two of one key are the same."""

    teacher: str
    data: str
    rule: str

    @classmethod
    def of(cls, states: Iterable[Mapping[str, Tensor]], records: Sequence[Record], rule: Mapping[str, Any]) -> Key:
        """The key of what these teachers' weights mean for these pictures.

        Args:
            states: State dicts of the networks that answer.
            records: File names, sizes, annotations and order count.
            rule: All else it depends on: sizes, anchors, thresholds, the terms; as a JSON value.
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
            _hash(json.dumps(rule, sort_keys=True).encode()),
        )


def save(path: Path, cached: CachedTargets, key: Key) -> None:
    """Writes the file whole or not at all; its folder is made where it is missing."""
    tensors = {name: values.contiguous() for name, values in cached.tensors().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"format": FORMAT, "content": _digest(tensors), **key._asdict()})


def load(path: Path, key: Key) -> tuple[CachedTargets | None, str]:
    """What ``path`` holds, or why it is not to be used: a reason in words, empty where there is no file."""
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
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError, ValueError) as fault:
        return None, f"it cannot be read ({fault})"
    if _digest(tensors) != known.get("content"):
        return None, "its content was changed"
    return CachedTargets.from_tensors(tensors), ""


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
