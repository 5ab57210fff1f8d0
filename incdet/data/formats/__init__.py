"""The file formats of annotations in one place: read after write is the identity on records."""

from __future__ import annotations

from incdet.data.formats.coco import read_coco, write_coco
from incdet.data.formats.voc import read_voc, write_voc

__all__ = ["read_coco", "read_voc", "write_coco", "write_voc"]
