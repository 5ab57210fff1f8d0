"""The softmax distillation of End-to-End Incremental Learning, one divergence a head.

Shape letters: O teacher columns, N selected places.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from incdet.distillation.teacher_targets import BatchTargets, Entries
from incdet.distillation.terms.on_anchors import AnchorTerm
from incdet.network.retinanet import HeadOutputs


class KdSoftmax(AnchorTerm):
    """Per old head, ``KL(softmax(z_t / T) || softmax(z_s / T))``, summed over heads (Castro et al., ECCV 2018, eq. 3).

    No factor T^2; the mean over the selected places. The paper's cross-entropy has the same gradient. A head of one
    class has a constant softmax and therefore no gradient: that is a property of the form, not of this code.
    """

    name: ClassVar[str] = "kd_softmax"
    temperature: float = Field(2.0, gt=0)
    """T of the softmax."""

    def loss(self, student: HeadOutputs, targets: Any, batch: BatchTargets, total: Tensor) -> Tensor:
        """The unweighted scalar."""
        rows: Entries = targets["rows"]
        theirs = rows["logits"] / self.temperature
        own = rows.look_up(student.logits)[:, : theirs.shape[1]] / self.temperature
        heads = [*itertools.takewhile(lambda end: end <= theirs.shape[1], itertools.accumulate(batch.heads))]
        parts = [end - start for start, end in itertools.pairwise([0, *heads])]
        divergences = [
            (target.softmax(-1) * (target.log_softmax(-1) - mine.log_softmax(-1))).sum()
            for mine, target in zip(torch.split(own, parts, 1), torch.split(theirs, parts, 1), strict=True)
        ]
        return torch.stack(divergences).sum() / total.clamp(min=1)
