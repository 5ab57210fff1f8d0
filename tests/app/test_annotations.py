from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from incdet.app.annotations import read_annotations


def test_annotations_are_a_coco_file_or_a_folder(make_coco: Callable[..., Any], voc_folder: Path) -> None:
    own = make_coco(folder="again")
    coco, voc = read_annotations(own.annotations, own.images), read_annotations(voc_folder, None)
    assert coco.names == voc.names == ("cat", "dog") and len(coco) == len(voc) == 4
    assert [one.names for one in coco.records] == [one.names for one in voc.records]
