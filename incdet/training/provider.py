"""Who answers for the teacher in a phase: the network itself, or a cache of its responses where that pays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from incdet.config import Config
from incdet.config.architecture import Architecture
from incdet.data.cache import MIB
from incdet.data.records import Record
from incdet.distillation.cache import CachedProvider, Consultation, fill
from incdet.distillation.cache_file import Archive, Key, load, save
from incdet.distillation.teacher import OnlineProvider, Provider, Request
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.engine import Engine
from incdet.training.loaders import plain_images

WORTH = 1.25
"""Draws for each entry from which on filling pays: it costs a forward an entry, and reading what it found."""


class Phase(NamedTuple):
    """A phase whose teacher is to answer.

    Attributes:
        name: For the eye.
        student: On the engine's device; prepares the images.
        records: What the phase draws from.
        draws: Images it draws in all, on this process.
        file: Where the archive lies while the step lasts.
        canvas: (H, W) that every batch is padded to; None where batches differ.
    """

    name: str
    student: IncrementalRetinaNet
    records: Sequence[Record]
    draws: int
    file: Path
    canvas: tuple[int, int] | None = None


def choose_provider(engine: Engine, criterion: Consultation, phase: Phase, config: Config) -> Provider:
    """A cache of the teacher's responses where that is exact, pays and fits; else the teacher itself. Says which.

    After the cache is filled, or taken up from its file, the teacher leaves the device.
    """
    flips = [flipped for flipped, drawn in ((False, config.augment.flip < 1), (True, config.augment.flip > 0)) if drawn]
    architecture, images = phase.student.architecture, f"responses of {len(phase.records):,} images"
    archive = None
    reason = obstacle(criterion.question, architecture, config, phase.draws, len(phase.records) * len(flips))
    if reason is None:
        archive = _archive(engine, criterion, phase, config, flips)
        reason = f"{images} exceed engine.response_cache={config.engine.response_cache} MiB"
    if archive is None:
        engine.say(f"teacher: online, because {reason}")
        return OnlineProvider(criterion.teacher, criterion.question, criterion.decide, phase.student)
    engine.say(f"teacher: {images} cached, {archive.nbytes / MIB:.1f} MiB")
    criterion.teacher.to("cpu")
    return CachedProvider(archive, criterion.terms, architecture.anchors_per_cell)


def obstacle(question: Request, architecture: Architecture, config: Config, draws: int, entries: int) -> str | None:
    """Why the responses to ``entries`` pictures are not to be cached for ``draws`` draws; None if they are."""
    augment = config.augment
    if config.engine.response_cache == 0:
        return "engine.response_cache is 0"
    if any(selection.kind == "all" for selection in question.selections):
        return "the method listens to every anchor"
    if changing := [name for name in ("crop", "photometric", "scale") if getattr(augment, name)]:
        return f"augment.{changing[0]} makes every draw another picture"
    if len(architecture.min_size) > 1 and architecture.fixed_size is None and not architecture.skip_resize:
        return "model.min_size has several values, and every draw its own"
    if draws < WORTH * entries:
        return f"{draws:,} draws of {entries:,} pictures would not pay for asking about each"
    return None


def _archive(
    engine: Engine, criterion: Consultation, phase: Phase, config: Config, flips: Sequence[bool]
) -> Archive | None:
    """The archive from its file or filled anew; None where it exceeds the budget."""
    models = [model for model in (criterion.teacher.model, criterion.teacher.snapshot) if model is not None]
    geometry = {
        "recipe": [model.architecture.to_json() for model in models],
        "flips": [*flips],
        "precision": engine.precision,
        "rule": criterion.rule,
        "question": repr(criterion.question),
        "classes": phase.student.vocab.names,
        "canvas": phase.canvas,
    }
    key = Key.of([model.state_dict() for model in models], phase.records, geometry)
    budget = config.engine.response_cache * MIB
    archive, fault = load(phase.file, key)
    if archive is not None:
        return archive if archive.nbytes <= budget else None
    if fault:
        engine.say(f"teacher: {phase.file} is not used, because {fault}")
    with engine.accelerator.autocast():
        archive = fill(
            criterion,
            phase.student.train(),
            plain_images(engine, phase.student, phase.records, config),
            flips,
            canvas=phase.canvas,
            budget=budget,
            batch_size=config.evaluation.batch_size,
            workers=min(config.engine.workers, os.cpu_count() or 1),
            progress=lambda done, total: engine.advance(f"{phase.name}: teacher", done, total),
        )
    if archive is not None and engine.accelerator.is_main_process:
        save(phase.file, archive, key)
    return archive
