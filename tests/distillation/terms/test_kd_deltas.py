from __future__ import annotations

import pytest
from helpers import answer, batch_targets, draw, grid, losses_of, responses, slope, target
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from incdet.distillation.part import Selection
from incdet.distillation.terms import KdDeltas

TAKEN = grid(5)[1].tolist()


def deltas_loss(term: KdDeltas, student: Tensor, logits: Tensor, teacher: Tensor) -> Tensor:
    """In the first image a new object takes the second of five anchors."""
    batch = batch_targets([target([TAKEN], [2]), target()], (2, 1), count=5)
    own = responses(draw(0, 2, 5, 3), student)
    return losses_of(term, own, {"old": answer(logits, teacher)}, batch)["kd_deltas"]


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), most=st.integers(1, 5))
def test_it_equals_the_written_out_mean_off_the_taken_anchors(seed: int, most: int) -> None:
    student, logits, teacher = draw(seed, 2, 5, 4), draw(seed + 1, 2, 5, 2), draw(seed + 2, 2, 5, 4)
    terms = []
    for b in range(2):
        strongest = sorted(range(5), key=lambda a: -float(logits[b, a].max()))
        for a in strongest[:most]:
            if (b, a) != (0, 1):
                terms.append(sum((float(student[b, a, e]) - float(teacher[b, a, e])) ** 2 for e in range(4)))
    found = deltas_loss(KdDeltas(selection=Selection(kind="topk", value=most)), student, logits, teacher)
    assert float(found) == pytest.approx(sum(terms) / len(terms), rel=1e-4, abs=1e-5)


def test_a_taken_anchor_is_not_pulled_and_agreement_is_no_loss() -> None:
    student, teacher = draw(1, 2, 5, 4).requires_grad_(), draw(2, 2, 5, 4)
    term = KdDeltas(selection=Selection(kind="all"))
    found = slope(deltas_loss(term, student, draw(3, 2, 5, 2), teacher), student)
    assert not found[0, 1].any() and found[0, [0, 2, 3, 4]].all() and found[1].all()
    assert float(deltas_loss(term, teacher, draw(3, 2, 5, 2), teacher)) == 0
