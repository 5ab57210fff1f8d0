from __future__ import annotations

import pytest
import torch
from helpers import answer, batch_targets, draw, losses_of, responses, slope, target
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from incdet.distillation.part import Selection
from incdet.distillation.terms import KdLogits

ALL = Selection(kind="all")


def logits_loss(term: KdLogits, student: Tensor, teacher: Tensor) -> Tensor:
    old, new = teacher.shape[-1], student.shape[-1] - teacher.shape[-1]
    batch = batch_targets([target()] * len(student), (old, new), count=student.shape[1])
    return losses_of(term, responses(student), {"old": answer(teacher)}, batch)["kd_logits"]


def slow_loss(student: Tensor, teacher: Tensor, most: int, centred: bool) -> float:
    """Over the ``most`` anchors of an image where the teacher is surest, one number at a time."""
    columns = range(teacher.shape[2])
    terms = []
    for b in range(teacher.shape[0]):
        strongest = sorted(range(teacher.shape[1]), key=lambda a: -float(teacher[b, a].max()))
        for a in strongest[:most]:
            own, theirs = ([float(side[b, a, k]) for k in columns] for side in (student, teacher))
            shift = (sum(own) - sum(theirs)) / len(own) if centred else 0.0
            terms += [(x - y - shift) ** 2 for x, y in zip(own, theirs, strict=True)]
    return sum(terms) / len(terms)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), most=st.integers(1, 6), centred=st.booleans())
def test_it_equals_the_written_out_mean(seed: int, most: int, centred: bool) -> None:
    student, teacher = draw(seed, 2, 5, 4), draw(seed + 1, 2, 5, 3)
    term = KdLogits(centred=centred, selection=Selection(kind="topk", value=most))
    expected = slow_loss(student, teacher, most, centred)
    assert float(logits_loss(term, student, teacher)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_shift_of_all_classes_of_an_anchor_is_no_loss_where_logits_are_centred() -> None:
    teacher = draw(1, 2, 4, 3)
    student = torch.cat([teacher + draw(2, 2, 4, 1), draw(3, 2, 4, 1)], dim=-1)
    assert float(logits_loss(KdLogits(centred=True, selection=ALL), student, teacher)) == pytest.approx(0, abs=1e-6)
    assert logits_loss(KdLogits(selection=ALL), student, teacher) > 1


def test_later_columns_get_no_gradient_and_an_empty_selection_keeps_a_path() -> None:
    student, teacher = draw(1, 2, 4, 5).requires_grad_(), draw(2, 2, 4, 3)
    found = slope(logits_loss(KdLogits(selection=ALL), student, teacher), student)
    assert found[..., :3].all() and not found[..., 3:].any()
    nothing = logits_loss(KdLogits(selection=Selection(kind="score", value=1.0)), student, teacher)
    assert float(nothing.detach()) == 0 and not slope(nothing, student).any()
