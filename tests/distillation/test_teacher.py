from __future__ import annotations

import copy

import pytest
import torch
from helpers import assert_equal_states, network, pictures, state_of, target

from incdet.distillation.teacher import Teacher
from incdet.network.retinanet import IncrementalRetinaNet


def grown(seed: int = 0) -> tuple[IncrementalRetinaNet, IncrementalRetinaNet]:
    """A detector, and the same one with a further class and moved weights."""
    before, after = network(seed=seed, frozen_norm=True), network(seed=seed, frozen_norm=True)
    after.grow(("c",))
    with torch.no_grad():
        for parameter in after.parameters():
            parameter.add_(0.01)
    return before, after


def test_it_answers_as_the_model_does_in_evaluation_mode() -> None:
    model = network()
    found = Teacher(model.train())(model.prepare(pictures()))
    batch = model.eval().prepare(pictures())
    with torch.no_grad():
        expected = model.dense(batch)
    # Its norms are folded into the convolutions: the same to rounding.
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.deltas, expected.deltas, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.anchors, expected.anchors)
    assert not model.recipe.frozen_norm  # the model itself may go on learning its statistics


def test_it_never_trains() -> None:
    model = network().train()
    teacher = Teacher(model)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    before = state_of(teacher.model)
    batch = model.prepare(pictures())
    found = teacher(batch)
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert not found.logits.requires_grad and not found.deltas.requires_grad
    assert_equal_states(before, state_of(teacher.model))  # no BatchNorm statistic has moved either


def test_training_the_student_does_not_move_it() -> None:
    student = network().train()
    teacher = Teacher(student)
    before = state_of(teacher.model)
    answer = teacher(student.prepare(pictures())).logits
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    batch = student.prepare(pictures(), [target([[4, 4, 24, 24]], [1]), target()])
    torch.autograd.backward(list(student.compute_losses(student.dense(batch), batch.targets or []).values()))
    optimizer.step()
    student.grow(("c",))
    assert not torch.equal(state_of(student)["box_head.bbox_reg.weight"], before["box_head.bbox_reg.weight"])
    assert_equal_states(before, state_of(teacher.model))
    assert torch.equal(teacher(student.prepare(pictures())).logits, answer)


def test_a_student_that_holds_it_does_not_store_it() -> None:
    student = network()
    names = list(student.state_dict())
    student.teacher = Teacher(student)
    assert list(student.state_dict()) == names
    assert len(list(student.parameters())) == len(list(network().parameters()))


def test_a_later_network_answers_for_the_columns_that_the_first_lacks() -> None:
    before, after = grown()
    teacher = Teacher(before, later=after)
    batch = before.eval().prepare(pictures())
    with torch.no_grad():
        old, late = before.dense(batch), after.eval().dense(batch)
    found = teacher(batch)
    assert teacher.columns == range(3) and teacher.heads == (2, 1)
    assert torch.equal(found.logits[..., :2], old.logits)
    assert torch.equal(found.logits[..., 2:], late.logits[..., 2:])
    assert not torch.equal(found.logits[..., :2], late.logits[..., :2])


def test_a_box_is_that_of_the_network_whose_class_speaks_louder() -> None:
    before, after = grown()
    with torch.no_grad():  # about as loud as the old classes
        after.class_head.predictors[1].get_parameter("weight").normal_(std=0.3)
    batch = before.eval().prepare(pictures())
    with torch.no_grad():
        old, late = before.dense(batch), after.eval().dense(batch)
    louder = late.logits[..., 2] > old.logits.amax(-1)
    assert louder.any() and not louder.all()
    found = Teacher(before, later=after)(batch)
    assert torch.equal(found.deltas[louder], late.deltas[louder])
    assert torch.equal(found.deltas[~louder], old.deltas[~louder])
    assert torch.equal(found.strongest, found.logits.amax(-1))


def test_a_teacher_of_the_new_classes_answers_for_these_alone() -> None:
    model = network(("a", "b"), ("c",), ("d", "e"), frozen_norm=True).eval()
    teacher = Teacher(model, first=2)
    batch = model.prepare(pictures())
    with torch.no_grad():
        expected = model.dense(batch).logits[..., 2:]
    found = teacher(batch)
    assert torch.equal(found.logits, expected) and found.first == 2
    assert teacher.columns == range(2, 5) and teacher.heads == found.heads == (1, 2)
    assert Teacher(model).columns == range(5) and Teacher(model).heads == (2, 1, 2)


def test_detections_are_those_of_the_network_in_the_students_columns() -> None:
    model = network(("a", "b"), frozen_norm=True).eval()
    batch = model.prepare(pictures())
    with torch.no_grad():
        expected = model.postprocess(model.dense(batch), batch.image_sizes, score_thresh=0.01)
    for mine, theirs in zip(Teacher(model)(batch).detections(0.01), expected, strict=True):
        assert len(mine["boxes"]) and all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_detections_of_the_new_classes_alone_carry_the_students_columns() -> None:
    model = network(("a", "b"), ("c",), frozen_norm=True).eval()
    found = Teacher(model, first=2)(model.prepare(pictures())).detections(0.001)
    assert all(len(one["labels"]) and (one["labels"] == 2).all() for one in found)


def test_answers_are_float32_under_autocast_and_stay_on_their_device() -> None:
    model = network()
    teacher = Teacher(model).to("cpu")
    batch = model.prepare(pictures())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = teacher(batch)
    assert found.logits.dtype == found.deltas.dtype == torch.float32
    assert found.logits.device.type == "cpu"


def stemmed() -> IncrementalRetinaNet:
    """A student whose first two stages do not learn."""
    student = network(("a", "b"), backbone="resnet18", trainable_layers=3, frozen_norm=True)
    student.freeze_stages(2)
    return student


@pytest.mark.parametrize("moved", ["student", "later"])
def test_a_stem_that_differs_anywhere_is_not_shared(moved: str) -> None:
    before = stemmed()
    student, later = copy.deepcopy(before), copy.deepcopy(before)
    assert Teacher(before).shares_stem(student) and Teacher(before, later=later).shares_stem(student)
    with torch.no_grad():
        (student if moved == "student" else later).get_parameter("backbone.body.conv1.weight")[0, 0, 0, 0] += 1e-6
    assert not Teacher(before, later=later).shares_stem(student)
    assert not Teacher(network()).shares_stem(network())  # everything learns: there is no stem
