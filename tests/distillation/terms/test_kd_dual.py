from __future__ import annotations

import math

import pytest
import torch
from helpers import answer, batch_targets, draw, losses_of, responses, slope, target
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from incdet.distillation.part import Selection
from incdet.distillation.terms import KdDual, KdResponse
from incdet.distillation.terms.kd_dual import joined_logits

ALL = Selection(kind="all")
BATCH = batch_targets([target()] * 2, (2, 2), count=5)


def dual(term: KdDual, student: Tensor, old: Tensor, new: Tensor) -> Tensor:
    answers = {"old": answer(old), "interim": answer(new, first=2)}
    return losses_of(term, responses(student), answers, BATCH)["kd_dual"]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_dual(student: Tensor, old: Tensor, new: Tensor, score: float) -> float:
    total, weight = 0.0, 0.0
    for b in range(2):
        for a in range(5):
            known = [sigmoid(float(x)) for x in old[b, a]]
            targets = [*known, *(sigmoid(float(x)) * (1 - max(known)) for x in new[b, a])]
            if max(targets) <= score:
                continue
            weight += max(targets)
            for k, p in enumerate(targets):
                q = sigmoid(float(student[b, a, k]))
                total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return total / max(1.0, weight)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31 - 9), score=st.sampled_from([0.0, 0.6, 0.95, 0.9999]))
def test_it_equals_the_written_out_divergence(seed: int, score: float) -> None:
    student, old, new = draw(seed, 2, 5, 4), draw(seed + 1, 2, 5, 2), draw(seed + 2, 2, 5, 2)
    found = dual(KdDual(selection=Selection(kind="score", value=score)), student, old, new)
    assert float(found) == pytest.approx(slow_dual(student, old, new, score), rel=1e-3, abs=1e-5)


def test_annotated_channels_are_distilled_too() -> None:
    student = draw(1, 2, 5, 4).requires_grad_()
    assert slope(dual(KdDual(selection=ALL), student, draw(2, 2, 5, 2), draw(3, 2, 5, 2)), student).all()


def test_without_an_interim_network_or_with_an_old_one_of_all_columns_it_is_kd_response() -> None:
    old, whole = draw(1, 2, 5, 2), draw(2, 2, 5, 4)
    assert torch.equal(joined_logits({"old": answer(old)}), old)
    assert torch.equal(joined_logits({"old": answer(whole), "interim": answer(old, first=2)}), whole)
    student = responses(draw(3, 2, 5, 4))
    alone = [losses_of(term, student, {"old": answer(old)}, BATCH) for term in (KdDual(), KdResponse())]
    assert alone[0]["kd_dual"] == alone[1]["kd_response"]


def test_a_sure_old_network_leaves_a_finite_rest() -> None:
    answers = {"old": answer(torch.full((2, 5, 2), 99.0)), "interim": answer(draw(1, 2, 5, 2), first=2)}
    assert joined_logits(answers).isfinite().all()
