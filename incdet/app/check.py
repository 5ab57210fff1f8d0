"""What is wrong with a data set, all of it at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from incdet.app.annotations import picture_progress
from incdet.data.formats.reader import recognise, with_pictures
from incdet.data.formats.splits import apart, choose_split
from incdet.data.records import Exif
from incdet.errors import Finding, InputError


def check(data: Path, images: Path | None, split: str | None = None, *, exif: Exif = "auto") -> Sequence[Finding]:
    """What is wrong with annotations, of every split unless one is named, or else with their pictures."""
    found = recognise(data, images)
    names = apart(found.splits) if split is None else [choose_split(found.splits, split, "train", data)]
    findings: list[Finding] = []
    with picture_progress() as progress:
        for name in names:
            try:
                findings += with_pictures(found.read(name), exif, progress=progress).warnings
            except InputError as error:
                findings += error.findings
    return findings
