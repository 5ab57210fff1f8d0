"""What an extension learns from and is measured on: annotations opened, classes told apart, pictures held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from incdet.app.annotations import picture_progress
from incdet.config import Extension
from incdet.data.datasets import Source
from incdet.data.formats.reader import open_annotations
from incdet.data.leaks import find_leaks, leak_warnings
from incdet.data.protocols import Protocol, StepView, step_view
from incdet.data.records import LabelledSet
from incdet.data.resize import Geometry
from incdet.errors import Finding, InputError, suggest
from incdet.vocab import Vocabulary, clean_name, look_alike_warnings


class Given(NamedTuple):
    """The annotations that an extension names."""

    own: LabelledSet
    old: LabelledSet | None
    test: LabelledSet | None

    @classmethod
    def read(cls, one: Extension, geometry: Geometry | None) -> Given:
        """Opens all of them.

        Raises:
            InputError: Everything that is wrong with one of them.
        """
        with picture_progress() as progress:
            opened = partial(open_annotations, exif=one.exif, geometry=geometry, progress=progress)
            own, old, test = opened(one.annotations, one.images, one.split), None, None
            if one.old_annotations is not None:
                old = opened(one.old_annotations, one.old_images, one.old_split)
            if one.test_annotations is not None:
                test = opened(one.test_annotations, one.test_images, one.test_split, purpose="test")
        return cls(own, old, test)

    def warnings(self, one: Extension, known: Vocabulary) -> tuple[Finding, ...]:
        """What the files say, class names that look like known ones, and pictures that are tested on too."""
        found = [warning for part in self if part is not None for warning in part.warnings]
        found += look_alike_warnings(str(one.annotations), self.own.names, known.names)
        for part in (self.own, self.old):
            if part is not None and self.test is not None:
                leaks = find_leaks(part.records, self.test.records)
                found += leak_warnings(leaks, part.origin, self.test.origin)
        return tuple(found)


class Lesson(NamedTuple):
    """What is to be learned.

    Attributes:
        source: The records to learn from and to measure on.
        protocol: The steps of the detector, and this one as the last.
        names: The classes that are new.
        refreshed: The known ones whose labels are used too.
    """

    source: Source
    protocol: Protocol
    names: tuple[str, ...]
    refreshed: tuple[str, ...]

    @property
    def view(self) -> StepView:
        """What the step sees of the records."""
        return step_view(self.source.train, self.protocol, len(self.protocol.steps))

    @property
    def objects(self) -> dict[str, int]:
        """Objects of every class that the step sees."""
        return dict(Counter(name for record in self.view.records for name in record.names))


def lesson(given: Given, extension: Extension, known: Vocabulary) -> Lesson:
    """The records to learn from and to test on, and the protocol with their classes as its last step."""
    own, test = given.own, given.test.records if given.test is not None else ()
    names, refreshed = new_classes(known, own, extension.classes, extension.annotations)
    steps, rule = (*known.steps, names), "keep" if extension.keep_old_images else "use"
    protocol = Protocol("+".join(str(len(part)) for part in steps), "as taught", steps, "overlap", rule)
    records = [record.restrict((*names, *refreshed)) for record in own.records]
    numbered = [replace(record, image_id=number) for number, record in enumerate(test, start=1)]
    source = Source(records, numbered, own.names, dict(own.source_ids), given.warnings(extension, known))
    return Lesson(source, protocol, names, refreshed)


def new_classes(
    vocab: Vocabulary, own: LabelledSet, classes: Sequence[str] | None, file: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes to learn, and those that the detector knows and whose labels refresh it.

    A class that the file lists and never shows is neither: of an old one that nobody annotated every object would be
    taken for background.

    Raises:
        InputError: The file lacks a class that was named or any object of it, or shows no class that is new.
    """
    shown = tuple(name for name in own.names if any(record.counts([name]) for record in own.records))
    wanted = chosen_classes(classes, own.names) if classes else shown
    findings = []
    for name in wanted:
        if name not in own.names:
            findings.append(Finding(str(file), f"class {name!r}", "is not in the file", suggest(name, own.names)))
        elif name not in shown and name not in vocab:
            findings.append(Finding(str(file), f"class {name!r}", "has no object", "annotate some, or leave it out"))
    fresh = tuple(name for name in wanted if name not in vocab)
    if not findings and not fresh:
        if wanted:
            problem, fix = "are all known to the checkpoint", "annotate a class that it does not know"
        else:
            problem, fix = "have no object", "annotate some"
        findings.append(Finding(str(file), "classes", problem, f"{fix}, or rename the one that is meant"))
    if findings:
        raise InputError(findings)
    return fresh, tuple(name for name in wanted if name in vocab and name in shown)


def chosen_classes(words: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The classes that ``words`` mean: one of ``names`` itself, or else a list written with commas."""
    parts = [[word] if clean_name(word) in names else word.split(",") for word in words]
    stripped = [clean_name(name) for part in parts for name in part]
    return tuple(dict.fromkeys(name for name in stripped if name))
