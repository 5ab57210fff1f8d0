"""Tables of boxes (CSV), one box a row, in the columns of DeepForest and in those that others use."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from incdet.data.formats.draft import Draft, finish
from incdet.data.formats.pictures import PictureFolder, picture_folders
from incdet.data.formats.textfile import read_text
from incdet.data.formats.values import parse_flag, parse_side
from incdet.data.records import Exif, LabelledSet, Record
from incdet.errors import Finding, InputError, shown
from incdet.files import write_text
from incdet.vocab import clean_name, name_problem

COLUMNS = ("image_path", "xmin", "ymin", "xmax", "ymax", "label")
"""DeepForest's, which are written; a column `difficult` follows where an object is ignored."""
_HEADS = {
    "image": ("image_path", "filename", "file_name", "image_name", "image", "file", "path", "img", "image_id"),
    "x1": ("xmin", "x1", "x_min", "left", "bbox_x", "x"),
    "y1": ("ymin", "y1", "y_min", "top", "bbox_y", "y"),
    "x2": ("xmax", "x2", "x_max", "right"),
    "y2": ("ymax", "y2", "y_max", "bottom"),
    "w": ("bbox_width", "box_width", "w", "width"),
    "h": ("bbox_height", "box_height", "h", "height"),
    "label": ("label", "class", "class_name", "label_name", "name", "category", "species"),
    "width": ("image_width", "img_width", "width"),
    "height": ("image_height", "img_height", "height"),
    "ignore": ("difficult", "ignore", "iscrowd"),
}


@dataclass(frozen=True)
class TablePart:
    """One table and the folder of its pictures, None where that is still to be found."""

    file: Path
    images: Path | None


@dataclass(frozen=True)
class _Row:
    """The cells of a row by what they mean, and its number in the file."""

    number: int
    cells: Mapping[str, str]

    def __getitem__(self, key: str) -> str:
        return self.cells.get(key, "").strip()


def table_parts(path: Path, images: Path | None = None) -> dict[str, TablePart]:
    """A CSV file, or those of a folder by the stem of their names."""
    if not path.is_dir():
        return {"": TablePart(path, images)} if path.suffix.lower() in (".csv", ".tsv") else {}
    files = [file for file in sorted(path.iterdir()) if file.suffix.lower() == ".csv" and _is_table(file)]
    if len(files) == 1:
        return {"": TablePart(files[0], images)}
    return {file.stem: TablePart(file, images) for file in files}


def read_parts(parts: Mapping[str, TablePart], chosen: str, exif: Exif = "auto") -> LabelledSet:
    """The records of one of ``parts``; their classes are the names in all tables, sorted.

    A row without coordinates, or with zeros, stands for a picture that shows no object. Corners are pixel edges.

    Raises:
        InputError: With every fault of the table.
    """
    tables = {name: _rows(part.file) for name, part in parts.items()}
    names = {clean_name(row["label"]) for rows in tables.values() for row in rows if not _is_empty(row)}
    part, rows = parts[chosen], tables[chosen]
    folder = PictureFolder(part.images or _image_folder(part.file, rows))
    drafts: dict[str, Draft] = {}
    for row in rows:
        draft = drafts.get(row["image"]) or _draft(part.file, row, folder, exif)
        drafts[row["image"]] = draft
        if not _is_empty(row):
            _take(draft, row)
    return finish([*drafts.values()], sorted(name for name in names if name), where=part.file)


def write_table(records: Sequence[Record], file: Path, images: Path) -> None:
    """Write DeepForest's columns; the paths are relative to ``images``, whose pictures are left to the caller.

    The format knows no coverage: every record has to cover all classes.
    """
    ignoring = any(record.ignore.any() for record in records)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, *(["difficult"] if ignoring else [])])
    for record in records:
        path = record.image.relative_to(images).as_posix()
        for name, box, ignore in zip(record.names, record.boxes.tolist(), record.ignore.tolist(), strict=True):
            table.writerow([path, *(f"{edge:.9g}" for edge in box), name, *([int(ignore)] if ignoring else [])])
        if not record.names:
            table.writerow([path, *[""] * 5, *([""] if ignoring else [])])
    write_text(file, text.getvalue())


