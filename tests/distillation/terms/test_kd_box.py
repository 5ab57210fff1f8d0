from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import answer, batch_targets, descend, draw, grid, losses_of, operations, responses, slope, target
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, generalized_box_iou_loss

from incdet.distillation.teacher_targets import BatchTargets, Entries
from incdet.distillation.terms import KdBox
from incdet.distillation.terms.kd_box import surviving
from incdet.ops.boxes import decode_boxes

SEEDS = st.integers(0, 2**31 - 1)
CODER = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))


def taken_by(seed: int, images: int, anchors: Tensor, share: float) -> Tensor:
    """Which anchors (B, A) an annotated object takes."""
    return torch.rand(images, len(anchors), generator=torch.Generator().manual_seed(seed)) < share


def batch_of(taken: Tensor, anchors: Tensor, kind: str = "l1") -> BatchTargets:
    """A batch whose ``taken`` anchors are matched; what the boxes are makes no difference to the term."""
    batch = batch_targets([target()] * len(taken), (2, 1), anchors, box_kind=kind)
    return batch._replace(assignment=batch.assignment._replace(matched=torch.where(taken, 0, -1)))


def box_loss(
    term: KdBox, student: Tensor, logits: Tensor, deltas: Tensor, batch: BatchTargets
) -> tuple[Tensor, set[tuple[int, int]]]:
    """The loss, and the places it takes."""
    answers = {"old": answer(logits, deltas, anchors=batch.anchors)}
    own = responses(torch.zeros(*student.shape[:2], 3), student, batch.anchors)
    rows: Any = term.targets(answers, batch)["rows"]
    return losses_of(term, own, answers, batch)["kd_box"], places(rows)


def places(rows: Entries) -> set[tuple[int, int]]:
    return set(zip(rows.image.tolist(), rows.anchor.tolist(), strict=True))


def slow_giou(first: list[float], second: list[float]) -> float:
    def area(box: list[float]) -> float:
        return (box[2] - box[0]) * (box[3] - box[1])

    outer = [min(first[0], second[0]), min(first[1], second[1]), max(first[2], second[2]), max(first[3], second[3])]
    common = intersection(first, second)
    union = area(first) + area(second) - common
    return common / union - (area(outer) - union) / area(outer)


