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


def graph_of(
    model: IncrementalRetinaNet, precision: str, say: Callable[[str], None], *, features: bool = False
) -> GraphedNetwork | None:
    """The network as a graph, where that is possible: on a GPU, with frozen norms.

    Args:
        model: On its device, in training mode.
        precision: ``off``, ``bf16`` or ``fp16``.
        say: Told why there is no graph on a GPU, and how the capture went.
        features: Whether a loss reads the features, so that they need their gradient.
    """
    if model.device.type != "cuda":
        return None
    if not model.architecture.frozen_norm:
        say("static shapes: no graph in this phase, because its capture would move live BatchNorm statistics")
        return None
    return GraphedNetwork(model, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision), say, features)


class GraphedNetwork:
    """Stands in for ``model(batch)`` in a training step; eager for any batch of another shape.

    Args:
        model: On a GPU, in training mode, with frozen norms: warming up a capture would move live statistics.
        dtype: What autocast computes in; None without autocast.
        say: Told when the graph is given up.
        features: Whether the features keep their gradient; without a reader it would be zeros, added in every step.
    """

    def __init__(
        self,
        model: IncrementalRetinaNet,
        dtype: torch.dtype | None,
        say: Callable[[str], None],
        features: bool = False,
    ) -> None:
        self._model, self._dtype, self._say, self._features = model, dtype, say, features
        self._shape: torch.Size | None = None
        self._replay: Callable[[Tensor], tuple[Tensor, ...]] | None = None

    def __call__(self, batch: ImageBatch) -> HeadOutputs:
        """The head outputs; those of a graph are overwritten by its next replay."""
        batch = self._model.with_stem(batch)
        if self._shape is None:
            self._shape = batch.images.shape
            self._replay = self._capture(batch)
        if self._replay is None or batch.images.shape != self._shape:
            outputs: HeadOutputs = self._model(batch)
            return outputs
        logits, deltas, *features = self._replay(_input(batch))
        return HeadOutputs(logits, deltas, features, self._model.batch_anchors(batch))

    def _capture(self, batch: ImageBatch) -> Callable[[Tensor], tuple[Tensor, ...]] | None:
        network, given = _Tensors(self._model, batch, self._features), _input(batch)
        try:
            with torch.autocast("cuda", self._dtype, enabled=self._dtype is not None, cache_enabled=False):
                wanted = _probe(network, given, self._model, self._features)
                replay: Any = torch.cuda.make_graphed_callables(network, (given,), allow_unused_input=True)
                found = _probe(replay, given, self._model, self._features)
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


def _input(batch: ImageBatch) -> Tensor:
    """What the learning part of the network starts from."""
    return batch.images if batch.stem is None else batch.stem


class _Tensors(nn.Module):
    """The network with tensors alone at its ends, as a capture needs them."""

    def __init__(self, model: IncrementalRetinaNet, batch: ImageBatch, features: bool) -> None:
        super().__init__()
        self.model = model
        self._batch, self._features = batch, features

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W), or what a stem made of them -> logits, deltas and the L features."""
        bare = self._batch.stem is None
        outputs = self.model.dense(self._batch._replace(images=given) if bare else self._batch._replace(stem=given))
        features = outputs.features if self._features else [feature.detach() for feature in outputs.features]
        return (outputs.logits, outputs.deltas, *features)


def _probe(
    network: Callable[[Tensor], tuple[Tensor, ...]], given: Tensor, model: IncrementalRetinaNet, features: bool
) -> list[Tensor]:
    """Outputs and the gradients of a plain loss on them, kept from what is computed next."""
    outputs = network(given)[: None if features else 2]
    loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [value.detach().clone() for value in (*outputs, *gradients) if value is not None]


def _gap(mine: Tensor, other: Tensor) -> float:
    """The largest difference relative to the largest value."""
    return float((mine.float() - other.float()).abs().max() / other.float().abs().max().clamp(min=1e-12))
