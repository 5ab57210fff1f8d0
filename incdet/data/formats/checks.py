"""Checks of annotation files: every finding names the file, the object and the fix."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incdet.errors import Finding, InputError, suggest

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".JPG", ".JPEG", ".PNG")
TOLERANCE = 2.0
"""Pixels by which a box may leave the image and still be clipped: rounding and 1-based corners reach that far."""
SMALLEST = 1e-3
"""Pixels: a thinner box is empty, and float32 could not tell its sides apart in a large image."""

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class BoxVerdict:
    """One box after inspection: ``corners`` inside the image, or a ``problem`` and its ``fix``.

    Attributes:
        corners: xyxy inside the image, None if the box is refused.
        excess: Pixels that were clipped, 0 for a box that lay inside.
        problem: What is wrong, empty if nothing is.
        fix: What to do about it.
    """

    corners: Corners | None
    excess: float = 0.0
    problem: str = ""
    fix: str = ""


def judge_box(x1: float, y1: float, x2: float, y2: float, width: int, height: int) -> BoxVerdict:
    """Accept, clip (at most ``TOLERANCE`` pixels) or refuse the xyxy box of an image of ``width`` x ``height``."""
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return BoxVerdict(None, 0.0, "is not a number", "remove it or write finite coordinates")
    if x2 < x1 or y2 < y1:
        return BoxVerdict(None, 0.0, f"has a negative size, {x2 - x1:g} x {y2 - y1:g}", "swap the corners or remove it")
    if x2 - x1 < SMALLEST or y2 - y1 < SMALLEST:
        return BoxVerdict(None, 0.0, f"is empty ({x2 - x1:g} x {y2 - y1:g})", "remove it")
    excess = max(-x1, -y1, x2 - width, y2 - height, 0.0)
    if excess > TOLERANCE:
        return BoxVerdict(
            None,
            excess,
            f"lies {excess:g} px outside the image of {width} x {height}",
            "check the coordinates and the image size",
        )
    corners = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        return BoxVerdict(None, excess, "lies beside the image", "remove it")
    return BoxVerdict(corners, excess)


def clipped_warning(file: Path, clipped: Sequence[tuple[str, float]]) -> list[Finding]:
    """One warning for all boxes that were clipped; ``clipped`` holds (object, pixels)."""
    if not clipped:
        return []
    item, _ = clipped[0]
    return [
        Finding(
            str(file),
            item,
            f"{len(clipped)} box(es) left the image by at most "
            f"{max(excess for _, excess in clipped):.3g} px and were clipped (this is the first)",
            "nothing, unless the image sizes are wrong",
            "warning",
        )
    ]


def load_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: The file is missing, empty, cut off, or no JSON.
    """
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(Finding(str(path), "file", problem, f"give the annotation file; {_neighbours(path)}"))
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(Finding(str(path), "file", f"is no UTF-8 text ({error.reason})", "save it as UTF-8")) from None
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) - 1 or text.rstrip()[-1:] not in ("}", "]"):
            raise InputError(
                Finding(
                    str(path),
                    f"line {error.lineno}",
                    f"is cut off after {len(text)} characters",
                    "copy or download the file again",
                )
            ) from None
        raise InputError(
            Finding(
                str(path),
                f"line {error.lineno}",
                f"is not JSON: {error.msg} at column {error.colno}",
                "correct the file",
            )
        ) from None


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
    findings: list[Finding] = []
    if not images.is_dir():
        findings.append(
            Finding(str(images), "folder", "does not exist", f"give the image folder; {_neighbours(images)}")
        )
    try:
        content = load_json(annotations) if content is None else content
    except InputError as error:
        return findings + error.findings
    shape = _check_shape(annotations, content)
    if shape:
        return findings + shape
    findings += _check_categories(annotations, content["categories"])
    findings += _check_images(annotations, images if images.is_dir() else None, content)
    return findings + _check_annotations(annotations, content)


def numbers(value: Any, count: int) -> list[float] | None:
    """``value`` as ``count`` floats, None if it is anything else (NaN passes: it has its own message)."""
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
        return None
    return [float(v) for v in value]


def is_official_coco(content: Any) -> bool:
    """Whether the file calls itself the official COCO 2017 data, whose few zero-sided boxes are known."""
    info = content.get("info")
    return isinstance(info, dict) and str(info.get("description", "")).startswith("COCO 2017")


