from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from helpers import answer, batch_targets, draw, losses_of, responses, slope, target
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from incdet.distillation.provider import Teaching
from incdet.distillation.terms import KdFeature

SHAPES = ((2, 3), (1, 2))
"""Rows and columns of two levels; with two anchors a cell that makes sixteen."""


def maps(seed: int, spread: float = 1.5) -> list[Tensor]:
    return [draw(seed + number, 2, 3, *shape, spread=spread) for number, shape in enumerate(SHAPES)]


def feature_loss(term: KdFeature, student: list[Tensor], teacher: list[Tensor], logits: Tensor) -> Tensor:
    batch = batch_targets([target()] * 2, (2, 1), count=16)
    own = responses(draw(0, 2, 16, 3))._replace(features=student)
    return losses_of(term, own, {"old": replace(answer(logits), features=teacher)}, batch)["kd_feature"]


def slow_loss(student: list[Tensor], teacher: list[Tensor], logits: Tensor, score: float, smooth: bool) -> float:
    """One number at a time; anchors stand level by level, row by row, cell by cell."""
    terms, anchor = [], 0
    for level, (rows, columns) in enumerate(SHAPES):
        for row in range(rows):
            for column in range(columns):
                for b in range(2):
                    if float(logits[b, anchor : anchor + 2].sigmoid().max()) > score:
                        for c in range(3):
                            gap = abs(float(student[level][b, c, row, column] - teacher[level][b, c, row, column]))
                            terms.append((0.5 * gap**2 if gap < 1 else gap - 0.5) if smooth else gap**2)
                anchor += 2
    return sum(terms) / max(1, len(terms))


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**31 - 9),
    score=st.sampled_from([0.0, 0.4, 0.9, 0.999]),
    distance=st.sampled_from(["l2", "smooth_l1"]),
)
def test_it_equals_the_written_out_mean(seed: int, score: float, distance: Literal["l2", "smooth_l1"]) -> None:
    student, teacher, logits = maps(seed), maps(seed + 2), draw(seed + 4, 2, 16, 2)
    found = feature_loss(KdFeature(score=score, distance=distance), student, teacher, logits)
    expected = slow_loss(student, teacher, logits, score, distance == "smooth_l1")
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_equal_maps_are_no_loss_and_with_no_cell_left_the_gradient_keeps_its_path() -> None:
    student, teacher = [one.requires_grad_() for one in maps(1)], maps(3)
    low = torch.full((2, 16, 2), -9.0)
    assert float(feature_loss(KdFeature(), teacher, teacher, low)) == 0
    nothing = feature_loss(KdFeature(score=0.5), student, teacher, low)
    assert float(nothing.detach()) == 0 and not any(slope(nothing, one).any() for one in student)
    everything = feature_loss(KdFeature(), student, teacher, low)
    assert all(slope(everything, one).all() for one in student)


def test_maps_are_never_cached_and_half_precision_is_compared_in_full() -> None:
    term: Any = KdFeature()
    assert not Teaching({}, [term]).cachable
    assert feature_loss(term, [one.bfloat16() for one in maps(1)], maps(3), draw(1, 2, 16, 2)).dtype == torch.float32
