from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import answer, batch_targets, descend, draw, losses_of, operations, responses, sizes_made, slope, target
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from incdet.distillation.part import Selection
from incdet.distillation.teacher_targets import BatchTargets
from incdet.distillation.terms import KdResponse
from incdet.distillation.terms.kd_response import binary_divergence

SEEDS = st.integers(0, 2**31 - 1)
TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0, 4.0])
BARS = st.sampled_from([0.0, 0.6, 0.95, 1.0])
ALL = Selection(kind="all")


def batch_of(images: int, heads: tuple[int, ...], anchors: int, seed: int | None = None) -> BatchTargets:
    """Images that annotate everything or, with a seed, what falls."""
    masks = [None] * images if seed is None else (draw(seed, images, sum(heads)) > 0).tolist()
    return batch_targets([target(coverage=mask) for mask in masks], heads, count=anchors)


def response(term: KdResponse, student: Tensor, teacher: Tensor, batch: BatchTargets | None = None) -> Tensor:
    old, new = teacher.shape[-1], student.shape[-1] - teacher.shape[-1]
    batch = batch or batch_of(len(student), (old, new), student.shape[1])
    return losses_of(term, responses(student), {"old": answer(teacher)}, batch)["kd_response"]


def bar(score: float) -> Selection:
    return Selection(kind="score", value=score)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_response(student: Tensor, teacher: Tensor, score: float, channels: Tensor | None, t: float) -> float:
    total, weight = 0.0, 0.0
    for b in range(teacher.shape[0]):
        for a in range(teacher.shape[1]):
            if sigmoid(float(teacher[b, a].max())) <= score:
                continue
            scores = [0.0]
            for k in range(teacher.shape[2]):
                if channels is not None and not channels[b, k]:
                    continue
                p = sigmoid(float(teacher[b, a, k]) / t)
                q = sigmoid(float(student[b, a, k]) / t)
                total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
                scores.append(sigmoid(float(teacher[b, a, k])))
            weight += max(scores)
    return t * t * total / max(1.0, weight)


