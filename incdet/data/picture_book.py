"""What was found out about pictures, remembered by their size and time of change, so that the next start is instant.

One small JSON file a folder of pictures, in the user's cache: ``$INCDET_CACHE``, else ``$XDG_CACHE_HOME/incdet``, else
``~/.cache/incdet``. It may be deleted at any time; where it cannot be written, nothing is remembered.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import PIL

from incdet.data.inspection import Picture, inspect_picture, quiet
from incdet.errors import InputError, OutputError
from incdet.seal import unsealed, write_sealed

Progress = Callable[[int, int], None]
"""Called with (pictures done, pictures in all)."""
VERSION = f"1 OpenCV {cv2.__version__} Pillow {PIL.__version__}"
"""What could be decoded depends on who decoded it."""


def inspect_pictures(paths: Iterable[Path], progress: Progress | None = None) -> dict[Path, Picture]:
    """Every picture as ``inspect_picture`` finds it, from memory where its file has not changed since.

    Args:
        paths: The files; each is looked at once.
        progress: Called as the pictures that are not remembered are decoded, not at all if there are none.
    """
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        folders[path.parent].append(path)
    pages = {folder: _Page(folder) for folder in folders}
    stamps = {path: _stamp(path) for inside in folders.values() for path in inside}
    found = {path: pages[path.parent].get(path, stamp) for path, stamp in stamps.items()}
    missing = [path for path, picture in found.items() if picture is None]
    # One thread a core: both decoders let go of Python's lock.
    with quiet(), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, (path, picture) in enumerate(zip(missing, pool.map(inspect_picture, missing), strict=True), start=1):
            found[path] = picture
            pages[path.parent].put(path, stamps[path], picture)
            if progress is not None and (done % 16 == 0 or done == len(missing)):
                progress(done, len(missing))
    for page in pages.values():
        page.save()
    return {path: picture for path, picture in found.items() if picture is not None}


def cache_folder() -> Path:
    """Where the pages are kept."""
    if own := os.environ.get("INCDET_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "incdet"


class _Page:
    """What is remembered of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.abspath(folder)
        digest = hashlib.blake2b(os.fsencode(self.folder), digest_size=12).hexdigest()
        self.file = cache_folder() / "pictures" / f"{digest}.json"
        self.changed = False
        self.entries: dict[str, list[Any]] = {}
        try:
            value = json.loads(self.file.read_text(encoding="utf-8"))
            value = unsealed(self.file, value, "remembered pictures", "delete it")
            if value["version"] == VERSION and value["folder"] == self.folder:
                self.entries = dict(value["pictures"])
        except (InputError, OSError, ValueError, KeyError, TypeError, RecursionError):
            return  # damaged: the pictures are looked at again

    def get(self, path: Path, stamp: list[int] | None) -> Picture | None:
        entry = self.entries.get(path.name)
        try:
            return Picture(*entry[2:]) if entry is not None and entry[:2] == stamp else None
        except TypeError:  # somebody wrote into the file
            return None

    def put(self, path: Path, stamp: list[int] | None, picture: Picture) -> None:
        if stamp is not None and path.name.isprintable():
            self.entries[path.name] = [*stamp, *picture]
            self.changed = True

    def save(self) -> None:
        if self.changed:
            try:
                value = {"version": VERSION, "folder": self.folder, "pictures": self.entries}
                write_sealed(self.file, value, indent=None)
            except (OutputError, OSError, ValueError):
                return


def _stamp(path: Path) -> list[int] | None:
    """Size and time of change of a file; None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]
