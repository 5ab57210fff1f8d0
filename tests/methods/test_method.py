from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import answer, batch_targets, descend, draw, grid, losses_of, network, pictures, responses, slope, target
from torch import Tensor

from incdet.distillation.part import Selection
from incdet.distillation.provider import OnlineProvider, Teaching
from incdet.distillation.teacher import Teacher
from incdet.distillation.teacher_targets import BatchTargets, Targets
from incdet.distillation.terms import KdBox, KdQuality, KdResponse, KdSoftmax, PseudoLabels
from incdet.distillation.thresholds import Thresholds
from incdet.errors import InputError
from incdet.methods.method import Averaging, Finetune, Interim, Method, Replay
from incdet.methods.penalty import Penalty
from incdet.methods.registry import get_method, known_methods
from incdet.network.retinanet import ImageBatch, IncrementalRetinaNet
from incdet.network.torchvision import to_torchvision
from incdet.training.criterion import MethodCriterion

BOX = [4.0, 4.0, 26.0, 26.0]
NEW, OLD = [False, False, True], [True, True, False]
ANCHORS = grid(4)
ALL = Selection(kind="all")

EVERYTHING = Method(
    "everything",
    "here",
    terms=(PseudoLabels(), KdResponse(selection=ALL, uncovered_only=True), KdSoftmax(), KdBox(), KdQuality()),
    replay=Replay(),
    interim=Interim(),
    averaging=Averaging(),
    balanced_finetune=Finetune(),
    penalty=Penalty(),
)
METHODS = {**{name: method.speaking() for name, method in known_methods().items()}, "everything": EVERYTHING}


class Scene:
    """Two images on four anchors, three columns of which the first two are old; the first has a new object."""

    def __init__(self, *targets: dict[str, Any]) -> None:
        self.logits, self.deltas = draw(0, 2, 4, 3, spread=1.0).requires_grad_(), draw(1, 2, 4, 4, spread=0.2)
        self.deltas.requires_grad_()
        self.student = responses(self.logits, self.deltas)
        self.old = answer(draw(2, 2, 4, 2, spread=1.0), draw(3, 2, 4, 4, spread=0.2))
        self.targets = targets or (target([ANCHORS[0].tolist()], [2], NEW), target(coverage=NEW))

    def batch(self, method: Method) -> BatchTargets:
        return batch_targets(self.targets, (2, 1), masked=method.masked)

    def losses(self, method: Method, *, taught: bool = True) -> dict[str, Tensor]:
        batch = self.batch(method)
        terms = {term.name: term.targets({"old": self.old}, batch) for term in method.terms} if taught else {}
        targets = method.targets(batch, terms)
        return method.losses(self.student, targets, targets.counts)


# --- what coverage means


def test_finetune_makes_background_of_unlabelled_old_objects_and_masked_leaves_them_alone() -> None:
    scene = Scene()
    pushed = slope(scene.losses(METHODS["finetune"])["focal"], scene.logits)[..., :2]
    assert (pushed > 0).all()  # every old score is pushed down, everywhere
    left = slope(scene.losses(METHODS["masked"])["focal"], scene.logits)
    assert not left[..., :2].any() and left[..., 2].all()


def test_masked_trains_old_channels_where_an_image_annotates_them() -> None:
    scene = Scene(target([ANCHORS[0].tolist()], [2], NEW), target([ANCHORS[1].tolist()], [0], OLD))
    pulled = slope(scene.losses(METHODS["masked"])["focal"], scene.logits)
    assert not pulled[0, :, :2].any() and not pulled[1, :, 2].any()
    assert pulled[1, 1, 0] < 0 and (pulled[1, [0, 2, 3], 0] > 0).all()


def test_without_coverage_a_target_covers_everything() -> None:
    scene = Scene()
    bare = Scene(*({"boxes": one["boxes"], "labels": one["labels"]} for one in scene.targets))
    assert bare.losses(METHODS["masked"])["focal"] == scene.losses(METHODS["finetune"])["focal"]


