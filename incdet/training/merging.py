"""One student of two detectors: it learns the classes of both from their answers alone, on pictures nobody labelled."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import islice

import torch
from torch import nn

from incdet.data.records import Record
from incdet.distillation.provider import OnlineProvider, Teaching
from incdet.distillation.teacher import Teacher
from incdet.distillation.terms import KdBox, KdQuality
from incdet.methods.method import Method
from incdet.network.merging import as_later_teacher, require_same_pictures
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.criterion import MethodCriterion
from incdet.training.increment import TrainingSet, Workshop, average, phase_seed, train
from incdet.training.loaders import training_batches
from incdet.training.schedule import Phase

METHOD = Method(
    "merge",
    "the two teachers of ours, and no label",
    # What the second sees is not doubted where the first sees something: neither has been taught the other's classes.
    terms=(KdQuality(discount=0.0), KdBox(weight=0.5)),
)
LOOKS = 4
"""Batches by which a start is chosen."""


def merge_by_distillation(
    shop: Workshop,
    first: IncrementalRetinaNet,
    second: IncrementalRetinaNet,
    records: Sequence[Record],
    iterations: int,
) -> IncrementalRetinaNet:
    """A network of the first one's architecture that says what both say; they stay as they are.

    It starts as the first, with the second's predictors; where the two are of one family, the shared parameters start
    half way between them if that is nearer to both.

    Args:
        shop: Engine, settings (``train.increment``) and the folder that the training resumes from.
        first: Teaches all its classes.
        second: Teaches those that the first does not know; seen from the same pictures with the same anchors.
        records: Pictures; whatever is annotated in them is not looked at.
        iterations: Optimiser steps.

    Raises:
        InputError: The detectors see pictures or anchors of other sizes, or the second knows no class of its own.
    """
    require_same_pictures(first.architecture, second.architecture)
    later = as_later_teacher(first, second)
    teachers = {"old": Teacher(first), "interim": Teacher(later, first=len(first.vocab))}
    teaching = Teaching(teachers, METHOD.terms).to(shop.engine.device)
    unlabelled = TrainingSet(tuple(record.restrict(()) for record in records))
    student = _grown(first, later)
    starts = [student]
    if _one_family(student, later):
        starts.append(copy.deepcopy(student))
        average(starts[1], later, 0.5)
        student = min(starts, key=lambda one: _distance(shop, one, teaching, unlabelled.records))
    phase = Phase(len(student.vocab.steps), "train")
    train(shop, student, METHOD, teachers, unlabelled, shop.config.train.increment, iterations, phase)
    return student.eval()


@torch.no_grad()
def _grown(first: IncrementalRetinaNet, later: IncrementalRetinaNet) -> IncrementalRetinaNet:
    """A copy of ``first`` that learns, with the predictors of ``later`` for the classes it lacks, where they fit."""
    student = copy.deepcopy(first)
    student.freeze_norm()
    for number in range(len(first.vocab.steps), len(later.vocab.steps)):
        student.grow(later.vocab.steps[number])
        mine, theirs = student.class_head.predictors[number], later.class_head.predictors[number]
        if _shapes(mine) == _shapes(theirs):
            mine.load_state_dict(theirs.state_dict())
    student.vocab, student.calibration = later.vocab, None
    student.class_head.requires_grad_(True)
    student.box_head.requires_grad_(True)
    return student


def _one_family(one: nn.Module, other: nn.Module) -> bool:
    """Whether every parameter of the one has its like in the other."""
    return _shapes(one) == _shapes(other)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}


@torch.no_grad()
def _distance(shop: Workshop, student: IncrementalRetinaNet, teaching: Teaching, records: Sequence[Record]) -> float:
    """The loss of a student on the first batches, before it learns anything."""
    schedule, engine = shop.config.train.increment, shop.engine
    student.to(engine.device).train()
    criterion = MethodCriterion(METHOD, student, OnlineProvider(teaching))
    seed = phase_seed(shop.config, len(student.vocab.steps), "start")
    batches = iter(training_batches(engine, student, records, None, shop.config, schedule, seed)(0))
    total = 0.0
    for batch in islice(batches, LOOKS):
        prepared = student.prepare(*batch)
        targets = criterion.targets(prepared)
        losses = criterion(student.dense(prepared), targets, targets.counts)
        total += float(sum(losses.values(), torch.zeros((), device=engine.device)))
    return total
