"""Sigmoid distillation of the old class logits.

Shape letters: B images, A anchors, O teacher columns, N selected places.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from incdet.distillation.teacher_targets import BatchTargets, Entries
from incdet.distillation.terms.on_anchors import AnchorTerm
from incdet.network.retinanet import HeadOutputs


class KdResponse(AnchorTerm):
    """``T^2 KL(sigmoid(z_t / T) || sigmoid(z_s / T))`` over the selected places, summed over the old columns.

    Divided by the sum of the selected places' highest teacher scores (at least 1), so that a batch with many objects
    weighs no more than one with few and easy background cannot drown them.
    """

    name: ClassVar[str] = "kd_response"
    temperature: float = Field(1.0, gt=0)
    """T; 1 keeps the teacher's own scores."""
    uncovered_only: bool = False
    """Leave out the channels that an image annotates."""

    def count(self, targets: Any, batch: BatchTargets) -> Tensor:
        """The sum of the places' highest teacher scores."""
        rows: Entries = targets["rows"]
        scores = rows["logits"].sigmoid()
        channels = self._channels(rows, batch)
        scores = scores if channels is None else scores * channels
        return scores.amax(dim=1).sum() if rows["logits"].shape[1] else scores.sum()

    def loss(self, student: HeadOutputs, targets: Any, batch: BatchTargets, total: Tensor) -> Tensor:
        """The unweighted scalar."""
        rows: Entries = targets["rows"]
        own, theirs = rows.look_up(student.logits)[:, : rows["logits"].shape[1]], rows["logits"]
        loss = self.temperature**2 * binary_divergence(own / self.temperature, theirs / self.temperature)
        channels = self._channels(rows, batch)
        return (loss if channels is None else loss * channels).sum() / total.clamp(min=1.0)

    def _channels(self, rows: Entries, batch: BatchTargets) -> Tensor | None:
        """The columns (N, O) bool that it may speak of; None for all."""
        if not self.uncovered_only:
            return None
        return ~batch.trained[rows.image, : rows["logits"].shape[1]]


def binary_divergence(own: Tensor, theirs: Tensor) -> Tensor:
    """``KL(sigmoid(theirs) || sigmoid(own))`` element by element; the gradient is that of the cross-entropy."""
    target = torch.sigmoid(theirs)
    entropy = F.binary_cross_entropy_with_logits(theirs, target, reduction="none")
    return F.binary_cross_entropy_with_logits(own, target, reduction="none") - entropy
