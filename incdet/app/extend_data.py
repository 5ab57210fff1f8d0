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
from incdet.data.formats.reader import open_annotations, recognise
from incdet.data.formats.splits import choose_split, purpose_of
from incdet.data.holdout import hold_out
from incdet.data.leaks import find_leaks, leak_warnings
from incdet.data.protocols import Protocol, StepView, step_view
from incdet.data.records import LabelledSet, Record
from incdet.data.resize import Geometry
from incdet.errors import Finding, InputError, suggest
from incdet.vocab import Vocabulary, clean_name, look_alike_warnings

MOST_OLD = 200
"""Old images that are held out to measure on, at most: scoring is done twice."""


class Given(NamedTuple):
    """The annotations that an extension names.

    Attributes:
        own: Those of the new classes.
        old: Those to choose exemplars from.
        test: Those to measure on.
        split: The test split that lies beside ``own``, where nothing else is given to measure on.
    """

    own: LabelledSet
    old: LabelledSet | None
    test: LabelledSet | None
    split: LabelledSet | None = None

    @classmethod
    def read(cls, one: Extension, geometry: Geometry | None) -> Given:
        """Opens all of them.

        Raises:
            InputError: Everything that is wrong with one of them.
        """
        with picture_progress() as progress:
            opened = partial(open_annotations, exif=one.exif, geometry=geometry, progress=progress)
            found = recognise(one.annotations, one.images, one.exif)
            learned = choose_split(found.splits, one.split, "train", found.path)
            own, old, test, beside = opened(one.annotations, one.images, learned or None), None, None, None
            if one.old_annotations is not None:
                old = opened(one.old_annotations, one.old_images, one.old_split)
            if one.test_annotations is not None:
                test = opened(one.test_annotations, one.test_images, one.test_split, purpose="test")
            elif one.validation and (splits := [name for name in found.splits if purpose_of(name) == "test"]):
                chosen = choose_split(splits, None, "test", found.path)
                beside = opened(one.annotations, one.images, chosen) if chosen != learned else None
        return cls(own, old, test, beside)


class Lesson(NamedTuple):
    """What is to be learned.

    Attributes:
        source: The records to learn from and to measure on.
        protocol: The steps of the detector, and this one as the last.
        names: The classes that are new.
        refreshed: The known ones whose labels are used too.
        old: Images of the old classes to choose exemplars from; None where none are given.
        measured: What is measured on, in words; empty if on nothing.
    """

    source: Source
    protocol: Protocol
    names: tuple[str, ...]
    refreshed: tuple[str, ...]
    old: list[Record] | None
    measured: str

    @property
    def view(self) -> StepView:
        """What the step sees of the records."""
        return step_view(self.source.train, self.protocol, len(self.protocol.steps))

    @property
    def objects(self) -> dict[str, int]:
        """Objects of every class that the step sees."""
        return dict(Counter(name for record in self.view.records for name in record.names))


def lesson(given: Given, extension: Extension, known: Vocabulary, seed: int) -> Lesson:
    """The records to learn from and to measure on, and the protocol with their classes as its last step.

    What was given to measure on is measured on; else the test split of the annotations; else images that are held out
    of them, and of the old ones.
    """
    names, refreshed = new_classes(known, given.own, extension.classes, extension.annotations)
    steps, rule = (*known.steps, names), "keep" if extension.keep_old_images or not names else "use"
    protocol = Protocol("+".join(str(len(part)) for part in steps), "as taught", steps, "overlap", rule)
    own = [record.restrict((*names, *refreshed)) for record in given.own.records]
    old = None if given.old is None else old_records(given.old, known.names)
    warnings = [warning for part in given if part is not None for warning in part.warnings]
    warnings += look_alike_warnings(str(extension.annotations), given.own.names, known.names)
    if given.test is not None:
        test, measured = list(given.test.records), given.test.describe()
    else:
        own, test, measured = _measured_on(given, own, (*names, *refreshed), extension, seed, warnings)
        if old is not None:
            rest, held = hold_out(old, known.names, extension.validation, seed=seed, most=MOST_OLD)
            if held:
                told = f"{len(held)} old images held out of {extension.old_annotations}"
                old, test, measured = rest, [*test, *held], f"{measured}; {told}" if measured else told
    for part, origin in ((own, given.own.origin), (old or [], "the old data")):
        if given.split is None or part is not own:
            warnings += leak_warnings(find_leaks(part, test), origin, measured)
    numbered = [replace(record, image_id=number) for number, record in enumerate(test, start=1)]
    source = Source(own, numbered, given.own.names, dict(given.own.source_ids), tuple(warnings))
    return Lesson(source, protocol, names, refreshed, old, measured)


def old_records(old: LabelledSet, known: Sequence[str]) -> list[Record]:
    """The images of ``old`` that show a known class, with the labels of the known ones."""
    return [record.restrict(known) for record in old.records if record.counts(known)]


def _measured_on(
    given: Given, own: list[Record], names: Sequence[str], extension: Extension, seed: int, warnings: list[Finding]
) -> tuple[list[Record], list[Record], str]:
    """Training records, records to measure on, and what those are; warnings are added."""
    if given.split is not None:
        test = [record.restrict(names) for record in given.split.records]
        leaks = find_leaks(own, test)
        warnings += leak_warnings(leaks, given.own.origin, given.split.origin)
        if 2 * len(leaks) < len(test) and any(record.names for record in test):
            return own, test, given.split.describe()
        # A data.yaml names its training images again where nobody made a split.
        if 2 * len(leaks) >= len(test):
            problem, fix = "holds the pictures that are learned from, and is not measured on", "give --test-data"
            warnings.append(Finding(str(extension.annotations), "test split", problem, fix, "warning"))
    rest, held = hold_out(own, names, extension.validation, seed=seed)
    if not held:
        return own, [], ""
    share = f"{100 * extension.validation:.0f} % of each class's, seed {seed}"
    return rest, held, f"{len(held)} of {len(own)} images held out of the annotations ({share})"


def new_classes(
    vocab: Vocabulary, own: LabelledSet, classes: Sequence[str] | None, file: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes to learn, and those that the detector knows and whose labels refresh it.

    A class that the file lists and never shows is neither: of an old one that nobody annotated every object would be
    taken for background.

    Raises:
        InputError: The file lacks a class that was named or any object of it, or shows no object at all.
    """
    shown = tuple(name for name in own.names if any(record.counts([name]) for record in own.records))
    wanted = chosen_classes(classes, own.names) if classes else shown
    findings = []
    for name in wanted:
        if name not in own.names:
            findings.append(Finding(str(file), f"class {name!r}", "is not in the file", suggest(name, own.names)))
        elif name not in shown and name not in vocab:
            findings.append(Finding(str(file), f"class {name!r}", "has no object", "annotate some, or leave it out"))
    known = tuple(name for name in wanted if name in vocab and name in shown)
    fresh = tuple(name for name in wanted if name not in vocab)
    if not findings and not fresh and not known:
        named = f"of {', '.join(wanted)}" if wanted else "at all"
        findings.append(Finding(str(file), "classes", f"no object {named} is annotated", "annotate some"))
    if findings:
        raise InputError(findings)
    return fresh, known


def chosen_classes(words: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The classes that ``words`` mean: one of ``names`` itself, or else a list written with commas."""
    parts = [[word] if clean_name(word) in names else word.split(",") for word in words]
    stripped = [clean_name(name) for part in parts for name in part]
    return tuple(dict.fromkeys(name for name in stripped if name))