def _draft(file: Path, row: _Row, folder: PictureFolder, exif: Exif) -> Draft:
    name = row["image"]
    path = folder.find(name) if name else None
    draft = Draft(file, path or folder.folder / "missing")
    item = f"row {row.number}"
    if not name:
        draft.report(item, "names no picture", "write its path")
    elif path is None and folder.leaves(name):
        draft.report(item, f"names a picture outside of {folder.folder}: {shown(name)}", folder.way_out(name))
    elif path is None:
        draft.report(item, f"names the missing picture {shown(name)}", folder.fix(name))
    else:
        width, height = parse_side(row["width"]), parse_side(row["height"])
        if width and height:
            draft.size = width, height
        elif not draft.measure(exif):
            draft.report(item, f"names {shown(name)}, which is no picture", "restore it or remove the row")
    return draft


def _take(draft: Draft, row: _Row) -> None:
    item = f"row {row.number}"
    if problem := name_problem(row["label"]):
        draft.report(item, problem, "name its class")
    ignore = parse_flag(row["ignore"])
    if ignore is None:
        draft.report(item, f"has the flag {shown(row['ignore'])}", "write 0 or 1")
    keys = ("x1", "y1", "x2", "y2") if "x2" in row.cells else ("x1", "y1", "w", "h")
    stated = shown(", ".join(row[key] for key in keys))
    try:
        x1, y1, x2, y2 = (float(row[key]) for key in keys)
    except ValueError:
        draft.report(item, f"has the box {stated}", "write four numbers")
        return
    if "x2" not in row.cells:
        x2, y2 = x1 + x2, y1 + y2
    draft.add(item, (x1, y1, x2, y2), clean_name(row["label"]), bool(ignore), stated)


def _is_empty(row: _Row) -> bool:
    return {row[key] for key in ("x1", "y1", "x2", "y2", "w", "h")} <= {"", "0", "0.0", "nan", "NaN"}


def _rows(file: Path) -> list[_Row]:
    """The rows of a table with a known header, or without any in the order path, x1, y1, x2, y2, class."""
    text = read_text(file)
    lines = text.splitlines()
    first = lines[0] if lines else ""
    delimiter = max(",;\t", key=first.count)
    try:
        cells = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise InputError(Finding(str(file), "file", f"is no table ({error})", "save it as CSV")) from None
    if not any(cells):
        raise InputError(Finding(str(file), "file", "has no row", "list the boxes"))
    columns = _columns(file, [cell.strip().lower() for cell in cells[0]])
    start = 0 if columns is None else 1
    places = columns or {key: place for place, key in enumerate(("image", "x1", "y1", "x2", "y2", "label"))}
    rows = [
        _Row(number, {key: row[place] if place < len(row) else "" for key, place in places.items()})
        for number, row in enumerate(cells[start:], start=start + 1)
        if any(cell.strip() for cell in row)
    ]
    if not rows:
        raise InputError(Finding(str(file), "file", "has no row", "list the boxes"))
    return rows


def _is_table(file: Path) -> bool:
    try:
        return bool(_rows(file))
    except InputError:
        return False


def _columns(file: Path, header: Sequence[str]) -> dict[str, int] | None:
    """Which column means what; None for a table without a header."""
    named = {key: [name for name in names if name in header] for key, names in _HEADS.items()}
    found = {key: header.index(names[0]) for key, names in named.items() if names}
    if len(header) == 6 and "image" not in found and (not header[1] or _is_number(header[1])):
        return None
    # Beside two corners, width and height are those of the picture, else those of the box.
    two = "x2" in found and "y2" in found
    unwanted = ("w", "h") if two else ("x2", "y2")
    found = {key: place for key, place in found.items() if key not in unwanted}
    if not two:
        sides = {found.get("w"), found.get("h")}
        found = {key: place for key, place in found.items() if key in ("w", "h") or place not in sides}
    wanted = ("image", "x1", "y1", *(("x2", "y2") if two else ("w", "h")), "label")
    if missing := [key for key in wanted if key not in found]:
        problem = f"has no column for {', '.join(_HEADS[key][0] for key in missing)} among {shown(', '.join(header))}"
        raise InputError(Finding(str(file), "header", problem, f"name the columns {', '.join(COLUMNS)}"))
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _image_folder(file: Path, rows: Sequence[_Row]) -> Path:
    """The folder near the table that holds the first of its pictures; the table's own if none does."""
    names = list(dict.fromkeys(row["image"] for row in rows[:100]))[:3]
    places = picture_folders(file.parent)
    return next((place for place in places if all(PictureFolder(place).find(n) for n in names if n)), file.parent)
