"""One XML file of Pascal VOC's kind, read with findings instead of exceptions.

VOC counts pixels from 1 and its corners belong to the box: (xmin, ymin, xmax, ymax) is (xmin - 1, ymin - 1, xmax, ymax)
in the pixel edges of a record, and a devkit box can never leave its image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from incdet.data.formats.boxes import Corners, judge_box
from incdet.data.formats.pictures import PicturesByStem
from incdet.data.formats.values import parse_flag, parse_side
from incdet.data.formats.xmlfile import load_xml
from incdet.data.inspection import header_size
from incdet.errors import Finding, InputError, shown
from incdet.vocab import clean_name, name_problem

EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class VocFile:
    """What an XML file says.

    Attributes:
        xml: The file.
        image: Its picture; not there if a finding says so.
        source_id: The image id that ``write_voc`` stored, None where there is none.
        size: (width, height) in pixels, (0, 0) if it is not known.
        boxes: xyxy inside the image.
        names: Of the boxes.
        ignore: Of the boxes.
        covered: The classes that are annotated here, None for all.
        clipped: (object, pixels) of boxes that left the image by a pixel or two.
        findings: Everything that is wrong.
    """

    xml: Path
    image: Path
    source_id: int | str | None = None
    size: tuple[int, int] = (0, 0)
    boxes: list[Corners] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ignore: list[bool] = field(default_factory=list)
    covered: frozenset[str] | None = None
    clipped: list[tuple[str, float]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def report(self, item: str, problem: str, fix: str, severity: str = "error") -> None:
        """Adds a finding about the file."""
        self.findings.append(Finding(str(self.xml), item, problem, fix, severity))


def parse_voc(xml: Path, pictures: PicturesByStem) -> VocFile:
    """The content of ``xml``, whose picture is one of ``pictures``."""
    missing = pictures.folders[0] / f"{xml.stem}.jpg"
    one = VocFile(xml, pictures.find(xml.stem) or missing)
    tree = None
    try:
        tree = load_xml(xml)
    except InputError as error:
        gone = "restore the annotation or take the image off the list"
        one.findings = [
            f if f.problem != "does not exist" else Finding(f.file, f.item, f.problem, gone) for f in error.findings
        ]
    if tree is not None:
        one.image = pictures.find(xml.stem, tree.findtext("filename", "")) or missing
    if not one.image.is_file():
        fix = f"put it there, or give --images with its folder; {xml.name} calls it so"
        one.report("picture", f"{shown(str(one.image))} does not exist", fix)
    if tree is not None:
        _take(one, tree)
    return one


def class_names(xml: Path) -> set[str]:
    """The names of the objects in a file, none from a file that cannot be read."""
    try:
        return {clean_name(entry.findtext("name", "")) for entry in load_xml(xml).findall("object")} - {""}
    except InputError:
        return set()


def _take(one: VocFile, tree: ElementTree.Element) -> None:
    one.size = _size(tree, one)
    identity = tree.findtext("image_id", "").strip()
    one.source_id = int(identity) if identity.isdecimal() and len(identity) < 1000 else identity or None
    covered = tree.find("covered")
    if covered is not None:
        one.covered = frozenset(clean_name(entry.text or "") for entry in covered.findall("name"))
    for position, entry in enumerate(tree.findall("object"), start=1):
        _take_object(one, entry, position)


def _take_object(one: VocFile, entry: ElementTree.Element, position: int) -> None:
    text = entry.findtext("name", "")
    name = clean_name(text)
    item = f"object {position}" + (f" ({shown(name)})" if name else "")
    if problem := name_problem(text):
        one.report(item, "has no name" if not name else problem, "name its class")
    ignore = parse_flag(entry.findtext("difficult"))
    if ignore is None:
        one.report(item, f"has difficult {shown(entry.findtext('difficult'))}", "write 0 or 1")
    corners = entry.find("bndbox")
    texts = [None if corners is None else corners.findtext(key) for key in EDGES]
    try:
        xmin, ymin, xmax, ymax = (float(text) if text is not None else float("nan") for text in texts)
    except ValueError:
        xmin = ymin = xmax = ymax = float("nan")
    if not all(one.size):
        return
    verdict = judge_box(xmin - 1, ymin - 1, xmax, ymax, *one.size)
    if verdict.corners is None:
        stated = shown(", ".join(str(text) for text in texts))
        one.report(item, f"its box (xmin, ymin, xmax, ymax) = ({stated}) {verdict.problem}", verdict.fix)
        return
    if verdict.excess:
        one.clipped.append((f"{one.xml.name} {item}", verdict.excess))
    one.boxes.append(verdict.corners)
    one.names.append(name)
    one.ignore.append(bool(ignore))


def _size(tree: ElementTree.Element, one: VocFile) -> tuple[int, int]:
    """Width and height; from the picture where the file does not state them, (0, 0) if that fails too."""
    texts = [tree.findtext(f"size/{key}", "").strip() for key in ("width", "height")]
    width, height = (parse_side(text) for text in texts)
    if width and height:
        return width, height
    found = header_size(one.image)
    if found is None:
        stated = " x ".join(shown(text or "missing") for text in texts)
        one.report("size", f"is {stated}", "write width and height in pixels")
        return 0, 0
    one.report("size", "is not stated; taken from the picture", "nothing, or write it", "warning")
    return found
