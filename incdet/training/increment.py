"""The four steps of the procedure, as four plain calls.

Build the training set, train, balanced fine-tune, update the memory: after Castro et al., ECCV 2018, fig. 2.
``learn_step`` is their sequence; everything else in the package serves it.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from incdet.config import Config, Schedule
from incdet.data.protocols import StepView
from incdet.data.records import Record
from incdet.distillation.cache import Consultation
from incdet.distillation.pseudo_labels import Thresholds, fit_thresholds
from incdet.distillation.teacher import OnlineProvider, Provider, Request, Teacher, TeacherOutputs
from incdet.distillation.teacher_targets import BatchTargets, TeacherTargets
from incdet.evaluation.detections import detect
from incdet.evaluation.scoring import match
from incdet.memory.exemplars import Memory
from incdet.memory.features import object_features
from incdet.methods.base import LossInputs, Method
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet
from incdet.training.engine import Engine
from incdet.training.loaders import canvas_of, training_batches
from incdet.training.provider import Phase, choose_provider

FIT_IMAGES = 400
"""Images of a step that the two-means thresholds are fitted on; more change them little and cost a forward each."""


class TrainingSet(NamedTuple):
    """What a phase trains on: the step's records first, then ``exemplars`` replayed ones."""

    records: tuple[Record, ...]
    exemplars: int
    share: float | None = None

    def groups(self) -> list[tuple[Sequence[int], float]] | None:
        """Index groups and their shares of a batch; None draws from all alike."""
        if not self.exemplars or self.share is None:
            return None
        border = len(self.records) - self.exemplars
        return [(range(border), 1 - self.share), (range(border, len(self.records)), self.share)]


@dataclass(frozen=True)
class StepOutcome:
    """What a step leaves behind.

    Attributes:
        model: The student, in evaluation mode.
        memory: The memory for the next step.
        seconds: Wall time of training, fine-tuning and memory update.
        images: Distinct training images, exemplars included.
        thresholds: Of the pseudo-labels; None for a method without.
    """

    model: IncrementalRetinaNet
    memory: Memory
    seconds: float
    images: int
    thresholds: Thresholds | None = None


@dataclass(frozen=True)
class MethodCriterion:
    """The loss of a method on a batch: asks the teacher about the student's tensors and sums the method's terms.

    Attributes:
        method: How to learn.
        box_kind: ``l1`` or ``giou``, the detector's own box loss.
        teacher: Whose classes are to be kept; None for a method without.
        thresholds: Of the pseudo-labels; None for a method without.
        provider: Who answers for the teacher; by default it runs on every batch.
    """

    method: Method
    box_kind: str
    teacher: Teacher | None = None
    thresholds: Thresholds | None = None
    provider: Provider | None = None

    @cached_property
    def question(self) -> Request:
        """What the teacher can be asked."""
        if self.thresholds is None:
            return Request(self.method.selections)
        # Rounded down: a device that errs in the last digit asks the same question when a run is resumed.
        return Request(self.method.selections, math.floor(1000 * float(self.thresholds.low.min())) / 1000)

    @cached_property
    def heads(self) -> tuple[int, ...]:
        """Number of classes of each head the teacher answers for."""
        if self.teacher is None:
            return ()
        return tuple(len(step) for step in (self.teacher.snapshot or self.teacher.model).vocab.steps)

    def decide(self, shadow: TeacherOutputs, truth: BatchTargets) -> TeacherTargets:
        """What the method makes of the teacher's answer."""
        # After a step the snapshot already has the newest head; during it the student's last columns are new.
        grown = self.teacher is not None and self.teacher.snapshot is not None
        newest = self.heads[-1] if grown else truth.coverage.shape[1] - sum(self.heads)
        return self.method.decide(*shadow, truth, self.thresholds, newest)

    def asked(self, teacher: Teacher) -> Consultation:
        """What ``teacher`` is asked, and what the method makes of it."""
        cuts = None if self.thresholds is None else [part.tolist() for part in self.thresholds]
        terms = tuple(term.name for term in self.method.terms)
        return Consultation(teacher, self.question, self.decide, terms, f"{self.method!r} {cuts}")

    def __call__(self, dense: HeadOutputs, prepared: ImageBatch) -> dict[str, Tensor]:
        """Named scalars; see ``Method.losses``."""
        truth = BatchTargets.read(prepared.targets or [], dense.anchors, dense.logits.shape[-1], static=prepared.static)
        guidance = None
        if self.teacher is not None:
            ask = self.provider or OnlineProvider(self.teacher, self.question, self.decide)
            guidance = ask(prepared, dense, truth)
        return self.method.losses(LossInputs(dense, truth, guidance, self.heads, self.box_kind))


def learn_step(
    engine: Engine,
    before: IncrementalRetinaNet,
    view: StepView,
    memory: Memory,
    method: Method,
    config: Config,
    folder: Path,
) -> StepOutcome:
    """Teaches a copy of ``before`` the classes of ``view``; ``before`` itself is left as it is, but moves to the CPU.

    Args:
        engine: Trains.
        before: The detector after the previous step, which becomes the teacher.
        view: The step's records.
        memory: The memory after the previous step.
        method: How to learn.
        config: Schedules, budget and seed.
        folder: Where the phases keep the states they resume from; removed by the caller when the step is done.
    """
    start = time.perf_counter()
    student = copy.deepcopy(before)
    student.freeze_norm()
    torch.manual_seed(_seed(config, view.step, "growth"))
    student.grow(view.names)
    teacher = Teacher(before).to(engine.device) if method.needs_teacher else None
    # What follows works on copies; the original would only take memory from them.
    before.to("cpu")

    training_set = build_training_set(view, memory, method)
    thresholds = fit_teacher(teacher, view, memory, config) if teacher and method.pseudo_labels else None
    criterion = MethodCriterion(method, student.architecture.box_loss, teacher, thresholds)
    train(engine, student, criterion, training_set, config, config.train.increment, f"step {view.step} train", folder)
    if method.balanced_finetune and len(memory):
        balanced_finetune(engine, student, criterion, view, memory, config, folder)
    if method.replay:
        memory = update_memory(student, view, memory, config)
    images = len({record.image for record in training_set.records})
    return StepOutcome(student.eval(), memory, time.perf_counter() - start, images, thresholds)


