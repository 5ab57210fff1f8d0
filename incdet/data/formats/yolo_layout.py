"""Where YOLO's pictures and label files lie: as a ``data.yaml`` says, or in the folders its tools make."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from incdet.config.yamlfile import parse_yaml
from incdet.data.formats.pictures import ANNOTATION_FOLDERS, PICTURE_FOLDERS, is_picture
from incdet.data.formats.textfile import read_text
from incdet.errors import Finding, InputError, shown
from incdet.vocab import clean_name, name_problem

SPLITS = ("train", "val", "valid", "test")
NAME_FILES = ("classes.txt", "obj.names", "predefined_classes.txt")
"""One class a line, where there is no ``data.yaml``."""


@dataclass(frozen=True)
class YoloNames:
    """The classes by their number, the file that says so, and whether label files hold key points behind the box."""

    file: Path
    names: tuple[str, ...]
    keypoints: bool = False


@dataclass(frozen=True)
class YoloPart:
    """One split.

    Attributes:
        file: What names it, for messages.
        pictures: Folders of its pictures, or text files with the path of one a line.
        labels: Folder of its label files; None takes ``labels`` in place of the last ``images`` of a picture's path.
    """

    file: Path
    pictures: tuple[Path, ...]
    labels: Path | None = None

    def pairs(self) -> list[tuple[Path, Path]]:
        """(picture, label file) of every image, whether there is a label file or not."""
        pictures = dict.fromkeys(picture for place in self.pictures for picture in _pictures(place))
        return [(picture, self._label(picture)) for picture in pictures]

    def _label(self, picture: Path) -> Path:
        if self.labels is not None and picture.is_relative_to(self.pictures[0]):
            return (self.labels / picture.relative_to(self.pictures[0])).with_suffix(".txt")
        parts = list(picture.parts)
        places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
        if places:
            parts[places[-1]] = "labels"
        beside, apart = picture.with_suffix(".txt"), Path(*parts).with_suffix(".txt")
        return beside if not os.path.exists(apart) and os.path.exists(beside) else apart


def yaml_file(path: Path) -> Path | None:
    """The ``data.yaml`` that ``path`` is or holds; None where there is none."""
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in (".yaml", ".yml")]
        return next((file for file in files if file.is_file() and _names_classes(file)), None)
    return path if path.suffix.lower() in (".yaml", ".yml") else None


def yaml_parts(file: Path, images: Path | None = None) -> tuple[YoloNames, dict[str, YoloPart]] | None:
    """The classes and splits of a ``data.yaml``; None if the file names no classes.

    Raises:
        InputError: It cannot be read, names no class, or names folders that are not there.
    """
    content = _content(file)
    if content is None:
        return None
    findings: list[Finding] = []
    parts: dict[str, YoloPart] = {}
    root = _inside(file.parent, str(content.get("path") or ".")) or file.parent
    for split in SPLITS:
        values = content.get(split)
        for value in values if isinstance(values, list) else [values] if values else []:
            place = images or _inside(root, str(value)) or _inside(file.parent, str(value))
            if place is None:
                problem = f"names {shown(str(value))}, which is not below {root}"
                fix = f"write the path of the pictures from {root}, or give --images DIR"
                findings.append(Finding(str(file), f"key {split}", problem, fix))
            else:
                earlier = parts[split].pictures if split in parts else ()
                parts[split] = YoloPart(file, (*earlier, place))
    if not parts and not findings:
        findings.append(Finding(str(file), "splits", "names neither train nor val nor test", "name the folders"))
    names = _names(file, content.get("names"), findings)
    if findings:
        raise InputError(findings)
    return YoloNames(file, names, bool(content.get("kpt_shape"))), parts


def folder_parts(root: Path, images: Path | None = None) -> tuple[YoloNames, dict[str, YoloPart]] | None:
    """The classes and splits of label files without a ``data.yaml``; None where there is no list of classes."""
    inside = [path for path in sorted(root.iterdir()) if path.is_dir()]
    homes = [root, *(path for path in inside if path.name.lower() in ANNOTATION_FOLDERS)]
    files = [home / name for home in homes for name in NAME_FILES if (home / name).is_file()]
    if not files:
        return None
    findings: list[Finding] = []
    listed = [line.strip() for line in read_text(files[0]).splitlines() if line.strip()]
    names = YoloNames(files[0], _names(files[0], listed, findings))
    if findings:
        raise InputError(findings)
    splits = {path.name: path for path in inside if path.name in SPLITS} or {"": root}
    return names, {name: _folder_part(files[0], folder, images) for name, folder in splits.items()}


def _folder_part(file: Path, folder: Path, images: Path | None) -> YoloPart:
    pictures = images or next((folder / name for name in PICTURE_FOLDERS if (folder / name).is_dir()), folder)
    homes = (folder / name for name in ANNOTATION_FOLDERS)
    labels = next((home for home in homes if home.is_dir()), folder if images is not None else None)
    return YoloPart(file, (pictures,), labels)


def _pictures(place: Path) -> list[Path]:
    """The pictures in a folder and its sub-folders, or those that a text file lists."""
    if place.is_dir():
        return sorted(path for path in place.rglob("*") if is_picture(path.name))
    lines = [line.strip() for line in read_text(place).splitlines() if line.strip()]
    found = [(line, _inside(place.parent, line)) for line in lines]
    if outside := [line for line, path in found if path is None]:
        problem = f"names a picture that is not below {place.parent}: {shown(outside[0])}"
        raise InputError(Finding(str(place), "pictures", problem, "write paths relative to this file"))
    return [path for _, path in found if path is not None]


def _names_classes(file: Path) -> bool:
    try:
        text = read_text(file)
    except InputError:
        return False
    keys = {line.split(":")[0].strip().strip("\"'") for line in text.splitlines() if ":" in line}
    return "names" in keys and not keys.isdisjoint(SPLITS)


def _content(file: Path) -> Mapping[str, Any] | None:
    text = read_text(file)
    try:
        if _has_references(text):  # which can grow without end when they are written out
            raise InputError(Finding(str(file), "file", "uses references (*name)", "write their values in their place"))
        content = parse_yaml(text, str(file))
    except RecursionError:
        raise InputError(Finding(str(file), "file", "nests its values thousands deep", "correct the file")) from None
    return content if isinstance(content, dict) and "names" in content else None


def _has_references(text: str) -> bool:
    try:
        return any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))
    except yaml.YAMLError:  # which is told better by the reader
        return False


def _names(file: Path, value: Any, findings: list[Finding]) -> tuple[str, ...]:
    if isinstance(value, dict):
        if sorted(value, key=str) != sorted(range(len(value)), key=str):
            problem = f"numbers its classes {shown(sorted(value, key=str))}"
            findings.append(Finding(str(file), "key names", problem, "number them 0, 1, 2, ..."))
            return ()
        value = [value[number] for number in range(len(value))]
    if not isinstance(value, list) or not value:
        findings.append(Finding(str(file), "key names", f"is {shown(value)}", "list the names of the classes"))
        return ()
    names = [clean_name(str(name)) for name in value]
    for number, name in enumerate(names):
        if problem := name_problem(name):
            findings.append(Finding(str(file), f"class {number}", problem, "give it a name"))
        elif name in names[:number]:
            problem = f"has the name {shown(name)} of class {names.index(name)}"
            findings.append(Finding(str(file), f"class {number}", problem, "rename one of them"))
    return tuple(names)


def _inside(root: Path, value: str) -> Path | None:
    """``value`` as an existing path below ``root``; None if it leads elsewhere.

    Some tools write ``../train/images`` for what lies in ``train/images``, beside the file.
    """
    words = value.replace("\\", "/")
    while True:
        path = os.path.normpath(os.path.join(root, words))
        if Path(path).is_relative_to(os.path.normpath(root)) and os.path.exists(path):
            return Path(path)
        if not words.startswith("../"):
            return None
        words = words.removeprefix("../")
