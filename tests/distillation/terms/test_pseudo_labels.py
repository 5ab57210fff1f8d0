from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from helpers import answer, batch_targets, descend, draw, grid, losses_of, network, operations, record, responses, slope
from helpers import target as annotated
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from incdet.distillation.teacher import Teacher
from incdet.distillation.teacher_targets import BatchTargets, Entries
from incdet.distillation.term import StepData
from incdet.distillation.terms import PseudoLabels, pseudo_labels
from incdet.distillation.thresholds import Thresholds
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.ops.assign import IGNORED, assign
from incdet.ops.boxes import encode_boxes
from incdet.ops.losses import focal_losses

ANCHORS = grid(6)
THRESHOLDS = Thresholds((0.6, 0.6), (0.3, 0.3))
NEW = [False, False, True]  # columns 0 and 1 are old, 2 is the step's own
HEADS = (2, 1)


class Labels(NamedTuple):
    """What the term keeps of a batch."""

    positive: Entries
    between: Entries
    ignored: Entries
    uncovered: Entries


def found(*entries: tuple[int, float, int]) -> dict[str, Tensor]:
    """Detections (anchor they lie on, score, column)."""
    return {
        "boxes": ANCHORS[[place for place, _, _ in entries]].reshape(-1, 4),
        "scores": torch.tensor([score for _, score, _ in entries]),
        "labels": torch.tensor([column for _, _, column in entries], dtype=torch.int64),
    }


def told(detections: Sequence[Mapping[str, Tensor]], anchors: int, columns: int = 2) -> dict[str, Any]:
    return {"old": answer(torch.zeros(len(detections), anchors, columns), found=detections)}


def spoken(
    detections: Sequence[Mapping[str, Tensor]],
    batch: BatchTargets,
    thresholds: Thresholds = THRESHOLDS,
    **fields: float,
) -> Labels:
    term = PseudoLabels(fitted=thresholds, **fields)
    kept: Any = term.targets(told(detections, len(batch.anchors)), batch)
    return Labels(**kept)


def label(detections: dict[str, Tensor], truth: dict[str, Any] | None = None, **more: Any) -> Labels:
    return spoken([detections], batch_targets([truth or target()], HEADS, ANCHORS), **more)


def target(
    boxes: Sequence[Sequence[float]] = (),
    labels: Sequence[int] = (),
    coverage: Sequence[bool] = NEW,
    ignore: Sequence[bool] | None = None,
) -> dict[str, Any]:
    """An image of the step unless it is said to be another."""
    return annotated(boxes, labels, coverage, ignore)


def positives(labels: Labels) -> list[tuple[int, int]]:
    return list(zip(labels.positive.anchor.tolist(), labels.positive["column"].tolist(), strict=True))


def ignored_entries(labels: Labels) -> list[tuple[int, int]]:
    return list(zip(labels.ignored.anchor.tolist(), labels.ignored["column"].tolist(), strict=True))


def channels(labels: Labels) -> list[list[bool]]:
    rows: list[list[bool]] = labels.uncovered["channels"].tolist()
    return rows


def test_three_zones() -> None:
    labels = label(found((0, 0.9, 0), (1, 0.45, 1), (2, 0.1, 0)))
    assert positives(labels) == [(0, 0)]
    assert ignored_entries(labels) == [(1, 1)]
    assert labels.between.anchor.tolist() == []
    assert channels(labels) == [[True, True, False]]


@pytest.mark.parametrize(("score", "sure", "doubtful"), [(0.6, 1, 0), (0.599, 0, 1), (0.3, 0, 1), (0.299, 0, 0)])
def test_the_borders_of_the_zones(score: float, sure: int, doubtful: int) -> None:
    labels = label(found((3, score, 1)))
    assert (len(positives(labels)), len(ignored_entries(labels))) == (sure, doubtful)


def test_every_class_has_its_own_thresholds() -> None:
    thresholds = Thresholds((0.8, 0.4), (0.5, 0.2))
    labels = label(found((0, 0.45, 0), (1, 0.45, 1), (2, 0.6, 0)), thresholds=thresholds)
    assert positives(labels) == [(1, 1)] and ignored_entries(labels) == [(2, 0)]


