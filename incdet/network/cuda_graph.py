"""The network as one CUDA graph: a batch of a known shape replays its operations instead of launching each of them.

A graph is used only after it has proven itself: on its first batch, outputs and gradients must be those of the eager
network, or it is given up and the reason told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""Largest difference that is allowed, relative to the largest value; cuDNN may choose other algorithms in a capture."""


def graph_of(model: IncrementalRetinaNet, precision: str, say: Callable[[str], None]) -> GraphedNetwork | None:
    """The network as a graph, where that is possible: on a GPU, with frozen norms.

    Args:
        model: On its device, in training mode.
        precision: ``off``, ``bf16`` or ``fp16``.
        say: Told why there is no graph on a GPU, and how the capture went.
    """
    if model.device.type != "cuda":
        return None
    if not model.architecture.frozen_norm:
        say("static shapes: no graph in this phase, because its capture would move live BatchNorm statistics")
        return None
    return GraphedNetwork(model, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision), say)


class GraphedNetwork:
    """Stands in for ``model(prepared)`` in a training step; eager for any batch of another shape.

    Args:
        model: On a GPU, in training mode, with frozen norms: warming up a capture would move live statistics.
        dtype: What autocast computes in; None without autocast.
        say: Told when the graph is given up.
    """

    def __init__(self, model: IncrementalRetinaNet, dtype: torch.dtype | None, say: Callable[[str], None]) -> None:
        self._model = model
        self._dtype = dtype
        self._say = say
        self._shape: torch.Size | None = None
        self._replay: Callable[[Tensor], tuple[Tensor, ...]] | None = None

    def __call__(self, prepared: ImageBatch) -> HeadOutputs:
        """The dense outputs; those of a graph are overwritten by its next replay, its features carry no gradient."""
        if self._shape is None:
            self._shape = prepared.images.shape
            self._replay = self._capture(prepared)
        if self._replay is None or prepared.images.shape != self._shape:
            dense: HeadOutputs = self._model(prepared)
            return dense
        return self._dense(self._replay(prepared.images), prepared)

    def _dense(self, outputs: tuple[Tensor, ...], prepared: ImageBatch) -> HeadOutputs:
        logits, deltas, *features = outputs
        stem = features.pop() if self._model.has_stem else None
        height, width = prepared.images.shape[-2:]
        return HeadOutputs(logits, deltas, features, self._model.anchors((int(height), int(width)), features), stem)

    def _capture(self, prepared: ImageBatch) -> Callable[[Tensor], tuple[Tensor, ...]] | None:
        network = _Tensors(self._model)
        try:
            with torch.autocast("cuda", self._dtype, enabled=self._dtype is not None, cache_enabled=False):
                wanted = _probe(network, prepared.images, self._model)
                replay: Any = torch.cuda.make_graphed_callables(network, (prepared.images,), allow_unused_input=True)
                found = _probe(replay, prepared.images, self._model)
        except RuntimeError as error:
            self._say(f"static shapes: no graph, because its capture failed: {str(error).splitlines()[0]}")
            return None
        gap = max(_gap(mine, other) for mine, other in zip(found, wanted, strict=True))
        if gap > TOLERANCE[self._dtype or torch.float32]:
            self._say(f"static shapes: no graph, because it differs from the eager network by {gap:.1e}")
            return None
        self._say(f"static shapes: the network is one graph, within {gap:.1e} of the eager one")
        proven: Callable[[Tensor], tuple[Tensor, ...]] = replay
        return proven


class _Tensors(nn.Module):
    """The network with tensors alone at its ends, as a capture needs them."""

    def __init__(self, model: IncrementalRetinaNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> logits, deltas, the L features, and the stem where the model has one."""
        dense = self.model.dense(ImageBatch(images, [], [], None))
        stem = () if dense.stem is None else (dense.stem,)
        # No loss reads the features; with a graph their gradients would be filled with zeros and added in every step.
        return (dense.logits, dense.deltas, *(feature.detach() for feature in dense.features), *stem)


def _probe(
    network: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor, model: IncrementalRetinaNet
) -> list[Tensor]:
    """Outputs and the gradients of a plain loss on them, kept from what is computed next."""
    logits, deltas = network(images)[:2]
    loss = logits.float().square().mean() + deltas.float().square().mean()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [value.detach().clone() for value in (logits, deltas, *gradients) if value is not None]


def _gap(mine: Tensor, other: Tensor) -> float:
    """The largest difference relative to the largest value."""
    return float((mine.float() - other.float()).abs().max() / other.float().abs().max().clamp(min=1e-12))
