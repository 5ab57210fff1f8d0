"""Pictures that stand in two data sets: the same file, a copy of it, or the same photograph saved anew."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from incdet.data.inspection import GRID, Picture
from incdet.data.picture_book import Progress, inspect_pictures
from incdet.data.records import Record
from incdet.errors import Finding, shown

NEAR = 28
"""Bits of 256 by which the looks of one photograph may differ.

Of 3,000 photographs no two came nearer than 40; the same one saved as JPEG of quality 20, at half the size or brighter
stayed within 28 in 98 of 100 cases.
"""
_ROWS = 1024


class Leak(NamedTuple):
    """A picture of the first set that is also one of the second.

    Attributes:
        first: The picture.
        second: Its twin.
        kind: ``file`` (the same file), ``copy`` (the same bytes) or ``look`` (nearly the same picture).
    """

    first: Path
    second: Path
    kind: str


_KINDS = {"file": "are the same file", "copy": "are copies", "look": "look alike"}


def find_leaks(first: Iterable[Record], second: Iterable[Record], progress: Progress | None = None) -> list[Leak]:
    """Every picture of ``first`` that also stands in ``second``, once each, the surest kind first.

    Pictures that were looked at before (see ``picture_book``) are not read again; 10^5 against 5 * 10^3 pictures take
    seconds.

    Args:
        first: Training records, say.
        second: Test records.
        progress: Called while pictures are decoded.
    """
    sides = [list(dict.fromkeys(record.image for record in side)) for side in (first, second)]
    pictures = inspect_pictures([*sides[0], *sides[1]], progress)
    leaks: dict[Path, Leak] = {}
    for kind, key in (("file", _same_file), ("copy", _same_bytes)):
        known = {key(path, pictures[path]): path for path in reversed(sides[1])}
        for path in sides[0]:
            mark = key(path, pictures[path])
            if mark and mark in known:
                leaks.setdefault(path, Leak(path, known[mark], kind))
    rest = [path for path in sides[0] if path not in leaks]
    for path, twin in _look_alikes(rest, sides[1], pictures):
        leaks[path] = Leak(path, twin, "look")
    return [leaks[path] for path in sides[0] if path in leaks]


def find_copies(records: Iterable[Record]) -> list[Leak]:
    """Every picture of a set whose bytes an earlier one of it has, with that one."""
    paths = list(dict.fromkeys(record.image for record in records))
    pictures = inspect_pictures(paths)
    first: dict[str, Path] = {}
    return [
        Leak(path, twin, "copy")
        for path in paths
        if pictures[path].digest and (twin := first.setdefault(pictures[path].digest, path)) != path
    ]


def copy_warnings(copies: Sequence[Leak], origin: str) -> list[Finding]:
    """A warning with the number of copies and the names of the first, if there are any."""
    if not copies:
        return []
    pairs = ", ".join(f"{shown(copy.first.name)} = {shown(copy.second.name)}" for copy in copies[:3])
    problem = f"{len(copies)} stand(s) twice, as copies under two names: {pairs}"
    fix = "remove one of the two, or see that both carry the same boxes"
    return [Finding(origin, "pictures", problem, fix, "warning")]


def leak_warnings(leaks: Sequence[Leak], first: str, second: str) -> list[Finding]:
    """A warning for each kind of leak, with the number of pictures and the names of the first.

    Args:
        leaks: What ``find_leaks`` returned.
        first: What the first set is called, ``the training data``.
        second: What the second one is called.
    """
    findings = []
    for kind, words in _KINDS.items():
        found = [leak for leak in leaks if leak.kind == kind]
        if found:
            pairs = ", ".join(f"{shown(leak.first.name)} = {shown(str(leak.second))}" for leak in found[:3])
            problem = f"{len(found)} picture(s) of {first} and of {second} {words}: {pairs}"
            fix = "remove them from one of the two, or the scores on the second tell too much"
            findings.append(Finding(shown(str(found[0].first.parent)), "pictures", problem, fix, "warning"))
    return findings


def _same_file(path: Path, _: Picture) -> str:
    return os.path.realpath(path)


def _same_bytes(_: Path, picture: Picture) -> str:
    return picture.digest


def _look_alikes(
    first: Sequence[Path], second: Sequence[Path], pictures: dict[Path, Picture]
) -> Iterator[tuple[Path, Path]]:
    """For each of ``first`` the nearest of ``second``, where one is near enough."""
    sides = [[path for path in side if pictures[path].look] for side in (first, second)]
    if not all(sides):
        return
    bits = [_bits([pictures[path].look for path in side]) for side in sides]
    for start in range(0, len(sides[0]), _ROWS):
        # Of two rows of plus and minus one, the product counts equal bits less different ones.
        agreement = bits[0][start : start + _ROWS] @ bits[1].T
        nearest = agreement.argmax(axis=1)
        distance = (GRID * GRID - agreement[np.arange(len(nearest)), nearest]) / 2
        for row in np.flatnonzero(distance <= NEAR):
            yield sides[0][start + row], sides[1][nearest[row]]


def _bits(looks: Sequence[str]) -> NDArray[np.float32]:
    """(N, GRID * GRID) of plus and minus one."""
    packed = np.frombuffer(bytes.fromhex("".join(looks)), np.uint8).reshape(len(looks), -1)
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1
