"""A capture needs a GPU; what surrounds it (when, how proven, how given up) is shown here with stand-ins for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from incdet.config.architecture import Architecture
from incdet.network.cuda_graph import GraphedNetwork, _Tensors, graph_of
from incdet.network.retinanet import ImageBatch, IncrementalRetinaNet
from incdet.vocab import Vocabulary


@pytest.fixture
def model() -> IncrementalRetinaNet:
    torch.manual_seed(0)
    recipe = Architecture(
        backbone="tiny",
        channels=8,
        tower_depth=1,
        anchor_sizes=((12, 16), (24, 32)),
        min_size=(48,),
        max_size=64,
        frozen_norm=True,
    )
    return IncrementalRetinaNet(recipe, Vocabulary((("a", "b"), ("c",)))).train()


def batch(model: IncrementalRetinaNet, seed: int = 0, canvas: tuple[int, int] = (64, 64)) -> ImageBatch:
    generator = torch.Generator().manual_seed(seed)
    return model.prepare([torch.rand(3, 48, 64, generator=generator) for _ in range(2)], canvas=canvas)


def stand_in(monkeypatch: pytest.MonkeyPatch, make: Callable[[_Tensors], Any]) -> list[torch.Size]:
    """``make`` in place of torch's capture; returns the shapes that it was asked for."""
    asked = []

    def capture(network: _Tensors, samples: tuple[Tensor, ...], **options: Any) -> Any:
        asked.append(samples[0].shape)
        return make(network)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    return asked


def test_there_is_no_graph_on_a_cpu_nor_over_live_norms(
    model: IncrementalRetinaNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    assert graph_of(model, "off", said.append) is None and said == []
    monkeypatch.setattr(IncrementalRetinaNet, "device", torch.device("cuda"))
    graph = graph_of(model, "bf16", said.append)
    assert isinstance(graph, GraphedNetwork) and said == []
    model.architecture = model.architecture.changed(frozen_norm=False)
    assert graph_of(model, "off", said.append) is None
    assert len(said) == 1 and "live BatchNorm" in said[0]


def test_a_graph_that_agrees_is_used_for_its_shape_alone(
    model: IncrementalRetinaNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed: list[torch.Size] = []

    def record(network: _Tensors) -> Callable[[Tensor], tuple[Tensor, ...]]:
        def replay(images: Tensor) -> tuple[Tensor, ...]:
            replayed.append(images.shape)
            outputs: tuple[Tensor, ...] = network(images)
            return outputs

        return replay

    asked, said = stand_in(monkeypatch, record), list[str]()
    graphed = GraphedNetwork(model, None, said.append)
    for seed, canvas in ((0, (64, 64)), (1, (64, 64)), (2, (64, 96))):
        prepared = batch(model, seed, canvas)
        found, wanted = graphed(prepared), model(prepared)
        assert torch.equal(found.logits, wanted.logits) and torch.equal(found.deltas, wanted.deltas)
        assert found.logits.requires_grad and found.deltas.requires_grad
        assert found.anchors is wanted.anchors and len(found.features) == len(wanted.features)
        assert all(torch.equal(mine, other) for mine, other in zip(found.features, wanted.features, strict=True))
    assert asked == [torch.Size([2, 3, 64, 64])]
    assert replayed == [torch.Size([2, 3, 64, 64])] * 3  # the proof, and two batches; the third has another shape
    assert len(said) == 1 and "one graph" in said[0]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_graph_that_differs_is_given_up_and_told(
    model: IncrementalRetinaNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(network: _Tensors) -> Callable[[Tensor], tuple[Tensor, ...]]:
        return lambda images: tuple(value * 1.01 for value in network(images))

    stand_in(monkeypatch, spoil)
    said: list[str] = []
    prepared = batch(model)
    found = GraphedNetwork(model, None, said.append)(prepared)
    assert torch.equal(found.logits, model(prepared).logits)
    assert len(said) == 1 and "differs from the eager network" in said[0]


def test_a_capture_that_fails_is_given_up_and_told(
    model: IncrementalRetinaNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(network: _Tensors) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    stand_in(monkeypatch, fail)
    said: list[str] = []
    prepared = batch(model)
    assert torch.equal(GraphedNetwork(model, None, said.append)(prepared).logits, model(prepared).logits)
    assert said == [
        "static shapes: no graph, because its capture failed: operation not permitted when stream is capturing"
    ]


def test_a_graph_starts_behind_the_stem(model: IncrementalRetinaNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frozen leading modules run once for student and teachers, outside the graph."""
    model.freeze_stages(2)
    assert model.has_stem
    asked = stand_in(monkeypatch, lambda network: network)
    graphed = GraphedNetwork(model, None, lambda _: None)
    prepared = batch(model)
    shared = model.with_stem(prepared)
    assert shared.stem is not None
    wanted = model(prepared)
    for given in (prepared, shared):
        found = graphed(given)
        assert torch.equal(found.logits, wanted.logits) and torch.equal(found.deltas, wanted.deltas)
    assert asked == [shared.stem.shape]


@pytest.mark.parametrize("features", [False, True])
def test_features_keep_their_gradient_where_somebody_reads_them(
    model: IncrementalRetinaNet, monkeypatch: pytest.MonkeyPatch, features: bool
) -> None:
    stand_in(monkeypatch, lambda network: network)
    said: list[str] = []
    found = GraphedNetwork(model, None, said.append, features)(batch(model))
    assert all(feature.requires_grad is features for feature in found.features)
    assert found.logits.requires_grad and "one graph" in said[0]
