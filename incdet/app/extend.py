"""A detector and somebody's own annotations: teach it their classes, as one more step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from incdet.app.detector import describe
from incdet.app.estimate import Estimate
from incdet.app.extend_data import Given, Lesson, lesson
from incdet.app.extend_memory import old_memory, stored_memory
from incdet.app.extend_outcome import Outcome, outcome
from incdet.app.extend_plan import Plan
from incdet.app.extend_settings import Call, chosen_method, fitted, refuse_idle, settle
from incdet.app.load import Detector, detector_of, load
from incdet.app.progress import Display
from incdet.app.run import Run
from incdet.app.run_folder import RunFolder
from incdet.app.steps import conclude, learn_steps, size_of
from incdet.config import Config, Extension
from incdet.data.records import Exif
from incdet.data.resize import Geometry
from incdet.memory.exemplars import Budget, Memory
from incdet.methods.method import Method
from incdet.network.importing import load_detector
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.processes import Processes
from incdet.training.schedule import Lengths

OUTPUT = Path("runs/new")
Keep = Literal["balanced", "fast"]


def extend(
    detector: Detector | str | Path,
    data: str | Path,
    images: str | Path | None = None,
    *,
    output: str | Path = OUTPUT,
    split: str | None = None,
    exif: Exif = "auto",
    classes: Sequence[str] | None = None,
    keep: Keep | None = None,
    method: str | None = None,
    keep_old_images: bool = False,
    overrides: Sequence[str] = (),
    old_data: str | Path | None = None,
    old_images: str | Path | None = None,
    old_split: str | None = None,
    test_data: str | Path | None = None,
    test_images: str | Path | None = None,
    test_split: str | None = None,
    validation: float = 0.2,
    resume: bool = False,
    arch: str | None = None,
    known_classes: Sequence[str] | None = None,
    display: Display | None = None,
) -> Detector:
    """Teaches ``detector`` the classes of somebody's own annotation file, as one more step; itself it stays as it is.

    Settings come from the run that made the checkpoint, where there is one, then from ``overrides``. Exemplars are
    chosen from ``old_data``; where it is not given, they are those of that run; where there is neither, the method goes
    without replay. The same call goes on with an extension that was stopped.

    Args:
        detector: What ``load`` returned, or what it takes.
        data: Annotations in any format, see ``open_annotations``.
        images: Folder of their pictures, where they lie apart.
        output: Run folder of its own.
        split: Which split of ``data`` is learned; None takes a training split.
        exif: Whether pictures are turned as the camera says.
        classes: The classes to learn; all that the file shows if None. ``"cat,dog"`` is two unless the file has it as
            one. Known ones among them refresh the detector where images of new classes show them.
        keep: How the old classes are kept: ``balanced`` (the default) with exemplars and teachers, ``fast`` without
            exemplars.
        method: Name of a method, in place of ``keep``.
        keep_old_images: Train on images too that show known classes alone.
        overrides: ``key=value`` settings.
        old_data: Annotations of old classes, to choose exemplars from.
        old_images: Their image folder.
        old_split: Their split; None takes a training split.
        test_data: Annotations to measure old and new classes on, before and after.
        test_images: Their image folder.
        test_split: Their split; None takes a test split.
        validation: Where no ``test_data`` are given and ``data`` have no test split: the share of each class's images
            that is held out to measure on.
        resume: Refuse with what differs, where ``output`` holds an extension by another call.
        arch: Network of a state dict, see ``load``.
        known_classes: Names of its columns.
        display: Shows progress; by default on stdout.

    Returns:
        The new detector; its ``run`` is the run folder, its ``source`` the new checkpoint.

    Raises:
        InputError: Anything that is wrong with the input; nothing has been trained then.
        TrainingError: A loss was not finite.
        OutputError: The disk refuses; the same call goes on when there is room.
    """
    source, arch, known_classes = detector_of(detector, arch, known_classes)
    extension = Extension(
        checkpoint=source,
        arch=arch,
        known_classes=tuple(known_classes) if known_classes else None,
        annotations=Path(data),
        images=_path(images),
        split=split,
        exif=exif,
        classes=tuple(classes) if classes else None,
        keep=keep,
        keep_old_images=keep_old_images,
        old_annotations=_path(old_data),
        old_images=_path(old_images),
        old_split=old_split,
        test_annotations=_path(test_data),
        test_images=_path(test_images),
        test_split=test_split,
        validation=validation,
    )
    done = carry_out(Call(extension, Path(output), method, overrides, resume), display)
    made = load(done.outcome.checkpoint)
    return Detector(made.model, made.source, run=Path(done.outcome.run), outcome=done.outcome)


def plan(call: Call) -> Plan:
    """What ``carry_out`` would do; reads everything, writes nothing.

    Raises:
        InputError: As ``carry_out``.
    """
    config, unfitted, resume = settle(call)
    return _prepare(config, resume=resume, unfitted=unfitted).plan


def carry_out(call: Call, display: Display | None = None) -> Done:
    """Does what was asked for; see ``extend``."""
    # Rank 0 says whether the folder holds an earlier part: it is about to write there.
    config, unfitted, resume = Processes("cpu").once(lambda: settle(call))
    return _run(config, unfitted, resume, display)


class Done(NamedTuple):
    """An extension that is finished: what was planned, and what came of it."""

    plan: Plan
    outcome: Outcome


def run_extension(config: Config, *, resume: bool = False, display: Display | None = None) -> Path:
    """The extension that ``config.extend`` describes; see ``extend``.

    Args:
        config: The settings, as they are frozen in the run folder.
        resume: Go on with what the folder holds.
        display: Shows progress; by default on stdout.
    """
    return Path(_run(config, (), resume, display).outcome.run)


def _run(config: Config, unfitted: tuple[str, ...], resume: bool, display: Display | None) -> Done:
    processes = Processes(config.engine.device)
    with processes.talking():
        ready = processes.first(lambda: _prepare(config, resume=resume, unfitted=unfitted))
        ready = ready._replace(config=processes.shared(ready.config))  # fitted to the memory of one GPU
    config, model, source, protocol = ready.config, ready.model, ready.lesson.source, ready.lesson.protocol
    step, display = len(protocol.steps), display or Display()
    for line in ready.plan.lines():
        display.say(line)
    with Run.open(config, source, protocol, ready.title, resume=resume, display=display) as work:
        model.to(work.engine.device)
        results = work.taken_up(work.folder.root, ready.method)
        memory = Memory.empty(ready.budget)
        if ready.replays:
            memory = old_memory(work, model, ready.stored, ready.lesson.old, ready.budget)
        work.begin(ready.method.name)
        if step - 1 not in results.steps:
            work.measure(model, results, step - 1, work.folder.root, seconds=None, memory=size_of(memory))
        display.estimate = Estimate(ready.plan.steps)
        learn_steps(work, ready.method, model, memory, results, start=step)
        conclude(work, [results])
        lessons = ready.lesson
        end = processes.once(lambda: outcome(work, results, lessons.names, ready.plan.refreshed, lessons.measured))
        for line in end.lines():
            display.say(line)
    return Done(ready.plan, end)


class _Prepared(NamedTuple):
    """An extension of which everything has been read and nothing written."""

    config: Config
    method: Method
    model: IncrementalRetinaNet
    given: Given
    lesson: Lesson
    budget: Budget
    replays: bool
    stored: Memory | None
    plan: Plan

    @property
    def title(self) -> str:
        """The detector in a few words, for tables."""
        return describe(self.model.architecture)


def _prepare(config: Config, *, resume: bool, unfitted: Sequence[str] = ()) -> _Prepared:
    extension = config.extend
    assert extension is not None, "a configuration of incdet train has no extension"
    method = chosen_method(config)
    budget = Budget(config.memory.total, config.memory.per_class)
    replays = method.replay is not None and 0 not in (budget.total, budget.per_class)
    refuse_idle(extension, method, replays)
    Run.require(config, resume=resume)
    model = load_detector(extension.checkpoint, extension.arch, extension.known_classes)
    given = Given.read(extension, Geometry.smallest(model.architecture))
    lessons = lesson(given, extension, model.vocab, config.seed)
    config = fitted(config, unfitted, model, lessons)
    if replays:
        budget.quotas(lessons.protocol.names)
    stored = stored_memory(extension) if replays and given.old is None else None
    planned = _planned(config, method, model, given, lessons, _exemplars(replays, stored, lessons, budget), resume)
    return _Prepared(config, method, model, given, lessons, budget, replays, stored, planned)


def _planned(
    config: Config,
    method: Method,
    model: IncrementalRetinaNet,
    given: Given,
    lessons: Lesson,
    exemplars: str,
    resume: bool,
) -> Plan:
    extension, protocol = config.extend, lessons.protocol
    assert extension is not None
    view = lessons.view
    lengths = Lengths.of(config.train, lessons.source.train, protocol)
    if not lessons.names and method.interim is not None:
        method = method.without("interim")  # as the step does
    steps = method_steps(method, lengths, len(protocol.steps))
    batch = config.train.increment.batch_size
    return Plan(
        detector=extension.checkpoint,
        known=model.vocab.names,
        new=lessons.names,
        refreshed=view.refreshed,
        ignored=tuple(name for name in given.own.names if name not in (*lessons.names, *view.refreshed)),
        data=given.own.describe(),
        images=view.images,
        objects=lessons.objects,
        measured=lessons.measured,
        measured_images=len(lessons.source.test),
        exemplars=exemplars,
        keep=extension.keep or ("balanced" if method.name == "incdet" else None),
        method=method.title,
        source=method.source,
        steps=steps,
        batch_size=batch,
        passes=steps["train"] * batch / max(1, view.images),
        output=str(config.output),
        checkpoint=str(RunFolder.step(config.output, len(protocol.steps))),
        resumes=resume,
    )


def method_steps(method: Method, lengths: Lengths, step: int) -> dict[str, int]:
    """Optimiser steps of the phases of ``step``, as far as they are known before it."""
    main = lengths.increment(step)
    interim = {} if method.interim is None else {"interim": max(1, round(method.interim.length * main))}
    finetune = {} if method.balanced_finetune is None else {"finetune": max(1, round(main / 10))}
    return {**interim, "train": main, **finetune}


def _exemplars(replays: bool, stored: Memory | None, lessons: Lesson, budget: Budget) -> str:
    """What is kept of the old classes' images, in words."""
    room = f"{budget.total} images in all" if budget.total is not None else f"{budget.per_class} images a class"
    if not replays:
        return "no old image; the old network is kept as a teacher"
    if lessons.old is not None:
        return f"exemplars chosen from {len(lessons.old)} old images, {room}"
    if stored is not None:
        return f"{len(stored)} exemplars of the run that made the checkpoint, then {room}"
    return f"no old image, for none is known (give --old-data); new ones from now on, {room}"


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
