from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import every_row, grid, operations, responses, sizes_made
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, generalized_box_iou_loss

from incdet.distillation.terms import (
    Selection,
    box_distillation_loss,
    respond,
    response_loss,
    select,
    select_boxes,
    softmax_loss,
)
from incdet.ops.boxes import decode_boxes

SEEDS = st.integers(0, 2**31 - 1)
TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0, 4.0])
SHARES = st.sampled_from([0.0, 0.3, 1.0])


def draw(seed: int, *shape: int, spread: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


def chosen(seed: int, *shape: int, share: float = 0.5) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


def descend(loss: Tensor) -> None:
    torch.autograd.backward(loss)


def response(student: Tensor, teacher: Tensor, selected: Tensor, *rest: Any) -> Tensor:
    return response_loss(student, every_row(teacher), selected.flatten(), *rest)


def softmax(student: Tensor, teacher: Tensor, selected: Tensor, *rest: Any) -> Tensor:
    return softmax_loss(student, every_row(teacher), selected.flatten(), *rest)


def box_loss(student: Tensor, teacher: Tensor, selected: Tensor, kind: str) -> Tensor:
    known = every_row(torch.zeros(*teacher.shape[:2], 1), teacher)
    return box_distillation_loss(student, known, selected.flatten(), grid(student.shape[1]), kind)


def chosen_boxes(
    logits: Tensor, deltas: Tensor, anchors: Tensor, taken: Tensor, score: float = 0.05, **rest: Any
) -> tuple[Tensor, Tensor]:
    known = every_row(logits, deltas)
    candidates = select(logits.amax(-1), Selection("score", score)) & ~taken
    rows = select_boxes(known, candidates.flatten(), anchors, **rest)
    return known.image[rows], known.anchor[rows]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_response(student: Tensor, teacher: Tensor, selected: Tensor, channels: Tensor | None, t: float) -> float:
    total, weight = 0.0, 0.0
    for b in range(teacher.shape[0]):
        for a in range(teacher.shape[1]):
            if not selected[b, a]:
                continue
            scores = [0.0]
            for k in range(teacher.shape[2]):
                if channels is not None and not channels[b, k]:
                    continue
                wanted = sigmoid(float(teacher[b, a, k]) / t)
                got = sigmoid(float(student[b, a, k]) / t)
                total -= wanted * math.log(got) + (1 - wanted) * math.log(1 - got)
                scores.append(sigmoid(float(teacher[b, a, k])))
            weight += max(scores)
    return t * t * total / max(1.0, weight)


def slow_softmax(student: Tensor, teacher: Tensor, selected: Tensor, heads: tuple[int, ...], t: float) -> float:
    def soft(values: list[float]) -> list[float]:
        exponents = [math.exp(value / t) for value in values]
        return [value / sum(exponents) for value in exponents]

    total, start = 0.0, 0
    for size in heads:
        terms = []
        for b in range(teacher.shape[0]):
            for a in range(teacher.shape[1]):
                if selected[b, a]:
                    p = soft([float(x) for x in teacher[b, a, start : start + size]])
                    q = soft([float(x) for x in student[b, a, start : start + size]])
                    terms.append(-sum(x * math.log(y) for x, y in zip(p, q, strict=True)))
        total += sum(terms) / max(1, len(terms))
        start += size
    return total


def slow_giou(first: list[float], second: list[float]) -> float:
    def area(box: list[float]) -> float:
        return (box[2] - box[0]) * (box[3] - box[1])

    inner = [max(first[0], second[0]), max(first[1], second[1]), min(first[2], second[2]), min(first[3], second[3])]
    outer = [min(first[0], second[0]), min(first[1], second[1]), max(first[2], second[2]), max(first[3], second[3])]
    common = area(inner) if inner[2] > inner[0] and inner[3] > inner[1] else 0.0
    union = area(first) + area(second) - common
    return common / union - (area(outer) - union) / area(outer)


@settings(max_examples=25)
@given(seed=SEEDS, t=TEMPERATURES, share=SHARES, restrict=st.booleans())
def test_response_loss_equals_the_written_out_sum(seed: int, t: float, share: float, restrict: bool) -> None:
    student, teacher = draw(seed, 2, 5, 4), draw(seed + 1, 2, 5, 3)
    selected = chosen(seed, 2, 5, share=share)
    channels = chosen(seed, 2, 3) if restrict else None
    loss = response(student, teacher, selected, channels, t)
    assert float(loss) == pytest.approx(slow_response(student, teacher, selected, channels, t), rel=1e-4, abs=1e-5)


@settings(max_examples=25)
@given(seed=SEEDS, t=TEMPERATURES, share=SHARES, heads=st.sampled_from([(4,), (1, 3), (2, 2)]))
def test_softmax_loss_equals_the_written_out_sum(seed: int, t: float, share: float, heads: tuple[int, ...]) -> None:
    student, teacher = draw(seed, 2, 5, 6), draw(seed + 1, 2, 5, 4)
    selected = chosen(seed, 2, 5, share=share)
    loss = softmax(student, teacher, selected, heads, t)
    assert float(loss) == pytest.approx(slow_softmax(student, teacher, selected, heads, t), rel=1e-4, abs=1e-5)


@settings(max_examples=25)
@given(seed=SEEDS, kind=st.sampled_from(["l1", "giou"]), share=st.sampled_from([0.0, 0.4, 1.0]))
def test_box_distillation_equals_the_written_out_mean(seed: int, kind: str, share: float) -> None:
    student, teacher = draw(seed, 2, 6, 4, spread=0.4), draw(seed + 1, 2, 6, 4, spread=0.4)
    anchors = grid(6)
    selected = chosen(seed, 2, 6, share=share)
    terms = []
    for b, a in selected.nonzero().tolist():
        if kind == "l1":
            terms.append(sum(abs(float(x) - float(y)) for x, y in zip(student[b, a], teacher[b, a], strict=True)))
        else:
            boxes = [decode_boxes(side[b, a].double(), anchors[a]).tolist() for side in (student, teacher)]
            terms.append(1 - slow_giou(*boxes))
    loss = box_loss(student, teacher, selected, kind)
    assert float(loss) == pytest.approx(sum(terms) / max(1, len(terms)), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(temperature: float) -> None:
    teacher, everything = draw(3, 2, 7, 3), torch.ones(2, 7, dtype=torch.bool)
    student = teacher.clone().requires_grad_()
    descend(response(student, teacher, everything, None, temperature))
    assert student.grad is not None and student.grad.abs().max() < 1e-6
    least = response(teacher, teacher, everything, None, temperature)
    for seed in range(5):
        moved = teacher + draw(seed, 2, 7, 3, spread=0.2)
        assert response(moved, teacher, everything, None, temperature) > least


def test_softmax_and_box_distillation_too_are_least_at_the_teacher() -> None:
    teacher, everything = draw(4, 2, 7, 4), torch.ones(2, 7, dtype=torch.bool)
    student = teacher.clone().requires_grad_()
    descend(softmax(student, teacher, everything, (2, 2)))
    assert student.grad is not None and student.grad.abs().max() < 1e-6
    for kind in ("l1", "giou"):
        loss = box_loss(teacher, teacher, everything, kind)
        assert float(loss) == pytest.approx(0, abs=1e-5)


def test_a_head_of_one_class_teaches_nothing_by_softmax() -> None:
    student = draw(5, 1, 4, 3).requires_grad_()
    descend(softmax(student, draw(6, 1, 4, 1), torch.ones(1, 4, dtype=torch.bool), (1,)))
    assert student.grad is not None and not student.grad.any()


def test_later_columns_and_silent_channels_get_no_gradient() -> None:
    student = draw(7, 2, 4, 5).requires_grad_()
    channels = torch.tensor([[True, False, True], [False, False, False]])
    descend(response(student, draw(8, 2, 4, 3), torch.ones(2, 4, dtype=torch.bool), channels))
    assert student.grad is not None
    assert (student.grad[0, :, [0, 2]] != 0).all()
    assert not student.grad[0, :, 1].any() and not student.grad[1].any() and not student.grad[..., 3:].any()


@pytest.mark.parametrize(
    "loss",
    [
        lambda student, none: response(student, torch.zeros(2, 3, 4), none),
        lambda student, none: softmax(student, torch.zeros(2, 3, 4), none, (4,)),
        lambda student, none: box_loss(student, torch.zeros(2, 3, 4), none, "l1"),
        lambda student, none: box_loss(student, torch.zeros(2, 3, 4), none, "giou"),
    ],
    ids=["response", "softmax", "box-l1", "box-giou"],
)
def test_with_nothing_selected_a_loss_is_zero_and_keeps_its_gradient_path(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    student = torch.randn(2, 3, 4, requires_grad=True)
    value = loss(student, torch.zeros(2, 3, dtype=torch.bool))
    descend(value)
    assert float(value.detach()) == 0
    assert student.grad is not None and not student.grad.any()


def test_losses_are_float32_for_half_precision_responses() -> None:
    student, teacher = draw(1, 1, 4, 2).bfloat16(), draw(2, 1, 4, 2).bfloat16()
    everything = torch.ones(1, 4, dtype=torch.bool)
    assert response(student, teacher, everything).dtype == torch.float32
    assert softmax(student, teacher, everything, (2,)).dtype == torch.float32
    boxes = draw(3, 1, 4, 4).bfloat16()
    assert box_loss(boxes, boxes, everything, "l1").dtype == torch.float32


def logit(score: float) -> float:
    return math.log(score / (1 - score))


SCORES = torch.tensor([[[logit(s), logit(s / 2)] for s in (0.9, 0.04, 0.5, 0.06, 0.01)]])


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection("all"), [0, 1, 2, 3, 4]),
        (Selection("score", 0.05), [0, 2, 3]),
        (Selection("score", 0.55), [0]),
        (Selection("topk", 2), [0, 2]),
        (Selection("topk", 99), [0, 1, 2, 3, 4]),
        (Selection("statistical", 1.0), [0]),
        (Selection("statistical", 0.0), [0, 2]),
    ],
)
def test_selection_takes_the_anchors_its_rule_names(selection: Selection, expected: list[int]) -> None:
    assert select(SCORES.amax(-1), selection)[0].nonzero()[:, 0].tolist() == expected


