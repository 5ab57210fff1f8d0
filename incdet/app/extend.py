"""A checkpoint and somebody's own annotations: teach it their classes, as one more step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from incdet.app.annotations import picture_progress
from incdet.app.detector import describe
from incdet.app.origin import run_of
from incdet.app.progress import Display
from incdet.app.run import Run
from incdet.app.run_folder import CONFIG, RunFolder, difference
from incdet.app.steps import conclude, learn_steps, size_of
from incdet.app.unused import refuse_unused
from incdet.config import Config, Extension, load_config, parse_config
from incdet.data.datasets import Source
from incdet.data.formats.reader import open_annotations
from incdet.data.leaks import find_leaks, leak_warnings
from incdet.data.protocols import Protocol
from incdet.data.records import Exif, LabelledSet
from incdet.data.resize import Geometry
from incdet.errors import Finding, InputError, suggest
from incdet.evaluation.results import Results
from incdet.memory.exemplars import Budget, Memory
from incdet.memory.manifest import load_memory
from incdet.methods.method import Method
from incdet.methods.registry import frozen_settings, get_method
from incdet.network.importing import load_detector
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.increment import choose_exemplars
from incdet.vocab import Vocabulary, clean_name, look_alike_warnings

_ELSEWHERE = {
    "base": "the detector is that of --checkpoint",
    "data": "the annotations are those of --data",
    "extend": "the options of the command say it",
    "methods": "give --method",
    "model": "the network is that of --checkpoint",
    "output": "give --output",
    "protocol": "the step is --classes",
    "train.joint": "there is no joint training",
}
"""Settings that an extension does not use, and what says it in their place."""


def extend(
    path: str | Path,
    data: Path,
    images: Path | None,
    *,
    output: Path,
    split: str | None = None,
    exif: Exif = "auto",
    classes: Sequence[str] | None = None,
    keep_old_images: bool = False,
    method: str = "incdet",
    overrides: Sequence[str] = (),
    old_data: Path | None = None,
    old_images: Path | None = None,
    old_split: str | None = None,
    test_data: Path | None = None,
    test_images: Path | None = None,
    test_split: str | None = None,
    resume: bool = False,
    arch: str | None = None,
    known_classes: Sequence[str] | None = None,
) -> Path:
    """Teaches the checkpoint at ``path`` the classes of somebody's own annotation file, as one more step.

    Settings come from the run that made the checkpoint, where there is one, then from ``overrides``. Exemplars are
    chosen from ``old_data``; where it is not given, they are those of that run; where there is neither, the method goes
    without replay. The same call goes on with an extension that was stopped.

    Args:
        path: Checkpoint folder, or what else ``load_detector`` takes.
        data: Annotations in any format, see ``open_annotations``.
        images: Folder of their pictures, where they lie apart.
        output: Run folder of its own.
        split: Which split of ``data`` is learned; None takes a training split.
        exif: Whether pictures are turned as the camera says.
        classes: The classes to learn; all of the file's if None. ``"cat,dog"`` is two unless the file has it as one.
            Known ones among them refresh the detector where images of new classes show them.
        keep_old_images: Train on images too that show known classes alone.
        method: Name of the method.
        overrides: ``key=value`` settings.
        old_data: Annotations of old classes, to choose exemplars from.
        old_images: Their image folder.
        old_split: Their split; None takes a training split.
        test_data: Annotations to measure old and new classes on, before and after.
        test_images: Their image folder.
        test_split: Their split; None takes a test split.
        resume: Refuse with what differs, where ``output`` holds an extension by another call.
        arch: Network of a state dict, see ``load_detector``.
        known_classes: Names of its columns.

    Returns:
        The run folder; the new checkpoint is its ``step_<t>``.

    Raises:
        InputError: Anything that is wrong with the input; nothing has been trained then.
        TrainingError: A loss was not finite.
        OutputError: The disk refuses; the same call goes on when there is room.
    """
    extension = Extension(
        checkpoint=str(path),
        arch=arch,
        known_classes=tuple(known_classes) if known_classes else None,
        annotations=data,
        images=images,
        split=split,
        exif=exif,
        classes=tuple(classes) if classes else None,
        keep_old_images=keep_old_images,
        old_annotations=old_data,
        old_images=old_images,
        old_split=old_split,
        test_annotations=test_data,
        test_images=test_images,
        test_split=test_split,
    )
    config = _settings(extension, output, method, overrides)
    frozen = config.output / CONFIG
    return run_extension(config, resume=resume or (frozen.is_file() and not difference(frozen, config)))


def run_extension(config: Config, *, resume: bool = False, display: Display | None = None) -> Path:
    """The extension that ``config.extend`` describes; see ``extend``.

    Args:
        config: The settings, as ``extend`` freezes them in its run folder.
        resume: Go on with what the folder holds.
        display: Shows progress; by default on stdout.
    """
    extension = config.extend
    assert extension is not None, "a configuration of incdet train has no extension"
    method = _method(config)
    budget = Budget(config.memory.total, config.memory.per_class)
    replays = method.replay is not None and 0 not in (budget.total, budget.per_class)
    _refuse_idle(extension, method, replays)
    Run.require(config, resume=resume)
    model = load_detector(extension.checkpoint, extension.arch, extension.known_classes)
    given = _Given.read(extension, Geometry.smallest(model.architecture))
    source, protocol = _data(given, extension, model.vocab)
    step = len(protocol.steps)
    if replays:
        budget.quotas(protocol.names)
    stored = _stored_memory(extension, step - 1) if replays and given.old is None else None
    detector = describe(model.architecture)
    with Run.open(config, source, protocol, detector, resume=resume, display=display) as work:
        for found in given:
            if found is not None:
                work.display.say(found.describe())
        model.to(work.engine.device)
        results = work.taken_up(work.folder.root, method)
        memory = Memory.empty(budget)
        if replays:
            memory = _old_memory(work, model, stored, given.old, budget)
        work.begin(method.name)
        if step - 1 not in results.steps:
            work.measure(model, results, step - 1, work.folder.root, seconds=None, memory=size_of(memory))
        learn_steps(work, method, model, memory, results, start=step)
        conclude(work, [results])
        _tell(results, step, work.display)
    return work.folder.root


class _Given(NamedTuple):
    """The annotations that an extension names."""

    own: LabelledSet
    old: LabelledSet | None
    test: LabelledSet | None

    @classmethod
    def read(cls, one: Extension, geometry: Geometry | None) -> _Given:
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


def new_classes(
    vocab: Vocabulary, own: LabelledSet, classes: Sequence[str] | None, file: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes to learn, and those that the detector knows and whose labels refresh it.

    Raises:
        InputError: The file lacks a class or any object of it, or has no class that is new.
    """
    wanted = chosen_classes(classes, own.names) if classes else own.names
    fresh = tuple(name for name in wanted if name not in vocab)
    findings = []
    for name in wanted:
        if name not in own.names:
            findings.append(Finding(str(file), f"class {name!r}", "is not in the file", suggest(name, own.names)))
        elif name not in vocab and not any(record.counts([name]) for record in own.records):
            findings.append(Finding(str(file), f"class {name!r}", "has no object", "annotate some, or leave it out"))
    if not findings and not fresh:
        fix = "annotate a class that it does not know, or rename the one that is meant"
        findings.append(Finding(str(file), "classes", "are all known to the checkpoint", fix))
    if findings:
        raise InputError(findings)
    return fresh, tuple(name for name in wanted if name in vocab)


