from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import grid, operations, target
from hypothesis import given
from hypothesis import strategies as st
from incdet.distillation.pseudo_labels import PseudoLabels, Thresholds, fit_thresholds, pseudo_label
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from incdet.distillation import pseudo_labels as pseudo
from incdet.evaluation.metrics import Matches
from incdet.ops.assign import assign

ANCHORS = grid(6)
THRESHOLDS = Thresholds(torch.tensor([0.6, 0.6]), torch.tensor([0.3, 0.3]))
NEW = [False, False, True]  # columns 0 and 1 are old, 2 is the step's own


def found(*entries: tuple[int, float, int]) -> dict[str, Tensor]:
    """Detections (anchor they lie on, score, column)."""
    return {
        "boxes": ANCHORS[[place for place, _, _ in entries]].reshape(-1, 4),
        "scores": torch.tensor([score for _, score, _ in entries]),
        "labels": torch.tensor([column for _, _, column in entries], dtype=torch.int64),
    }


def spoken(
    detections: list[dict[str, Tensor]], targets: list[dict[str, Any]], anchors: Tensor, *rest: Any, **more: Any
) -> PseudoLabels:
    return pseudo_label(detections, targets, anchors, assign(targets, anchors), *rest, **more)


def label(detections: dict[str, Tensor], truth: dict[str, Any] | None = None, **more: Any) -> PseudoLabels:
    truth = truth or target(coverage=NEW)
    coverage = more.pop("coverage", torch.tensor([NEW]))
    return spoken([detections], [truth], ANCHORS, coverage, more.pop("thresholds", THRESHOLDS), **more)


def positives(labels: PseudoLabels) -> list[tuple[int, int]]:
    return list(zip(labels.assignment.anchor.tolist(), labels.assignment.column.tolist(), strict=True))


def voids(labels: PseudoLabels) -> list[tuple[int, int]]:
    return list(zip(labels.void[1].tolist(), labels.void[2].tolist(), strict=True))


def test_three_zones() -> None:
    labels = label(found((0, 0.9, 0), (1, 0.45, 1), (2, 0.1, 0)))
    assert positives(labels) == [(0, 0)]
    assert voids(labels) == [(1, 1)]
    assert labels.assignment.matched[0].tolist() == [0, -1, -1, -1, -1, -1]
    assert labels.channels.tolist() == [[True, True, False]]


@pytest.mark.parametrize(("score", "sure", "doubtful"), [(0.6, 1, 0), (0.599, 0, 1), (0.3, 0, 1), (0.299, 0, 0)])
def test_the_borders_of_the_zones(score: float, sure: int, doubtful: int) -> None:
    labels = label(found((3, score, 1)))
    assert (len(positives(labels)), len(voids(labels))) == (sure, doubtful)


def test_every_class_has_its_own_thresholds() -> None:
    thresholds = Thresholds(torch.tensor([0.8, 0.4]), torch.tensor([0.5, 0.2]))
    labels = label(found((0, 0.45, 0), (1, 0.45, 1), (2, 0.6, 0)), thresholds=thresholds)
    assert positives(labels) == [(1, 1)] and voids(labels) == [(2, 0)]


def test_an_annotated_object_under_an_old_name_is_dropped() -> None:
    truth = target([[0, 0, 10, 10]], [2], NEW)
    assert positives(label(found((0, 0.9, 0), (1, 0.9, 0)), truth)) == [(1, 0)]
    assert voids(label(found((0, 0.5, 0), (1, 0.5, 0)), truth)) == [(1, 0)]


def test_how_much_overlap_makes_a_duplicate() -> None:
    truth = target([[0, 0, 10, 6]], [2], NEW)  # IoU 0.6 with anchor 0
    assert float(box_iou(ANCHORS[:1], truth["boxes"])) == pytest.approx(0.6)
    assert positives(label(found((0, 0.9, 0)), truth)) == [(0, 0)]
    assert positives(label(found((0, 0.9, 0)), truth, duplicate_iou=0.5)) == []


def test_covered_channels_are_never_labelled() -> None:
    covered = torch.tensor([[True, False, True]])
    labels = label(found((0, 0.9, 0), (1, 0.4, 0), (2, 0.9, 1)), coverage=covered)
    assert positives(labels) == [(2, 1)] and voids(labels) == []
    assert labels.channels.tolist() == [[False, True, False]]
    assert covered.tolist() == [[True, False, True]]  # the caller's mask is left as it is


def test_columns_the_teacher_lacks_are_not_spoken_for() -> None:
    labels = label(found((0, 0.9, 0)), coverage=torch.tensor([[False, False, False]]))
    assert labels.channels.tolist() == [[True, True, False]]


def test_a_fully_covered_image_gets_no_label_at_all() -> None:
    labels = label(found((0, 0.9, 0), (1, 0.4, 1)), coverage=torch.ones(1, 3, dtype=torch.bool))
    assert positives(labels) == [] and voids(labels) == [] and not labels.channels.any()