def test_statistical_selection_is_relative_to_its_own_image() -> None:
    two = torch.cat([SCORES, SCORES - 20.0])
    found = select(two.amax(-1), Selection("statistical", 1.0))
    assert torch.equal(found[0], found[1]) and found.any()


def test_an_unknown_selection_is_named() -> None:
    with pytest.raises(ValueError, match="nearest"):
        select(SCORES.amax(-1), Selection("nearest"))


def slow_select_boxes(
    logits: Tensor, deltas: Tensor, anchors: Tensor, taken: Tensor, score: float, nms: float, most: int
) -> set[tuple[int, int]]:
    """Greedy suppression within each class, one pair at a time."""
    kept = set()
    for b in range(len(logits)):
        scores, columns = logits[b].double().sigmoid().max(dim=-1)
        order = sorted(range(len(anchors)), key=lambda a: -float(scores[a]))
        order = [a for a in order if float(scores[a]) > score and not taken[b, a]][:most]
        boxes = {a: decode_boxes(deltas[b, a], anchors[a]).tolist() for a in order}
        winners: list[int] = []
        for a in order:
            rivals = [w for w in winners if columns[w] == columns[a]]
            if all(overlap(boxes[a], boxes[w]) <= nms for w in rivals):
                winners.append(a)
        kept |= {(b, a) for a in winners}
    return kept


