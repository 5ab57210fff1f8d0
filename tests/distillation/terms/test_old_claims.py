from __future__ import annotations

import math

import pytest
import torch
from helpers import answer, batch_targets, draw, grid, losses_of, responses, slope, target
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from incdet.distillation.teacher_targets import BatchTargets
from incdet.distillation.terms import OldClaims
from incdet.ops.boxes import covered_shares

OLD, NEW = [True, True, False, False], [False, False, True, True]


def mixed(anchors: int = 6) -> BatchTargets:
    """A new image with an object on anchor 1 and one around anchor 4, and an exemplar with one on anchor 2."""
    boxes = grid(anchors).tolist()
    around = [boxes[4][0] - 4, boxes[4][1] - 8, boxes[4][2] + 4, boxes[4][3] + 8]
    targets = [target([boxes[1], around], [2, 3], NEW), target([boxes[2]], [0], OLD)]
    return batch_targets(targets, (2, 2), count=anchors)


def slow(student: Tensor, old: Tensor, term: OldClaims) -> float:
    total = weight = 0.0
    for b in range(2):
        for a in range(student.shape[1]):
            claimed = 1 / (1 + math.exp(-float(old[b, a].max())))
            if claimed <= term.score or (b == 0 and a in (1, 4)):
                continue
            weight += claimed
            for k in (2, 3):
                p = 1 / (1 + math.exp(-float(student[b, a, k])))
                total += claimed * p**2 * -math.log(1 - p)
    return term.weight * total / max(1.0, weight)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), score=st.sampled_from([0.0, 0.3, 0.9]))
def test_it_equals_the_written_out_sum(seed: int, score: float) -> None:
    student, old = draw(seed, 2, 6, 4), draw(seed + 1, 2, 6, 2)
    term, batch = OldClaims(weight=1.5, score=score), mixed()
    found = losses_of(term, responses(student, anchors=batch.anchors), {"old": answer(old)}, batch)["old_claims"]
    assert float(found) == pytest.approx(slow(student, old, term), rel=1e-4, abs=1e-6)


def test_it_moves_the_newest_columns_alone_and_has_a_path_where_nothing_is_claimed() -> None:
    student, batch = draw(1, 2, 6, 4).requires_grad_(), mixed()
    for old, moved in ((draw(2, 2, 6, 2), True), (torch.full((2, 6, 2), -9.0), False)):
        losses = losses_of(OldClaims(), responses(student, anchors=batch.anchors), {"old": answer(old)}, batch)
        gradient = slope(losses["old_claims"], student)
        assert not gradient[..., :2].any() and bool(gradient[..., 2:].any()) is moved
        assert not gradient[0, 1].any()


def test_the_share_of_a_box_inside_others_is_of_its_own_area() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [100, 0, 110, 10]])
    objects = torch.tensor([[-50.0, -50, 5, 50], [0, 0, 10, 2]])
    assert covered_shares(boxes, objects).tolist() == [0.5, 0.0]
    assert covered_shares(boxes, objects[:0]).tolist() == [0.0, 0.0]
