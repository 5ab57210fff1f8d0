"""Which picture an annotation means, told from the folders' listings and never from outside of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from incdet.errors import shown

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".gif")
"""In the order in which one is taken where several lie beside one another."""
PICTURE_FOLDERS = ("images", "JPEGImages", "Images", "imgs", "img", "pictures", "photos")
"""How tools call the folder of the pictures."""
ANNOTATION_FOLDERS = ("annotations", "annotation", "xml", "xmls", "labels", "label", "json", "jsons", "labelme", "csv")
"""How they call that of the annotations, in small letters."""
MOST_FOLDERS = 2000
"""Of a tree that is looked through for a missing picture."""


def is_picture(name: str) -> bool:
    """Whether a file's name ends as that of a picture does."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


class PictureFolder:
    """The pictures of one folder and its sub-folders, each listed once: asking the disk for 10^5 files is slow."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._names: dict[str, frozenset[str]] = {}
        self._elsewhere: dict[str, Path] | None = None

    def find(self, name: str) -> Path | None:
        """The picture that ``name`` means: a path below the folder, in either kind of slashes.

        Files of Windows have back-slashes, and some names begin with the folder's own; a name that leads out of the
        folder means nothing.
        """
        for reading in self._readings(name):
            parent, base = os.path.split(reading)
            if base in self._in(parent):
                return self.folder / reading
        return None

    def leaves(self, name: str) -> bool:
        """Whether ``name`` leads out of the folder, or is the path of another place."""
        return not _stays(name) and self._inside(name) is None

    def way_out(self, name: str) -> str:
        """What to do about a ``name`` that leads out of the folder, a sentence."""
        place = Path(os.path.normpath(os.path.join(self.folder, name.replace("\\", "/")))).parent
        if "\0" not in name and PictureFolder(place).find(name):
            return f"give --images {place} if you mean the picture there"
        return f"write its path below {self.folder}"

    def fix(self, name: str) -> str:
        """What to do about the missing picture ``name``, a sentence."""
        parent, base = os.path.split(name.replace("\\", "/"))
        stem = os.path.splitext(base)[0]
        for suffix in IMAGE_SUFFIXES:
            if near := {stem + suffix, stem + suffix.upper()} & self._in(parent):
                return f"there is {os.path.join(parent, min(near))}: correct the file name"
        if place := self._found_elsewhere(base):
            if place.is_relative_to(self.folder):
                return f"there is {place.relative_to(self.folder).as_posix()}: correct the file name"
            rest = place.as_posix().removesuffix(f"/{os.path.join(parent, base)}")
            return f"give --images {rest}" if rest != place.as_posix() else f"it lies at {place}: correct the name"
        return f"put it into {shown(str(self.folder / parent))} or remove its entry"

    def _readings(self, name: str) -> Iterator[str]:
        """Paths below the folder that ``name`` may stand for, the plainest first."""
        if _stays(name):
            yield name
        for slashed in dict.fromkeys((name, name.replace("\\", "/"))):
            if (inside := self._inside(slashed)) is not None and inside != name:
                yield inside
            own = f"{self.folder.name}/"
            if slashed.startswith(own) and _stays(slashed):
                yield slashed.removeprefix(own)

    def _inside(self, name: str) -> str | None:
        """``name`` relative to the folder, from a path that may be absolute or hold dots; None if it leads out."""
        try:
            path = os.path.relpath(os.path.join(self.folder, name.replace("\\", "/")), self.folder)
        except ValueError:  # another drive
            return None
        return path if _stays(path) else None

    def _in(self, parent: str) -> frozenset[str]:
        if parent not in self._names:
            path = os.path.join(self.folder, parent)
            self._names[parent] = frozenset(os.listdir(path)) if os.path.isdir(path) else frozenset()
        return self._names[parent]

    def _found_elsewhere(self, base: str) -> Path | None:
        """Where a file of this name lies, in the folder's tree or beside it."""
        if self._elsewhere is None:
            self._elsewhere = {}
            for top in (self.folder, self.folder.parent):
                for place, _, names in islice(os.walk(top), MOST_FOLDERS):
                    for name in names:
                        self._elsewhere.setdefault(name, Path(place, name))
        return self._elsewhere.get(base)


class PicturesByStem:
    """The pictures that lie directly in some folders, found by their names without the ending."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._stems: dict[str, list[Path]] = {}
        for folder in dict.fromkeys(self.folders):
            for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
                if is_picture(name):
                    self._stems.setdefault(os.path.splitext(name)[0], []).append(folder / name)
        for places in self._stems.values():
            places.sort(key=lambda place: IMAGE_SUFFIXES.index(place.suffix.lower()))

    def __len__(self) -> int:
        return len(self._stems)

    def find(self, stem: str, wanted: str = "") -> Path | None:
        """The picture of the annotation file ``stem`` that calls its picture ``wanted`` (a name, or "").

        A picture beside the annotation wins over another one of the wanted name, for many tools leave the name of an
        earlier copy; between a picture and a mask of the same stem the wanted name decides.
        """
        base = wanted.replace("\\", "/").rsplit("/", 1)[-1].strip()
        own = self._stems.get(stem, [])
        if len(own) > 1:
            ending = os.path.splitext(base)[1].lower()
            named = [place for place in own if place.name == base] or [p for p in own if p.suffix.lower() == ending]
            own = named or own
        others = self._stems.get(os.path.splitext(base)[0], []) + self._stems.get(base, [])
        return next(iter([*own, *(place for place in others if place.name == base), *others]), None)


def picture_folders(folder: Path) -> list[Path]:
    """Where the pictures of annotation files in ``folder`` may lie: there, in a folder of pictures, or beside it.

    Beside it only where its name says that it holds annotations alone: nobody's files reach out of their folder.
    """
    places = [folder, *(folder / name for name in PICTURE_FOLDERS)]
    if folder.name.lower() in ANNOTATION_FOLDERS:
        places += [*(folder.parent / name for name in PICTURE_FOLDERS), folder.parent]
    if folder.parent.name.lower() in ANNOTATION_FOLDERS:
        places += [folder.parent.parent / name / folder.name for name in PICTURE_FOLDERS]
    return [place for place in places if place.is_dir()]


def _stays(path: str) -> bool:
    """Whether a relative path leads nowhere but downwards."""
    if ".." not in path and path[:1] not in ("/", "\\") and path[1:2] != ":" and "\0" not in path:
        return bool(path)  # told without taking it apart: there are 10^5 of them
    parts = path.replace("\\", "/").split("/")
    return ".." not in parts and parts[0] != "" and not parts[0].endswith(":") and "\0" not in path
