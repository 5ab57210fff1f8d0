"""Who answers for the teachers in a phase: the networks themselves, or a cache of their answers where that pays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from incdet.config import Config
from incdet.config.architecture import Architecture
from incdet.data.cache import MIB
from incdet.data.records import Record
from incdet.distillation.cache import CachedProvider, fill
from incdet.distillation.cache_file import CachedTargets, Key, load, save
from incdet.distillation.provider import OnlineProvider, PartlyCached, Provider, Teaching
from incdet.errors import Finding, InputError
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.engine import Engine
from incdet.training.loaders import plain_images

WORTH = 1.25
"""Draws for each entry from which on filling pays: it costs a forward an entry, and reading what it found."""


class Pupil(NamedTuple):
    """Who is taught in a phase, and on what.

    Attributes:
        phase: For the eye.
        student: On the engine's device; prepares the images.
        records: What the phase draws from.
        draws: Images it draws in all, on this process.
        file: Where the cache lies while the step lasts.
        masked: See ``BatchTargets.read``.
        canvas: (H, W) that every batch is padded to; None where batches differ.
        made: Whether batches also have pictures that were made for them.
    """

    phase: str
    student: IncrementalRetinaNet
    records: Sequence[Record]
    draws: int
    file: Path
    masked: bool = True
    canvas: tuple[int, int] | None = None
    made: bool = False


def choose_provider(engine: Engine, teaching: Teaching, pupil: Pupil, config: Config) -> Provider:
    """A cache of the teachers' answers where that is exact, pays and fits; else the teachers themselves. Says which.

    After the cache is filled, or taken up from its file, the teachers leave the device, unless they are still asked.
    """
    flips = [flipped for flipped, drawn in ((False, config.augment.flip < 1), (True, config.augment.flip > 0)) if drawn]
    architecture, images = pupil.student.architecture, f"responses of {len(pupil.records):,} images"
    cached = None
    reason = obstacle(teaching, architecture, config, pupil.draws, len(pupil.records) * len(flips))
    if reason is None:
        cached = _cached(engine, teaching, pupil, config, flips)
        reason = f"{images} exceed engine.response_cache={config.engine.response_cache} MiB"
    if cached is None:
        engine.say(f"teacher: online, because {reason}")
        return OnlineProvider(teaching, pupil.student)
    note = "; online for what mixup adds" if pupil.made else ""
    engine.say(f"teacher: {images} cached, {cached.nbytes / MIB:.1f} MiB{note}")
    if not pupil.made:
        teaching.to("cpu")
        return CachedProvider(cached, pupil.student)
    online = OnlineProvider(teaching, pupil.student)
    return PartlyCached(CachedProvider(cached, pupil.student), online, pupil.student, masked=pupil.masked)


def obstacle(teaching: Teaching, architecture: Architecture, config: Config, draws: int, entries: int) -> str | None:
    """Why the answers to ``entries`` pictures are not to be cached for ``draws`` draws; None if they are."""
    augment = config.augment
    if config.engine.response_cache == 0:
        return "engine.response_cache is 0"
    if not teaching.cachable:
        return "the method compares feature maps"
    if any(getattr(getattr(term, "selection", None), "kind", "") == "all" for term in teaching.terms):
        return "the method listens to every anchor"
    if changing := [name for name in ("crop", "photometric", "scale") if getattr(augment, name)]:
        return f"augment.{changing[0]} makes every draw another picture"
    if len(architecture.min_size) > 1 and architecture.fixed_size is None and not architecture.skip_resize:
        return "model.min_size has several values, and every draw its own"
    if draws < WORTH * entries:
        return f"{draws:,} draws of {entries:,} pictures would not pay for asking about each"
    return None


def _cached(
    engine: Engine, teaching: Teaching, pupil: Pupil, config: Config, flips: Sequence[bool]
) -> CachedTargets | None:
    """The cache from its file or filled anew, by rank 0 for all; None where it exceeds the budget."""
    student = pupil.student
    rule: dict[str, Any] = {
        "architecture": [model.architecture.to_json() for model in teaching.models],
        "teachers": {name: list(teacher.columns) for name, teacher in teaching.teachers.items()},
        "terms": [repr(term) for term in teaching.terms],
        "masked": pupil.masked,
        "flips": [*flips],
        "precision": engine.precision,
        "classes": student.vocab.names,
        "canvas": pupil.canvas,
    }
    processes = engine.processes
    key = processes.once(lambda: Key.of([model.state_dict() for model in teaching.models], pupil.records, rule))

    def made() -> CachedTargets | None:
        cached, fault = load(pupil.file, key)
        if cached is None:
            if fault:
                engine.say(f"teacher: {pupil.file} is not used, because {fault}")
            cached = _filled(engine, teaching, pupil, config, flips)
            if cached is not None:
                save(pupil.file, cached, key)
        return cached if cached is not None and cached.nbytes <= config.engine.response_cache * MIB else None

    mine: list[CachedTargets | None] = []  # too large to be sent: the others read it from the file

    def fits() -> bool:
        mine.append(made())
        return mine[0] is not None

    if not processes.once(fits):
        return None
    return processes.together(lambda: mine[0] if processes.main else _taken_up(pupil.file, key))


def _filled(
    engine: Engine, teaching: Teaching, pupil: Pupil, config: Config, flips: Sequence[bool]
) -> CachedTargets | None:
    """The cache, by asking the teachers; None where it exceeds the budget."""
    with engine.computing.autocast():
        return fill(
            teaching,
            pupil.student.train(),
            plain_images(engine, pupil.student, pupil.records, config),
            flips,
            masked=pupil.masked,
            canvas=pupil.canvas,
            budget=config.engine.response_cache * MIB,
            batch_size=config.evaluation.batch_size,
            workers=min(config.engine.workers, os.cpu_count() or 1),
            progress=lambda done, total: engine.advance(f"{pupil.phase}: teacher", done, total),
        )


def _taken_up(file: Path, key: Key) -> CachedTargets:
    """What rank 0 has written."""
    cached, fault = load(file, key)
    if cached is None:
        problem = fault or "is not seen by this process, but rank 0 has written it"
        raise InputError(Finding(str(file), "teacher cache", problem, "put the run folder on a disk of all machines"))
    return cached