def _check_shape(file: Path, content: Any) -> list[Finding]:
    if not isinstance(content, dict):
        hint = " (a list: detection results are not annotations)" if isinstance(content, list) else ""
        return [Finding(str(file), "file", f"holds no JSON object{hint}", "give a COCO annotation file")]
    findings = []
    for key in ("images", "annotations", "categories"):
        value = content.get(key)
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            problem = "is missing" if key not in content else "is not a list of objects"
            findings.append(Finding(str(file), f"key {key!r}", problem, "write the three lists of a COCO file"))
        elif not value and key != "annotations":
            findings.append(Finding(str(file), f"key {key!r}", "is empty", f"list the {key}"))
    return findings


def _check_categories(file: Path, categories: list[dict[str, Any]]) -> list[Finding]:
    findings = []
    ids: Counter[Any] = Counter()
    owners: dict[str, Any] = {}
    for position, entry in enumerate(categories):
        number, name = entry.get("id"), entry.get("name")
        item = f"category {number if number is not None else f'at position {position}'}"
        if not _is_id(number):
            findings.append(Finding(str(file), item, f"has the id {number!r}", "give it a whole number"))
            continue
        if not isinstance(name, str) or not name.strip():
            findings.append(Finding(str(file), item, f"has the name {name!r}", "give it a name"))
        elif name in owners:
            findings.append(
                Finding(
                    str(file),
                    item,
                    f"has the name {name!r} of category {owners[name]}",
                    "rename one of them or merge the two",
                )
            )
        else:
            owners[name] = number
        ids[number] += 1
        if ids[number] == 2:
            findings.append(Finding(str(file), item, "is defined twice", "give every category its own id"))
    return findings


def _check_images(file: Path, folder: Path | None, content: dict[str, Any]) -> list[Finding]:
    findings = []
    categories = [entry.get("id") for entry in content["categories"]]
    ids: Counter[Any] = Counter()
    files: dict[str, Any] = {}
    listing = Listing(folder) if folder is not None else None
    for position, entry in enumerate(content["images"]):
        number, name = entry.get("id"), entry.get("file_name")
        item = f"image {number if number is not None else f'at position {position}'}"
        if not _is_id(number):
            findings.append(Finding(str(file), item, f"has the id {number!r}", "give it a whole number >= 0"))
            continue
        ids[number] += 1
        if ids[number] == 2:
            findings.append(Finding(str(file), item, "is listed twice", "give every image its own id"))
        width, height = entry.get("width"), entry.get("height")
        if not (_is_size(width) and _is_size(height)):
            findings.append(
                Finding(str(file), item, f"has the size {width!r} x {height!r}", "write width and height in pixels")
            )
        covered = entry.get("covered_category_ids", [])
        if not isinstance(covered, list) or any(category not in categories for category in covered):
            findings.append(
                Finding(str(file), item, f"has covered_category_ids {covered!r}", "list ids of categories of this file")
            )
        if not isinstance(name, str) or not name:
            findings.append(Finding(str(file), item, f"has the file_name {name!r}", "name the picture"))
            continue
        if name in files:
            findings.append(
                Finding(
                    str(file),
                    item,
                    f"shows the same picture as image {files[name]}: {name}",
                    "keep one of the two",
                    "warning",
                )
            )
        files[name] = number
        if listing is not None and not listing.has(name):
            findings.append(Finding(str(file), item, f"names the missing picture {name}", listing.fix(name)))
    return findings