def test_an_annotated_object_under_an_old_name_is_dropped() -> None:
    truth = target([[0, 0, 10, 10]], [2])
    assert positives(label(found((0, 0.9, 0), (1, 0.9, 0)), truth)) == [(1, 0)]
    assert ignored_entries(label(found((0, 0.5, 0), (1, 0.5, 0)), truth)) == [(1, 0)]


def test_how_much_overlap_makes_a_duplicate() -> None:
    truth = target([[0, 0, 10, 6]], [2])  # IoU 0.6 with anchor 0
    assert float(box_iou(ANCHORS[:1], truth["boxes"])) == pytest.approx(0.6)
    assert positives(label(found((0, 0.9, 0)), truth)) == [(0, 0)]
    assert positives(label(found((0, 0.9, 0)), truth, duplicate_iou=0.5)) == []


def test_annotated_channels_are_never_labelled() -> None:
    truth = target(coverage=[True, False, True])
    labels = label(found((0, 0.9, 0), (1, 0.4, 0), (2, 0.9, 1)), truth)
    assert positives(labels) == [(2, 1)] and ignored_entries(labels) == []
    assert channels(labels) == [[False, True, False]]
    assert truth["coverage"].tolist() == [True, False, True]  # the caller's mask is left as it is


def test_columns_the_teacher_lacks_are_not_spoken_for() -> None:
    assert channels(label(found((0, 0.9, 0)), target(coverage=[False] * 3))) == [[True, True, False]]


def test_a_fully_annotated_image_gets_no_label_at_all() -> None:
    labels = label(found((0, 0.9, 0), (1, 0.4, 1)), target(coverage=[True] * 3))
    assert positives(labels) == [] and ignored_entries(labels) == [] and channels(labels) == [[False] * 3]


def test_what_an_accepted_box_made_positive_is_not_ignored() -> None:
    labels = label(found((0, 0.9, 0), (0, 0.4, 0), (0, 0.4, 1)))
    assert positives(labels) == [(0, 0)]
    assert ignored_entries(labels) == [(0, 1)]  # the doubt about class 1 on the same anchor stands


def test_doubt_reaches_as_far_as_the_overlap_says() -> None:
    between = {
        "boxes": torch.tensor([[0.0, 0.0, 10.0, 20.0]]),
        "scores": torch.tensor([0.4]),
        "labels": torch.tensor([0]),
    }  # IoU 0.5 with anchor 0
    assert ignored_entries(label(between)) == [(0, 0)]
    assert ignored_entries(label(between, ignore_iou=0.6)) == []


def test_ignored_objects_stay_ignored_for_the_pseudo_channels() -> None:
    truth = target([[20, 0, 30, 10], [40, 0, 50, 10]], [2, 2], ignore=[True, False])
    labels = label(found((0, 0.9, 0)), truth)
    assert positives(labels) == [(0, 0)] and labels.between.anchor.tolist() == [1]


def test_images_do_not_mix() -> None:
    labels = spoken([found(), found((4, 0.9, 1), (5, 0.4, 0)), found()], batch_targets([target()] * 3, HEADS, ANCHORS))
    assert labels.positive.image.tolist() == [1] and labels.ignored.image.tolist() == [1]
    assert positives(labels) == [(4, 1)] and ignored_entries(labels) == [(5, 0)]


def test_a_teacher_with_more_classes_than_were_fitted_uses_the_mean_threshold_for_them() -> None:
    # In balanced fine-tuning it answers for the new head as well.
    batch = batch_targets([target(coverage=[True, True, False])], HEADS, ANCHORS)
    term = PseudoLabels(fitted=Thresholds((0.6, 0.4), (0.3, 0.2)))
    kept: Any = term.targets(told([found((0, 0.55, 2), (1, 0.45, 2))], 6, 3), batch)
    labels = Labels(**kept)
    assert (
        positives(labels) == [(0, 2)]
        and ignored_entries(labels) == [(1, 2)]
        and channels(labels) == [[False, False, True]]
    )


