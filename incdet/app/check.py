"""What annotations hold and what is wrong with them, all of it at once; and a copy without what is wrong."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

from rich.console import Console

from incdet.app.annotations import picture_progress
from incdet.app.progress import Display
from incdet.app.unlabelled import look_for_unlabelled, unlabelled_warnings
from incdet.data.formats.coco import write_coco
from incdet.data.formats.reader import Annotations, recognise, with_pictures
from incdet.data.formats.splits import apart, choose_split
from incdet.data.leaks import copy_warnings, find_copies, find_leaks, leak_warnings
from incdet.data.picture_book import Progress
from incdet.data.records import Exif, FaultyData, LabelledSet, Record
from incdet.data.review import count_lines, review, without_repeated
from incdet.errors import Finding, InputError, errors_of
from incdet.evaluation.unlabelled import SURE, Unlabelled, ignoring
from incdet.files import require_output
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.vocab import look_alike_warnings


@dataclass
class Report:
    """What a check found.

    Attributes:
        sets: The sound records of every split, by its name.
        findings: Errors (the data are refused) and warnings.
        unlabelled: What a detector saw without a label in every split, where one was asked.
    """

    sets: dict[str, LabelledSet] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    unlabelled: dict[str, list[Unlabelled]] = field(default_factory=dict)

    @property
    def records(self) -> list[Record]:
        """Those of all splits."""
        return [record for one in self.sets.values() for record in one.records]

    @property
    def names(self) -> list[str]:
        """The classes of all splits."""
        return [*dict.fromkeys(name for one in self.sets.values() for name in one.names)]

    @property
    def errors(self) -> int:
        """How many of the findings refuse the data."""
        return len(errors_of(self.findings))

    def lines(self) -> list[str]:
        """What the splits hold, what was found, and how much of it, for people."""
        counts = [line for one in self.sets.values() for line in [one.describe(), *count_lines(one)]]
        return [*counts, *(f"{finding.severity}: {finding}" for finding in self.findings)]


def check(
    data: Path,
    images: Path | None = None,
    split: str | None = None,
    *,
    exif: Exif = "auto",
    against: Path | None = None,
    against_images: Path | None = None,
    against_split: str | None = None,
    detector: IncrementalRetinaNet | None = None,
    lowest: float = SURE,
) -> Report:
    """Looks through annotations and their pictures, every split of them unless one is named.

    Args:
        data: In any format, see ``open_annotations``.
        images: Folder of the pictures, where they lie apart.
        split: The split to look at.
        exif: Whether the pictures are turned as the camera says.
        against: Other annotations, whose pictures ought not to be among those of ``data``.
        against_images: Folder of their pictures.
        against_split: Their split; None takes all of them.
        detector: Asked what it sees in the pictures that no annotation names.
        lowest: The least score in [0, 1] of what it sees that is told.
    """
    with picture_progress() as progress:
        report = _look(recognise(data, images, exif), split, exif, progress)
        for one in report.sets.values():
            report.findings += [*review(one), *copy_warnings(find_copies(one.records), one.origin)]
        for first, second in combinations(report.sets, 2):
            leaks = find_leaks(report.sets[first].records, report.sets[second].records)
            report.findings += leak_warnings(leaks, f"split {first}", f"split {second}")
        if against is not None:
            others = _look(recognise(against, against_images, exif), against_split, exif, progress)
            report.findings += errors_of(others.findings)
            report.findings += _compared(report, others, str(data), str(against))
    if detector is not None:
        with Display(Console(stderr=True)) as display:
            for name, one in report.sets.items():
                seen = report.unlabelled[name] = look_for_unlabelled(detector, one, display, lowest)
                report.findings += unlabelled_warnings(one, seen)
    return report


def write_fixed(report: Report, out: Path) -> list[str]:
    """Writes the sound records of a check as COCO files, every object once; the source stays as it is.

    What a detector saw of classes that ought to be annotated is written as ignored regions.

    Args:
        report: What ``check`` returned.
        out: A folder that holds no annotations yet; gets ``annotations.json``, or ``<split>.json`` for each split.

    Returns:
        How to open each file, a line each.

    Raises:
        InputError: A file is there already, or nothing is left to write.
        OutputError: The folder cannot be written.
    """
    require_output(out, folder=True)
    lines = []
    for name, one in report.sets.items():
        path = out / f"{name or 'annotations'}.json"
        if path.exists():
            raise InputError(Finding(str(path), "file", "exists already", "name another folder"))
        if not one.records or not one.names:
            raise InputError(Finding(one.origin, "images", "nothing is left to write", "mend the errors by hand"))
        records = [_mended(record, report.unlabelled.get(name, ())) for record in one.records]
        home = Path(os.path.commonpath([record.image.resolve().parent for record in records]))
        absolute = [replace(record, image=record.image.resolve()) for record in records]
        write_coco(absolute, path, one.names, one.source_ids, images=home)
        lines.append(f"--data {path} --images {home}")
    return lines


def _mended(record: Record, unlabelled: Sequence[Unlabelled]) -> Record:
    """Every object once, and neither object nor background where a label seems to be missing."""
    return without_repeated(ignoring(record, [one for one in unlabelled if one.record is record]))


def _look(found: Annotations, split: str | None, exif: Exif, progress: Progress) -> Report:
    """The sound records of the splits, and everything that is wrong with the others."""
    names = apart(found.splits) if split is None else [choose_split(found.splits, split, "train", found.path)]
    report = Report()
    for name in names:
        try:
            data = found.read(name)
        except FaultyData as faulty:
            report.findings += faulty.findings
            data = faulty.rest()
        except InputError as error:
            report.findings += error.findings
            continue
        try:
            data = with_pictures(data, exif, progress=progress)
        except FaultyData as faulty:
            report.findings += faulty.findings
            data = faulty.rest()
        report.findings += data.warnings
        report.sets[name] = data
    return report


def _compared(report: Report, others: Report, data: str, against: str) -> list[Finding]:
    leaks = find_leaks(report.records, others.records)
    return [*leak_warnings(leaks, data, against), *look_alike_warnings(data, report.names, others.names)]