def test_what_an_accepted_box_made_positive_is_not_void() -> None:
    both = found((0, 0.9, 0), (0, 0.4, 0), (0, 0.4, 1))
    labels = label(both)
    assert positives(labels) == [(0, 0)]
    assert voids(labels) == [(0, 1)]  # the doubt about class 1 on the same anchor stands


def test_doubt_reaches_as_far_as_the_overlap_says() -> None:
    between = {
        "boxes": torch.tensor([[0.0, 0.0, 10.0, 20.0]]),
        "scores": torch.tensor([0.4]),
        "labels": torch.tensor([0]),
    }  # IoU 0.5 with anchor 0
    assert voids(label(between)) == [(0, 0)]
    assert voids(label(between, void_iou=0.6)) == []


def test_ignored_objects_stay_ignored_for_the_pseudo_channels() -> None:
    truth = target([[20, 0, 30, 10], [40, 0, 50, 10]], [2, 2], NEW, ignore=[True, False])
    matched = label(found((0, 0.9, 0)), truth).assignment.matched[0].tolist()
    assert matched == [0, -2, -1, -1, -1, -1]


def test_images_do_not_mix() -> None:
    none = found()
    labels = spoken(
        [none, found((4, 0.9, 1), (5, 0.4, 0)), none],
        [target(coverage=NEW)] * 3,
        ANCHORS,
        torch.tensor([NEW] * 3),
        THRESHOLDS,
    )
    assert labels.assignment.positives.tolist() == [0, 1, 0]
    assert labels.assignment.image.tolist() == [1] and labels.void[0].tolist() == [1]
    assert voids(labels) == [(5, 0)]


def matches(scores: list[float], hits: list[bool], objects: int) -> Matches:
    return Matches(np.array(scores), np.array(hits), np.zeros(len(scores), np.int64), np.array([objects]))


