"""The four steps of the procedure, as four plain calls.

Build the training set, train, balanced fine-tune, update the memory: after Castro et al., ECCV 2018, fig. 2.
``learn_step`` is their sequence; everything else in the package serves it.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from incdet.config import Config, Schedule
from incdet.data.protocols import StepView
from incdet.data.records import Record
from incdet.distillation.provider import OnlineProvider, Teaching
from incdet.distillation.teacher import Teacher
from incdet.distillation.term import StepData
from incdet.memory.exemplars import Budget, Memory
from incdet.memory.features import BATCH as FEATURE_BATCH
from incdet.memory.features import object_features
from incdet.memory.propagation import propagate
from incdet.memory.selection import SELECTIONS
from incdet.methods.finetune import METHOD as FINETUNE
from incdet.methods.method import Method
from incdet.network.paired import Trunk, newcomer, paired, pupil
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.box_replay import BoxReplay, crops_of
from incdet.training.calibration import calibrate
from incdet.training.criterion import MethodCriterion
from incdet.training.engine import Engine
from incdet.training.loaders import canvas_of, plain_images, training_batches
from incdet.training.mixup import Mixup
from incdet.training.provider import Pupil, choose_provider
from incdet.training.schedule import Lengths, Phase


class TrainingSet(NamedTuple):
    """What a phase trains on: the step's records first, then ``exemplars`` replayed ones.

    Attributes:
        records: All of them.
        exemplars: How many at the end are exemplars.
        share: Of a batch that they make up; None mixes them as they fall.
        cut: Exemplars whose objects are replayed in other images.
        boxes: Share of a batch's images that these go into.
    """

    records: tuple[Record, ...]
    exemplars: int = 0
    share: float | None = None
    cut: tuple[Record, ...] = ()
    boxes: float = 0.0

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
        iterations: Optimiser steps by the kind of phase; the interim teacher's count.
    """

    model: IncrementalRetinaNet
    memory: Memory
    seconds: float
    images: int
    iterations: Mapping[str, int]


class Workshop(NamedTuple):
    """What every phase of a step needs.

    Attributes:
        engine: Trains.
        config: Schedules, budget and seed.
        lengths: Optimiser steps of every phase.
        folder: Where phases keep what they resume from.
    """

    engine: Engine
    config: Config
    lengths: Lengths
    folder: Path


def learn_step(
    shop: Workshop, before: IncrementalRetinaNet, view: StepView, memory: Memory, method: Method
) -> StepOutcome:
    """Teaches a copy of ``before`` the classes of ``view``; ``before`` itself is left as it is, but moves to the CPU.

    Args:
        shop: Engine, settings and folder; the caller removes the folder when the step is done.
        before: The detector after the previous step, which becomes the teacher ``old``.
        view: The step's records.
        memory: The memory after the previous step.
        method: How to learn.
    """
    if method.branch is not None and method.branch.trunk != "taught":
        return learn_beside(shop, before, view, memory, method, method.branch.trunk)
    start = time.perf_counter()
    if not view.names and method.interim is not None:  # nothing is new for a network of the new classes to know
        method = method.without("interim")
    method = method.speaking()
    student = grown(shop.config, before if method.branch is None else pupil(before), view)
    if method.penalty is not None:
        seed = phase_seed(shop.config, view.step, "penalty")
        measured = method.penalty.fit(student.to(shop.engine.device), view.records, len(before.vocab), seed)
        method = replace(method, penalty=measured)
    spent: dict[str, int] = {}
    teachers = {"old": Teacher(before)} if "old" in method.teachers else {}
    if method.interim is not None:
        spent["interim"] = max(1, round(method.interim.length * shop.lengths.increment(view.step)))
        share = method.interim.exemplars if method.replay is not None else 0.0
        interim = train_interim(shop, student, interim_set(view, memory, share), view.step, spent["interim"])
        if "interim" in method.teachers:
            teachers["interim"] = Teacher(interim, first=len(before.vocab))
        if method.averaging is not None:
            share = len(before.vocab) / len(student.vocab)
            average(student, interim, share if method.averaging.old is None else method.averaging.old)
    # What follows works on copies; the original would only take memory from them.
    before.to("cpu")

    training_set = build_training_set(view, memory, method)
    method = fitted(shop, method, Teaching(teachers, method.terms), view, memory)
    spent["train"] = shop.lengths.increment(view.step)
    train(
        shop,
        student,
        method,
        teachers,
        training_set,
        shop.config.train.increment,
        spent["train"],
        Phase(view.step, "train"),
    )
    if method.balanced_finetune is not None and len(memory):
        spent["finetune"] = balanced_finetune(shop, student, method, teachers, view, memory)
    if method.precedence is not None:
        student.architecture = student.architecture.changed(precedence=method.precedence.power)
    if method.replay is not None:
        memory = choose_exemplars(shop.engine, student, view.records, view.names, memory, shop.config)
        size = shop.config.evaluation.batch_size
        if method.replay.propagation is not None:
            memory = propagated(shop, student, memory, method.replay.propagation)
        if method.calibration is not None and method.calibration.strength and view.names:
            shifts = calibrate(student, tuple(memory), view.names, method.calibration.strength, batch_size=size)
            shop.engine.say("calibration: " + ", ".join(f"{name} {shift:+.2f}" for name, shift in shifts.items()))
            shop.engine.processes.align(student)  # the next GPU may have rounded otherwise
    if method.branch is not None:
        student = paired(before, student, method.branch.trunk).to(shop.engine.device)
    images = len({record.image for record in (*training_set.records, *training_set.cut)})
    return StepOutcome(student.eval(), memory, time.perf_counter() - start, images, spent)