def overlap(first: list[float], second: list[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return common / (sum(areas) - common)


@settings(max_examples=25)
@given(seed=SEEDS, nms=st.sampled_from([0.1, 0.5, 0.9]), most=st.sampled_from([3, 300]))
def test_boxes_are_selected_by_score_and_suppression_off_the_taken_anchors(seed: int, nms: float, most: int) -> None:
    anchors = grid(12, side=10.0, gap=3.0)
    logits, deltas = draw(seed, 2, 12, 2), draw(seed + 1, 2, 12, 4, spread=0.1)
    taken = chosen(seed, 2, 12, share=0.3)
    image, anchor = chosen_boxes(logits, deltas, anchors, taken, 0.3, nms=nms, most=most)
    assert not taken[image, anchor].any()
    found = set(zip(image.tolist(), anchor.tolist(), strict=True))
    assert found == slow_select_boxes(logits, deltas, anchors, taken, 0.3, nms, most)


def test_nothing_is_selected_where_every_anchor_is_taken() -> None:
    taken = torch.ones(1, 4, dtype=torch.bool)
    image, anchor = chosen_boxes(torch.full((1, 4, 2), 5.0), torch.zeros(1, 4, 4), grid(4), taken)
    assert image.numel() == anchor.numel() == 0


def test_suppression_spares_boxes_of_another_class() -> None:
    place = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(3, 1)
    logits = torch.tensor([[[4.0, -9.0], [3.0, -9.0], [-9.0, 2.0]]])
    free = torch.zeros(1, 3, dtype=torch.bool)
    assert chosen_boxes(logits, torch.zeros(1, 3, 4), place, free)[1].tolist() == [0, 2]


# --- the forms of the first version, dense and image by image, as references of the batched ones


def dense_response(student: Tensor, teacher: Tensor, selected: Tensor, channels: Tensor | None, t: float) -> Tensor:
    image, anchor = selected.nonzero(as_tuple=True)
    own, target = student[image, anchor, : teacher.shape[-1]], teacher[image, anchor]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(own / t, (target / t).sigmoid(), reduction="none")
    scores = target.sigmoid()
    if channels is not None:
        loss, scores = loss * channels[image], scores * channels[image]
    return t**2 * loss.sum() / scores.amax(dim=-1).sum().clamp(min=1.0) + student.sum() * 0.0


def dense_softmax(student: Tensor, teacher: Tensor, selected: Tensor, heads: tuple[int, ...], t: float) -> Tensor:
    image, anchor = selected.nonzero(as_tuple=True)
    own, target, total, start = student[image, anchor] / t, teacher[image, anchor] / t, student.sum() * 0.0, 0
    for size in heads:
        columns = slice(start, start + size)
        cross = -(target[:, columns].softmax(-1) * own[:, columns].log_softmax(-1)).sum(-1)
        total, start = total + cross.sum() / max(1, len(cross)), start + size
    return total


CODER = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))