def scores(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_the_cut_of_best_f1() -> None:
    # F1 after 1, 2, 3, 4 kept: 2/5, 4/6, 4/7, 6/8 of 4 objects: the fourth is best, at 0.3.
    match = matches([0.65, 0.5, 0.4, 0.3, 0.2], [True, True, False, True, False], 4)
    fitted = fit_thresholds([scores(0.9, 0.9)], [match])
    assert fitted.high.tolist() == pytest.approx([0.3]) and fitted.low.tolist() == pytest.approx([0.15])


@given(
    hits=st.lists(st.booleans(), min_size=1, max_size=12).filter(any),
    missed=st.integers(0, 5),
)
def test_no_other_cut_has_a_better_f1(hits: list[bool], missed: int) -> None:
    values = np.linspace(0.69, 0.16, len(hits)).tolist()
    high = float(fit_thresholds([scores()], [matches(values, hits, sum(hits) + missed)]).high[0])

    def f1(cut: float) -> float:
        kept = [hit for value, hit in zip(values, hits, strict=True) if value >= cut - 1e-6]
        return 2 * sum(kept) / (len(kept) + sum(hits) + missed)

    assert f1(high) == pytest.approx(max(f1(value) for value in values))


def test_two_means_where_the_truth_is_unknown() -> None:
    bimodal = scores(*[0.1] * 30, *[0.2] * 30, *[0.8] * 5, *[0.9] * 5)
    wrong = matches([0.6, 0.5], [False, False], 3)
    for match in (None, wrong):
        assert float(fit_thresholds([bimodal], [match]).high[0]) == pytest.approx((0.15 + 0.85) / 2, abs=1e-4)


@pytest.mark.parametrize("values", [(), (0.3,), (0.3, 0.3, 0.3)])
def test_nothing_to_cluster(values: tuple[float, ...]) -> None:
    assert float(fit_thresholds([scores(*values)], [None]).high[0]) == pytest.approx(0.4)


@given(
    st.lists(st.integers(0, 100).map(lambda n: n / 100), min_size=1, max_size=20),
    st.sampled_from([(0.15, 0.7), (0.3, 0.4)]),
)
def test_thresholds_stay_within_their_bounds(values: list[float], bounds: tuple[float, float]) -> None:
    fitted = fit_thresholds([scores(*values)], [None], bounds=bounds, low_share=0.4)
    assert bounds[0] - 1e-6 <= float(fitted.high[0]) <= bounds[1] + 1e-6
    assert float(fitted.low[0]) == pytest.approx(0.4 * float(fitted.high[0]))


def test_classes_are_fitted_one_by_one_and_move_together() -> None:
    fitted = fit_thresholds([scores(0.1, 0.9), scores(), scores(0.2, 0.3)], [None, None, matches([0.25], [True], 1)])
    assert fitted.high.tolist() == pytest.approx([0.5, 0.4, 0.25])
    moved = fitted.to("cpu")
    assert torch.equal(moved.high, fitted.high) and torch.equal(moved.low, fitted.low)


def test_neighbouring_scores_do_not_switch_a_class_off() -> None:
    lower = np.float32(0.3)
    for _ in range(4):  # the middle of two float32 neighbours is no float32: it rounds to either
        upper = np.nextafter(lower, np.float32(1))
        high = float(fit_thresholds([np.array([lower, upper], np.float32)], [None]).high[0])
        assert high == pytest.approx(0.3, abs=1e-3)
        lower = upper


# --- the form of the first version, image by image, as reference of the batched one


def label_by_image(
    detections: list[dict[str, Tensor]], targets: list[dict[str, Any]], anchors: Tensor, coverage: Tensor
) -> tuple[list[dict[str, Tensor]], list[tuple[int, int, int]]]:
    """Accepted boxes of every image, and the doubtful entries before the positive ones are taken out."""
    channels = ~coverage
    channels[:, 2:] = False
    accepted, voids = [], []
    for number, (one, truth) in enumerate(zip(detections, targets, strict=True)):
        boxes, scores, labels = one["boxes"], one["scores"], one["labels"]
        usable = channels[number, labels] & (scores >= THRESHOLDS.low[labels])
        if truth["boxes"].numel() and boxes.numel():
            usable &= box_iou(boxes, truth["boxes"]).amax(dim=1) <= 0.7
        sure = usable & (scores >= THRESHOLDS.high[labels])
        fixed = truth["boxes"][truth["ignore"]] if "ignore" in truth else truth["boxes"][:0]
        accepted.append(
            {
                "boxes": torch.cat([boxes[sure], fixed]),
                "labels": torch.cat([labels[sure], labels.new_zeros(len(fixed))]),
                "ignore": torch.tensor([False] * int(sure.sum()) + [True] * len(fixed), dtype=torch.bool),
            }
        )
        doubtful = usable & ~sure
        row, anchor = (box_iou(boxes[doubtful], anchors) >= 0.4).nonzero(as_tuple=True)
        voids += [(number, a, int(c)) for a, c in zip(anchor.tolist(), labels[doubtful][row].tolist(), strict=True)]
    return accepted, voids


def random_batch(seed: int, images: int = 5) -> tuple[list[dict[str, Tensor]], list[dict[str, Any]], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    anchors = torch.cat([draw(40, 2) * 60, torch.zeros(40, 2)], dim=1)
    anchors[:, 2:] = anchors[:, :2] + 8 + 8 * draw(40, 2)
    detections, targets = [], []
    for number in range(images):
        count, objects = number * 4 % 11, number % 3  # some images have none of either
        near = anchors[torch.randint(0, 40, (count + objects,), generator=generator)] + 4 * draw(count + objects, 4)
        detections.append({"boxes": near[:count], "scores": draw(count), "labels": (draw(count) * 2).long()})
        targets.append(target(near[count:].tolist(), [2] * objects, ignore=(draw(objects) < 0.5).tolist()))
    coverage = draw(images, 3) < 0.3
    return detections, targets, anchors, coverage


@given(seed=st.integers(0, 2**31 - 1))
def test_a_batch_at_once_equals_image_by_image(seed: int) -> None:
    detections, targets, anchors, coverage = random_batch(seed)
    labels = spoken(detections, targets, anchors, coverage, THRESHOLDS)
    accepted, voids = label_by_image(detections, targets, anchors, coverage)
    expected = assign(accepted, anchors)
    for mine, earlier in zip(labels.assignment[:6], expected[:6], strict=True):
        assert mine is not None and earlier is not None and torch.equal(mine, earlier)
    taken = assign(targets, anchors).matched[expected.image, expected.anchor] >= 0
    assert torch.equal(labels.free, ~taken)
    positive = set(zip(*(part.tolist() for part in (expected.image, expected.anchor, expected.column)), strict=True))
    found = list(zip(*(part.tolist() for part in labels.void), strict=True))
    assert sorted(found) == sorted(entry for entry in voids if entry not in positive)


def test_overlaps_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = random_batch(3)
    whole = spoken(*batch, THRESHOLDS).void
    monkeypatch.setattr(pseudo, "CPU_PAIRS", 80)  # two boxes at once
    assert all(torch.equal(one, other) for one, other in zip(whole, spoken(*batch, THRESHOLDS).void, strict=True))


def test_more_images_take_no_more_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = assign([target()], ANCHORS)
    monkeypatch.setattr(pseudo, "assign", lambda *_: nothing)  # measured by its own tests
    one = found((0, 0.9, 0), (1, 0.4, 1))
    truth = target([[40, 0, 50, 10]], [2], NEW, ignore=[True])

    def work(images: int) -> int:
        coverage = torch.tensor([NEW] * images)
        annotated = nothing._replace(matched=nothing.matched.expand(images, -1))
        return operations(
            lambda: pseudo_label([one] * images, [truth] * images, ANCHORS, annotated, coverage, THRESHOLDS)
        )

    assert work(2) == work(9)
