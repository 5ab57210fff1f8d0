from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from helpers import assert_equal_states, draw, network, pictures, record, state_of, target
from torch import Tensor

from incdet.data.records import Record
from incdet.methods import penalty
from incdet.methods.method import Method
from incdet.methods.penalty import Held, Penalty, drawn_loss, size_of_outputs
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.criterion import MethodCriterion

KINDS: tuple[Literal["fisher", "sensitivity"], ...] = ("fisher", "sensitivity")


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    for number in range(3):
        picture = np.random.default_rng(number).integers(0, 255, (48, 48, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    return [record(tmp_path / f"{number}.png", ["c"]) for number in range(3)]


def grown() -> IncrementalRetinaNet:
    model = network(("a", "b"))
    model.freeze_norm()
    model.grow(["c"])
    return model


def of_made_outputs(importance: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Penalty, IncrementalRetinaNet]:
    """Fitted where a logit is a bias plus a number of the image, and boxes do not move: two images, one old class."""
    model = grown()
    biases = model.get_parameter("class_head.predictors.0.bias")

    def outputs(*_: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for shift in (0.5, -1.0):
            yield (biases[:3] + shift)[None, :, None], torch.zeros(1, 3, 4)

    monkeypatch.setattr(penalty, "_outputs", outputs)
    return Penalty(importance=importance).fit(model, [record("x.png")], 1, 3), model


def test_sensitivity_is_the_mean_absolute_gradient_of_the_squared_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, model = of_made_outputs("sensitivity", monkeypatch)
    assert fitted.fitted is not None
    found = fitted.fitted["class_head.predictors.0.bias"].importance
    expected = []
    for bias in model.get_parameter("class_head.predictors.0.bias").tolist()[:3]:
        scores = [1 / (1 + math.exp(-bias - shift)) for shift in (0.5, -1.0)]
        expected.append(sum(2 * score * score * (1 - score) for score in scores))
    assert (found[:3] / found[0]).tolist() == pytest.approx([one / expected[0] for one in expected], rel=1e-4)
    assert not found[3:].any()


def test_the_squared_gradient_of_drawn_labels_tends_to_the_fisher_information() -> None:
    logits, deltas = draw(1, 1, 2, 2, spread=1.0).requires_grad_(), draw(2, 1, 2, 4).requires_grad_()
    generator, squares, boxes = torch.Generator().manual_seed(0), torch.zeros(1, 2, 2), torch.zeros(1, 2, 4)
    for _ in range(3000):
        own, other = torch.autograd.grad(drawn_loss(logits, deltas, generator), [logits, deltas])
        squares += own.square() / 3000
        boxes += other.square() / 3000
    p = logits.detach().sigmoid()
    torch.testing.assert_close(squares, p * (1 - p), rtol=0.1, atol=0.01)
    objects = 1 - (1 - p).prod(dim=-1, keepdim=True)  # the share of draws in which the anchor is an object
    torch.testing.assert_close(boxes, objects.expand(-1, -1, 4), rtol=0.15, atol=0.01)


def test_the_size_of_outputs_equals_the_written_out_sum() -> None:
    logits, deltas = draw(1, 1, 2, 2), draw(2, 1, 2, 4)
    expected = 0.0
    for a in range(2):
        scores = [1 / (1 + math.exp(-float(x))) for x in logits[0, a]]
        expected += sum(score**2 for score in scores) + max(scores) * sum(float(x) ** 2 for x in deltas[0, a])
    assert float(size_of_outputs(logits, deltas)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_measuring_leaves_the_network_alone_and_holds_every_old_parameter(
    kind: Literal["fisher", "sensitivity"], records: list[Record]
) -> None:
    model = grown().train()
    before = state_of(model)
    held = Penalty(importance=kind).fit(model, records, 2, 0).fitted
    assert held is not None and list(held) == model.trainable_names()
    assert_equal_states(before, state_of(model))
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    total = sum(float(one.importance.sum()) for one in held.values())
    assert total == pytest.approx(sum(one.value.numel() for one in held.values()), rel=1e-4)  # the mean is 1
    assert all((one.importance >= 0).all() for one in held.values())
    idle = [name for name, one in held.items() if not one.importance.any()]
    assert idle == ["class_head.predictors.1.weight", "class_head.predictors.1.bias"]  # nothing old depends on them
    again = Penalty(importance=kind).fit(model, records, 2, 0).fitted
    assert again is not None and all(torch.equal(again[name].importance, one.importance) for name, one in held.items())


def test_as_many_images_are_measured_as_are_asked_for(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = penalty._outputs

    def outputs(model: IncrementalRetinaNet, sample: list[Record]) -> Iterable[tuple[Tensor, Tensor]]:
        seen.append(len(sample))
        return original(model, sample)

    monkeypatch.setattr(penalty, "_outputs", outputs)
    for images in (1, 2, 200):
        Penalty(images=images).fit(grown(), records, 2, 0)
    assert seen == [1, 2, 3]


def test_the_loss_is_the_weighted_sum_of_squared_shifts() -> None:
    model = network()
    name = "box_head.bbox_reg.bias"
    bias = model.get_parameter(name)
    importance = torch.arange(len(bias), dtype=torch.float32)
    held = {name: Held(bias.detach() - 0.5, importance)}
    found = Penalty(weight=3.0, fitted=held).losses(model, torch.tensor(0.25))
    assert float(found["penalty"].detach()) == pytest.approx(3 * 0.25 * 0.25 * float(importance.sum()))
    assert Penalty().losses(model, torch.tensor(1.0)) == {}


def test_each_piece_of_a_batch_carries_its_share(records: list[Record]) -> None:
    model = grown()
    fitted = Penalty(importance="sensitivity").fit(model, records, 2, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    criterion = MethodCriterion(Method("held", "here", penalty=fitted), model.train())
    batch = model.prepare(pictures(3), [target(coverage=[False, False, True])] * 3)
    sums = []
    for number in (1, 2, 3):
        pieces = batch.pieces(number)
        targets = [criterion.targets(piece) for piece in pieces]
        totals = {key: sum((one.counts[key] for one in targets), torch.zeros(())) for key in targets[0].counts}
        parts = [criterion(model.dense(piece), own, totals) for piece, own in zip(pieces, targets, strict=True)]
        sums.append(sum(float(part["penalty"].detach()) for part in parts))
    assert sums[0] > 0 and sums == pytest.approx([sums[0]] * 3, rel=1e-5)
