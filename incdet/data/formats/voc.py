"""Pascal VOC XML: the devkit's layout and plain folders of XML beside images; read after write is the identity.

VOC counts pixels from 1 and its corners belong to the box: (xmin, ymin, xmax, ymax) is (xmin - 1, ymin - 1, xmax, ymax)
in the pixel edges of a record, and a devkit box can never leave its image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

from incdet.data.formats.checks import IMAGE_SUFFIXES, clipped_warning, errors_of, judge_box
from incdet.data.records import LabelledSet, Record
from incdet.errors import Finding, InputError, suggest
from incdet.files import replacing, write_text

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_NAME = re.compile(r"<object>\s*(?:<(?!name)[^>]*>[^<]*</[^>]*>\s*)*<name>([^<]*)</name>")


@dataclass
class _Parsed:
    """One XML file, findings instead of exceptions."""

    xml: Path
    image: Path
    image_id: int | None = None
    size: tuple[int, int] = (0, 0)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    ignore: list[bool] = field(default_factory=list)
    covered: frozenset[str] | None = None
    clipped: list[tuple[str, float]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def report(self, item: str, problem: str, fix: str, severity: str = "error") -> None:
        self.findings.append(Finding(str(self.xml), item, problem, fix, severity))


def read_voc(
    root: Path,
    year: str | None = None,
    split: str = "trainval",
    *,
    classes: Sequence[str] | None = None,
    keep_empty: bool = True,
) -> LabelledSet:
    """The records of one split of a VOC devkit, or of a plain folder of XML files.

    Args:
        root: The folder that holds ``VOCdevkit``, the devkit itself, or one of its ``VOC<year>`` folders; or a folder
            whose sub-folder ``split`` (or which itself) holds XML files beside their images.
        year: Such as ``2007``; None takes the only one there is.
        split: A file of ``ImageSets/Main`` without its ``.txt``, or the sub-folder.
        classes: The class list. Default: the twenty of VOC if the devkit names no other, else the names found in all
            annotations under ``root``, sorted (so that training and test folders agree).
        keep_empty: Whether images without any object become records.

    Returns:
        Records that cover all classes. ``difficult`` objects are ignored. Ids are 1, 2, ... in the class list's order;
        an image id is made of the digits of the image's name, or its position where that is not unique.

    Raises:
        InputError: With every fault of all files, not only the first.
    """
    root = Path(root)
    home = _devkit(root, year)
    if home is not None:
        pairs, sources = _devkit_files(home, split), home / "Annotations"
    else:
        folder = root / split if (root / split).is_dir() else root
        pairs, sources = _plain_files(folder, root), root
    parsed = [_parse(xml, image) for xml, image in pairs]
    if classes is None:
        found = {name for one in parsed for name in one.names}
        classes = VOC_CLASSES if home is not None and found <= set(VOC_CLASSES) else _all_names(sources)
    findings = [finding for one in parsed for finding in one.findings] + _unknown_names(parsed, classes)
    errors = errors_of(findings)
    if errors:
        raise InputError(errors)
    ids = _image_ids(parsed)
    records = tuple(_record(one, number, frozenset(classes)) for one, number in zip(parsed, ids, strict=True))
    warnings = findings + clipped_warning(pairs[0][0].parent, [entry for one in parsed for entry in one.clipped])
    source_ids = {name: number for number, name in enumerate(classes, start=1)}
    result = LabelledSet(records, tuple(classes), source_ids, tuple(warnings))
    return result if keep_empty else result.without_empty()


def write_voc(records: Sequence[Record], home: Path, split: str, names: Sequence[str]) -> None:
    """Write ``Annotations`` and ``ImageSets/Main/<split>.txt`` of one ``VOC<year>`` folder.

    ``read_voc(home, None, split, classes=names)`` then returns the records unchanged, if their pictures are
    ``home/JPEGImages/*``, which is left to the caller. Image ids and partial coverage are kept in two extra elements,
    and corners that are no whole numbers are written as decimals.
    """
    annotations, sets = home / "Annotations", home / "ImageSets" / "Main"
    for record in records:
        tree = ElementTree.Element("annotation")
        for key, value in (("folder", home.name), ("filename", record.image.name), ("image_id", str(record.image_id))):
            ElementTree.SubElement(tree, key).text = value
        size = ElementTree.SubElement(tree, "size")
        for key, number in (("width", record.width), ("height", record.height), ("depth", 3)):
            ElementTree.SubElement(size, key).text = str(number)
        if record.coverage != frozenset(names):
            covered = ElementTree.SubElement(tree, "covered")
            for name in sorted(record.coverage):
                ElementTree.SubElement(covered, "name").text = name
        for name, box, ignore in zip(record.names, record.boxes.tolist(), record.ignore.tolist(), strict=True):
            _write_object(tree, name, box, ignore)
        ElementTree.indent(tree)
        with replacing(annotations / f"{record.image.stem}.xml") as draft:
            ElementTree.ElementTree(tree).write(draft, encoding="utf-8")
    listed = "".join(f"{record.image.stem}\n" for record in records)
    write_text(sets / f"{split}.txt", listed)


def _write_object(tree: ElementTree.Element, name: str, box: list[float], ignore: bool) -> None:
    entry = ElementTree.SubElement(tree, "object")
    ElementTree.SubElement(entry, "name").text = name
    ElementTree.SubElement(entry, "difficult").text = str(int(ignore))
    corners = ElementTree.SubElement(entry, "bndbox")
    # float64 holds a float32 plus one exactly, so reading subtracts the same one again.
    for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True):
        ElementTree.SubElement(corners, key).text = str(int(value)) if value == int(value) else repr(value)


def _devkit(root: Path, year: str | None) -> Path | None:
    """The ``VOC<year>`` folder in or under ``root``; None if ``root`` is no devkit."""
    if not root.is_dir():
        raise InputError(Finding(str(root), "folder", "does not exist", "give the folder that holds VOCdevkit"))
    if (root / "ImageSets" / "Main").is_dir():
        return root
    bases = [base for base in (root, root / "VOCdevkit") if base.is_dir()]
    homes = {
        path.name[3:]: path
        for base in bases
        for path in sorted(base.glob("VOC*"))
        if (path / "ImageSets" / "Main").is_dir()
    }
    if year is None and len(homes) < 2:
        return next(iter(homes.values()), None)
    if year is None or year not in homes:
        problem = f"has several years: {', '.join(homes)}" if year is None else f"has no VOC{year} with ImageSets/Main"
        raise InputError(
            Finding(
                str(root),
                "devkit",
                problem,
                "name one of its years, for example 2007_trainval"
                if homes
                else "unpack the devkit here, or give the folder that holds VOCdevkit",
            )
        )
    return homes[year]


def _devkit_files(home: Path, split: str) -> list[tuple[Path, Path]]:
    sets = home / "ImageSets" / "Main"
    path = sets / f"{split}.txt"
    if not path.is_file():
        known = (text.stem for text in sets.glob("*.txt"))
        raise InputError(Finding(str(path), "split", "does not exist", suggest(split, known)))
    stems = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not stems:
        raise InputError(Finding(str(path), "split", "names no image", "list one image a line"))
    twice = sorted({stem for stem in stems if stems.count(stem) > 1}) if len(set(stems)) < len(stems) else []
    if twice:
        raise InputError([Finding(str(path), f"image {stem}", "is listed twice", "list it once") for stem in twice])
    pictures = {p.stem: p for p in sorted((home / "JPEGImages").glob("*")) if p.suffix in IMAGE_SUFFIXES}
    return [
        (home / "Annotations" / f"{stem}.xml", pictures.get(stem, home / "JPEGImages" / f"{stem}.jpg"))
        for stem in stems
    ]


def _plain_files(folder: Path, root: Path) -> list[tuple[Path, Path]]:
    pictures = {p.name: p for p in sorted(folder.iterdir()) if p.suffix in IMAGE_SUFFIXES}
    by_stem = {p.stem: p for p in pictures.values()}
    pairs = []
    for xml in sorted(folder.glob("*.xml")):
        named = re.search(r"<filename>([^<]*)</filename>", xml.read_text(encoding="utf-8", errors="replace"))
        wanted = named[1].strip() if named else f"{xml.stem}.jpg"
        # The picture beside the file wins: many tools leave the name of an earlier copy in <filename>.
        pairs.append((xml, by_stem.get(xml.stem) or pictures.get(wanted) or folder / (wanted or f"{xml.stem}.jpg")))
    if not pairs:
        inside = [path.name for path in root.iterdir() if path.is_dir()]
        raise InputError(
            Finding(
                str(folder),
                "folder",
                "holds neither a VOC devkit nor XML files",
                f"name the sub-folder as the split; {suggest(folder.name, inside)}",
            )
        )
    return pairs


def _parse(xml: Path, image: Path) -> _Parsed:
    one = _Parsed(xml, image)
    if not image.is_file():
        one.report("picture", f"{image} does not exist", "restore the picture or take it off the list")
    if not xml.is_file():
        one.report("file", "does not exist", "restore the annotation or take the image off the list")
        return one
    try:
        tree = ElementTree.parse(xml).getroot()
    except ElementTree.ParseError as error:
        cut = not xml.read_text(encoding="utf-8", errors="replace").rstrip().endswith("</annotation>")
        one.report(f"line {error.position[0]}", "is cut off" if cut else f"is not XML: {error}", "copy the file again")
        return one
    one.size = _size(tree, one)
    identity = tree.findtext("image_id", "").strip()
    one.image_id = int(identity) if identity.isdigit() else None
    covered = tree.find("covered")
    if covered is not None:
        one.covered = frozenset((entry.text or "").strip() for entry in covered.findall("name"))
    for position, entry in enumerate(tree.findall("object"), start=1):
        _parse_object(one, entry, position)
    return one


def _parse_object(one: _Parsed, entry: ElementTree.Element, position: int) -> None:
    name = entry.findtext("name", "").strip()
    item = f"object {position}" + (f" ({name})" if name else "")
    if not name:
        one.report(item, "has no name", "name its class")
    corners = entry.find("bndbox")
    texts = [None if corners is None else corners.findtext(key) for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        xmin, ymin, xmax, ymax = (float(text) if text is not None else float("nan") for text in texts)
    except ValueError:
        xmin = ymin = xmax = ymax = float("nan")
    if not all(one.size):
        return
    verdict = judge_box(xmin - 1, ymin - 1, xmax, ymax, *one.size)
    if verdict.corners is None:
        shown = ", ".join(str(text) for text in texts)
        one.report(item, f"its box (xmin, ymin, xmax, ymax) = ({shown}) {verdict.problem}", verdict.fix)
        return
    if verdict.excess:
        one.clipped.append((f"{one.xml.name} {item}", verdict.excess))
    one.boxes.append(verdict.corners)
    one.names.append(name)
    one.ignore.append(entry.findtext("difficult", "0").strip().lower() in ("1", "true"))


def _size(tree: ElementTree.Element, one: _Parsed) -> tuple[int, int]:
    """Width and height; from the picture where the file does not state them, (0, 0) if that fails too."""
    texts = [tree.findtext(f"size/{key}", "").strip() for key in ("width", "height")]
    if all(text.isdigit() and int(text) > 0 for text in texts):
        return int(texts[0]), int(texts[1])
    picture = cv2.imread(str(one.image)) if one.image.is_file() else None
    if picture is None:
        one.report("size", f"is {texts[0] or 'missing'} x {texts[1] or 'missing'}", "write width and height in pixels")
        return 0, 0
    one.report("size", "is not stated; taken from the picture", "nothing, or write it", "warning")
    return picture.shape[1], picture.shape[0]


def _unknown_names(parsed: Sequence[_Parsed], classes: Sequence[str]) -> list[Finding]:
    known = frozenset(classes)
    return [
        Finding(str(one.xml), f"class {name!r}", "has a label without a category", suggest(name, classes))
        for one in parsed
        for name in sorted({*one.names, *(one.covered or ())} - known)
        if name
    ]


def _all_names(folder: Path) -> list[str]:
    """The class names in the XML files of a folder and its sub-folders, sorted."""
    files = [*folder.glob("*.xml"), *folder.glob("*/*.xml")]
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in files)
    names = {name.strip() for text in texts for name in _NAME.findall(text)}
    return sorted(name for name in names if name)


def _image_ids(parsed: Sequence[_Parsed]) -> list[int]:
    stated = [one.image_id for one in parsed if one.image_id is not None]
    if len(set(stated)) == len(parsed):
        return stated
    stems = [one.image.stem.replace("_", "") for one in parsed]
    # 000005 and 2007_000027 stay recognisable and never meet, so VOC 2007 and 2012 can be merged.
    if all(stem.isdigit() and len(stem) < 16 for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(parsed) + 1))


def _record(one: _Parsed, image_id: int, coverage: frozenset[str]) -> Record:
    return Record(
        one.image,
        image_id,
        one.size[0],
        one.size[1],
        np.array(one.boxes, dtype=np.float32).reshape(-1, 4),
        tuple(one.names),
        np.array(one.ignore, dtype=np.bool_),
        coverage if one.covered is None else one.covered,
    )
