from __future__ import annotations

import copy

import pytest
import torch
from helpers import loud, network, pictures

from incdet.errors import InputError
from incdet.network.calibration import Calibration
from incdet.network.columns import with_columns
from incdet.network.merging import (
    as_later_teacher,
    beside,
    joined,
    merged_vocabulary,
    new_classes,
    require_same_pictures,
    share_heads,
    share_trunk,
)
from incdet.network.paired import PairedRetinaNet
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.vocab import Vocabulary


@torch.no_grad()
def logits(model: IncrementalRetinaNet) -> torch.Tensor:
    return model.dense(model.prepare(pictures())).logits


def two() -> tuple[IncrementalRetinaNet, IncrementalRetinaNet]:
    """Detectors of (a, b) and of (c, a, d), one network but for their predictors."""
    whole = loud(("a", "b"), ("c", "e"), ("d",))
    first = with_columns(whole, Vocabulary((("a", "b"),)), [0, 1])
    second = with_columns(whole, Vocabulary((("c", "a"), ("d",))), [2, 3, 4])
    return first, second


def test_predictors_on_one_network_are_put_together_bit_for_bit() -> None:
    first, second = two()
    first.calibration = Calibration({"a": 0.1}, 2.0)
    second.calibration = Calibration({"a": 0.9, "c": 0.3}, 3.0)
    assert share_heads(first, second) and share_trunk(first, second)
    model = joined(first, second)
    assert model.vocab.steps == (("a", "b"), ("c",), ("d",))
    assert torch.equal(logits(model), torch.cat([logits(first), logits(second)[..., [0, 2]]], dim=-1))
    assert model.calibration is not None and model.calibration.thresholds == {"a": 0.1, "c": 0.3}
    assert len(first.vocab) == 2


def test_what_is_shared_is_seen() -> None:
    first, second = two()
    with torch.no_grad():
        next(second.class_head.tower.parameters()).add_(1e-6)
    assert share_trunk(first, second) and not share_heads(first, second)
    assert not share_trunk(first, network(seed=1))
    assert not share_trunk(first, network(min_size=(40,))), "the same weights see other pictures"
    assert not share_trunk(first, loud(("a",), channels=16))


def test_heads_stand_beside_each_other_on_one_trunk_and_what_the_first_finds_stays() -> None:
    first, second = two()
    with torch.no_grad():
        for parameter in (*second.class_head.tower.parameters(), *second.box_head.parameters()):
            parameter.mul_(1.3)
    for trunk in ("shared", "own"):
        model = beside(first, second, trunk)
        assert isinstance(model, PairedRetinaNet) and model.vocab.steps == (("a", "b"), ("c", "d"))
        assert torch.equal(logits(model)[..., :2], logits(first))
        assert torch.allclose(logits(model)[..., 2:], logits(second)[..., [0, 2]], atol=1e-5)


def test_the_second_teacher_answers_in_the_columns_of_the_union() -> None:
    first, second = two()
    teacher = as_later_teacher(first, second)
    assert teacher.vocab.steps == (("a", "b"), ("c",), ("d",))
    assert torch.equal(logits(teacher)[..., 2:], logits(second)[..., [0, 2]])


def test_ids_of_two_files_are_kept_where_they_tell_classes_apart() -> None:
    first = Vocabulary((("a",),), {"a": 1})
    assert merged_vocabulary(first, Vocabulary((("b",),), {"b": 7})).source_ids == {"a": 1, "b": 7}
    assert merged_vocabulary(first, Vocabulary((("b",),), {"b": 1})).source_ids is None


def test_what_cannot_be_merged_is_refused() -> None:
    first, second = two()
    with pytest.raises(InputError, match="are all known to the first"):
        new_classes(second, with_columns(first, Vocabulary((("a",),)), [0]))
    with pytest.raises(InputError, match=r"min_size: is \(64,\), the first has \(48,\)"):
        require_same_pictures(first.architecture, first.architecture.changed(min_size=(64,)))
    with pytest.raises(InputError, match="channels"):
        beside(first, loud(("c",), channels=16), "own")
    with pytest.raises(InputError, match="a network for each"):
        new_classes(beside(first, copy.deepcopy(second), "shared"), second)
