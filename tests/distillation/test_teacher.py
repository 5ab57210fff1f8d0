from __future__ import annotations

import copy

import pytest
import torch
from helpers import assert_equal_states, network, operations, pictures, state_of, target

from incdet.distillation.teacher import OnlineProvider, Request, Teacher, TeacherOutputs
from incdet.distillation.teacher_targets import BatchTargets, TeacherTargets
from incdet.distillation.terms import Selection
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
    shadow = Teacher(model.train())(model.prepare(pictures()))
    prepared = model.eval().prepare(pictures())
    with torch.no_grad():
        expected = model.dense(prepared)
    # Its norms are folded into the convolutions: the same to rounding.
    torch.testing.assert_close(shadow.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shadow.deltas, expected.deltas, rtol=1e-5, atol=1e-5)
    assert torch.equal(shadow.anchors, expected.anchors)
    assert not model.architecture.frozen_norm  # the model itself may go on learning its statistics


def test_it_never_trains() -> None:
    model = network().train()
    teacher = Teacher(model)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    before = state_of(teacher.model)
    prepared = model.prepare(pictures())
    shadow = teacher(prepared)
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert not shadow.logits.requires_grad and not shadow.deltas.requires_grad
    assert_equal_states(before, state_of(teacher.model))  # no BatchNorm statistic has moved either


def test_training_the_student_does_not_move_it() -> None:
    student = network().train()
    teacher = Teacher(student)
    before = state_of(teacher.model)
    answer = teacher(student.prepare(pictures())).logits
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    prepared = student.prepare(pictures(), [target([[4, 4, 24, 24]], [1]), target()])
    torch.autograd.backward(list(student.compute_losses(student.dense(prepared), prepared.targets or []).values()))
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


def test_a_snapshot_answers_for_the_later_columns_alone() -> None:
    before, after = grown()
    teacher = Teacher(before, snapshot=after)
    prepared = before.eval().prepare(pictures())
    with torch.no_grad():
        old, late = before.dense(prepared), after.eval().dense(prepared)
    shadow = teacher(prepared)
    assert teacher.columns == 3 and shadow.logits.shape[-1] == 3
    assert torch.equal(shadow.logits[..., :2], old.logits)
    assert torch.equal(shadow.logits[..., 2:], late.logits[..., 2:])
    assert not torch.equal(shadow.logits[..., :2], late.logits[..., :2])
    assert torch.equal(shadow.deltas, old.deltas)


def test_it_counts_its_columns() -> None:
    assert Teacher(network(("a", "b"), ("c",))).columns == 3


def test_answers_are_float32_under_autocast_and_stay_on_their_device() -> None:
    model = network()
    teacher = Teacher(model).to("cpu")
    prepared = model.prepare(pictures())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shadow = teacher(prepared)
    assert shadow.logits.dtype == shadow.deltas.dtype == torch.float32
    assert shadow.logits.device.type == "cpu"


def stemmed(seed: int = 0) -> IncrementalRetinaNet:
    """A student whose first two stages do not learn."""
    student = network(("a", "b"), seed=seed, backbone="resnet18", trainable_layers=3, frozen_norm=True)
    student.freeze_stages(2)
    return student


def test_a_stem_that_both_share_is_run_once() -> None:
    before = stemmed()
    teacher = Teacher(before)
    student = copy.deepcopy(before).train()
    student.grow(("c",))
    with torch.no_grad():
        student.get_parameter("backbone.body.layer3.0.conv1.weight").add_(0.1)
    prepared = student.prepare(pictures(), [target(), target()])
    dense = student.dense(prepared)
    assert dense.stem is not None and not dense.stem.requires_grad
    alone, shared = teacher(prepared), teacher(prepared, dense.stem)
    assert torch.equal(alone.logits, shared.logits) and torch.equal(alone.deltas, shared.deltas)
    question = Request((Selection("all"),))

    def decide(shadow: TeacherOutputs, truth: BatchTargets) -> TeacherTargets:
        return TeacherTargets(shadow.responses, {}, None)

    truth = BatchTargets.read(prepared.targets or [], dense.anchors, 3)
    own, lent = (OnlineProvider(teacher, question, decide, one) for one in (None, student))
    assert torch.equal(own(prepared, dense, truth).responses.logits, lent(prepared, dense, truth).responses.logits)
    counts = [operations(lambda one=one: one(prepared, dense, truth)) for one in (own, lent)]  # type: ignore[misc]
    assert counts[1] < counts[0]


@pytest.mark.parametrize("moved", ["student", "snapshot"])
def test_a_stem_that_differs_anywhere_is_not_shared(moved: str) -> None:
    before = stemmed()
    student, snapshot = copy.deepcopy(before), copy.deepcopy(before)
    assert Teacher(before).shares_stem(student) and Teacher(before, snapshot).shares_stem(student)
    with torch.no_grad():
        (student if moved == "student" else snapshot).get_parameter("backbone.body.conv1.weight")[0, 0, 0, 0] += 1e-6
    assert not Teacher(before, snapshot).shares_stem(student)
    assert not Teacher(network()).shares_stem(network())  # everything learns: there is no stem