def learn_beside(
    shop: Workshop, before: IncrementalRetinaNet, view: StepView, memory: Memory, method: Method, trunk: Trunk
) -> StepOutcome:
    """Trains a network for the classes of ``view`` alone and puts it beside ``before``, which is left as it is."""
    start = time.perf_counter()
    torch.manual_seed(phase_seed(shop.config, view.step, "growth"))
    student = newcomer(before, view.names, trunk)
    before.to("cpu")
    records = tuple(record.restrict(view.names) for record in view.records)
    spent = shop.lengths.increment(view.step)
    schedule, phase = shop.config.train.increment, Phase(view.step, "train")
    train(shop, student, method, {}, TrainingSet(records), schedule, spent, phase)
    model = paired(before, student, trunk).to(shop.engine.device)
    images = len({record.image for record in records})
    return StepOutcome(model, memory, time.perf_counter() - start, images, {"train": spent})


def grown(config: Config, before: IncrementalRetinaNet, view: StepView) -> IncrementalRetinaNet:
    """A copy of ``before`` with a head for the classes of ``view``, if it has some, and its norms fixed."""
    student = copy.deepcopy(before)
    student.freeze_norm()
    if view.names:
        torch.manual_seed(phase_seed(config, view.step, "growth"))
        student.grow(view.names)
    return student


def interim_set(view: StepView, memory: Memory, share: float) -> TrainingSet:
    """The step's records and, for a single class, the exemplars that are not among them, taken to be without it.

    Images that all show a horse do not tell what is none; those of several classes tell it of each other.
    """
    seen = {record.image for record in view.records}
    others = [replace(one, coverage=one.coverage | set(view.names)) for one in memory if one.image not in seen]
    if not share or not others or len(view.names) > 1:
        return TrainingSet(tuple(view.records))
    return TrainingSet((*view.records, *others), len(others), share)


def train_interim(
    shop: Workshop, student: IncrementalRetinaNet, training_set: TrainingSet, step: int, iterations: int
) -> IncrementalRetinaNet:
    """A copy of ``student`` fine-tuned on ``training_set`` alone: it learns the new classes, forgets the old ones."""
    interim = copy.deepcopy(student)
    train(shop, interim, FINETUNE, {}, training_set, shop.config.train.increment, iterations, Phase(step, "interim"))
    return interim.eval()


@torch.no_grad()
def average(student: IncrementalRetinaNet, interim: IncrementalRetinaNet, old: float) -> None:
    """Moves ``student`` between the network before the step (weight ``old``) and the interim one, in place.

    The new predictor, which the network before the step lacks, becomes the interim one's.
    """
    newest = f"class_head.predictors.{len(student.vocab.steps) - 1}."
    theirs = dict(interim.named_parameters())
    for name, parameter in student.named_parameters():
        other = theirs[name].to(parameter.device)
        parameter.lerp_(other, 1.0 if name.startswith(newest) else 1.0 - old)


def fitted(shop: Workshop, method: Method, teaching: Teaching, view: StepView, memory: Memory) -> Method:
    """The method with its terms fitted to the step's data."""
    if not teaching.teachers:
        return method
    teaching.to(shop.engine.device)
    size = shop.config.evaluation.batch_size
    step = StepData(teaching.teachers, view.records, tuple(memory), size, shop.engine.say, view.names)
    terms = tuple(term.fit(step) for term in method.terms)
    return replace(method, terms=shop.engine.processes.shared(terms))  # a GPU's rounding may differ from the next one's


def build_training_set(view: StepView, memory: Memory, method: Method) -> TrainingSet:
    """The step's records and, for a method with replay, the exemplars; each keeps its own coverage."""
    if method.replay is None:
        return TrainingSet(tuple(view.records))
    cut, boxes = tuple(memory), method.replay.boxes
    if not method.replay.images:
        return TrainingSet(tuple(view.records), cut=cut, boxes=boxes)
    return TrainingSet((*view.records, *memory), len(memory), method.replay.share, cut, boxes)


