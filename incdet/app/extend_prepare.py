"""An extension made ready: everything read and checked, the plan made, nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from incdet.app.detector import describe
from incdet.app.extend_data import Given, Lesson, lesson
from incdet.app.extend_memory import stored_memory
from incdet.app.extend_plan import Plan
from incdet.app.extend_settings import chosen_method, fitted, refuse_idle, refuse_unfit
from incdet.app.run import Run
from incdet.app.run_folder import RunFolder
from incdet.config import Config
from incdet.data.resize import Geometry
from incdet.memory.exemplars import Budget, Memory
from incdet.methods.method import Method
from incdet.network.importing import load_detector
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.schedule import Lengths


class Prepared(NamedTuple):
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


def prepare(config: Config, *, resume: bool, unfitted: Sequence[str] = ()) -> Prepared:
    """Reads and checks all that ``config.extend`` names, and plans.

    Args:
        config: The settings.
        resume: Whether the folder holds an earlier part.
        unfitted: Keys whose values are chosen here, to fit what was read.

    Raises:
        InputError: Anything that is wrong with it.
    """
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
    refuse_unfit(method, model, lessons.names, str(extension.annotations))
    config = fitted(config, unfitted, model, lessons, method)
    if replays:
        budget.quotas(lessons.protocol.names)
    stored = stored_memory(extension) if replays and given.old is None else None
    planned = _plan(
        config, method, model, given, lessons, exemplars_in_words(method, replays, stored, lessons, budget), resume
    )
    return Prepared(config, method, model, given, lessons, budget, replays, stored, planned)


def _plan(
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
    refreshed = view.refreshed if method.branch is None else ()
    if not lessons.names and method.interim is not None:
        method = method.without("interim")  # as the step does
    steps = method_steps(method, lengths, len(protocol.steps))
    batch = config.train.increment.batch_size
    return Plan(
        detector=extension.checkpoint,
        known=model.vocab.names,
        new=lessons.names,
        refreshed=refreshed,
        ignored=tuple(name for name in given.own.names if name not in (*lessons.names, *refreshed)),
        data=given.own.describe(),
        images=view.images,
        objects=lessons.objects,
        measured=lessons.measured,
        measured_images=len(lessons.source.test),
        exemplars=exemplars,
        keep=extension.keep or ("balanced" if config.methods == ("incdet",) and not config.without else None),
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


def exemplars_in_words(method: Method, replays: bool, stored: Memory | None, lessons: Lesson, budget: Budget) -> str:
    """What is kept of the old classes' images, in words."""
    room = f"{budget.total} images in all" if budget.total is not None else f"{budget.per_class} images a class"
    if not replays:
        if method.branch is not None:
            return "the old network itself, untouched; new classes get heads or a network beside it"
        return "no old image" + ("; the old network teaches" if method.teachers else "")
    if lessons.old is not None:
        return f"exemplars chosen from {len(lessons.old)} old images, {room}"
    if stored is not None:
        return f"{len(stored)} exemplars of the run that made the checkpoint, then {room}"
    return f"no old image, for none is known (give --old-data); new ones from now on, {room}"
