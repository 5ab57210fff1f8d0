from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import descend, network, pictures, target

from incdet.distillation.part import Selection
from incdet.distillation.provider import Teaching
from incdet.distillation.teacher import Teacher
from incdet.distillation.teacher_targets import BatchTargets
from incdet.distillation.term import StepData
from incdet.distillation.terms import KdCrosshead
from incdet.network.retinanet import IncrementalRetinaNet

ALL = Selection(kind="all")


def student_and_teacher(*, moved: float = 0.1) -> tuple[IncrementalRetinaNet, Teacher]:
    student = network(("a", "b"))
    teacher = Teacher(student)
    student.freeze_norm()
    student.grow(["c"])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(moved * torch.randn(parameter.shape, generator=generator))
    return student.train(), teacher


def fitted(term: KdCrosshead, teacher: Teacher) -> KdCrosshead:
    return term.fit(StepData({"old": teacher}, [], [], 1, print))


def crossed(term: KdCrosshead, student: IncrementalRetinaNet, teacher: Teacher) -> tuple[Any, Any, Any]:
    """The loss, the student's outputs and the teacher's."""
    prepared = student.prepare(pictures(), [target(coverage=[False, False, True])] * 2)
    batch, answer, outputs = BatchTargets.read(student, prepared), teacher(prepared), student.dense(prepared)
    targets = term.targets({"old": answer}, batch)
    return term.losses(outputs, targets, batch, term.count(targets, batch), None)["kd_crosshead"], outputs, answer


@pytest.mark.parametrize("most", [3, 40])
def test_it_equals_the_written_out_divergence_of_the_old_head_on_the_new_features(most: int) -> None:
    student, teacher = student_and_teacher()
    term = fitted(KdCrosshead(selection=Selection(kind="topk", value=most)), teacher)
    loss, outputs, answer = crossed(term, student, teacher)
    own = teacher.model.class_head(outputs.features).detach()
    total = weight = 0.0
    for b in range(2):
        surest = sorted(range(own.shape[1]), key=lambda a: -float(answer.logits[b, a].max()))[:most]
        for a in surest:
            weight += max(answer.logits[b, a].sigmoid().tolist())
            for z, t in zip(own[b, a].double().tolist(), answer.logits[b, a].double().tolist(), strict=True):
                p, q = 1 / (1 + math.exp(-t)), 1 / (1 + math.exp(-z))
                total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert total > 0 and float(loss.detach()) == pytest.approx(total / max(1.0, weight), rel=1e-3)


def test_it_teaches_the_pyramid_and_neither_head() -> None:
    student, teacher = student_and_teacher()
    loss, _, _ = crossed(fitted(KdCrosshead(selection=ALL), teacher), student, teacher)
    descend({"loss": loss})
    learned = {name.split(".")[0] for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    assert learned == {"backbone"}
    assert all(parameter.grad is None for parameter in teacher.model.parameters())


def test_equal_features_are_no_loss_and_it_is_never_cached() -> None:
    student, teacher = student_and_teacher(moved=0.0)
    term: Any = fitted(KdCrosshead(selection=ALL), teacher)
    loss, _, _ = crossed(term, student, teacher)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4) and not Teaching({}, [term]).cachable
    with pytest.raises(ValueError, match="fitted"):
        crossed(KdCrosshead(), student, teacher)
