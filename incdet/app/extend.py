"""A detector and somebody's own annotations: teach it their classes, as one more step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from incdet.app.estimate import Estimate
from incdet.app.extend_memory import old_memory
from incdet.app.extend_outcome import Outcome, outcome
from incdet.app.extend_plan import Plan
from incdet.app.extend_prepare import Prepared, prepare
from incdet.app.extend_proof import Proof, compare, images_of
from incdet.app.extend_settings import Call, settle
from incdet.app.load import Detector, detector_of, load
from incdet.app.progress import Display
from incdet.app.run import Run
from incdet.app.run_folder import RunFolder
from incdet.app.steps import conclude, learn_steps, size_of
from incdet.config import Config, Extension
from incdet.data.records import Exif
from incdet.errors import TrainingError
from incdet.memory.exemplars import Memory
from incdet.network.importing import load_detector
from incdet.training.processes import Processes

OUTPUT = Path("runs/new")
Keep = Literal["balanced", "fast", "strict"]


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
        keep: How the old classes are kept: ``balanced`` (the default) with exemplars and teachers; ``fast`` without old
            images and at half the steps; ``strict`` by leaving the old network as it is and giving the new classes
            heads of their own on its features, which is proved in the end.
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
    return prepare(config, resume=resume, unfitted=unfitted).plan


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
        ready = processes.first(lambda: prepare(config, resume=resume, unfitted=unfitted))
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
        lessons, proof = ready.lesson, _proof(work, ready)
        seen = ready.plan.refreshed
        end = processes.once(lambda: outcome(work, results, lessons.names, seen, lessons.measured, proof))
        for line in end.lines():
            display.say(line)
    if ready.method.branch is not None and not proof.holds:
        raise TrainingError(f"old detections differ on {proof.images - proof.identical} of {proof.images} images")
    return Done(ready.plan, end)


def _proof(work: Run, ready: Prepared) -> Proof:
    """What became of the old detections, by the checkpoints as they lie on the disk."""
    root, step, extension = work.folder.root, len(work.protocol.steps), ready.config.extend
    assert extension is not None
    records = images_of(work.source.test, work.source.train)
    before = load_detector(extension.checkpoint, extension.arch, extension.known_classes)
    after = load_detector(RunFolder.step(root, step))
    first, second = (work.detect(model.to(work.engine.device), records, "old detections") for model in (before, after))
    return compare(first, second, len(before.vocab))


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
