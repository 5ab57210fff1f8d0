"""One XML file of Pascal VOC's kind, read with findings instead of exceptions.

VOC counts pixels from 1 and its corners belong to the box: (xmin, ymin, xmax, ymax) is (xmin - 1, ymin - 1, xmax, ymax)
in the pixel edges of a record, and a devkit box can never leave its image.
"""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

from incdet.data.formats.draft import Draft
from incdet.data.formats.pictures import PicturesByStem
from incdet.data.formats.values import parse_flag, parse_side
from incdet.data.formats.xmlfile import load_xml
from incdet.data.records import Exif
from incdet.errors import InputError, shown
from incdet.vocab import clean_name, name_problem

EDGES = ("xmin", "ymin", "xmax", "ymax")


def parse_voc(xml: Path, pictures: PicturesByStem, exif: Exif = "auto") -> Draft:
    """The content of ``xml``, whose picture is one of ``pictures``."""
    missing = pictures.folders[0] / f"{xml.stem}.jpg"
    one = Draft(xml, pictures.find(xml.stem) or missing)
    tree = None
    if not os.path.exists(xml):
        one.report("file", "does not exist", "restore the annotation or take the image off the list")
    else:
        try:
            tree = load_xml(xml)
        except InputError as error:
            one.findings += error.findings
    if tree is not None:
        one.image = pictures.find(xml.stem, tree.findtext("filename", "")) or missing
    one.require_picture()
    if tree is not None:
        _take(one, tree, exif)
    return one


def class_names(xml: Path) -> set[str]:
    """The names of the objects in a file and of the classes it covers, none from a file that cannot be read."""
    try:
        tree = load_xml(xml)
    except InputError:
        return set()
    objects = {clean_name(entry.findtext("name", "")) for entry in tree.findall("object")}
    return objects.union(clean_name(entry.text or "") for entry in tree.findall("covered/name")) - {""}


def _take(one: Draft, tree: ElementTree.Element, exif: Exif) -> None:
    one.size = _size(tree, one, exif)
    identity = tree.findtext("image_id", "").strip()
    one.source_id = int(identity) if identity.isdecimal() and len(identity) < 1000 else identity or None
    covered = tree.find("covered")
    if covered is not None:
        one.covered = frozenset(clean_name(entry.text or "") for entry in covered.findall("name"))
    for position, entry in enumerate(tree.findall("object"), start=1):
        _take_object(one, entry, position)


def _take_object(one: Draft, entry: ElementTree.Element, position: int) -> None:
    text = entry.findtext("name", "")
    name = clean_name(text)
    item = f"object {position}" + (f" ({shown(name)})" if name else "")
    if problem := name_problem(text):
        one.report(item, "has no name" if not name else problem, "name its class")
    ignore = parse_flag(entry.findtext("difficult"))
    if ignore is None:
        one.report(item, f"has difficult {shown(entry.findtext('difficult'))}", "write 0 or 1")
    truncated = parse_flag(entry.findtext("truncated"))
    if truncated is None:
        one.report(item, f"has truncated {shown(entry.findtext('truncated'))}", "write 0 or 1", "warning")
    one.truncated += bool(truncated)
    corners = entry.find("bndbox")
    texts = [None if corners is None else corners.findtext(key) for key in EDGES]
    try:
        xmin, ymin, xmax, ymax = (float(text) if text is not None else float("nan") for text in texts)
    except ValueError:
        xmin = ymin = xmax = ymax = float("nan")
    stated = f"(xmin, ymin, xmax, ymax) = ({shown(', '.join(str(text) for text in texts))})"
    one.add(item, (xmin - 1, ymin - 1, xmax, ymax), name, bool(ignore), stated)


def _size(tree: ElementTree.Element, one: Draft, exif: Exif) -> tuple[int, int]:
    """Width and height; from the picture where the file does not state them, (0, 0) if that fails too."""
    texts = [tree.findtext(f"size/{key}", "").strip() for key in ("width", "height")]
    width, height = (parse_side(text) for text in texts)
    if width and height:
        return width, height
    if not one.measure(exif):
        stated = " x ".join(shown(text or "missing") for text in texts)
        one.report("size", f"is {stated}", "write width and height in pixels")
        return 0, 0
    one.report("size", "is not stated; taken from the picture", "nothing, or write it", "warning")
    return one.size