def _check_annotations(file: Path, content: dict[str, Any]) -> list[Finding]:
    images = {entry["id"]: entry for entry in content["images"] if _is_id(entry.get("id"))}
    categories = {entry["id"]: str(entry.get("name")) for entry in content["categories"] if _is_id(entry.get("id"))}
    known = ", ".join(f"{number} {name}" for number, name in list(categories.items())[:8])
    findings: list[Finding] = []
    boxes: list[tuple[str, Corners, int, int]] = []
    ids: Counter[str] = Counter()
    for position, entry in enumerate(content["annotations"]):
        number = entry.get("id")
        item = f"annotation {number}" if number is not None else f"annotation at position {position}"
        ids[str(number)] += number is not None
        if ids[str(number)] == 2:
            findings.append(
                Finding(str(file), item, "has the id of an earlier annotation", "give every annotation its own id")
            )
        if not _is_id(entry.get("category_id")) or entry["category_id"] not in categories:
            findings.append(
                Finding(
                    str(file),
                    item,
                    f"has the label {entry.get('category_id')!r} without a category",
                    f"add the category or correct the label; known: {known}",
                )
            )
        image = images.get(entry["image_id"]) if _is_id(entry.get("image_id")) else None
        if image is None:
            findings.append(
                Finding(
                    str(file),
                    item,
                    f"belongs to image {entry.get('image_id')!r}, which is not listed",
                    "list the image or remove the annotation",
                )
            )
            continue
        box = numbers(entry.get("bbox"), 4)
        if box is None:
            findings.append(
                Finding(str(file), item, f"has the bbox {entry.get('bbox')!r}", "write [x, y, width, height]")
            )
        elif _is_size(image.get("width")) and _is_size(image.get("height")):
            boxes.append((item, (box[0], box[1], box[2], box[3]), image["width"], image["height"]))
    return findings + _check_boxes(file, boxes, is_official_coco(content))


def _check_boxes(file: Path, boxes: list[tuple[str, Corners, int, int]], official: bool) -> list[Finding]:
    guess = _guess_format(boxes)
    if guess:
        return [Finding(str(file), f"{len(boxes)} boxes", *guess)]
    findings: list[Finding] = []
    clipped: list[tuple[str, float]] = []
    for item, (x, y, w, h), width, height in boxes:
        verdict = judge_box(x, y, x + w, y + h, width, height)
        shown = f"its box {[x, y, w, h]} {verdict.problem}"
        if verdict.corners is None and official and min(w, h) == 0:
            findings.append(
                Finding(str(file), item, f"{shown}: a known fault of this release, left out", "nothing", "warning")
            )
        elif verdict.corners is None:
            findings.append(Finding(str(file), item, shown, verdict.fix))
        elif verdict.excess:
            clipped.append((item, verdict.excess))
    return findings + clipped_warning(file, clipped)


def _guess_format(boxes: list[tuple[str, Corners, int, int]]) -> tuple[str, str] | None:
    """Problem and fix if the boxes as a whole fit another convention and do not fit [x, y, width, height]."""
    if not boxes:
        return None
    if all(0 <= value <= 1 for _, box, _, _ in boxes for value in box):
        return "all lie between 0 and 1: they look normalised", "multiply them by the image width and height"
    fits = all(
        0 <= x < w <= width + TOLERANCE and 0 <= y < h <= height + TOLERANCE for _, (x, y, w, h), width, height in boxes
    )
    leaves = [
        item for item, (x, y, w, h), width, height in boxes if x + w > width + TOLERANCE or y + h > height + TOLERANCE
    ]
    if fits and leaves:
        return (
            f"{len(leaves)} of them leave the image (first: {leaves[0]}), but all fit as [x1, y1, x2, y2]: "
            "they look like corners",
            "COCO boxes are [x, y, width, height]: write x2 - x1 and y2 - y1",
        )
    return None


class Listing:
    """What lies in an image folder, read once a sub-folder: asking the disk for every one of 10^5 files is slow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, frozenset[str]] = {}

    def _in(self, parent: str) -> frozenset[str]:
        if parent not in self._names:
            path = self.folder / parent
            self._names[parent] = frozenset(os.listdir(path)) if path.is_dir() else frozenset()
        return self._names[parent]

    def has(self, name: str) -> bool:
        """Whether the file ``name`` (relative to the folder) exists."""
        parent, base = os.path.split(name)
        return base in self._in(parent)

    def fix(self, name: str) -> str:
        """What to do about the missing file ``name``."""
        parent, base = os.path.split(name)
        stem = os.path.splitext(base)[0]
        for suffix in IMAGE_SUFFIXES:
            if stem + suffix in self._in(parent):
                return f"there is {stem + suffix}: correct the file name"
        where = self.folder / parent
        return f"put it into {where} or remove its entry" if where.is_dir() else f"the folder {where} does not exist"


def errors_of(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that refuse the input."""
    return [finding for finding in findings if finding.severity == "error"]


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_size(value: Any) -> bool:
    return _is_id(value) and value > 0


def _neighbours(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"the folder {parent} does not exist either"
    return suggest(path.name, os.listdir(parent))
