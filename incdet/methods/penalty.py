"""A quadratic penalty on the parameters: each is held near where it stood by how much the old classes depend on it.

The importance is measured before a step by the network as it stands then, which knows all classes of before, so that
nothing has to be kept of earlier steps. Shape letters: A anchors, O old columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import Tensor

from incdet.data.dataset import DetectionDataset, collate
from incdet.data.records import Record
from incdet.distillation.part import Part
from incdet.network.retinanet import IncrementalRetinaNet


class Held(NamedTuple):
    """A parameter before the step and the importance of each of its numbers, of its shape, at least 0."""

    value: Tensor
    importance: Tensor


class Penalty(Part):
    """The sum over all parameters of ``importance * (now - before)^2``; the mean importance is 1.

    It belongs to no image, so that each piece of a batch carries its share of it. A failed step that is done again at
    leisure lacks it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: ClassVar[str] = "penalty"
    importance: Literal["fisher", "sensitivity"] = "fisher"
    """`fisher`: mean squared gradient of the likelihood (EWC); `sensitivity`: mean absolute gradient of the squared
    outputs (MAS)."""
    weight: float = Field(1.0, ge=0)
    """Factor of the penalty."""
    images: int = Field(200, ge=1)
    """Most images of a step that the importance is measured on, spread evenly over all."""
    fitted: Mapping[str, Held] | None = Field(None, exclude=True, repr=False)

    def fit(self, model: IncrementalRetinaNet, records: Sequence[Record], old: int, seed: int) -> Penalty:
        """With the parameters of ``model`` and their importance for its first ``old`` classes.

        Args:
            model: The student before the step; neither its mode nor its gradients are changed.
            records: The step's images; their annotations are not looked at.
            old: O, the number of classes that are to be kept.
            seed: Of the labels that ``fisher`` draws.
        """
        sample = records[:: math.ceil(len(records) / self.images)]
        names = model.trainable_names()
        parameters = [model.get_parameter(name) for name in names]
        generator = torch.Generator().manual_seed(seed)
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for logits, deltas in _outputs(model, sample):
            known = logits[..., :old]
            if self.importance == "fisher":
                wanted = drawn_loss(known, deltas, generator)
            else:
                wanted = size_of_outputs(known, deltas)
            gradients = torch.autograd.grad(wanted, parameters, allow_unused=True, materialize_grads=True)
            for total, gradient in zip(sums, gradients, strict=True):
                total += gradient.square() if self.importance == "fisher" else gradient.abs()
        mean = torch.stack([total.sum() for total in sums]).sum() / sum(total.numel() for total in sums)
        held = {
            name: Held(parameter.detach().clone(), total / mean.clamp(min=torch.finfo(mean.dtype).tiny))
            for name, parameter, total in zip(names, parameters, sums, strict=True)
        }
        return self.model_copy(update={"fitted": held})

    def losses(self, model: IncrementalRetinaNet, share: Tensor) -> dict[str, Tensor]:
        """The weighted float32 scalar under the part's name, times ``share``; nothing before it is fitted."""
        if self.fitted is None:
            return {}
        parts = [
            (held.importance * (model.get_parameter(name) - held.value).square()).sum()
            for name, held in self.fitted.items()
        ]
        return {self.name: self.weight * share * torch.stack(parts).sum()}


def drawn_loss(logits: Tensor, deltas: Tensor, generator: torch.Generator) -> Tensor:
    """The negative log-likelihood of labels and boxes drawn from the network's own outputs on an image, a scalar.

    The mean of its squared gradient over many draws is the diagonal of the Fisher information. A box is drawn with a
    deviation of 1 around the network's own, at anchors that were drawn as an object of some class.

    Args:
        logits: (1, A, O).
        deltas: (1, A, 4).
        generator: On the CPU.
    """
    labels = (torch.rand(logits.shape, generator=generator).to(logits.device) < logits.detach().sigmoid()).float()
    boxes = deltas.detach() + torch.randn(deltas.shape, generator=generator).to(deltas.device)
    objects = labels.amax(dim=-1, keepdim=True)
    return (
        F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        + (0.5 * (deltas - boxes).square() * objects).sum()
    )


def size_of_outputs(logits: Tensor, deltas: Tensor) -> Tensor:
    """Squared scores, and squared deltas weighed by the anchor's highest score, summed over an image, a scalar."""
    scores = logits.sigmoid()
    return scores.square().sum() + (deltas.square() * scores.detach().amax(dim=-1, keepdim=True)).sum()


def _outputs(model: IncrementalRetinaNet, records: Sequence[Record]) -> Iterable[tuple[Tensor, Tensor]]:
    """Logits (1, A, K) and deltas (1, A, 4) of one image after the other, float32 with their graph."""
    training = model.training
    model.eval()
    dataset = DetectionDataset(records, model.vocab)
    for place in range(len(records)):
        images, _ = collate([dataset[(0, place)]])
        outputs = model.dense(model.prepare(images))
        yield outputs.logits.float(), outputs.deltas.float()
    model.train(training)
