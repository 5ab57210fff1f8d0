"""run.json: which files belong to a run, by their digests, so that what is read back is what the run wrote."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from incdet.errors import Finding, InputError
from incdet.files import reading, sha256, write_json

FILE = "run.json"


class RunManifest:
    """The files of a run that are finished and will not change.

    Attributes:
        root: The run folder.
        identity: 32 hex digits that no other run has.
        files: Path below ``root`` -> SHA-256 of the content.
    """

    def __init__(self, root: Path, identity: str, files: Mapping[str, str]) -> None:
        self.root, self.identity, self.files = root, identity, dict(files)

    @classmethod
    def open(cls, root: Path) -> RunManifest:
        """That of an earlier part of the run, or a new one, which is written.

        Raises:
            InputError: The file cannot be read.
        """
        path = root / FILE
        if path.is_file():
            return cls.load(root)
        made = cls(root, uuid.uuid4().hex, {})
        made.save()
        return made

    @classmethod
    def load(cls, root: Path) -> RunManifest:
        """Reads ``root``/run.json.

        Raises:
            InputError: The file is missing, cut off or something else.
        """
        path = root / FILE
        with reading(path, "run manifest", "put it back; without it nothing says which files belong to the run"):
            value = json.loads(path.read_text(encoding="utf-8"))
            files = {str(name): str(digest) for name, digest in value["files"].items()}
            return cls(root, str(value["id"]), files)

    def save(self) -> None:
        """Writes ``root``/run.json."""
        write_json(self.root / FILE, {"schema": 1, "id": self.identity, "files": self.files}, indent=1)

    def record(self, *places: Path) -> None:
        """Takes in the files of ``places`` (files, or folders with all below) as they are now."""
        for place in places:
            self.files.update({self._name(file): sha256(file) for file in _files(place)})
        self.save()

    def verify(self, *places: Path) -> None:
        """Compares the files of ``places`` with what was recorded; what never was is not looked at.

        Raises:
            InputError: A recorded file is missing or has another content; names each.
        """
        names = [self._name(place) for place in places]
        chosen = [file for file in self.files if any(file == name or file.startswith(f"{name}/") for name in names)]
        findings = []
        for name in chosen:
            file = self.root / name
            if not file.is_file():
                findings.append(Finding(str(file), "file of the run", "is missing", "put it back, or begin a new run"))
            elif sha256(file) != self.files[name]:
                problem = "is not the one that the run wrote (changed, damaged or of another run)"
                findings.append(Finding(str(file), "file of the run", problem, "put it back, or begin a new run"))
        if findings:
            raise InputError(findings)

    def holds(self, file: Path) -> bool:
        """Whether ``file`` was written by this run and has not been changed since."""
        inside = file.resolve().is_relative_to(self.root.resolve())
        return inside and file.is_file() and self.files.get(self._name(file)) == sha256(file)

    def _name(self, place: Path) -> str:
        return place.resolve().relative_to(self.root.resolve()).as_posix()


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
    elif place.is_dir():
        yield from (file for file in sorted(place.rglob("*")) if file.is_file() and not file.name.startswith("."))
