"""Where COCO files lie and where their pictures are: one file, a folder of files, or a folder for each split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incdet.data.formats.pictures import ANNOTATION_FOLDERS, PICTURE_FOLDERS, PictureFolder
from incdet.errors import Finding, InputError

HEAD = 2**16
"""Bytes of a JSON file that tell what it is."""


@dataclass(frozen=True)
class CocoPart:
    """One COCO file and the folder of its pictures, None where that is still to be found."""

    file: Path
    images: Path | None

    def folder(self, content: Any) -> Path:
        """The folder of the pictures: the given one, else the one near the file that holds the first of them.

        Raises:
            InputError: There is none.
        """
        if self.images is not None:
            return self.images
        images = content.get("images") if isinstance(content, dict) else None
        names = [
            entry.get("file_name")
            for entry in (images if isinstance(images, list) else [])[:3]
            if isinstance(entry, dict)
        ]
        for place in self._near():
            if names and all(isinstance(name, str) and PictureFolder(place).find(name) for name in names):
                return place
        problem = "the folder of the images is not given, and they do not lie near the file"
        raise InputError(Finding(str(self.file), "images", problem, "add --images DIR"))

    def _near(self) -> Iterator[Path]:
        """Folders beside and below the file; above it only where its folder holds annotations alone."""
        home = self.file.parent
        split = self.file.stem.removeprefix("instances_")
        yield from (home, *(home / name for name in PICTURE_FOLDERS), home / split)
        yield from (home / name / split for name in PICTURE_FOLDERS)
        if home.name.lower() in ANNOTATION_FOLDERS:
            above = home.parent
            yield from (*(above / name for name in PICTURE_FOLDERS), above / split, above)
            yield from (above / name / split for name in PICTURE_FOLDERS)


def coco_parts(path: Path, images: Path | None = None) -> dict[str, CocoPart]:
    """The COCO files in a folder by split (the stem of a file, or the name of its folder); "" for a single file."""
    if not path.is_dir():
        return {"": CocoPart(path, images)} if path.suffix.lower() == ".json" else {}
    inside = [folder for folder in sorted(path.iterdir()) if folder.is_dir()]
    folders = [path, *(folder for folder in inside if folder.name.lower() in ANNOTATION_FOLDERS)]
    files = [file for folder in folders for file in _coco_files(folder)]
    # COCO's own folder holds captions and keypoints too.
    files = [file for file in files if file.name.startswith("instances_")] or files
    if len(files) == 1:
        return {"": CocoPart(files[0], images)}
    if files:
        return {file.stem: CocoPart(file, images) for file in files}
    parts = {}
    for folder in inside:
        found = _coco_files(folder)
        if len(found) == 1:
            below = images / folder.name if images is not None and (images / folder.name).is_dir() else images
            parts[folder.name] = CocoPart(found[0], below)
    return parts


def json_kind(file: Path) -> str | None:
    """``coco`` or ``labelme`` as the beginning of a JSON file tells; None if it is neither or cannot be read."""
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD).decode("latin-1")
    except OSError:
        return None
    if '"shapes"' in head and any(key in head for key in ('"imagePath"', '"version"', '"imageData"')):
        return "labelme"
    return "coco" if any(f'"{key}"' in head for key in ("images", "annotations", "categories")) else None


def _coco_files(folder: Path) -> list[Path]:
    files = (file for file in sorted(folder.iterdir()) if file.suffix.lower() == ".json" and file.is_file())
    return [file for file in files if json_kind(file) == "coco"]