def test_labels_cannot_be_told_before_the_thresholds_are_fitted() -> None:
    with pytest.raises(ValueError, match="fitted"):
        PseudoLabels().targets(told([found()], 6), batch_targets([target()], HEADS, ANCHORS))


# --- the losses


def moved(*entries: tuple[int, float, int]) -> dict[str, Tensor]:
    one = found(*entries)
    return {**one, "boxes": one["boxes"] + torch.tensor([0.0, 0.0, 1.0, 0.5])}


class Scene:
    """Two images, six anchors, three columns of which the first two are old."""

    def __init__(
        self, detections: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        self.logits, self.deltas = draw(0, 2, 6, 3, spread=1.0).requires_grad_(), draw(1, 2, 6, 4, spread=0.2)
        self.deltas.requires_grad_()
        targets = targets or [target([ANCHORS[0].tolist()], [2]), target()]
        self.batch, self.answers = batch_targets(targets, HEADS, ANCHORS), told(detections, 6)

    def losses(self, **fields: float) -> dict[str, Tensor]:
        term = PseudoLabels(fitted=THRESHOLDS, **fields)
        return losses_of(term, responses(self.logits, self.deltas), self.answers, self.batch)


def focal(x: float, positive: bool) -> float:
    p = 1 / (1 + math.exp(-x))
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)


def test_the_losses_are_divided_by_the_batchs_own_pseudo_positives() -> None:
    given = [moved((1, 0.9, 0), (2, 0.8, 1), (3, 0.4, 0)), moved((0, 0.7, 1))]
    scene = Scene(given)
    losses = scene.losses()
    assert losses.keys() == {"pseudo_focal", "pseudo_box"}
    truth = {(0, 1, 0), (0, 2, 1), (1, 0, 1)}
    total = 0.0
    for b in range(2):
        for a in range(6):
            for k in range(2):  # the old columns alone
                if (b, a, k) != (0, 3, 0):  # the doubtful one says nothing
                    total += focal(float(scene.logits[b, a, k].detach()), (b, a, k) in truth)
    assert float(losses["pseudo_focal"].detach()) == pytest.approx(total / 3, rel=1e-5)
    distance = 0.0
    for b, a, _ in truth:
        place = int((given[b]["boxes"][:, 0] == ANCHORS[a, 0]).nonzero())
        wanted = encode_boxes(given[b]["boxes"][place][None], ANCHORS[a][None])[0]
        distance += float((scene.deltas[b, a].detach() - wanted).abs().sum())
    assert float(losses["pseudo_box"].detach()) == pytest.approx(distance / 3, rel=1e-5)
    for name, loss in scene.losses(weight=2.0).items():
        torch.testing.assert_close(loss, 2 * losses[name])


def test_a_pseudo_box_does_not_pull_the_box_of_an_annotated_anchor() -> None:
    both = found((0, 0.9, 0))
    both["boxes"] = ANCHORS[:1] + torch.tensor([0.0, 0.0, 5.0, 5.0])  # IoU 0.44 with the annotation: no duplicate
    scene = Scene([both, found()])
    losses = scene.losses()
    assert slope(losses["pseudo_focal"], scene.logits)[0, 0, 0] < 0  # it is that class as well
    assert not slope(losses["pseudo_box"], scene.deltas).any()


def test_without_any_pseudo_label_the_old_classes_are_background() -> None:
    scene = Scene([found(), found()])
    losses = scene.losses()
    pushed = slope(losses["pseudo_focal"], scene.logits)
    assert (pushed[..., :2] > 0).all() and not pushed[..., 2].any()
    assert float(losses["pseudo_box"].detach()) == 0 and not slope(losses["pseudo_box"], scene.deltas).any()


