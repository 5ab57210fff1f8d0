from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from helpers import grid, network, pictures, responses, target
from incdet.distillation.pseudo_labels import Thresholds
from incdet.methods.base import METHODS, KdBox, KdResponse, KdSoftmax, LossInputs, Method, Replay, get_method
from torch import Tensor

from incdet.distillation.teacher import Teacher
from incdet.distillation.teacher_targets import BatchTargets, TeacherTargets
from incdet.distillation.terms import (
    Selection,
    box_distillation_loss,
    respond,
    response_loss,
    select,
    select_boxes,
    softmax_loss,
)
from incdet.errors import InputError
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet
from incdet.network.torchvision import to_torchvision
from incdet.ops.assign import assign
from incdet.ops.boxes import encode_boxes
from incdet.training.increment import MethodCriterion

BOX = [4.0, 4.0, 26.0, 26.0]
NEW = [False, False, True]
ANCHORS = grid(4)
THRESHOLDS = Thresholds(torch.tensor([0.6, 0.6]), torch.tensor([0.3, 0.3]))


class Sight(NamedTuple):
    """What a method is shown in these tests."""

    dense: HeadOutputs
    targets: list[dict[str, Any]]
    shadow: HeadOutputs | None
    detections: list[dict[str, Tensor]] | None = None
    thresholds: Thresholds | None = None
    newest: int = 1

    def truth(self) -> BatchTargets:
        return BatchTargets.read(self.targets, self.dense.anchors, self.dense.logits.shape[-1])

    def guidance(self, method: Method) -> TeacherTargets | None:
        if self.shadow is None:
            return None
        answers = respond(self.shadow, method.selections)
        return method.decide(answers, self.detections, self.truth(), self.thresholds, self.newest)


def learn(method: Method, sight: Sight) -> dict[str, Tensor]:
    return method.losses(LossInputs(sight.dense, sight.truth(), sight.guidance(method), (2,), "l1"))