def train(
    shop: Workshop,
    model: IncrementalRetinaNet,
    method: Method,
    teachers: Mapping[str, Teacher],
    training_set: TrainingSet,
    schedule: Schedule,
    iterations: int,
    phase: Phase,
) -> None:
    """Trains ``model`` in place on ``training_set`` for ``iterations`` optimiser steps of ``schedule``."""
    engine, config, records = shop.engine, shop.config, training_set.records
    seed = phase_seed(config, len(model.vocab.steps), str(phase))
    batches = training_batches(engine, model, records, training_set.groups(), config, schedule, seed)
    crops = crops_of(plain_images(engine, model, training_set.cut, config)) if training_set.boxes else []
    if crops:
        batches = BoxReplay(crops, training_set.boxes, seed, engine.processes.rank).over(batches)
    added = method.mixup.share if teachers and method.mixup is not None else 0.0
    if added:
        batches = Mixup(added, seed, engine.processes.rank, engine.processes.world).over(batches)
    canvas = None
    if config.engine.static_shapes:
        canvas = canvas_of(records, model.architecture, config.augment)
        if canvas is None:
            engine.say("static shapes: off, because a crop or several sizes make every draw another shape")
    provider = None
    if teachers:
        model.to(engine.device)
        draws = iterations * schedule.batch_size // engine.processes.world
        file = shop.folder / f"{phase.kind}.responses.safetensors"
        pupil = Pupil(str(phase), model, records, draws, file, method.masked, canvas, made=added > 0)
        teaching = Teaching(teachers, method.terms).to(engine.device)
        # What was answered about a picture says nothing of what has been pasted into it.
        online = OnlineProvider(teaching, model) if crops else None
        provider = online or choose_provider(engine, teaching, pupil, config)
    criterion = MethodCriterion(method, model, provider)
    state = shop.folder / f"{phase.kind}.pt"
    name, images = str(phase), len(records)
    engine.fit(model, criterion, batches, schedule, iterations, phase=name, images=images, state=state, canvas=canvas)


def balanced_finetune(
    shop: Workshop,
    student: IncrementalRetinaNet,
    method: Method,
    teachers: Mapping[str, Teacher],
    view: StepView,
    memory: Memory,
) -> int:
    """Fine-tunes on as many images of each new class as exemplars of an old one; the exemplars all stay.

    The new head is distilled from the network as it stands before the fine-tuning, for this time only.

    Returns:
        The optimiser steps it took.
    """
    most = max(len(ranked) for ranked in memory.exemplars.values())
    budget = Budget(per_class=most)
    cut = choose_exemplars(shop.engine, student, view.records, view.names, Memory.empty(budget), shop.config)
    records = TrainingSet((*memory, *cut))
    if "old" in teachers and view.names:
        teachers = {**teachers, "old": Teacher(teachers["old"].model, later=student)}
    iterations = shop.lengths.finetune(view.step, len(records.records))
    schedule = shop.config.train.finetune
    train(shop, student, method, teachers, records, schedule, iterations, Phase(view.step, "finetune"))
    return iterations


def choose_exemplars(
    engine: Engine,
    model: IncrementalRetinaNet,
    records: Sequence[Record],
    names: Sequence[str],
    memory: Memory,
    config: Config,
) -> Memory:
    """The memory with exemplars of ``names`` chosen from ``records``, and the old lists cut to their new quotas.

    Each process looks at its share of the images; rank 0 chooses for all.
    """
    processes, selection, features = engine.processes, config.memory.selection, None
    if SELECTIONS[selection].needs_features:
        mine = processes.share(records, FEATURE_BATCH)
        found = object_features(model, [records[place] for place in mine], names)
        placed = {name: {mine[place]: one for place, one in own.items()} for name, own in found.items()}
        parts = processes.gathered(placed)
        features = {name: {place: one for part in parts for place, one in part[name].items()} for name in names}
    return processes.once(
        lambda: memory.update(records, names, selection=selection, features=features, seed=config.seed)
    )


def propagated(shop: Workshop, student: IncrementalRetinaNet, memory: Memory, sure: float) -> Memory:
    """The memory with labels of all classes; see ``propagate``."""
    size = shop.config.evaluation.batch_size
    return shop.engine.processes.once(lambda: propagate(student, memory, sure, batch_size=size))


def phase_seed(config: Config, step: int, phase: str) -> int:
    """A seed of its own for every phase of every step, so that no phase depends on how long another ran."""
    digest = hashlib.sha256(f"{config.seed}/{step}/{phase}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
