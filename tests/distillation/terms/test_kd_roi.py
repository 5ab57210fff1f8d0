from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import answer, batch_targets, draw, losses_of, responses, slope, target
from torch import Tensor
from torchvision.ops import roi_align

from incdet.distillation.terms import KdRoi
from incdet.distillation.terms.kd_roi import attention

FOUND = [
    {
        "boxes": torch.tensor([[2.0, 2, 14, 14], [10, 0, 40, 20], [0, 0, 9, 9]]),
        "scores": torch.tensor([0.9, 0.5, 0.05]),
        "labels": torch.tensor([0, 1, 0]),
    },
    {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)},
]


def maps(seed: int) -> list[Tensor]:
    """Two levels of a batch that is padded to 20 x 320 pixels; anchors are 14 and 28 pixels wide."""
    return [draw(seed, 2, 3, 5, 80, spread=1.0), draw(seed + 1, 2, 3, 3, 40, spread=1.0)]


def roi_loss(term: KdRoi, student: list[Tensor], teacher: list[Tensor], scores: list[dict[str, Tensor]]) -> Tensor:
    told = replace(answer(draw(0, 2, 16, 2), found=scores), features=teacher)
    batch = batch_targets([target()] * 2, (2, 1), count=16)
    own = responses(draw(0, 2, 16, 3))._replace(features=student)
    return losses_of(term, own, {"old": told}, batch)["kd_roi"]


def slow(student: list[Tensor], teacher: list[Tensor], gamma: float) -> float:
    total = 0.0
    for box, level, scale in (([2.0, 2, 14, 14], 0, 0.25), ([10.0, 0, 40, 20], 1, 0.125)):
        row = torch.tensor([[0.0, *box]])
        own, theirs = (roi_align(side[level], row, 7, scale, aligned=True)[0] for side in (student, teacher))
        sights = [(49 * side.square().mean(0).flatten().softmax(0)).view(7, 7) for side in (own, theirs)]
        total += float(((own - theirs).square().mean(0) * sights[1]).mean())
        total += gamma * float((sights[0] - sights[1]).abs().mean())
    return total / 2


def test_it_equals_the_written_out_mean_over_the_regions() -> None:
    student, teacher = maps(1), maps(5)
    for gamma in (0.0, 1.0):
        found = roi_loss(KdRoi(gamma=gamma, weight=2.0), student, teacher, FOUND)
        assert float(found) == pytest.approx(2 * slow(student, teacher, gamma), rel=1e-4)


def test_equal_maps_are_no_loss_and_without_a_region_the_gradient_keeps_its_path() -> None:
    student, teacher = [one.requires_grad_() for one in maps(1)], maps(5)
    assert float(roi_loss(KdRoi(), student, [one.detach() for one in student], FOUND).detach()) == 0
    moved = slope(roi_loss(KdRoi(), student, teacher, FOUND), student[0])
    assert moved[0].any() and not moved[1].any()  # the second picture shows nothing
    nothing = roi_loss(KdRoi(), student, teacher, [FOUND[1]] * 2)
    assert float(nothing.detach()) == 0 and not slope(nothing, student[0]).any()


def test_attention_is_where_features_are_strong() -> None:
    pooled = torch.zeros(1, 2, 3, 3)
    pooled[0, :, 1, 2] = 2.0
    sight = attention(pooled)
    assert sight.shape == (1, 3, 3) and float(sight.mean()) == pytest.approx(1.0)
    assert int(sight.flatten().argmax()) == 5
