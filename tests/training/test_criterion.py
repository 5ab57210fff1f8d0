from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from helpers import network, pictures, target
from training_steps import BOX, sure_network, with_thresholds

from incdet.distillation.provider import OnlineProvider, Teaching
from incdet.distillation.teacher import Teacher
from incdet.distillation.teacher_targets import Entries
from incdet.methods.registry import get_method, known_methods
from incdet.network.retinanet import ImageBatch, IncrementalRetinaNet
from incdet.network.torchvision import to_torchvision
from incdet.training.criterion import MethodCriterion


def taught(name: str) -> MethodCriterion:
    """A method with a student that has grown by a class since its teacher was made, norms fixed."""
    student = sure_network()
    teacher = Teacher(student)
    student.grow(("c",))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # the student has moved away from its teacher
        for parameter in student.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    method = with_thresholds(get_method(name).speaking())
    teaching = Teaching({"old": teacher} if method.teachers else {}, method.terms)
    return MethodCriterion(method, student.train(), OnlineProvider(teaching, student) if method.teachers else None)


def batch(model: IncrementalRetinaNet, images: int = 4) -> ImageBatch:
    targets = [target([BOX], [2], [False, False, True]) for _ in range(images - 1)]
    return model.prepare(pictures(images), [*targets, target([BOX], [0], [True, True, False])])


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("finetune", {"focal", "box"}),
        ("masked", {"focal", "box"}),
        ("lwf", {"focal", "box", "kd_response"}),
        ("eeil", {"focal", "box", "kd_softmax"}),
        ("pseudo", {"focal", "box", "pseudo_focal", "pseudo_box"}),
        ("cldetr", {"focal", "box", "pseudo_focal", "pseudo_box", "kd_response", "kd_box"}),
        ("incdet", {"focal", "box", "kd_quality", "kd_box"}),
    ],
)
def test_the_losses_of_the_pieces_sum_to_that_of_the_batch(name: str, terms: set[str]) -> None:
    criterion = taught(name)
    whole = batch(criterion.student)

    def losses(pieces: list[ImageBatch]) -> dict[str, Any]:
        targets = [criterion.targets(piece) for piece in pieces]
        totals = {key: sum(one.counts[key] for one in targets) for key in targets[0].counts}
        rows = [
            criterion(criterion.student(piece), one, totals)  # type: ignore[arg-type]
            for piece, one in zip(pieces, targets, strict=True)
        ]
        return {key: float(sum(row[key] for row in rows).detach()) for key in rows[0]}  # type: ignore[union-attr]

    wanted = losses([whole])
    assert wanted.keys() == terms and all(value > 0 for value in wanted.values())
    for number in (2, 4):
        assert losses(whole.pieces(number)) == pytest.approx(wanted, rel=5e-5)


def test_what_is_compared_with_knows_no_student() -> None:
    criterion = taught("incdet")
    prepared = batch(criterion.student)
    before = criterion.targets(prepared)
    with torch.no_grad():
        for parameter in criterion.student.parameters():
            parameter.add_(0.1)
    after = criterion.targets(prepared)
    assert before.terms.keys() == after.terms.keys() == {"kd_quality", "kd_box"}
    assert before.counts == after.counts and float(before.counts["images"]) == 4
    for name, lists in before.terms.items():
        others = after.terms[name]
        assert isinstance(lists, Mapping) and isinstance(others, Mapping)
        for key, entries in lists.items():
            other = others[key]
            assert isinstance(entries, Entries) and isinstance(other, Entries)
            assert torch.equal(entries.image, other.image) and torch.equal(entries.anchor, other.anchor)
            assert all(torch.equal(value, other[item]) for item, value in entries.values.items())
            assert not any(value.requires_grad for value in entries.values.values())


def test_without_teachers_the_annotations_alone_are_learned() -> None:
    model = network()
    criterion = MethodCriterion(with_thresholds(get_method("incdet").speaking()), model)
    prepared = model.prepare(pictures(1), [target()])
    targets = criterion.targets(prepared)
    assert targets.terms == {} and targets.counts.keys() == {"images"}
    assert criterion(model.dense(prepared), targets, targets.counts).keys() == {"focal", "box"}


def test_an_unmasked_method_trains_every_channel_and_a_masked_one_those_that_are_annotated() -> None:
    for name, trained in (("finetune", [True, True, True]), ("masked", [False, False, True])):
        criterion = taught(name)
        found = criterion.targets(batch(criterion.student)).batch
        assert found.coverage[0].tolist() == [False, False, True] and found.trained[0].tolist() == trained


@pytest.mark.parametrize("name", list(known_methods()))
def test_the_matching_thresholds_of_a_detector_hold_in_every_method_as_in_torchvision(name: str) -> None:
    """The box loss of boxes of doubtful overlap, through the model, through the method, and through torchvision."""
    model = network(("a", "b"), fg_iou=0.7, bg_iou=0.3).train()
    generator = torch.Generator().manual_seed(5)
    corners = torch.rand(4, 3, 2, generator=generator) * 20
    sides = 8 + torch.rand(4, 3, 2, generator=generator) * 18
    targets = [
        {"boxes": torch.cat([start, start + side], dim=1), "labels": torch.tensor([0, 1, 0])}
        for start, side in zip(corners, sides, strict=True)
    ]
    images = pictures(4)
    batch = model.prepare(images, targets)
    criterion = MethodCriterion(get_method(name).speaking(), model)
    own = criterion.targets(batch)
    box = criterion(model.dense(batch), own, own.counts)["box"]
    theirs = to_torchvision(model).train()(images, [dict(target) for target in targets])["bbox_regression"]
    torch.testing.assert_close(box, model(images, targets)["bbox_regression"])
    torch.testing.assert_close(box, theirs)
    usual = network(("a", "b")).train()
    assert float(usual(images, targets)["bbox_regression"]) != pytest.approx(float(box), rel=1e-3)