def chosen_classes(words: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The classes that ``words`` mean: one of ``names`` itself, or else a list written with commas."""
    parts = [[word] if clean_name(word) in names else word.split(",") for word in words]
    stripped = [clean_name(name) for part in parts for name in part]
    return tuple(dict.fromkeys(name for name in stripped if name))


def _settings(extension: Extension, output: Path, method: str, overrides: Sequence[str]) -> Config:
    """The settings of the run that made the checkpoint, or the defaults, with what an extension has no use for gone."""
    run = run_of(Path(extension.checkpoint))
    inherited = {"train.base": "train.increment and train.finetune are set already: change those"} if run else {}
    refuse_unused(overrides, {**_ELSEWHERE, **inherited}, "incdet extend")
    words = [f"methods={[method]}", "without=[]", *overrides]
    config = load_config(run / CONFIG if run else None, words).model_copy(
        update={"extend": extension, "output": output}
    )
    own = {method: config.method[method]} if method in config.method else {}
    config = config.model_copy(update={"method": frozen_settings([method], own)})
    return parse_config(config.tree(), "settings")


def _method(config: Config) -> Method:
    method = get_method(config.methods[0], config.without, config.method)
    if method.joint:
        fix = "use another: incdet methods"
        raise InputError(Finding("command line", "method joint", "needs the data of all steps", fix))
    return method


def _refuse_idle(extension: Extension, method: Method, replays: bool) -> None:
    """Checks that every file that was named has a use.

    Raises:
        InputError: Old annotations where no exemplar is kept, or pictures of annotations that are not given.
    """
    findings = []
    if extension.old_annotations is not None and not replays:
        problem = f"is not used: {method.name} with this memory keeps no exemplar"
        findings.append(Finding("command line", "--old-data", problem, "leave it out, or keep a memory"))
    for name in ("old", "test"):
        for part in ("images", "split"):
            if getattr(extension, f"{name}_annotations") is None and getattr(extension, f"{name}_{part}") is not None:
                fix = f"give --{name}-data too, or leave it out"
                findings.append(Finding("command line", f"--{name}-{part}", "is not used alone", fix))
    if findings:
        raise InputError(findings)


def _data(given: _Given, extension: Extension, known: Vocabulary) -> tuple[Source, Protocol]:
    """The records to learn from and to test on, and the protocol with their classes as its last step."""
    own, test = given.own, given.test.records if given.test is not None else ()
    names, refreshed = new_classes(known, own, extension.classes, extension.annotations)
    steps, rule = (*known.steps, names), "keep" if extension.keep_old_images else "use"
    protocol = Protocol("+".join(str(len(part)) for part in steps), "as taught", steps, "overlap", rule)
    records = [record.restrict((*names, *refreshed)) for record in own.records]
    numbered = [replace(record, image_id=number) for number, record in enumerate(test, start=1)]
    return Source(records, numbered, own.names, dict(own.source_ids), given.warnings(extension, known)), protocol


def _stored_memory(extension: Extension, step: int) -> Memory | None:
    """The memory of the run that made the checkpoint, where it keeps one."""
    path = Path(extension.checkpoint).resolve()
    manifest = RunFolder.memory(path.parent, step)
    return load_memory(manifest) if run_of(path) and manifest.is_file() else None


def _old_memory(
    work: Run, model: IncrementalRetinaNet, stored: Memory | None, old: LabelledSet | None, budget: Budget
) -> Memory:
    """Exemplars of the old classes: chosen from ``old``, else the stored ones, else none."""
    folder, step, known = work.folder.root, len(model.vocab.steps), model.vocab.names
    if RunFolder.memory(folder, step).is_file():
        return work.load_memory(folder, step)  # of an earlier part of this run
    if stored is not None:
        work.display.say(f"memory: {len(stored)} exemplars of the run that made the checkpoint")
        memory = replace(stored, budget=budget).reduce(list(stored.exemplars))
    elif old is not None:
        records = [record.restrict(known) for record in old.records if record.counts(known)]
        memory = choose_exemplars(model, records, known, Memory.empty(budget), work.config)
        work.display.say(f"memory: {len(memory)} exemplars chosen from {len(records)} old images")
    else:
        work.display.say("memory: none (give --old-data to choose exemplars of the old classes)")
        memory = Memory.empty(budget)
    return work.save_memory(memory, folder, step)


def _tell(results: Results, step: int, display: Display) -> None:
    before, after = results.groups(step - 1), results.groups(step)
    old = (before["all"], after["old"])
    if old[0] is None and after["new"] is None:
        display.say("nothing was measured: give --test-data, or run `incdet evaluate` on the new checkpoint")
        return
    words = ["-" if value is None else f"{100 * value:.1f}" for value in (*old, after["new"])]
    display.say(f"old classes: AP50 {words[0]} before, {words[1]} after; new classes: {words[2]}")
