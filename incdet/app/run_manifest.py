"""run.json: what a run was made by, and which files belong to it, by their digests.

So what is read back is what the run wrote, and who looks at it later knows with which versions, code and data.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from incdet.errors import Finding, InputError
from incdet.files import reading, sha256
from incdet.seal import unsealed, write_sealed

FILE = "run.json"
_ITEM = "run manifest"
_FIX = "put it back; without it nothing says which files belong to the run"


class RunManifest:
    """The files of a run that are finished and will not change.

    Attributes:
        root: The run folder.
        identity: 32 hex digits that no other run has.
        files: Path below ``root`` -> SHA-256 of the content.
        configs: SHA-256 of every configuration that was frozen in the folder, the last one at the end.
        makers: Versions, code, data and device of every part of the run that differs from the part before.
    """

    def __init__(
        self,
        root: Path,
        identity: str,
        files: Mapping[str, str],
        configs: Sequence[str] = (),
        makers: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.root, self.identity, self.files = root, identity, dict(files)
        self.configs, self.makers = list(configs), [dict(maker) for maker in makers]

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
        with reading(path, _ITEM, _FIX):
            value = unsealed(path, json.loads(path.read_text(encoding="utf-8")), _ITEM, _FIX)
            files = {str(name): str(digest) for name, digest in value["files"].items()}
            configs = [str(digest) for digest in value.get("configs", ())]
            return cls(root, str(value["id"]), files, configs, value.get("makers", ()))

    def save(self) -> None:
        """Writes ``root``/run.json."""
        content = {"schema": 1, "id": self.identity, "configs": self.configs, "makers": self.makers}
        write_sealed(self.root / FILE, {**content, "files": self.files}, indent=1)

    def add_config(self, text: str) -> None:
        """Takes in a configuration before it is frozen, so that there is none at any time that is not known."""
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
        if digest not in self.configs[-1:]:
            self.configs.append(digest)
            self.save()

    def add_maker(self, maker: Mapping[str, Any]) -> list[str]:
        """Takes in by what the next part of the run is made.

        Returns:
            What differs from the part before, ``name before -> now`` each.
        """
        before = self.makers[-1] if self.makers else {}
        changed = [f"{key} {before[key]} -> {maker.get(key)}" for key in before if before[key] != maker.get(key)]
        if changed or not before:
            self.makers.append(dict(maker))
            self.save()
        return changed

    def verify_config(self, file: Path) -> None:
        """Compares the frozen configuration with those that the run froze; a run of before knows none.

        Raises:
            InputError: It is missing, was edited, damaged, or is of another run.
        """
        if self.configs and not (file.is_file() and sha256(file) in self.configs):
            problem = "is not the one that the run froze (edited, damaged or of another run)"
            fix = "put it back; other settings are given as key=value, or to a run in a folder of its own"
            raise InputError(Finding(str(file), "configuration of the run", problem, fix))

    def record(self, *places: Path) -> None:
        """Takes in the files of ``places`` (files, or folders with all below) as they are now."""
        for place in places:
            self.files.update({self._name(file): sha256(file) for file in _files(place)})
        self.save()

    def forget(self, *places: Path) -> None:
        """Leaves out the files of ``places``, which are no longer the run's."""
        names = [self._name(place) for place in places]
        self.files = {file: told for file, told in self.files.items() if not any(_lies_in(file, one) for one in names)}
        self.save()

    def verify(self, *places: Path) -> None:
        """Compares the files of ``places`` with what was recorded; what never was is not looked at.

        Raises:
            InputError: A recorded file is missing or has another content; names each.
        """
        names = [self._name(place) for place in places]
        chosen = [file for file in self.files if any(_lies_in(file, name) for name in names)]
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


def _lies_in(file: str, name: str) -> bool:
    return name in (".", file) or file.startswith(f"{name}/")


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
    elif place.is_dir():
        yield from (file for file in sorted(place.rglob("*")) if file.is_file() and not file.name.startswith("."))
