"""The loss of a method on a batch, in two halves: what is compared with, which knows no student, and the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from incdet.distillation.provider import Provider
from incdet.distillation.teacher_targets import BatchTargets, Targets
from incdet.methods.method import Method
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet


class Criterion(Protocol):
    """What a phase of training minimises."""

    @property
    def needs_features(self) -> bool:
        """Whether it reads the network's features."""
        ...

    def targets(self, batch: ImageBatch) -> Targets:
        """What the student's outputs on a batch, or a piece of one, are compared with; no gradient flows through it."""
        ...

    def __call__(self, outputs: HeadOutputs, targets: Targets, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named scalars of a piece of a batch; the loss of the batch is their sum over all pieces.

        Args:
            outputs: The student's.
            targets: Of the piece.
            totals: ``Targets.counts``, summed over all pieces on all processes.
        """
        ...


@dataclass(frozen=True)
class MethodCriterion:
    """The loss of a method.

    Attributes:
        method: How to learn, its terms fitted to the step.
        student: Matches anchors to annotations.
        provider: Who answers for the teachers; None where there are none.
    """

    method: Method
    student: IncrementalRetinaNet
    provider: Provider | None = None

    @property
    def needs_features(self) -> bool:
        """Whether a term reads the network's features."""
        return self.method.needs_features

    def targets(self, batch: ImageBatch) -> Targets:
        """The annotations of a batch, and what the teachers' answers mean beside them."""
        own = BatchTargets.read(self.student, batch, masked=self.method.masked)
        return self.method.targets(own, {} if self.provider is None else self.provider(batch, own))

    def __call__(self, outputs: HeadOutputs, targets: Targets, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named, weighted scalars; see ``Method.losses``. The penalty is that of the student itself."""
        losses = self.method.losses(outputs, targets, totals)
        if self.method.penalty is None:
            return losses
        return losses | self.method.penalty.losses(self.student, targets.counts["images"] / totals["images"])