def build_training_set(view: StepView, memory: Memory, method: Method) -> TrainingSet:
    """The step's records and, for a method with replay, the exemplars; each keeps its own coverage."""
    if method.replay is None:
        return TrainingSet(tuple(view.records), 0)
    return TrainingSet((*view.records, *memory), len(memory), method.replay.share)


def train(
    engine: Engine,
    model: IncrementalRetinaNet,
    criterion: MethodCriterion,
    training_set: TrainingSet,
    config: Config,
    schedule: Schedule,
    phase: str,
    folder: Path,
) -> None:
    """Trains ``model`` in place on ``training_set`` for the length of ``schedule``."""
    seed = _seed(config, len(model.vocab.steps), phase)
    records = training_set.records
    batches = training_batches(engine, model, records, training_set.groups(), config, schedule, seed)
    iterations = schedule_length(schedule, len(records))
    name = phase.rsplit(" ", 1)[-1]
    canvas = None
    if config.engine.static_shapes:
        canvas = canvas_of(records, model.architecture, config.augment)
        if canvas is None:
            engine.say("static shapes: off, because a crop or several sizes make every draw another shape")
    if criterion.teacher is not None:
        model.to(engine.device)
        draws = iterations * schedule.batch_size // engine.accelerator.num_processes
        asked = criterion.asked(criterion.teacher.to(engine.device))
        place = Phase(phase, model, records, draws, folder / f"{name}.responses.safetensors", canvas)
        criterion = replace(criterion, provider=choose_provider(engine, asked, place, config))
    state = folder / f"{name}.pt"
    engine.fit(model, criterion, batches, schedule, iterations, phase=phase, state=state, canvas=canvas)


def balanced_finetune(
    engine: Engine,
    student: IncrementalRetinaNet,
    criterion: MethodCriterion,
    view: StepView,
    memory: Memory,
    config: Config,
    folder: Path,
) -> None:
    """Fine-tunes on equal numbers of images per class: the new classes are cut to the exemplars' number.

    The new head is distilled from the network as it stands before the fine-tuning, for this time only.
    """
    balanced = tuple(update_memory(student, view, memory, config))
    teacher = criterion.teacher
    if teacher is not None:
        teacher = Teacher(teacher.model, snapshot=student).to(engine.device)
    thresholds = criterion.thresholds
    if thresholds is not None:
        extra = torch.full((len(view.names),), float(thresholds.high.mean()))
        thresholds = Thresholds(
            torch.cat([thresholds.high, extra.to(thresholds.high.device)]),
            torch.cat([thresholds.low, extra.to(thresholds.low.device) / 2]),
        )
    train(
        engine,
        student,
        MethodCriterion(criterion.method, criterion.box_kind, teacher, thresholds),
        TrainingSet(balanced, 0),
        config,
        config.train.finetune,
        f"step {view.step} finetune",
        folder,
    )


def update_memory(model: IncrementalRetinaNet, view: StepView, memory: Memory, config: Config) -> Memory:
    """The memory with the step's classes added and the old ones cut to their new quotas."""
    return choose_exemplars(model, view.records, view.names, memory, config)


def choose_exemplars(
    model: IncrementalRetinaNet, records: Sequence[Record], names: Sequence[str], memory: Memory, config: Config
) -> Memory:
    """The memory with exemplars of ``names`` chosen from ``records`` by the configured selection."""
    selection = config.memory.selection
    features = object_features(model, records, names) if selection == "herding" else None
    return memory.update(records, names, selection=selection, features=features, seed=config.seed)


def fit_teacher(teacher: Teacher, view: StepView, memory: Memory, config: Config) -> Thresholds:
    """Pseudo-label thresholds of the teacher: F1 on the exemplars, two means on the step's images elsewhere."""
    names = teacher.model.vocab.names
    batch_size = config.evaluation.batch_size
    sample = view.records[:: max(1, math.ceil(len(view.records) / FIT_IMAGES))]
    found = detect(teacher.model, sample, batch_size=batch_size).values()
    scores = [_concatenate([item.scores[item.labels == column] for item in found]) for column in range(len(names))]
    exemplars = [replace(record, image_id=number) for number, record in enumerate(memory)]
    guesses = detect(teacher.model, exemplars, batch_size=batch_size)
    matches = [match(exemplars, guesses, names, name) if exemplars else None for name in names]
    return fit_thresholds(scores, matches).to(next(teacher.model.parameters()).device)


def schedule_length(schedule: Schedule, images: int) -> int:
    """Optimiser steps of a schedule on ``images`` training images."""
    if schedule.iterations is not None:
        return schedule.iterations
    return max(1, round((schedule.epochs or 0) * images / schedule.batch_size))


def _seed(config: Config, step: int, phase: str) -> int:
    """A seed of its own for every phase of every step, so that no phase depends on how long another ran."""
    digest = hashlib.sha256(f"{config.seed}/{step}/{phase}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _concatenate(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
