"""What is wrong with a data set, all of it at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from incdet.data.formats.reader import open_splits
from incdet.data.images import check_pictures
from incdet.errors import Finding, InputError


def check(data: Path, images: Path | None, split: str | None = None) -> Sequence[Finding]:
    """What is wrong with annotations, of every split unless one is named, or else with their pictures."""
    try:
        found = open_splits(data, images, split)
    except InputError as error:
        return error.findings
    return [finding for one in found for finding in [*one.warnings, *check_pictures(one.records)]]
