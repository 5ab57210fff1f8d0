"""Pascal VOC XML: the devkit's layout and folders of XML files; read after write is the identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from incdet.data.formats.draft import Draft, finish
from incdet.data.formats.splits import choose_split
from incdet.data.formats.voc_layout import VocPart, devkit_parts, folder_parts, is_official, pictures_of, xml_files
from incdet.data.formats.voc_xml import EDGES, class_names, parse_voc
from incdet.data.records import Exif, LabelledSet, Record
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
        classes: The class list. Default: the twenty of VOC if a devkit is called VOC<year> and names no other, else the
            names found in all annotations under ``root``, sorted (so that training and test folders agree).
        keep_empty: Whether images without any object become records.

    Returns:
        Records that cover all classes. ``difficult`` objects are ignored. Ids are 1, 2, ... in the class list's order;
        an image id is made of the digits of the image's name, or its position where that is not unique.

    Raises:
        InputError: With every fault of all files, not only the first.
    """
    root = Path(root)
    parts = _parts(root, year)
    name = "" if split not in parts and "" in parts else choose_split([*parts], split, "train", root)
    result = read_parts(parts, [name], classes=classes)
    return result if keep_empty else result.without_empty()


def read_parts(
    parts: Mapping[str, VocPart],
    chosen: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    exif: Exif = "auto",
) -> LabelledSet:
    """The records of the ``chosen`` ones of ``parts``; the class list is that of all of them, see ``read_voc``.

    Raises:
        InputError: With every fault of all files.
    """
    files: dict[Path, Draft] = {}
    findings: list[Finding] = []
    for name in chosen:
        listed, warnings = parts[name].files()
        pictures = pictures_of(parts[name])
        files |= {xml: parse_voc(xml, pictures, exif) for xml in listed if xml not in files}
        findings += warnings
    names = tuple(classes) if classes is not None else _class_list(parts, files)
    return finish([*files.values()], names, findings=findings, where=parts[chosen[0]].folder)


def write_voc(records: Sequence[Record], home: Path, split: str, names: Sequence[str]) -> None:
    """Write ``Annotations`` and ``ImageSets/Main/<split>.txt`` of one ``VOC<year>`` folder.

    ``read_voc(home, None, split, classes=names)`` then returns the records unchanged, if their pictures are
    ``home/JPEGImages/*``, which is left to the caller. Image ids and partial coverage are kept in two extra elements,
    and corners that are no whole numbers are written as decimals.
    """
    annotations, sets = home / "Annotations", home / "ImageSets" / "Main"
    for record in records:
        tree = ElementTree.Element("annotation")
        for key, value in (("folder", home.name), ("filename", record.image.name), ("image_id", str(record.source_id))):
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
    for key, value in zip(EDGES, (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True):
        ElementTree.SubElement(corners, key).text = str(int(value)) if value == int(value) else repr(value)


def _parts(root: Path, year: str | None) -> dict[str, VocPart]:
    """The splits of ``root``, those of ``year`` alone without it in their names."""
    if not root.is_dir():
        raise InputError(Finding(str(root), "folder", "does not exist", "give the folder that holds VOCdevkit"))
    parts = devkit_parts(root)
    if not parts:
        parts = folder_parts(root)
        if not parts:
            inside = [path.name for path in root.iterdir() if path.is_dir()]
            fix = f"name the sub-folder as the split; {suggest(root.name, inside)}"
            raise InputError(Finding(str(root), "folder", "holds neither a VOC devkit nor XML files", fix))
        return parts
    years = {name: part.folder.parent.name[3:] for name, part in parts.items()}
    if year is None and len(set(years.values())) == 1:
        year = next(iter(years.values()))
    if year is None or year not in years.values():
        known = ", ".join(sorted(set(years.values())))
        problem = f"has several years: {known}" if year is None else f"has no VOC{year} with ImageSets/Main"
        raise InputError(Finding(str(root), "devkit", problem, "name one of its years, for example 2007_trainval"))
    return {name.removeprefix(f"{year}_"): part for name, part in parts.items() if years[name] == year}


def _class_list(parts: Mapping[str, VocPart], read: Mapping[Path, Draft]) -> tuple[str, ...]:
    """The twenty of VOC if a devkit of a year names no other, else all names in the files of all splits, sorted."""
    found = {name for one in read.values() for name in (*one.names, *(one.covered or ())) if name}
    if found <= set(VOC_CLASSES) and all(is_official(part) for part in parts.values()):
        return VOC_CLASSES
    others = {xml for part in parts.values() for xml in xml_files(part.folder)} - read.keys()
    return tuple(sorted(found.union(*(class_names(xml) for xml in others))))
