"""Somebody's own annotations, as the command line names them."""

from __future__ import annotations

from pathlib import Path

from incdet.data.formats.reader import open_annotations
from incdet.data.formats.splits import Purpose
from incdet.data.images import check_pictures
from incdet.data.records import LabelledSet
from incdet.errors import InputError


def read_annotations(
    path: Path, images: Path | None = None, split: str | None = None, *, purpose: Purpose = "train"
) -> LabelledSet:
    """``open_annotations`` with a look at the pictures; what was read is told by ``describe()`` of the result.

    Raises:
        InputError: Whatever is wrong with them.
    """
    data = open_annotations(path, images, split, purpose=purpose)
    if findings := check_pictures(data.records):
        raise InputError(findings)
    return data
