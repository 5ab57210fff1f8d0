"""Squared distance of the boxes in the anchors' own coordinates.

Shape letters: B images, A anchors, N selected places.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from incdet.distillation.teacher_targets import BatchTargets, Entries
from incdet.distillation.term import Answers
from incdet.distillation.terms.on_anchors import AnchorTerm
from incdet.network.retinanet import HeadOutputs


class KdDeltas(AnchorTerm):
    """``|t_s - t_t|^2`` of the four deltas, the mean over the selected places (Shmelkov et al., ICCV 2017).

    The box branch is class-agnostic, so that anchors which an annotated object has taken are left to it.
    """

    name: ClassVar[str] = "kd_deltas"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "deltas"})
    kept: ClassVar[str] = "deltas"

    def taken(self, answers: Answers, batch: BatchTargets) -> Tensor:
        """The selected anchors (B, A) bool that no annotated object has taken."""
        return super().taken(answers, batch) & (batch.assignment.matched < 0)

    def loss(self, student: HeadOutputs, targets: Any, batch: BatchTargets, total: Tensor) -> Tensor:
        """The unweighted scalar."""
        rows: Entries = targets["rows"]
        return (rows.look_up(student.deltas) - rows["deltas"]).square().sum() / total.clamp(min=1)
