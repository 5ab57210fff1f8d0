"""Whether the pictures are what the annotations say, told from their headers, before a run needs their pixels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from incdet.data.records import Record
from incdet.errors import Finding


def check_pictures(records: Iterable[Record]) -> list[Finding]:
    """An error for every picture that is missing, is none, or has another size than its record states.

    Only headers are read, some ten thousand a second. A camera's turn (EXIF) is no fault: the loader follows it.
    """
    findings = []
    for record in records:
        item, fix = f"image {record.image_id}", "restore the picture or correct the annotation"
        try:
            with Image.open(record.image) as picture:
                size = picture.size
        except FileNotFoundError:
            findings.append(Finding(str(record.image), item, "does not exist", fix))
        except (UnidentifiedImageError, OSError):
            findings.append(Finding(str(record.image), item, "is no picture, or is cut off in its header", fix))
        else:
            if size not in ((record.width, record.height), (record.height, record.width)):
                stated = f"its annotation says {record.width} x {record.height}"
                findings.append(Finding(str(record.image), item, f"is {size[0]} x {size[1]}, {stated}", fix))
    return findings


def turned_size(picture: Path) -> tuple[int, int] | None:
    """(width, height) of a picture as it is shown, after its camera's turn (EXIF); None if it is no picture."""
    try:
        with Image.open(picture) as opened:
            width, height = opened.size
            turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, Image.DecompressionBombError):
        return None
    return (height, width) if turned else (width, height)