def boxes_by_image(
    logits: Tensor, deltas: Tensor, anchors: Tensor, taken: Tensor, score: float, nms: float, most: int
) -> tuple[Tensor, Tensor]:
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
    own, target = student[image, anchor], teacher[image, anchor]
    if kind == "giou":
        pair = [CODER.decode_single(side, anchors[anchor]) for side in (own, target)]
        loss = generalized_box_iou_loss(*pair)
    else:
        loss = (own - target).abs().sum(-1)
    mean: Tensor = loss.sum() / max(1, len(loss))
    return mean + student.sum() * 0.0


def slopes(loss: Tensor, leaf: Tensor) -> tuple[Tensor, Tensor]:
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


@settings(max_examples=20)
@given(seed=SEEDS, t=TEMPERATURES, restrict=st.booleans(), bar=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_losses_on_rows_equal_the_dense_ones_and_so_do_their_gradients(
    seed: int, t: float, restrict: bool, bar: float
) -> None:
    student, teacher = draw(seed, 3, 40, 6).requires_grad_(), draw(seed + 1, 3, 40, 5)
    wanted, louder = Selection("score", bar), Selection("topk", 7)
    rows = respond(responses(teacher), [louder, wanted])  # the other selection's rows lie between
    selected = teacher.sigmoid().amax(-1) > bar
    channels = chosen(seed, 3, 5) if restrict else None
    heard = rows.heard[wanted]
    pairs = [
        (response_loss(student, rows, heard, channels, t), dense_response(student, teacher, selected, channels, t)),
        (softmax_loss(student, rows, heard, (2, 3), t), dense_softmax(student, teacher, selected, (2, 3), t)),
    ]
    for ours, earlier in pairs:
        torch.testing.assert_close(slopes(ours, student), slopes(earlier, student), rtol=2e-5, atol=1e-6)


@settings(max_examples=20)
@given(
    seed=SEEDS, kind=st.sampled_from(["l1", "giou"]), nms=st.sampled_from([0.3, 0.7]), most=st.sampled_from([5, 300])
)
def test_one_suppression_for_the_batch_equals_one_for_every_image(seed: int, kind: str, nms: float, most: int) -> None:
    anchors = grid(60, side=12.0, gap=2.0)
    logits, deltas = draw(seed, 4, 60, 3), draw(seed + 1, 4, 60, 4, spread=0.2)
    taken = chosen(seed, 4, 60, share=0.2)
    taken[2] = True  # an image without any candidate
    student = draw(seed + 2, 4, 60, 4, spread=0.2).requires_grad_()
    image, anchor = boxes_by_image(logits, deltas, anchors, taken, 0.3, nms, most)
    rows = respond(responses(logits, deltas), [Selection("score", 0.3)])
    free = ~taken[rows.image, rows.anchor]
    found = select_boxes(rows, free, anchors, nms=nms, most=most)
    assert sorted(zip(rows.image[found].tolist(), rows.anchor[found].tolist(), strict=True)) == sorted(
        zip(image.tolist(), anchor.tolist(), strict=True)
    )
    ours = box_distillation_loss(student, rows, found, anchors, kind)
    earlier = dense_box(student, deltas, anchors, image, anchor, kind)
    torch.testing.assert_close(slopes(ours, student), slopes(earlier, student), rtol=2e-5, atol=1e-6)


def test_more_images_take_no_more_operations() -> None:
    def work(images: int) -> int:
        student, teacher = draw(1, images, 50, 4).requires_grad_(), draw(2, images, 50, 3)
        deltas = draw(3, images, 50, 4, spread=0.1).requires_grad_()
        selection = Selection("score", 0.3)

        def step() -> None:
            rows = respond(responses(teacher, deltas.detach()), [selection])
            heard = rows.heard[selection]
            found = select_boxes(rows, heard, grid(50))
            loss = response_loss(student, rows, heard) + softmax_loss(student, rows, heard, (1, 2))
            descend(loss + box_distillation_loss(deltas, rows, found, grid(50)))

        return operations(step)

    assert work(2) == work(9)


def test_a_term_costs_no_pass_over_the_students_output() -> None:
    # The forward looks up rows alone: the largest tensor it makes is of their size.
    student, teacher = draw(1, 2, 4000, 8).requires_grad_(), draw(2, 2, 4000, 8)
    rows = respond(responses(teacher), [Selection("topk", 10)])
    sizes = sizes_made(lambda: response_loss(student, rows, rows.heard[Selection("topk", 10)]))
    assert max(sizes) == 2 * 10 * 8
