"""What is wrong with a data set, all of it at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from incdet.data.formats import read_coco, read_voc
from incdet.data.images import check_pictures
from incdet.errors import Finding, InputError


def check(data: Path, images: Path | None) -> Sequence[Finding]:
    """What is wrong with a COCO file or a folder of XML files, or else with their pictures."""
    if images is None and not data.is_dir():
        raise InputError(Finding(str(data), "images", "the folder of the images is not given", "add --images DIR"))
    try:
        found = read_voc(data) if images is None else read_coco(data, images)
    except InputError as error:
        return error.findings
    return [*found.warnings, *check_pictures(found.records)]