@pytest.mark.parametrize("kind", ["l1", "giou"])
@pytest.mark.parametrize("filled", [True, False])
def test_joint_with_full_coverage_is_plain_torchvision_training(kind: str, filled: bool) -> None:
    model = network(("a", "b"), ("c",), box_loss=kind, frozen_norm=True).train()
    truth = [target([BOX, [20, 10, 40, 40]], [2, 0]) if filled else target(), target()]
    batch = model.prepare(pictures(), truth)
    criterion, outputs = MethodCriterion(METHODS["joint"], model), model.dense(batch)
    targets = criterion.targets(batch)
    ours = criterion(outputs, targets, targets.counts)
    assert ours.keys() == {"focal", "box"}
    own = model.compute_losses(outputs, batch.targets or [])
    theirs = to_torchvision(model).train()(pictures(), truth)
    for name, other in (("focal", "classification"), ("box", "bbox_regression")):
        torch.testing.assert_close(ours[name], own[other], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours[name], theirs[other], rtol=1e-6, atol=1e-6)


# --- the sum of the terms


def test_a_loss_is_the_sum_of_the_weighted_losses_of_its_terms() -> None:
    scene = Scene()
    terms = (
        KdResponse(weight=2.5, temperature=3.0, selection=ALL),
        KdSoftmax(weight=0.5, selection=Selection(kind="topk", value=2)),
        KdBox(weight=4.0, score=0.3, nms=0.5),
        KdQuality(weight=1.5),
    )
    method = Method("test", "here", terms=terms)
    found = scene.losses(method)
    assert list(found) == ["focal", "box", "kd_response", "kd_softmax", "kd_box", "kd_quality"]
    alone = scene.losses(METHODS["masked"])
    for name in ("focal", "box"):
        torch.testing.assert_close(found[name], alone[name])
    for term in terms:
        (expected,) = losses_of(term, scene.student, {"old": scene.old}, scene.batch(method)).values()
        torch.testing.assert_close(found[term.name], expected)
        assert float(expected.detach()) > 0


def test_two_focal_terms_and_the_annotations_do_not_disturb_each_other() -> None:
    scene = Scene()
    told = [{"boxes": ANCHORS[1:2], "scores": torch.tensor([0.9]), "labels": torch.tensor([1])}] * 2
    scene.old = answer(scene.old.logits, scene.old.deltas, found=told)
    terms = (PseudoLabels(fitted=Thresholds((0.6, 0.6), (0.3, 0.3))), KdQuality())
    found = scene.losses(Method("test", "here", terms=terms))
    batch = scene.batch(METHODS["masked"])
    expected = {
        **scene.losses(METHODS["masked"]),
        **losses_of(terms[0], scene.student, {"old": scene.old}, batch),
        **losses_of(terms[1], scene.student, {"old": scene.old}, batch),
    }
    assert list(found) == ["focal", "box", "pseudo_focal", "pseudo_box", "kd_quality"] == list(expected)
    torch.testing.assert_close(found, expected)
    whole = (torch.stack(list(losses.values())).sum() for losses in (found, expected))
    torch.testing.assert_close(*(slope(loss, scene.logits) for loss in whole))


def test_without_a_teacher_only_the_annotations_speak() -> None:
    scene = Scene()
    for method in METHODS.values():
        assert scene.losses(method, taught=False).keys() == {"focal", "box"}


# --- whole networks


def student_and_teachers(**changes: Any) -> tuple[IncrementalRetinaNet, dict[str, Teacher]]:
    before, interim, student = (network(("a", "b"), seed=seed, **changes) for seed in (0, 1, 2))
    for model in (interim, student):
        model.freeze_norm()
        model.grow(("c",))
    with torch.no_grad():  # the teachers find something, as trained ones do
        before.class_head.predictors[0].get_parameter("weight").mul_(60)
        interim.class_head.predictors[1].get_parameter("weight").normal_(std=10)
    return student.train(), {"old": Teacher(before), "interim": Teacher(interim, first=2)}


def criterion_of(
    method: Method, student: IncrementalRetinaNet, teachers: dict[str, Teacher], high: float = 0.6
) -> MethodCriterion:
    """Pseudo-labels are those of a score of at least ``high``."""
    thresholds = Thresholds((high, high), (high / 2, high / 2))
    method = replace(
        method,
        terms=tuple(
            term.model_copy(update={"fitted": thresholds}) if isinstance(term, PseudoLabels) else term
            for term in method.terms
        ),
    )
    chosen = {name: teachers[name] for name in method.teachers}
    return MethodCriterion(method, student, OnlineProvider(Teaching(chosen, method.terms)) if chosen else None)


