from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import loud, pictures

from incdet.evaluation.sameness import compare
from incdet.network.columns import with_columns
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.vocab import Vocabulary

SAME = {"a": "a", "c": "sea"}


def test_classes_that_only_moved_are_the_same_and_it_is_said_on_what() -> None:
    model = loud(("a", "b"), ("c",))
    moved = with_columns(model, Vocabulary((("sea", "a"),)), [2, 0])
    seen: list[int] = []
    result = compare(model, moved, SAME, pictures(3), seen.append)
    assert (result.classes, result.images, result.differing, seen) == (2, 3, {}, [1, 2, 3])
    assert result.logits > 0 and result.detections > 0
    assert result.describe().startswith("proof: the 2 other classes are identical, bit for bit, on 3 pictures (")


def test_the_smallest_change_of_a_class_is_seen_in_that_class_alone() -> None:
    model = loud(("a", "b"), ("c",))
    other = with_columns(model, Vocabulary((("sea", "a"),)), [2, 0])
    with torch.no_grad():
        bias = other.class_head.class_biases()[0]
        bias[:, 0] += 1e-5
    result = compare(model, other, SAME, pictures(2))
    assert result.differing == {"sea": 2}
    assert (
        result.describe().startswith("NOT identical (other classes) on 2 pictures") and "sea in 2" in result.describe()
    )


def test_rounding_is_told_apart_from_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loud(("a", "b"))
    same, changed = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        changed.class_head.class_biases()[0][:, 0] += 2e-6
    forward = IncrementalRetinaNet.dense

    def rounding(self: IncrementalRetinaNet, batch: Any) -> Any:
        dense = forward(self, batch)
        return dense if self.vocab.names == ("a", "b") else dense._replace(logits=dense.logits * (1 + 1e-6))

    monkeypatch.setattr(IncrementalRetinaNet, "dense", rounding)
    names = {"a": "x"}
    for other, differs in ((same, {}), (changed, {"x": 1})):
        other.vocab = Vocabulary((("x", "b"),))
        result = compare(model, other, names, pictures(1))
        assert result.differing == differs and 0 < result.largest < 1e-4
        assert ("have the same weights, bit for bit" in result.describe()) is not bool(differs)


def test_a_moved_box_head_is_seen_by_the_detections() -> None:
    model = loud(("a",))
    other = copy.deepcopy(model)
    with torch.no_grad():
        assert other.box_head.bbox_reg.bias is not None
        other.box_head.bbox_reg.bias += 0.1
    assert compare(model, other, {"a": "a"}, pictures(1)).differing == {"a": 1}


def test_limits_that_classes_share_do_not_count() -> None:
    model = loud(("a", "b"))
    model.detections_per_img = 2
    alone = with_columns(model, Vocabulary((("a",),)), [0])
    result = compare(model, alone, {"a": "a"}, pictures(1))
    assert not result.differing and result.detections > 2
    assert model.detections_per_img == 2
