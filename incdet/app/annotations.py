"""Somebody's own annotations, as the command line names them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from incdet.app.progress import Display
from incdet.data.formats.reader import open_annotations
from incdet.data.formats.splits import Purpose
from incdet.data.picture_book import Progress
from incdet.data.records import Exif, LabelledSet
from incdet.data.resize import Geometry

FEW = 200
"""So many pictures are decoded before anybody wants to know how far it is."""


def read_annotations(
    path: Path,
    images: Path | None = None,
    split: str | None = None,
    *,
    purpose: Purpose = "train",
    exif: Exif = "auto",
    geometry: Geometry | None = None,
) -> LabelledSet:
    """``open_annotations`` with progress on stderr; what was read is told by ``describe()`` of the result."""
    with picture_progress() as progress:
        return open_annotations(path, images, split, purpose=purpose, exif=exif, geometry=geometry, progress=progress)


@contextmanager
def picture_progress() -> Iterator[Progress]:
    """Shows on stderr how many of the pictures that were not seen before are decoded, or drawn."""
    with Display(Console(stderr=True)) as display:

        def progress(done: int, total: int) -> None:
            if total > FEW:
                display.advance("pictures", done, total)

        yield progress
