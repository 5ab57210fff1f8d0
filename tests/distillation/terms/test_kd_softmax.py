from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import answer, batch_targets, descend, draw, losses_of, operations, responses, sizes_made, slope, target
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from incdet.distillation.part import Selection
from incdet.distillation.terms import KdSoftmax

SEEDS = st.integers(0, 2**31 - 1)
TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0, 4.0])
ALL = Selection(kind="all")


def softmax(term: KdSoftmax, student: Tensor, teacher: Tensor, heads: tuple[int, ...]) -> Tensor:
    """``heads`` are the teacher's; the student's further columns are its last one."""
    more = student.shape[-1] - teacher.shape[-1]
    batch = batch_targets([target()] * len(student), (*heads, more) if more else heads, count=student.shape[1])
    return losses_of(term, responses(student), {"old": answer(teacher, heads=heads)}, batch)["kd_softmax"]


def bar(score: float) -> Selection:
    return Selection(kind="score", value=score)


def slow_softmax(student: Tensor, teacher: Tensor, score: float, heads: tuple[int, ...], t: float) -> float:
    def soft(values: list[float]) -> list[float]:
        exponents = [math.exp(value / t) for value in values]
        return [value / sum(exponents) for value in exponents]

    total, start = 0.0, 0
    for size in heads:
        terms = []
        for b in range(teacher.shape[0]):
            for a in range(teacher.shape[1]):
                if 1 / (1 + math.exp(-float(teacher[b, a].max()))) > score:
                    p = soft([float(x) for x in teacher[b, a, start : start + size]])
                    q = soft([float(x) for x in student[b, a, start : start + size]])
                    terms.append(sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))
        total += sum(terms) / max(1, len(terms))
        start += size
    return total


@settings(max_examples=25)
@given(
    seed=SEEDS,
    t=TEMPERATURES,
    score=st.sampled_from([0.0, 0.8, 0.95, 1.0]),
    heads=st.sampled_from([(4,), (1, 3), (2, 2)]),
)
def test_it_equals_the_written_out_divergence(seed: int, t: float, score: float, heads: tuple[int, ...]) -> None:
    student, teacher = draw(seed, 2, 5, 6), draw(seed + 1, 2, 5, 4)
    loss = softmax(KdSoftmax(temperature=t, selection=bar(score)), student, teacher, heads)
    assert float(loss) == pytest.approx(slow_softmax(student, teacher, score, heads, t), rel=1e-4, abs=1e-5)


def dense_gradient(student: Tensor, teacher: Tensor, score: float, heads: tuple[int, ...], t: float) -> Tensor:
    """That of the paper's cross-entropy, which the divergence differs from by a constant, on whole maps."""
    image, anchor = (teacher.sigmoid().amax(-1) > score).nonzero(as_tuple=True)
    own, wanted, total, start = student[image, anchor] / t, teacher[image, anchor] / t, student.sum() * 0.0, 0
    for size in heads:
        columns = slice(start, start + size)
        cross = -(wanted[:, columns].softmax(-1) * own[:, columns].log_softmax(-1)).sum(-1)
        total, start = total + cross.sum() / max(1, len(cross)), start + size
    return slope(total, student)


@settings(max_examples=20)
@given(seed=SEEDS, t=TEMPERATURES, score=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_its_gradient_is_that_of_the_papers_cross_entropy(seed: int, t: float, score: float) -> None:
    student, teacher = draw(seed, 3, 40, 6).requires_grad_(), draw(seed + 1, 3, 40, 5)
    found = slope(softmax(KdSoftmax(temperature=t, selection=bar(score)), student, teacher, (2, 3)), student)
    torch.testing.assert_close(found, dense_gradient(student, teacher, score, (2, 3), t), rtol=2e-5, atol=1e-6)


def test_a_student_equal_to_its_teacher_has_no_loss_and_nothing_to_learn() -> None:
    teacher, term = draw(4, 2, 7, 4), KdSoftmax(selection=ALL)
    student = teacher.clone().requires_grad_()
    loss = softmax(term, student, teacher, (2, 2))
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6) and slope(loss, student).abs().max() < 1e-6
    for seed in range(5):
        assert softmax(term, teacher + draw(seed, 2, 7, 4, spread=0.2), teacher, (2, 2)) > 1e-4


def test_a_head_of_one_class_teaches_nothing() -> None:
    student = draw(5, 1, 4, 3).requires_grad_()
    assert not slope(softmax(KdSoftmax(selection=ALL), student, draw(6, 1, 4, 1), (1,)), student).any()


def test_later_columns_get_no_gradient() -> None:
    student = draw(7, 2, 4, 5).requires_grad_()
    found = slope(softmax(KdSoftmax(selection=ALL), student, draw(8, 2, 4, 3), (3,)), student)
    assert found[..., :3].any(dim=-1).all() and not found[..., 3:].any()


@pytest.mark.parametrize(("images", "silent"), [("new", 1), ("exemplars", 0)])
def test_it_is_silent_on_images_that_it_does_not_listen_on(images: Any, silent: int) -> None:
    student = draw(7, 2, 4, 4).requires_grad_()
    masks = [[False, False, False, True], [True, True, True, False]]
    batch = batch_targets([target(coverage=mask) for mask in masks], (3, 1))
    term = KdSoftmax(selection=ALL, images=images)
    loss = losses_of(term, responses(student), {"old": answer(draw(8, 2, 4, 3))}, batch)["kd_softmax"]
    found = slope(loss, student)
    assert not found[silent].any() and found[1 - silent].any()


def test_with_nothing_selected_it_is_zero_and_keeps_its_gradient_path() -> None:
    student = draw(1, 2, 3, 4).requires_grad_()
    loss = softmax(KdSoftmax(selection=bar(1.0)), student, draw(2, 2, 3, 4), (4,))
    assert float(loss.detach()) == 0 and not slope(loss, student).any()


def test_it_is_weighted_and_float32_for_a_student_of_half_precision() -> None:
    student, teacher = draw(1, 1, 4, 2).bfloat16(), draw(2, 1, 4, 2)
    loss, double = (softmax(KdSoftmax(weight=w, selection=ALL), student, teacher, (2,)) for w in (1.0, 2.0))
    assert loss.dtype == torch.float32 and float(double) == pytest.approx(2 * float(loss))


def test_more_images_take_no_more_operations() -> None:
    def work(images: int) -> int:
        student, teacher = draw(1, images, 50, 4).requires_grad_(), answer(draw(2, images, 50, 3), heads=(1, 2))
        batch, term = batch_targets([target()] * images, (1, 2, 1), count=50), KdSoftmax(selection=bar(0.3))
        return operations(lambda: descend(losses_of(term, responses(student), {"old": teacher}, batch)))

    assert work(2) == work(9)


def test_it_costs_no_pass_over_the_students_output() -> None:
    student, term = (
        responses(draw(1, 2, 4000, 8).requires_grad_()),
        KdSoftmax(selection=Selection(kind="topk", value=10)),
    )
    batch = batch_targets([target()] * 2, (3, 5), count=4000)
    targets = term.targets({"old": answer(draw(2, 2, 4000, 8), heads=(3, 5))}, batch)
    total = term.count(targets, batch)
    assert max(sizes_made(lambda: term.losses(student, targets, batch, total, None))) == 2 * 10 * 8
