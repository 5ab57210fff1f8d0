"""COCO content inspected: what is sound of it, and a finding with file, object and fix for everything that is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from incdet.data.formats.boxes import ROUNDING, TOLERANCE, Corners, clipped_warning, judge_box
from incdet.data.formats.jsonfile import load_json
from incdet.data.formats.pictures import PictureFolder
from incdet.data.formats.textfile import neighbours
from incdet.data.formats.values import is_id, numbers, parse_flag, parse_side
from incdet.errors import Finding, InputError, shown
from incdet.vocab import clean_name, name_problem

FLAGS = ("iscrowd", "difficult", "ignore")
"""Keys of an annotation that make its object ignored."""
COVERED, NEGATIVE, PARTIAL = "covered_category_ids", "neg_category_ids", "not_exhaustive_category_ids"
"""Keys of an image that say which categories are annotated in it: our own, and the two of LVIS."""


@dataclass(slots=True)
class CocoImage:
    """An image entry and its boxes.

    Attributes:
        source_id: The entry's id.
        path: The picture, None if it was not found.
        size: (width, height) in pixels.
        entry: The entry itself.
        names: Of the boxes.
        boxes: xyxy inside the image.
        ignore: Of the boxes.
    """

    source_id: Any
    path: Path | None
    size: tuple[int, int]
    entry: dict[str, Any]
    names: list[str] = field(default_factory=list)
    boxes: list[Corners] = field(default_factory=list)
    ignore: list[bool] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether picture and size are known."""
        return self.path is not None and all(self.size)


@dataclass(slots=True)
class _Row:
    """An annotation that is sound but for its box, which is judged when all of them are known."""

    item: str
    box: list[float]
    image: CocoImage
    name: str
    ignore: bool


