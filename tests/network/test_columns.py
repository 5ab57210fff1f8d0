from __future__ import annotations

import pytest
import torch
from helpers import network, pictures

from incdet.errors import InputError
from incdet.network.calibration import Calibration
from incdet.network.columns import select, with_columns
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.vocab import Vocabulary


@torch.no_grad()
def logits(model: IncrementalRetinaNet) -> torch.Tensor:
    return model.dense(model.prepare(pictures())).logits


def test_chosen_columns_keep_their_logits_bit_for_bit_wherever_they_stand() -> None:
    model = network(("a", "b"), ("c", "d", "e")).eval()
    before = logits(model)
    for steps, columns in (
        ((("e", "a"), ("c",)), [4, 0, 2]),
        ((("b", "c", "d", "e", "a"),), [1, 2, 3, 4, 0]),
        ((("a",), ("b",), ("c",)), [0, 1, 0]),
    ):
        chosen = with_columns(model, Vocabulary(steps), columns)
        assert torch.equal(logits(chosen), before[..., columns])
        assert chosen.vocab.steps == steps and not chosen.training
    assert torch.equal(logits(model), before), "the model itself is left alone"


def test_what_learns_goes_on_learning() -> None:
    model = network(("a", "b")).train()
    for frozen in (False, True):
        model.class_head.predictors.requires_grad_(not frozen)
        chosen = with_columns(model, Vocabulary((("b",),)), [1])
        assert chosen.training
        assert chosen.trainable_names() == model.trainable_names()


def test_what_does_not_fit_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="1 columns for 2 classes"):
        with_columns(model, Vocabulary((("a", "b"),)), [0])

    class Several(IncrementalRetinaNet):
        pass

    model.__class__ = Several
    with pytest.raises(InputError, match="a network for each"):
        with_columns(model, Vocabulary((("a",),)), [0])


def test_thresholds_go_with_their_classes() -> None:
    model = network(("a", "b"), ("c",))
    model.calibration = Calibration({"a": 0.1, "c": 0.3}, 2.0, 4, "a test")
    chosen = with_columns(model, Vocabulary((("z", "b"),)), [2, 1])
    assert chosen.calibration == Calibration({"z": 0.3}, 2.0, 4, "a test")


def test_a_selection_keeps_order_and_steps() -> None:
    model = network(("a", "b"), ("c",)).eval()
    chosen = select(model, ["c", "a"])
    assert chosen.vocab.steps == (("a",), ("c",)) and torch.equal(logits(chosen), logits(model)[..., [0, 2]])
    for names, said in ((["d"], "'d'"), ([], "at least one")):
        with pytest.raises(InputError, match=said):
            select(model, names)