def test_annotated_images_get_no_pseudo_loss() -> None:
    scene = Scene(
        [moved((1, 0.9, 0)), moved((0, 0.7, 1))],
        [target(coverage=[True] * 3), target(coverage=[True, False, False])],
    )
    pushed = slope(scene.losses()["pseudo_focal"], scene.logits)
    assert not pushed[0].any() and not pushed[1, :, [0, 2]].any() and pushed[1, :, 1].all()


# --- fitting


@pytest.fixture(scope="module")
def pictures_on_disk(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    files = [folder / f"{number}.png" for number in range(4)]
    for file in files:
        cv2.imwrite(str(file), rng.integers(0, 256, (48, 48, 3), np.uint8))
    return files


def step_data(files: Sequence[Path], exemplars: int, say: list[str]) -> StepData:
    records = [record(file, ["c"], number=number) for number, file in enumerate(files)]
    memory = [record(file, ["a"], number=7, coverage=["a", "b"]) for file in files[:exemplars]]  # ids may repeat
    return StepData({"old": Teacher(loud())}, records, memory, 2, say.append)


def loud() -> IncrementalRetinaNet:
    model = network(("a", "b"), score_thresh=0.01)
    with torch.no_grad():  # it finds something, as a trained one does
        model.class_head.predictors[0].get_parameter("weight").mul_(60)
    return model


@pytest.mark.parametrize("exemplars", [0, 2])
def test_a_step_fits_thresholds_within_their_bounds_and_says_what_they_mean(
    pictures_on_disk: list[Path], exemplars: int
) -> None:
    said: list[str] = []
    term = PseudoLabels(highest=0.65, lowest=0.2, low_share=0.4)
    fitted = term.fit(step_data(pictures_on_disk, exemplars, said))
    assert fitted.fitted is not None and term.fitted is None
    assert all(0.2 - 1e-6 <= high <= 0.65 + 1e-6 for high in fitted.fitted.high)
    assert fitted.fitted.low == pytest.approx(tuple(0.4 * high for high in fitted.fitted.high))
    assert len(said) == 1 and "in 4 of the step's images" in said[0]
    assert fitted.model_copy(update={"fitted": None}) == term  # nothing else has changed


# --- image by image, as a reference of the whole batch


def label_by_image(
    detections: Sequence[Mapping[str, Tensor]], batch: BatchTargets
) -> tuple[list[dict[str, Tensor]], list[tuple[int, int, int]]]:
    """Accepted boxes of every image, and the doubtful entries before the positive ones are taken out."""
    channels = ~batch.coverage
    channels[:, 2:] = False
    high, low = (torch.tensor(part) for part in THRESHOLDS)
    accepted, ignored_entries = [], []
    for number, (one, truth) in enumerate(zip(detections, batch.targets, strict=True)):
        boxes, scores, labels = one["boxes"], one["scores"], one["labels"]
        usable = channels[number, labels] & (scores >= low[labels])
        if truth["boxes"].numel() and boxes.numel():
            usable &= box_iou(boxes, truth["boxes"]).amax(dim=1) <= 0.7
        sure = usable & (scores >= high[labels])
        fixed = truth["boxes"][truth["ignore"]] if "ignore" in truth else truth["boxes"][:0]
        accepted.append(
            {
                "boxes": torch.cat([boxes[sure], fixed]),
                "labels": torch.cat([labels[sure], labels.new_zeros(len(fixed))]),
                "ignore": torch.tensor([False] * int(sure.sum()) + [True] * len(fixed), dtype=torch.bool),
            }
        )
        doubtful = usable & ~sure
        row, anchor = (box_iou(boxes[doubtful], batch.anchors) >= 0.4).nonzero(as_tuple=True)
        ignored_entries += [
            (number, a, int(c)) for a, c in zip(anchor.tolist(), labels[doubtful][row].tolist(), strict=True)
        ]
    return accepted, ignored_entries


def random_batch(seed: int, images: int = 5) -> tuple[list[dict[str, Tensor]], BatchTargets]:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    anchors = torch.cat([uniform(40, 2) * 60, torch.zeros(40, 2)], dim=1)
    anchors[:, 2:] = anchors[:, :2] + 8 + 8 * uniform(40, 2)
    detections, targets = [], []
    for number in range(images):
        count, objects = number * 4 % 11, number % 3  # some images have none of either
        near = anchors[torch.randint(0, 40, (count + objects,), generator=generator)] + 4 * uniform(count + objects, 4)
        detections.append({"boxes": near[:count], "scores": uniform(count), "labels": (uniform(count) * 2).long()})
        ignore, coverage = (uniform(objects) < 0.5).tolist(), (uniform(3) < 0.3).tolist()
        targets.append(target(near[count:].tolist(), [2] * objects, coverage=coverage, ignore=ignore))
    return detections, batch_targets(targets, HEADS, anchors)


@given(seed=st.integers(0, 2**31 - 1))
def test_a_batch_at_once_equals_image_by_image(seed: int) -> None:
    detections, batch = random_batch(seed)
    labels = spoken(detections, batch)
    accepted, ignored_entries = label_by_image(detections, batch)
    expected = assign(accepted, batch.anchors)
    for mine, name in ((labels.positive.image, "image"), (labels.positive.anchor, "anchor")):
        assert torch.equal(mine, getattr(expected, name))
    assert torch.equal(labels.positive["column"], expected.column) and torch.equal(
        labels.positive["box"], expected.boxes
    )
    between = (expected.matched == IGNORED).nonzero(as_tuple=True)
    assert torch.equal(labels.between.image, between[0]) and torch.equal(labels.between.anchor, between[1])
    taken = batch.assignment.matched[expected.image, expected.anchor] >= 0
    assert torch.equal(labels.positive["free"], ~taken)
    positive = set(zip(*(part.tolist() for part in (expected.image, expected.anchor, expected.column)), strict=True))
    assert all_ignored(labels) == sorted(entry for entry in ignored_entries if entry not in positive)
    assert (labels.ignored.image.diff() >= 0).all()  # entries lie image by image


def all_ignored(labels: Labels) -> list[tuple[int, ...]]:
    parts = (labels.ignored.image, labels.ignored.anchor, labels.ignored["column"])
    return sorted(zip(*(part.tolist() for part in parts), strict=True))


def test_overlaps_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    detections, batch = random_batch(3, images=15)
    whole = spoken(detections, batch)
    monkeypatch.setattr(pseudo_labels, "CPU_PAIRS", 80)  # two boxes at once
    assert whole.ignored.image.numel() > 2 and all_ignored(spoken(detections, batch)) == all_ignored(whole)


def test_more_images_take_no_more_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = assign([target()], ANCHORS)
    # Measured by its own tests.
    monkeypatch.setattr(IncrementalRetinaNet, "match", lambda *_, **__: nothing)
    truth = target([[40, 0, 50, 10]], [2], ignore=[True])

    def work(images: int) -> int:
        batch = batch_targets([truth] * images, HEADS, ANCHORS)
        answers = told([found((0, 0.9, 0), (1, 0.4, 1))] * images, 6)
        for one in answers.values():
            monkeypatch.setattr(type(one), "detections", lambda told, _: told.found)
        term = PseudoLabels(fitted=THRESHOLDS)
        return operations(lambda: term.targets(answers, batch))

    assert work(2) == work(9)


def test_the_losses_of_more_images_take_no_more_operations() -> None:
    def work(images: int) -> int:
        batch, term = batch_targets([target()] * images, HEADS, ANCHORS), PseudoLabels(fitted=THRESHOLDS)
        answers = told([found((0, 0.9, 0), (1, 0.4, 1))] * images, 6)
        targets = term.targets(answers, batch)
        student = responses(draw(0, images, 6, 3).requires_grad_(), draw(1, images, 6, 4).requires_grad_())
        total = term.count(targets, batch)
        charge = term.class_targets(targets, batch, total)
        assert charge is not None
        focal = focal_losses(student.logits, [charge])[0]
        return operations(lambda: descend(term.losses(student, targets, batch, total, focal)))

    assert work(2) == work(9)