class CocoContent:
    """A COCO file after inspection.

    Attributes:
        file: Where it stands.
        names: The class name of every category id, in the order of the ids.
        images: By id, in the order of the file; those that cannot be used are left out.
        findings: Errors (the data is refused) and warnings (it is repaired or worth a look), in the order of the file.
    """

    def __init__(self, file: Path, folder: Path, content: Any) -> None:
        self.file = file
        self.names: dict[Hashable, str] = {}
        self.images: dict[Hashable, CocoImage] = {}
        self._refused: set[Hashable] = set()
        self._owners: dict[Path, Any] = {}
        self._outside: list[tuple[str, str]] = []
        self.findings: list[Finding] = []
        if not folder.is_dir():
            fix = f"give the image folder; {neighbours(folder)}"
            self.findings.append(Finding(str(folder), "folder", "does not exist", fix))
        if self._has_shape(content):
            self._take_categories(content["categories"], content["annotations"])
            self._take_images(content["images"], PictureFolder(folder) if folder.is_dir() else None)
            rows = self._annotations(content["annotations"])
            self._take_boxes(rows, is_official_coco(content))

    def _report(self, item: str, problem: str, fix: str, severity: str = "error") -> None:
        self.findings.append(Finding(str(self.file), item, problem, fix, severity))

    def _has_shape(self, content: Any) -> bool:
        before = len(self.findings)
        if not isinstance(content, dict):
            hint = " (a list: detection results are not annotations)" if isinstance(content, list) else ""
            self._report("file", f"holds no JSON object{hint}", "give a COCO annotation file")
            return False
        for key in ("images", "annotations", "categories"):
            value = content.get(key)
            if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
                problem = "is missing" if key not in content else "is not a list of objects"
                self._report(f"key {key!r}", problem, "write the three lists of a COCO file")
            elif not value and key != "annotations":
                self._report(f"key {key!r}", "is empty", f"list the {key}")
        return len(self.findings) == before

    def _take_categories(self, categories: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
        owners: dict[str, Any] = {}
        placeholder = _placeholder(categories, annotations)
        for position, entry in enumerate(categories):
            number, name = entry.get("id"), entry.get("name")
            item = f"category {shown(number) if number is not None else f'at position {position}'}"
            if not is_id(number):
                self._report(item, f"has the id {shown(number)}", "give it a whole number")
            elif entry is placeholder:
                problem = f"{shown(name)} is the name of a group and no annotation has it: left out"
                self._report(item, problem, "nothing", "warning")
            elif problem := name_problem(name):
                self._refused.add(number)
                self._report(item, problem, "give it a name")
            elif clean_name(str(name)) in owners:
                self._refused.add(number)
                problem = f"has the name {shown(name)!r} of category {shown(owners[clean_name(str(name))])}"
                self._report(item, problem, "rename one of them or merge the two")
            else:
                owners[clean_name(str(name))] = number
                if number in self.names:
                    self._report(item, "is defined twice", "give every category its own id")
                self.names[number] = clean_name(str(name))
        if all(isinstance(number, int) for number in self.names):
            self.names = dict(sorted(self.names.items()))

    def _take_images(self, images: list[dict[str, Any]], folder: PictureFolder | None) -> None:
        for position, entry in enumerate(images):
            number = entry.get("id")
            item = f"image {shown(number) if number is not None else f'at position {position}'}"
            if not is_id(number):
                self._report(item, f"has the id {shown(number)}", "give it a whole number or a text of its own")
                continue
            if number in self.images:
                self._report(item, "is listed twice", "give every image its own id")
            width, height = parse_side(entry.get("width")), parse_side(entry.get("height"))
            if width is None or height is None:
                stated = f"{shown(entry.get('width'))} x {shown(entry.get('height'))}"
                self._report(item, f"has the size {stated}", "write width and height in pixels")
            self._check_coverage(item, entry)
            path = self._picture(item, number, entry.get("file_name"), folder)
            self.images[number] = CocoImage(number, path, (width or 0, height or 0), entry)
        if self._outside and folder is not None:
            item, name = self._outside[0]
            problem = f"names a picture outside of {folder.folder}: {shown(name)}"
            more = f" ({len(self._outside) - 1} more do so)" if len(self._outside) > 1 else ""
            self._report(item, problem + more, folder.way_out(name))

    def _picture(self, item: str, number: Any, name: Any, folder: PictureFolder | None) -> Path | None:
        if not isinstance(name, str) or not name:
            self._report(item, f"has the file_name {shown(name)}", "name the picture")
            return None
        path = folder.find(name) if folder is not None else None
        if path is not None:
            if path in self._owners:
                problem = f"shows the same picture as image {shown(self._owners[path])}: {shown(name)}"
                self._report(item, problem, "keep one of the two", "warning")
            self._owners[path] = number
        elif folder is not None and folder.leaves(name):
            self._outside.append((item, name))
        elif folder is not None:
            self._report(item, f"names the missing picture {shown(name)}", folder.fix(name))
        return path

    def _check_coverage(self, item: str, entry: dict[str, Any]) -> None:
        for key in (COVERED, NEGATIVE, PARTIAL):
            if key in entry:
                value = entry[key]
                if not isinstance(value, list) or any(not is_id(one) or one not in self.names for one in value):
                    self._report(item, f"has {key} {shown(value)}", "list ids of categories of this file")

    def _annotations(self, annotations: list[dict[str, Any]]) -> list[_Row]:
        """The annotations whose image, category, flags and number of coordinates are right."""
        ids: Counter[str] = Counter()
        rows = []
        for position, entry in enumerate(annotations):
            number = entry.get("id")
            item = f"annotation {shown(number) if number is not None else f'at position {position}'}"
            ids[str(number)] += number is not None
            if ids[str(number)] == 2:
                self._report(item, "has the id of an earlier annotation", "give every annotation its own id")
            name = self._name_of(item, entry.get("category_id"))
            image = self._image_of(item, entry.get("image_id"))
            ignore = self._flags_of(item, entry)
            if image is None or not self._is_covered(item, entry.get("category_id"), image):
                continue
            box = numbers(entry.get("bbox"), 4)
            if box is None:
                self._report(item, f"has the bbox {shown(entry.get('bbox'))}", "write [x, y, width, height]")
            elif name and all(image.size):
                rows.append(_Row(item, box, image, name, ignore))
        return rows

    def _name_of(self, item: str, number: Any) -> str:
        """The class of a category id, "" if there is none; of a category that was refused nothing more is said."""
        if is_id(number) and (number in self.names or number in self._refused):
            return self.names.get(number, "")
        known = ", ".join(f"{shown(number)} {shown(name)}" for number, name in list(self.names.items())[:8])
        problem = f"has the label {shown(number)} without a category"
        self._report(item, problem, f"add the category or correct the label; known: {known}")
        return ""

    def _is_covered(self, item: str, number: Any, image: CocoImage) -> bool:
        covered = image.entry.get(COVERED)
        if not isinstance(covered, list) or number in covered:
            return True
        problem = f"has the label {shown(number)}, which image {shown(image.source_id)} does not list as covered"
        self._report(item, problem, f"add it to {COVERED} of the image, or remove the annotation")
        return False

    def _image_of(self, item: str, number: Any) -> CocoImage | None:
        image = self.images.get(number) if is_id(number) else None
        if image is None:
            problem, fix = f"belongs to image {shown(number)}, which is not listed", "list the image or remove it"
            if str(number) in self._spelt:
                fix = "write the id in the same way in both places, with or without quotation marks"
            self._report(item, problem, fix)
        return image

    @cached_property
    def _spelt(self) -> frozenset[str]:
        return frozenset(str(number) for number in self.images)

    def _flags_of(self, item: str, entry: dict[str, Any]) -> bool:
        ignore = False
        for key in FLAGS:
            if key in entry:
                flag = parse_flag(entry[key])
                if flag is None:
                    self._report(item, f"has {key} {shown(entry[key])}", "write 0 or 1")
                ignore = ignore or bool(flag)
        return ignore

    def _take_boxes(self, rows: list[_Row], official: bool) -> None:
        if guess := _guess_format(rows):
            return self._report(f"{len(rows)} boxes", *guess)
        clipped: list[tuple[str, float]] = []
        for row in rows:
            x, y, w, h = row.box
            verdict = judge_box(x, y, x + w, y + h, *row.image.size)
            problem = f"its box {row.box} {verdict.problem}"
            if verdict.corners is None and official and min(w, h) == 0:
                self._report(row.item, f"{problem}: a known fault of this release, left out", "nothing", "warning")
            elif verdict.corners is None:
                self._report(row.item, problem, verdict.fix)
            else:
                row.image.boxes.append(verdict.corners)
                row.image.names.append(row.name)
                row.image.ignore.append(row.ignore)
                if verdict.excess > ROUNDING:
                    clipped.append((row.item, verdict.excess))
        self.findings += clipped_warning(self.file, clipped)


def check_coco(annotations: Path, images: Path, content: Any = None) -> list[Finding]:
    """Everything that is wrong with a COCO detection file and its image folder; empty if nothing is.

    Args:
        annotations: The JSON file.
        images: The folder that its ``file_name`` entries are relative to.
        content: The parsed file, if the caller has read it already.

    Returns:
        Errors (the data is refused) and warnings (it is repaired or worth a look), in the order of the file.
    """
    annotations, images = Path(annotations), Path(images)
    try:
        content = load_json(annotations) if content is None else content
    except InputError as error:
        missing = CocoContent(annotations, images, {}).findings if not images.is_dir() else []
        return missing[:1] + error.findings
    return CocoContent(annotations, images, content).findings


def is_official_coco(content: Any) -> bool:
    """Whether the file calls itself the official COCO 2017 data, whose few zero-sided boxes are known."""
    info = content.get("info")
    return isinstance(info, dict) and str(info.get("description", "")).startswith("COCO 2017")


def _placeholder(categories: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The category 0 that some tools write for the group of all others, where no annotation has it."""
    first = next((entry for entry in categories if entry.get("id") == 0 and is_id(entry["id"])), None)
    others = [entry.get("supercategory", first and first.get("name")) for entry in categories if entry is not first]
    if first is None or first.get("supercategory") != "none" or not others:
        return None
    used = any(group != first.get("name") for group in others) or any(a.get("category_id") == 0 for a in annotations)
    return None if used else first


def _guess_format(rows: Sequence[_Row]) -> tuple[str, str] | None:
    """Problem and fix if the boxes as a whole fit another convention and do not fit [x, y, width, height]."""
    if not rows:
        return None
    if all(0 <= value <= 1 for row in rows for value in row.box):
        return "all lie between 0 and 1: they look normalised", "multiply them by the image width and height"
    fits, leaves = True, []
    for row in rows:
        (x, y, w, h), (width, height) = row.box, row.image.size
        fits = fits and 0 <= x < w <= width + TOLERANCE and 0 <= y < h <= height + TOLERANCE
        if x + w > width + TOLERANCE or y + h > height + TOLERANCE:
            leaves.append(row.item)
    if fits and leaves:
        return (
            f"{len(leaves)} of them leave the image (first: {leaves[0]}), but all fit as [x1, y1, x2, y2]: "
            "they look like corners",
            "COCO boxes are [x, y, width, height]: write x2 - x1 and y2 - y1",
        )
    return None
