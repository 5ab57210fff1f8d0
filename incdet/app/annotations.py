"""Somebody's own annotations, as the command line names them: a file with its image folder, or a folder."""

from __future__ import annotations

from pathlib import Path

from incdet.data.formats import read_coco, read_voc
from incdet.data.images import check_pictures
from incdet.data.records import LabelledSet
from incdet.errors import Finding, InputError


def read_annotations(path: Path, images: Path | None) -> LabelledSet:
    """A COCO file with its image folder, or a folder of XML files beside their images (or in a folder ``train``).

    Raises:
        InputError: Whatever is wrong with them.
    """
    if images is None and not path.is_dir():
        raise InputError(Finding(str(path), "images", "the folder of the images is not given", "add --images DIR"))
    data = read_voc(path, split="train") if images is None else read_coco(path, images)
    if findings := check_pictures(data.records):
        raise InputError(findings)
    return data