@settings(max_examples=25)
@given(seed=SEEDS, t=TEMPERATURES, score=BARS, restrict=st.booleans())
def test_it_equals_the_written_out_divergence(seed: int, t: float, score: float, restrict: bool) -> None:
    student, teacher = draw(seed, 2, 5, 4), draw(seed + 1, 2, 5, 3)
    batch = batch_of(2, (3, 1), 5, seed)
    term = KdResponse(temperature=t, selection=bar(score), uncovered_only=restrict)
    expected = slow_response(student, teacher, score, ~batch.coverage if restrict else None, t)
    assert float(response(term, student, teacher, batch)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def dense_gradient(student: Tensor, teacher: Tensor, score: float, channels: Tensor | None, t: float) -> Tensor:
    """That of the cross-entropy, which the divergence differs from by a constant, on whole maps."""
    image, anchor = (teacher.sigmoid().amax(-1) > score).nonzero(as_tuple=True)
    own, wanted = student[image, anchor, : teacher.shape[-1]], teacher[image, anchor]
    loss = F.binary_cross_entropy_with_logits(own / t, (wanted / t).sigmoid(), reduction="none")
    scores = wanted.sigmoid()
    if channels is not None:
        loss, scores = loss * channels[image], scores * channels[image]
    return slope(t**2 * loss.sum() / scores.amax(dim=-1).sum().clamp(min=1.0) + student.sum() * 0.0, student)


@settings(max_examples=20)
@given(seed=SEEDS, t=TEMPERATURES, score=st.sampled_from([0.0, 0.3, 0.9, 1.0]), restrict=st.booleans())
def test_its_gradient_is_that_of_the_dense_cross_entropy(seed: int, t: float, score: float, restrict: bool) -> None:
    student, teacher = draw(seed, 3, 40, 6).requires_grad_(), draw(seed + 1, 3, 40, 5)
    batch = batch_of(3, (5, 1), 40, seed)
    term = KdResponse(temperature=t, selection=bar(score), uncovered_only=restrict)
    found = slope(response(term, student, teacher, batch), student)
    channels = ~batch.coverage[:, :5] if restrict else None
    torch.testing.assert_close(found, dense_gradient(student, teacher, score, channels, t), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_student_equal_to_its_teacher_has_no_loss_and_nothing_to_learn(temperature: float) -> None:
    teacher, term = draw(3, 2, 7, 3), KdResponse(temperature=temperature, selection=ALL)
    student = torch.cat([teacher, draw(4, 2, 7, 1)], dim=-1).requires_grad_()
    loss = response(term, student, teacher)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert slope(loss, student).abs().max() < 1e-6
    for seed in range(5):
        assert response(term, student.detach() + draw(seed, 2, 7, 4, spread=0.2), teacher) > 1e-4


def test_the_divergence_is_finite_and_zero_at_agreement_however_sure_the_teacher_is() -> None:
    logits = torch.tensor([-1000.0, -90.0, -20.0, 0.0, 20.0, 90.0, 1000.0])
    assert binary_divergence(logits, logits).abs().max() < 1e-6
    assert binary_divergence(-logits, logits).isfinite().all()


def test_a_loss_is_weighted_and_divided_by_the_total_of_the_whole_batch() -> None:
    student, teacher = draw(1, 2, 5, 4), draw(2, 2, 5, 3)
    term, batch = KdResponse(weight=2.5, selection=ALL), batch_of(2, (3, 1), 5)
    targets = term.targets({"old": answer(teacher)}, batch)
    count = term.count(targets, batch)
    assert float(count) == pytest.approx(float(teacher.sigmoid().amax(-1).sum()))
    once, twice = (term.losses(responses(student), targets, batch, n * count, None)["kd_response"] for n in (1, 2))
    assert float(once) == pytest.approx(2 * float(twice))
    assert float(once) == pytest.approx(2.5 * float(response(KdResponse(selection=ALL), student, teacher)))


def test_later_columns_and_annotated_channels_get_no_gradient() -> None:
    student = draw(7, 2, 4, 5).requires_grad_()
    masks = [[False, True, False, True, True], [True, True, True, False, False]]
    batch = batch_targets([target(coverage=mask) for mask in masks], (3, 2))
    found = slope(response(KdResponse(selection=ALL, uncovered_only=True), student, draw(8, 2, 4, 3), batch), student)
    assert (found[0, :, [0, 2]] != 0).all()
    assert not found[0, :, 1].any() and not found[1].any() and not found[..., 3:].any()


@pytest.mark.parametrize(("images", "silent"), [("new", 1), ("exemplars", 0)])
def test_it_is_silent_on_images_that_it_does_not_listen_on(images: Any, silent: int) -> None:
    student = draw(7, 2, 4, 4).requires_grad_()
    masks = [[False, False, False, True], [True, True, True, False]]
    batch = batch_targets([target(coverage=mask) for mask in masks], (3, 1))
    found = slope(response(KdResponse(selection=ALL, images=images), student, draw(8, 2, 4, 3), batch), student)
    assert not found[silent].any() and found[1 - silent, :, :3].all()


def test_with_nothing_selected_it_is_zero_and_keeps_its_gradient_path() -> None:
    student = draw(1, 2, 3, 4).requires_grad_()
    loss = response(KdResponse(selection=bar(1.0)), student, draw(2, 2, 3, 4))
    assert float(loss.detach()) == 0 and not slope(loss, student).any()


def test_it_is_float32_for_a_student_of_half_precision() -> None:
    student = draw(1, 1, 4, 2).bfloat16()
    assert response(KdResponse(selection=ALL), student, draw(2, 1, 4, 2)).dtype == torch.float32


def test_more_images_take_no_more_operations() -> None:
    def work(images: int) -> int:
        student, teacher = draw(1, images, 50, 4).requires_grad_(), answer(draw(2, images, 50, 3))
        batch, term = batch_of(images, (3, 1), 50), KdResponse(selection=bar(0.3))
        return operations(lambda: descend(losses_of(term, responses(student), {"old": teacher}, batch)))

    assert work(2) == work(9)


def test_it_costs_no_pass_over_the_students_output() -> None:
    # The forward looks up places alone: the largest tensor it makes is of their size.
    student, term = (
        responses(draw(1, 2, 4000, 8).requires_grad_()),
        KdResponse(selection=Selection(kind="topk", value=10)),
    )
    batch = batch_of(2, (8,), 4000)
    targets = term.targets({"old": answer(draw(2, 2, 4000, 8))}, batch)
    total = term.count(targets, batch)
    assert max(sizes_made(lambda: term.losses(student, targets, batch, total, None))) == 2 * 10 * 8
