from __future__ import annotations

import copy
from typing import Any

import torch
from helpers import network, operations, pictures, target

from incdet.distillation.part import Selection
from incdet.distillation.provider import OnlineProvider, Teaching
from incdet.distillation.teacher import Teacher
from incdet.distillation.teacher_targets import BatchTargets
from incdet.distillation.terms import KdBox, KdResponse
from incdet.network.retinanet import IncrementalRetinaNet

TERMS = (KdResponse(selection=Selection(kind="all")), KdBox())


def stemmed(seed: int = 0) -> IncrementalRetinaNet:
    """A student whose first two stages do not learn."""
    student = network(("a", "b"), seed=seed, backbone="resnet18", trainable_layers=3, frozen_norm=True)
    student.freeze_stages(2)
    return student


def test_every_term_gets_what_it_keeps_of_the_teachers_answer() -> None:
    before, student = network(("a", "b")), network(("a", "b"), ("c",), seed=1)
    batch = student.prepare(pictures(), [target(), target([[4, 4, 26, 26]], [2])])
    own = BatchTargets.read(student, batch)
    teacher = Teacher(before)
    found: Any = OnlineProvider(Teaching({"old": teacher}, TERMS))(batch, own)
    assert list(found) == ["kd_response", "kd_box"]
    assert torch.equal(found["kd_response"]["rows"]["logits"], teacher(batch).logits.flatten(0, 1))
    assert not found["kd_response"]["rows"]["logits"].requires_grad


def test_a_stem_that_both_share_is_run_once() -> None:
    before = stemmed()
    teaching = Teaching({"old": Teacher(before)}, TERMS)
    student = copy.deepcopy(before).train()
    student.grow(("c",))
    with torch.no_grad():
        student.get_parameter("backbone.body.layer3.0.conv1.weight").add_(0.1)
    batch = student.with_stem(student.prepare(pictures(), [target(), target()]))
    assert batch.stem is not None and not batch.stem.requires_grad
    truth = BatchTargets.read(student, batch)
    own, lent = OnlineProvider(teaching), OnlineProvider(teaching, student)
    answers: list[Any] = [one(batch, truth)["kd_response"]["rows"] for one in (own, lent)]
    assert torch.equal(answers[0]["logits"], answers[1]["logits"])
    counts = [operations(lambda one=one: one(batch, truth)) for one in (own, lent)]  # type: ignore[misc]
    assert counts[1] < counts[0]


def test_a_stem_that_one_teacher_does_not_share_is_lent_to_none() -> None:
    before, other = stemmed(), stemmed(seed=5)
    student = copy.deepcopy(before)
    batch = student.with_stem(student.prepare(pictures(), [target(), target()]))
    teaching = Teaching({"old": Teacher(before), "interim": Teacher(other)}, TERMS)
    found: Any = OnlineProvider(teaching, student)(batch, BatchTargets.read(student, batch))
    expected = Teacher(before)(batch._replace(stem=None)).logits.flatten(0, 1)
    assert torch.equal(found["kd_response"]["rows"]["logits"], expected)


def test_whole_maps_cannot_be_cached() -> None:
    class Maps(KdResponse):
        needs = frozenset({"features"})

    assert Teaching({}, TERMS).cachable and not Teaching({}, (*TERMS, Maps())).cachable
