"""Where the XML files of a VOC data set and their pictures lie: a devkit, or folders of files, split or not."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from incdet.data.formats.pictures import ANNOTATION_FOLDERS, PicturesByStem, is_picture, picture_folders
from incdet.data.formats.textfile import read_text
from incdet.errors import Finding, InputError


@dataclass(frozen=True)
class VocPart:
    """One split.

    Attributes:
        folder: Where its XML files lie.
        listed: The file that lists the names of its images; None takes all XML files of the folder.
        pictures: Where its pictures may lie.
    """

    folder: Path
    listed: Path | None
    pictures: tuple[Path, ...]

    def files(self) -> tuple[list[Path], list[Finding]]:
        """The XML files in their order, and a warning if the list names one twice.

        Raises:
            InputError: The list is empty.
        """
        if self.listed is None:
            return xml_files(self.folder), []
        stems = [_stem(line, self.folder) for line in read_text(self.listed).splitlines() if line.strip()]
        if not stems:
            raise InputError(Finding(str(self.listed), "split", "names no image", "list one image a line"))
        twice = [stem for stem, count in Counter(stems).items() if count > 1]
        return [self.folder / f"{stem}.xml" for stem in dict.fromkeys(stems)], self._told(twice)

    def _told(self, twice: Sequence[str]) -> list[Finding]:
        if not twice:
            return []
        more = f" ({len(twice) - 1} more are)" if len(twice) > 1 else ""
        problem = f"is listed twice{more}; every image is read once"
        return [Finding(str(self.listed), f"image {twice[0]}", problem, "nothing, or list it once", "warning")]


def devkit_parts(root: Path, images: Path | None = None) -> dict[str, VocPart]:
    """The splits of a devkit in or under ``root``, as ``<year>_<split>`` where its folder is called VOC<year>."""
    homes = [root] if (root / "ImageSets" / "Main").is_dir() else _years(root)
    parts = {}
    for home in homes:
        lists = {path.stem: path for path in sorted((home / "ImageSets" / "Main").glob("*.txt"))}
        # The official lists of one class each, `cat_trainval`, name all images of `trainval` again.
        for name in [name for name in lists if not any(name.endswith(f"_{other}") for other in lists)]:
            prefix = f"{home.name[3:]}_" if _has_year(home) else ""
            pictures = (images,) if images is not None else (home / "JPEGImages",)
            parts[prefix + name] = VocPart(home / "Annotations", lists[name], pictures)
    return parts


def folder_parts(root: Path, images: Path | None = None) -> dict[str, VocPart]:
    """The splits of a folder of XML files: its sub-folders, or "" for files that are not split."""
    parts = {}
    for name, folder in _xml_folders(root).items():
        if images is None:
            pictures = picture_folders(folder)
        else:
            pictures = [place for place in (images / name, images, images / folder.name) if place.is_dir()]
        parts[name] = VocPart(folder, None, tuple(pictures) or (images or folder,))
    return parts


def xml_files(folder: Path) -> list[Path]:
    """The XML files directly in a folder, sorted."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".xml") if folder.is_dir() else []


def pictures_of(part: VocPart) -> PicturesByStem:
    """The pictures that the files of a split may mean."""
    return PicturesByStem(part.pictures)


def is_official(part: VocPart) -> bool:
    """Whether a split is part of a devkit that is called as those of the challenge are, VOC2007 for example."""
    return part.listed is not None and _has_year(part.folder.parent)


def _has_year(home: Path) -> bool:
    return re.fullmatch(r"VOC\d+", home.name) is not None


def _years(root: Path) -> list[Path]:
    bases = [base for base in (root, root / "VOCdevkit") if base.is_dir()]
    return [p for base in bases for p in sorted(base.glob("VOC*")) if (p / "ImageSets" / "Main").is_dir()]


def _xml_folders(root: Path) -> dict[str, Path]:
    """By split: the folder itself, its sub-folders, or the folder of annotations in either."""
    found = {"": root} if xml_files(root) else {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []:
        if folder.name.lower() in ANNOTATION_FOLDERS:
            found = {**_xml_folders(folder), **found}
        elif inside := _one_folder(folder):
            found[folder.name] = inside
    return found


def _one_folder(folder: Path) -> Path | None:
    places = [folder, *(path for path in sorted(folder.iterdir()) if path.name.lower() in ANNOTATION_FOLDERS)]
    return next((place for place in places if place.is_dir() and xml_files(place)), None)


def _stem(line: str, folder: Path) -> str:
    """The name that a line of a list means: the line, its first word (the rest says whether a class is there)."""
    line = line.strip()
    name = line if " " in line and os.path.isfile(folder / f"{line}.xml") else re.split(r"\s", line, maxsplit=1)[0]
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    return name.rsplit(".", 1)[0] if is_picture(name) or name.endswith(".xml") else name