def random_scene(seed: int = 0, **more: Any) -> tuple[Sight, Tensor, Tensor]:
    """Two images, three columns of which the first two are old: one image has a new object on anchor 0."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 3, generator=generator).requires_grad_()
    deltas = (0.2 * torch.randn(2, 4, 4, generator=generator)).requires_grad_()
    shadow = responses(torch.randn(2, 4, 2, generator=generator), 0.2 * torch.randn(2, 4, 4, generator=generator))
    targets = [target([ANCHORS[0].tolist()], [2], NEW), target(coverage=NEW)]
    return Sight(responses(logits, deltas), targets, **{"shadow": shadow, **more}), logits, deltas


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(loss, leaf, retain_graph=True)[0]


def focal(x: float, positive: bool) -> float:
    p = 1 / (1 + math.exp(-x))
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)


# --- what coverage means


def test_finetune_makes_background_of_unlabelled_old_objects_and_masked_leaves_them_alone() -> None:
    scene, logits, _ = random_scene()
    pushed = gradient(learn(METHODS["finetune"], scene)["focal"], logits)[..., :2]
    assert (pushed > 0).all()  # every old score is pushed down, everywhere
    left = gradient(learn(METHODS["masked"], scene)["focal"], logits)
    assert not left[..., :2].any() and left[..., 2].all()


def test_masked_trains_old_channels_where_an_image_annotates_them() -> None:
    scene, logits, _ = random_scene()
    exemplar = target([ANCHORS[1].tolist()], [0], [True, True, False])
    mixed = scene._replace(targets=[scene.targets[0], exemplar])
    slope = gradient(learn(METHODS["masked"], mixed)["focal"], logits)
    assert not slope[0, :, :2].any() and not slope[1, :, 2].any()
    assert slope[1, 1, 0] < 0 and (slope[1, [0, 2, 3], 0] > 0).all()


def test_without_coverage_a_target_covers_everything() -> None:
    scene, _, _ = random_scene()
    bare = scene._replace(targets=[{"boxes": one["boxes"], "labels": one["labels"]} for one in scene.targets])
    assert bare.truth().coverage.all()
    assert learn(METHODS["masked"], bare)["focal"] == learn(METHODS["finetune"], scene)["focal"]


@pytest.mark.parametrize("kind", ["l1", "giou"])
@pytest.mark.parametrize("filled", [True, False])
def test_joint_with_full_coverage_is_plain_torchvision_training(kind: str, filled: bool) -> None:
    model = network(("a", "b"), ("c",), box_loss=kind, frozen_norm=True).train()
    truth = [target([BOX, [20, 10, 40, 40]], [2, 0]) if filled else target(), target()]
    prepared = model.prepare(pictures(), truth)
    dense = model.dense(prepared)
    ours = METHODS["joint"].losses(
        LossInputs(dense, BatchTargets.read(prepared.targets or [], dense.anchors, 3), box_kind=kind)
    )
    assert ours.keys() == {"focal", "box"}
    own = model.compute_losses(dense, prepared.targets or [])
    theirs = to_torchvision(model).train()(pictures(), truth)
    for name, other in (("focal", "classification"), ("box", "bbox_regression")):
        torch.testing.assert_close(ours[name], own[other], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours[name], theirs[other], rtol=1e-6, atol=1e-6)


# --- the terms


def test_a_loss_is_the_weighted_sum_of_its_named_terms() -> None:
    scene, _, _ = random_scene()
    terms = (KdResponse(2.5, 3.0, Selection("all")), KdSoftmax(0.5, 2.0, Selection("topk", 2)), KdBox(4.0, 0.3, 0.5))
    method = Method("test", "here", terms=terms)
    found = learn(method, scene)
    assert list(found) == ["focal", "box", "kd_response", "kd_softmax", "kd_box"]
    guidance = scene.guidance(method)
    assert guidance is not None
    teacher = guidance.responses
    strongest = teacher.logits.amax(-1).reshape(2, 4)  # somebody listens to every anchor
    expected = 2.5 * response_loss(scene.dense.logits, teacher, torch.ones(8, dtype=torch.bool), None, 3.0)
    torch.testing.assert_close(found["kd_response"], expected)
    two = select(strongest, Selection("topk", 2)).flatten()
    torch.testing.assert_close(found["kd_softmax"], 0.5 * softmax_loss(scene.dense.logits, teacher, two, (2,), 2.0))
    free = assign(scene.targets, ANCHORS).matched < 0
    candidates = select(strongest, Selection("score", 0.3)) & free
    rows = select_boxes(teacher, candidates.flatten(), ANCHORS, nms=0.5)
    assert not rows[0] and rows.any()
    torch.testing.assert_close(found["kd_box"], 4.0 * box_distillation_loss(scene.dense.deltas, teacher, rows, ANCHORS))


def test_distillation_of_uncovered_channels_only() -> None:
    scene, logits, _ = random_scene()
    exemplar = target([ANCHORS[1].tolist()], [0], [True, False, False])
    mixed = scene._replace(targets=[scene.targets[0], exemplar])
    term = KdResponse(selection=Selection("all"), uncovered_only=True)
    slope = gradient(learn(Method("test", "here", terms=(term,)), mixed)["kd_response"], logits)
    assert slope[0, :, :2].all() and slope[1, :, 1].all()
    assert not slope[1, :, 0].any() and not slope[..., 2].any()


def test_without_a_teacher_only_the_annotations_speak() -> None:
    scene, _, _ = random_scene(shadow=None)
    for method in METHODS.values():
        assert learn(method, scene).keys() == {"focal", "box"}


# --- pseudo-labels


def detected(*entries: tuple[int, float, int]) -> dict[str, Tensor]:
    return {
        "boxes": ANCHORS[[place for place, _, _ in entries]].reshape(-1, 4) + torch.tensor([0.0, 0.0, 1.0, 0.5]),
        "scores": torch.tensor([score for _, score, _ in entries]),
        "labels": torch.tensor([column for _, _, column in entries], dtype=torch.int64),
    }


def test_pseudo_losses_are_divided_by_the_batchs_own_pseudo_positives() -> None:
    found = [detected((1, 0.9, 0), (2, 0.8, 1), (3, 0.4, 0)), detected((0, 0.7, 1))]
    scene, logits, deltas = random_scene(detections=found, thresholds=THRESHOLDS)
    losses = learn(METHODS["pseudo"], scene)
    assert losses.keys() == {"focal", "box", "pseudo_focal", "pseudo_box"}
    truth = {(0, 1, 0), (0, 2, 1), (1, 0, 1)}
    total = 0.0
    for b in range(2):
        for a in range(4):
            for k in range(2):  # the old columns alone
                if (b, a, k) != (0, 3, 0):  # the doubtful one says nothing
                    total += focal(float(logits[b, a, k].detach()), (b, a, k) in truth)
    assert float(losses["pseudo_focal"].detach()) == pytest.approx(total / 3, rel=1e-5)
    distance = 0.0
    for b, a, _ in truth:
        place = int((found[b]["boxes"][:, 0] == ANCHORS[a, 0]).nonzero())
        wanted = encode_boxes(found[b]["boxes"][place][None], ANCHORS[a][None])[0]
        distance += float((deltas[b, a].detach() - wanted).abs().sum())
    assert float(losses["pseudo_box"].detach()) == pytest.approx(distance / 3, rel=1e-5)
    alone = learn(METHODS["masked"], scene)
    assert losses["focal"] == alone["focal"] and losses["box"] == alone["box"]


def test_a_pseudo_box_does_not_pull_the_box_of_an_annotated_anchor() -> None:
    both = detected((0, 0.9, 0))
    both["boxes"] = ANCHORS[:1] + torch.tensor([0.0, 0.0, 5.0, 5.0])  # IoU 0.44 with the annotation: no duplicate
    scene, logits, deltas = random_scene(detections=[both, detected()], thresholds=THRESHOLDS)
    losses = learn(METHODS["pseudo"], scene)
    assert gradient(losses["pseudo_focal"], logits)[0, 0, 0] < 0  # it is that class as well
    assert not gradient(losses["pseudo_box"], deltas).any()


def test_without_any_pseudo_label_the_old_classes_are_background() -> None:
    scene, logits, deltas = random_scene(detections=[detected(), detected()], thresholds=THRESHOLDS)
    losses = learn(METHODS["pseudo"], scene)
    slope = gradient(losses["pseudo_focal"], logits)
    assert (slope[..., :2] > 0).all() and not slope[..., 2].any()
    assert float(losses["pseudo_box"].detach()) == 0 and not gradient(losses["pseudo_box"], deltas).any()


def test_covered_images_get_no_pseudo_loss() -> None:
    scene, logits, _ = random_scene(detections=[detected((1, 0.9, 0)), detected((0, 0.7, 1))], thresholds=THRESHOLDS)
    covered = scene._replace(targets=[target(), target(coverage=[True, False, False])])
    slope = gradient(learn(METHODS["pseudo"], covered)["pseudo_focal"], logits)
    assert not slope[0].any() and not slope[1, :, [0, 2]].any() and slope[1, :, 1].all()


# --- whole networks


def student_and_teacher() -> tuple[IncrementalRetinaNet, Teacher]:
    before = network(("a", "b"))
    student = network(("a", "b"))
    student.freeze_norm()
    student.grow(("c",))
    return student.train(), Teacher(before)


BATCHES = {
    "all empty": [target(coverage=NEW), target(coverage=NEW)],
    "mixed": [target([BOX], [2], NEW), target(coverage=NEW)],
    "an exemplar": [target([BOX], [2], NEW), target([BOX], [0], [True, True, False])],
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("high", [0.001, 0.999], ids=["many pseudo-labels", "none"])
def test_every_trainable_parameter_keeps_a_gradient(name: str, batch: str, high: float) -> None:
    student, teacher = student_and_teacher()
    method = METHODS[name]
    thresholds = Thresholds(torch.full((2,), high), torch.full((2,), high / 2)) if method.pseudo_labels else None
    criterion = MethodCriterion(method, "l1", teacher if method.needs_teacher else None, thresholds)
    prepared = student.prepare(pictures(), BATCHES[batch])
    losses = criterion(student.dense(prepared), prepared)
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) and loss >= 0 for loss in losses.values())
    torch.autograd.backward(list(losses.values()))
    without = [name for name, p in student.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)
    new = student.get_parameter("class_head.predictors.1.weight").grad
    assert new is not None and new.any()  # the new classes always learn


def test_the_lesson_runs_the_teacher_on_the_students_tensors() -> None:
    student, teacher = student_and_teacher()
    method = Method("test", "here", terms=(KdResponse(selection=Selection("all")),), pseudo_labels=True)
    thresholds = Thresholds(torch.tensor([0.02, 0.02]), torch.tensor([0.01, 0.01]))
    prepared: ImageBatch = student.prepare(pictures(), BATCHES["mixed"])
    dense = student.dense(prepared)
    losses = MethodCriterion(method, "l1", teacher, thresholds)(dense, prepared)
    shadow = teacher(prepared)
    found = teacher.model.postprocess(shadow, prepared.image_sizes, score_thresh=0.01)
    sight = Sight(dense, prepared.targets or [], shadow, found, thresholds)
    expected = learn(method, sight)
    assert losses.keys() == expected.keys() == {"focal", "box", "pseudo_focal", "pseudo_box", "kd_response"}
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])


# --- methods are values


def test_the_seven_methods() -> None:
    assert list(METHODS) == ["finetune", "masked", "joint", "lwf", "eeil", "pseudo", "incdet"]
    assert all(method.name == name and method.source for name, method in METHODS.items())
    assert not METHODS["finetune"].masked and METHODS["masked"].masked and METHODS["joint"].joint
    assert {name for name, method in METHODS.items() if method.needs_teacher} == {"lwf", "eeil", "pseudo", "incdet"}
    assert {name for name, method in METHODS.items() if method.replay} == {"eeil", "incdet"}
    assert METHODS["eeil"].balanced_finetune and METHODS["incdet"].pseudo_labels


@pytest.mark.parametrize("part", METHODS["incdet"].parts)
def test_every_part_can_be_taken_away(part: str) -> None:
    less = get_method("incdet", [part])
    assert part not in less.parts and less.name == f"incdet-{part}"
    gone = {part, "balanced_finetune"} if part == "replay" else {part}  # it balances with exemplars
    assert set(less.parts) == set(METHODS["incdet"].parts) - gone
    assert part in METHODS["incdet"].parts  # a value: the named method stays as it is


def test_with_every_part_taken_away_masked_is_left() -> None:
    parts = [part for part in METHODS["incdet"].parts if part not in ("replay", "balanced_finetune")]
    bare = METHODS["incdet"].without(*parts, "replay")
    assert bare.parts == () and not bare.needs_teacher and not bare.balanced_finetune
    scene, _, _ = random_scene()
    assert learn(bare, scene) == learn(METHODS["masked"], scene)


def test_an_unknown_part_is_refused_with_the_near_one() -> None:
    with pytest.raises(InputError, match="no part 'pseudo_lables'.*'pseudo_labels'"):
        METHODS["incdet"].without("pseudo_lables")
    with pytest.raises(InputError, match="'finetune' has no part 'replay'"):
        get_method("finetune", ["replay"])
    with pytest.raises(InputError, match="no part"):
        METHODS["eeil"].without("replay", "replay")


def test_an_unknown_method_is_refused_with_the_near_one() -> None:
    with pytest.raises(InputError, match="'incdte'.*'incdet'"):
        get_method("incdte")
    assert get_method("lwf") is METHODS["lwf"]


def test_a_share_of_exemplars_is_part_of_the_value() -> None:
    assert Method("x", "y", replay=Replay(share=0.5)).parts == ("replay",)
