from __future__ import annotations

import math

import pytest
import torch
from helpers import answer, batch_targets, target
from pydantic import ValidationError

from incdet.distillation.part import Selection
from incdet.distillation.selection import select, selected


def logit(score: float) -> float:
    return math.log(score / (1 - score))


SCORES = torch.tensor([[[logit(s), logit(s / 2)] for s in (0.9, 0.04, 0.5, 0.06, 0.01)]])


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("all", 0.0, [0, 1, 2, 3, 4]),
        ("score", 0.05, [0, 2, 3]),
        ("score", 0.55, [0]),
        ("topk", 2, [0, 2]),
        ("topk", 99, [0, 1, 2, 3, 4]),
        ("statistical", 1.0, [0]),
        ("statistical", 0.0, [0, 2]),
    ],
)
def test_selection_takes_the_anchors_its_rule_names(kind: str, value: float, expected: list[int]) -> None:
    selection = Selection.model_validate({"kind": kind, "value": value})
    assert select(SCORES.amax(-1), selection)[0].nonzero()[:, 0].tolist() == expected


def test_statistical_selection_is_relative_to_its_own_image() -> None:
    two = torch.cat([SCORES, SCORES - 20.0])
    found = select(two.amax(-1), Selection(kind="statistical", value=1.0))
    assert torch.equal(found[0], found[1]) and found.any()


@pytest.mark.parametrize("values", [{"kind": "nearest"}, {"value": -1.0}, {"value": float("nan")}, {"bar": 0.5}])
def test_a_rule_that_does_not_exist_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        Selection.model_validate(values)


@pytest.mark.parametrize(("images", "expected"), [("new", [0]), ("exemplars", [1, 2]), ("both", [0, 1, 2])])
def test_a_term_listens_on_the_images_it_was_told_to(images: str, expected: list[int]) -> None:
    # The last head is the step's: an image that annotates none of its columns is an exemplar.
    masks = [[False, False, False, True], [True, True, False, False], [False, False, False, False]]
    batch = batch_targets([target(coverage=mask) for mask in masks], (2, 2), count=5)
    taken = selected(answer(SCORES.expand(3, -1, -1)), Selection(kind="score", value=0.55), batch, images)
    assert taken.nonzero().tolist() == [[image, 0] for image in expected]