BATCHES = {
    "all empty": [target(coverage=NEW), target(coverage=NEW)],
    "mixed": [target([BOX], [2], NEW), target(coverage=NEW)],
    "an exemplar": [target([BOX], [2], NEW), target([BOX], [0], OLD)],
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("high", [0.001, 0.999], ids=["many pseudo-labels", "none"])
def test_every_trainable_parameter_keeps_a_gradient(name: str, batch: str, high: float) -> None:
    student, teachers = student_and_teachers()
    criterion = criterion_of(METHODS[name], student, teachers, high)
    prepared = student.prepare(pictures(), BATCHES[batch])
    targets = criterion.targets(prepared)
    losses = criterion(student.dense(prepared), targets, targets.counts)
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) and loss > -1e-6 for loss in losses.values())
    descend(losses)
    assert [name for name, p in student.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)
    new = student.get_parameter("class_head.predictors.1.weight").grad
    assert new is not None and new.any()  # the new classes always learn


def in_pieces(
    criterion: MethodCriterion, student: IncrementalRetinaNet, batch: ImageBatch, number: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients of a batch, summed over ``number`` pieces of it."""
    pieces = batch.pieces(number)
    targets: list[Targets] = [criterion.targets(piece) for piece in pieces]
    totals = {name: sum((one.counts[name] for one in targets), torch.zeros(())) for name in targets[0].counts}
    student.zero_grad()
    summed: dict[str, Tensor] = {}
    for piece, own in zip(pieces, targets, strict=True):
        losses = criterion(student.dense(piece), own, totals)
        descend(losses)
        summed = {name: summed.get(name, torch.zeros(())) + loss.detach() for name, loss in losses.items()}
    return summed, {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["l1", "giou"])
@pytest.mark.parametrize("static", [False, True])
def test_how_a_batch_is_cut_into_pieces_changes_neither_losses_nor_gradient(name: str, kind: str, static: bool) -> None:
    student, teachers = student_and_teachers(box_loss=kind)
    criterion = criterion_of(METHODS[name], student, teachers)
    # No two images weigh alike: one object, three, none at all, and an exemplar with one to be ignored.
    truth = [
        target([BOX], [2], NEW),
        target([BOX, [20, 20, 44, 44], [2, 26, 18, 46]], [2, 2, 2], NEW),
        target(coverage=NEW),
        target([BOX, [22, 2, 46, 24]], [0, 1], OLD, ignore=[False, True]),
    ]
    batch = student.prepare(pictures(4), truth, canvas=(64, 64) if static else None)
    losses, gradients = in_pieces(criterion, student, batch, 1)
    assert all(loss > 0 for loss in losses.values()) and len(gradients) > 10
    for number in (2, 4):
        again, others = in_pieces(criterion, student, batch, number)
        torch.testing.assert_close(again, losses, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(others, gradients, rtol=1e-5, atol=1e-5)


# --- methods are values


@pytest.mark.parametrize("part", EVERYTHING.parts)
def test_every_part_can_be_taken_away(part: str) -> None:
    less = EVERYTHING.without(part)
    assert part not in less.parts and less.name == f"everything-{part}"
    follows = {"replay": {"balanced_finetune"}, "interim": {"averaging"}}  # these need what was taken away
    assert set(EVERYTHING.parts) - set(less.parts) == {part} | follows.get(part, set())
    assert part in EVERYTHING.parts  # a value: the method itself stays as it is


def test_with_every_part_taken_away_masked_is_left() -> None:
    whole = METHODS["cldetr"]
    bare = whole.without(*(part for part in whole.parts if part not in ("replay", "balanced_finetune")), "replay")
    assert bare.parts == {} and bare.teachers == () and bare.balanced_finetune is None
    scene = Scene()
    assert scene.losses(bare) == scene.losses(METHODS["masked"])


def test_an_unknown_part_is_refused_with_the_near_one() -> None:
    with pytest.raises(InputError, match="no part 'pseudo_lables'.*'pseudo_labels'"):
        METHODS["cldetr"].without("pseudo_lables")
    with pytest.raises(InputError, match="no part 'replay' -> known: balanced_finetune, kd_softmax"):
        METHODS["eeil"].without("replay", "replay")


def test_the_teachers_are_those_that_a_term_listens_to_and_that_there_are() -> None:
    assert METHODS["masked"].teachers == () and METHODS["cldetr"].teachers == ("old",)
    assert EVERYTHING.teachers == ("old", "interim")
    assert EVERYTHING.without("interim").teachers == ("old",)
    assert replace(EVERYTHING, terms=()).teachers == ()


def test_features_keep_their_gradient_where_a_term_reads_them() -> None:
    class Maps(KdResponse):
        needs = frozenset({"features"})

    assert not EVERYTHING.needs_features and Method("maps", "here", terms=(Maps(),)).needs_features


# --- settings


def test_settings_are_every_number_of_every_part_with_its_description() -> None:
    settings = {setting.key: setting for setting in METHODS["cldetr"].settings()}
    assert settings["kd_response.weight"].value == 0.5 and settings["kd_response.selection.value"].value == 0.05
    assert settings["replay.share"].value == 0.1 and settings["kd_box.images"].value == "both"
    assert all(setting.description for setting in settings.values())
    assert "pseudo_labels.fitted" not in settings  # measured, not set


def test_a_configured_method_has_the_given_numbers_and_says_which() -> None:
    own = METHODS["cldetr"]
    given = {"kd_box": {"weight": 2.0}, "kd_response": {"selection": {"kind": "topk", "value": 9}}}
    other = own.configured({**given, "replay": {"share": 0.25}})
    values = {setting.key: setting.value for setting in other.settings()}
    assert values["kd_box.weight"] == 2.0 and values["replay.share"] == 0.25
    assert values["kd_response.selection.kind"] == "topk" and values["kd_response.selection.value"] == 9
    assert values["kd_response.weight"] == 0.5  # what was not given stays
    assert other.changed == (
        "kd_response.selection.kind=topk",
        "kd_response.selection.value=9.0",
        "kd_box.weight=2.0",
        "replay.share=0.25",
    )
    assert other.name == "cldetr" and other.title == f"cldetr ({', '.join(other.changed)})"
    assert own.title == "cldetr" and own == get_method("cldetr")  # a value: the method itself stays as it is


def test_a_number_given_as_it_was_is_no_change_and_the_last_one_given_counts() -> None:
    own = METHODS["cldetr"]
    assert own.configured({"kd_box": {"weight": 0.5}}) == own == own.configured({})
    one = own.configured({"kd_box": {"weight": 2.0}})
    assert one.configured({"kd_box": {"weight": 3.0}}).changed == ("kd_box.weight=3.0",)


def test_a_change_of_a_part_that_was_taken_away_is_none() -> None:
    other = METHODS["cldetr"].configured({"kd_box": {"weight": 2.0}, "replay": {"share": 0.25}})
    assert other.without("kd_box").title == "cldetr-kd_box (replay.share=0.25)"


def test_what_was_measured_is_measured_again_under_other_numbers() -> None:
    method = Method("test", "here", terms=(PseudoLabels(fitted=Thresholds((0.5,), (0.2,))), KdBox()))
    (labels, _) = method.configured({"pseudo_labels": {"highest": 0.4}}).terms
    assert labels == PseudoLabels(highest=0.4)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kd_bx": {"weight": 1.0}}, r"method\.cldetr\.kd_bx.*unknown.*'kd_box'"),
        ({"kd_box": {"wieght": 1.0}}, r"method\.cldetr\.kd_box\.wieght.*unknown.*'weight'"),
        ({"kd_response": {"selection": {"vlue": 1.0}}}, r"kd_response\.selection\.vlue.*unknown.*value"),
        ({"kd_box": {"weight": -1.0}}, r"kd_box\.weight.*-1.0.*greater than or equal to 0"),
        ({"kd_box": {"weight": "high"}}, r"kd_box\.weight.*'high'.*number"),
        ({"kd_box": {"images": "old"}}, r"kd_box\.images.*'old'.*'new', 'exemplars' or 'both'"),
        ({"kd_box": 3.0}, r"kd_box.*3.0.*weight=0.5"),
        ({"replay": {"share": 1.0}}, r"replay\.share.*1.0.*less than 1"),
        ({"balanced_finetune": {"weight": 1.0}}, r"balanced_finetune\.weight.*unknown"),
        ({"pseudo_labels": {"fitted": [[0.1], [0.1]]}}, r"pseudo_labels\.fitted.*unknown"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_whole_key(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        METHODS["cldetr"].configured(values)


def test_a_method_without_parts_says_that_it_has_no_setting() -> None:
    with pytest.raises(InputError, match="method.finetune.kd_box.*no setting"):
        METHODS["finetune"].configured({"kd_box": {"weight": 1.0}})