def intersection(first: list[float], second: list[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def overlap(first: list[float], second: list[float]) -> float:
    common = intersection(first, second)
    return common / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - common)


@settings(max_examples=25)
@given(seed=SEEDS, kind=st.sampled_from(["l1", "giou"]), share=st.sampled_from([0.0, 0.4, 1.0]))
def test_it_equals_the_written_out_mean(seed: int, kind: str, share: float) -> None:
    student, deltas = draw(seed, 2, 6, 4, spread=0.4), draw(seed + 1, 2, 6, 4, spread=0.4)
    anchors = grid(6)
    taken = taken_by(seed, 2, anchors, share)
    terms = []
    for b, a in (~taken).nonzero().tolist():
        if kind == "l1":
            terms.append(sum(abs(float(x) - float(y)) for x, y in zip(student[b, a], deltas[b, a], strict=True)))
        else:
            boxes = [decode_boxes(side[b, a].double(), anchors[a]).tolist() for side in (student, deltas)]
            terms.append(1 - slow_giou(*boxes))
    term = KdBox(score=0.0, nms=1.0)
    loss, _ = box_loss(term, student, draw(seed, 2, 6, 2), deltas, batch_of(taken, anchors, kind))
    assert float(loss) == pytest.approx(sum(terms) / max(1, len(terms)), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", ["l1", "giou"])
def test_a_student_equal_to_its_teacher_has_no_loss(kind: str) -> None:
    deltas, anchors = draw(4, 2, 7, 4, spread=0.3), grid(7)
    batch = batch_of(torch.zeros(2, 7, dtype=torch.bool), anchors, kind)
    logits = torch.full((2, 7, 2), 3.0)
    assert float(box_loss(KdBox(), deltas, logits, deltas, batch)[0]) == pytest.approx(0, abs=1e-5)
    moved = deltas + draw(5, 2, 7, 4, spread=0.1)
    assert box_loss(KdBox(), moved, logits, deltas, batch)[0] > 0.01


def slow_kept(
    logits: Tensor, deltas: Tensor, anchors: Tensor, taken: Tensor, score: float, nms: float
) -> set[tuple[int, int]]:
    """Greedy suppression within each class, one pair at a time."""
    kept = set()
    for b in range(len(logits)):
        scores, columns = logits[b].double().sigmoid().max(dim=-1)
        order = sorted(range(len(anchors)), key=lambda a: -float(scores[a]))
        order = [a for a in order if float(scores[a]) > score and not taken[b, a]]
        boxes = {a: decode_boxes(deltas[b, a], anchors[a]).tolist() for a in order}
        winners: list[int] = []
        for a in order:
            rivals = [w for w in winners if columns[w] == columns[a]]
            if all(overlap(boxes[a], boxes[w]) <= nms for w in rivals):
                winners.append(a)
        kept |= {(b, a) for a in winners}
    return kept


@settings(max_examples=25)
@given(seed=SEEDS, nms=st.sampled_from([0.1, 0.5, 0.9]))
def test_boxes_are_kept_by_score_and_suppression_off_the_taken_anchors(seed: int, nms: float) -> None:
    anchors = grid(12, side=10.0, gap=3.0)
    logits, deltas = draw(seed, 2, 12, 2), draw(seed + 1, 2, 12, 4, spread=0.1)
    taken = taken_by(seed, 2, anchors, 0.3)
    kept = box_loss(KdBox(score=0.3, nms=nms), deltas, logits, deltas, batch_of(taken, anchors))[1]
    assert kept == slow_kept(logits, deltas, anchors, taken, 0.3, nms)
    assert not any(taken[place] for place in kept)


def test_anchors_between_object_and_background_may_be_distilled_but_not_those_of_an_object() -> None:
    batch = batch_targets([target()], (2, 1))
    batch = batch._replace(assignment=batch.assignment._replace(matched=torch.tensor([[0, -1, -2, -1]])))
    kept = box_loss(KdBox(), torch.zeros(1, 4, 4), torch.full((1, 4, 2), 5.0), torch.zeros(1, 4, 4), batch)[1]
    assert kept == {(0, 1), (0, 2), (0, 3)}


@pytest.mark.parametrize("kind", ["l1", "giou"])
def test_where_every_anchor_is_taken_it_is_zero_and_keeps_its_gradient_path(kind: str) -> None:
    batch = batch_of(torch.ones(1, 4, dtype=torch.bool), grid(4), kind)
    student = draw(1, 1, 4, 4).requires_grad_()
    loss, kept = box_loss(KdBox(), student, torch.full((1, 4, 2), 5.0), torch.zeros(1, 4, 4), batch)
    assert kept == set() and float(loss.detach()) == 0 and not slope(loss, student).any()


def test_suppression_spares_boxes_of_another_class() -> None:
    place = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(3, 1)
    logits = torch.tensor([[[4.0, -9.0], [3.0, -9.0], [-9.0, 2.0]]])
    batch = batch_of(torch.zeros(1, 3, dtype=torch.bool), place)
    assert box_loss(KdBox(), torch.zeros(1, 3, 4), logits, torch.zeros(1, 3, 4), batch)[1] == {(0, 0), (0, 2)}


@pytest.mark.parametrize(("images", "expected"), [("new", {0}), ("exemplars", {1}), ("both", {0, 1})])
def test_it_listens_on_the_images_it_was_told_to(images: Any, expected: set[int]) -> None:
    targets = [target(coverage=[False, False, True]), target(coverage=[True, True, False])]
    rows: Any = KdBox(images=images).targets({"old": answer(torch.ones(2, 4, 2))}, batch_targets(targets, (2, 1)))
    assert set(rows["rows"].image.tolist()) == expected


def boxes_by_image(
    logits: Tensor, deltas: Tensor, anchors: Tensor, taken: Tensor, score: float, nms: float, most: int
) -> tuple[Tensor, Tensor]:
    """torchvision's suppression, image by image."""
    scores, columns = logits.sigmoid().max(dim=-1)
    images, kept = [], []
    for number in range(len(scores)):
        candidates = ((scores[number] > score) & ~taken[number]).nonzero().squeeze(1)
        if candidates.numel() > most:
            candidates = candidates[scores[number, candidates].topk(most).indices]
        boxes = CODER.decode_single(deltas[number, candidates], anchors[candidates])
        keep = batched_nms(boxes, scores[number, candidates], columns[number, candidates], nms)
        kept.append(candidates[keep])
        images.append(torch.full_like(kept[-1], number))
    return torch.cat(images), torch.cat(kept)


def dense_box(student: Tensor, teacher: Tensor, anchors: Tensor, image: Tensor, anchor: Tensor, kind: str) -> Tensor:
    own, wanted = student[image, anchor], teacher[image, anchor]
    if kind == "giou":
        loss = generalized_box_iou_loss(*(CODER.decode_single(side, anchors[anchor]) for side in (own, wanted)))
    else:
        loss = (own - wanted).abs().sum(-1)
    mean: Tensor = loss.sum() / max(1, len(loss))
    return mean + student.sum() * 0.0


@settings(max_examples=20)
@given(seed=SEEDS, kind=st.sampled_from(["l1", "giou"]), nms=st.sampled_from([0.3, 0.7]))
def test_one_suppression_for_the_batch_equals_torchvisions_for_every_image(seed: int, kind: str, nms: float) -> None:
    anchors = grid(60, side=12.0, gap=2.0)
    logits, deltas = draw(seed, 4, 60, 3), draw(seed + 1, 4, 60, 4, spread=0.2)
    taken = taken_by(seed, 4, anchors, 0.2)
    taken[2] = True  # an image without any candidate
    student = draw(seed + 2, 4, 60, 4, spread=0.2).requires_grad_()
    image, anchor = boxes_by_image(logits, deltas, anchors, taken, 0.3, nms, 300)
    ours, kept = box_loss(KdBox(score=0.3, nms=nms), student, logits, deltas, batch_of(taken, anchors, kind))
    assert kept == set(zip(image.tolist(), anchor.tolist(), strict=True))
    earlier = dense_box(student, deltas, anchors, image, anchor, kind)
    torch.testing.assert_close(ours, earlier, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(slope(ours, student), slope(earlier, student), rtol=2e-5, atol=1e-6)


@settings(max_examples=20)
@given(seed=SEEDS, most=st.sampled_from([1, 5, 300]))
def test_the_strongest_candidates_of_each_image_enter_the_suppression(seed: int, most: int) -> None:
    anchors = grid(60, side=12.0, gap=2.0)
    logits, deltas = draw(seed, 4, 60, 3), draw(seed + 1, 4, 60, 4, spread=0.2)
    taken = taken_by(seed, 4, anchors, 0.2)
    image, anchor = boxes_by_image(logits, deltas, anchors, taken, 0.3, 0.7, most)
    scores = logits.sigmoid()
    rows = Entries.of((scores.amax(-1) > 0.3) & ~taken, scores=scores, deltas=deltas)
    kept = rows.only(surviving(rows, anchors, 0.7, most))
    assert places(kept) == set(zip(image.tolist(), anchor.tolist(), strict=True))


def test_it_is_weighted_float32_and_divided_by_the_total_of_the_whole_batch() -> None:
    deltas, batch = draw(3, 1, 4, 4), batch_of(torch.zeros(1, 4, dtype=torch.bool), grid(4))
    answers = {"old": answer(torch.ones(1, 4, 2), deltas)}
    term, own = KdBox(weight=3.0), responses(torch.zeros(1, 4, 3), draw(4, 1, 4, 4).bfloat16())
    targets = term.targets(answers, batch)
    assert int(term.count(targets, batch)) == 4
    once, twice = (term.losses(own, targets, batch, torch.tensor(n), None)["kd_box"] for n in (4.0, 8.0))
    assert once.dtype == torch.float32 and float(once) == pytest.approx(2 * float(twice))
    assert float(once) == pytest.approx(3 * float((own.deltas.float() - deltas).abs().sum()) / 4)


def test_more_images_take_no_more_operations() -> None:
    def work(images: int) -> int:
        deltas = draw(3, images, 50, 4, spread=0.1)
        student, teacher = deltas.clone().requires_grad_(), answer(draw(2, images, 50, 3), deltas)
        batch = batch_targets([target()] * images, (3, 1), count=50)
        own = responses(torch.zeros(images, 50, 4), student)
        return operations(lambda: descend(losses_of(KdBox(score=0.3), own, {"old": teacher}, batch)))

    assert work(2) == work(9)
