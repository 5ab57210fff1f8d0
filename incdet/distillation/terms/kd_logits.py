"""Squared distance of the old class logits.

Shape letters: O teacher columns, N selected places.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from incdet.distillation.teacher_targets import BatchTargets, Entries
from incdet.distillation.terms.on_anchors import AnchorTerm
from incdet.network.retinanet import HeadOutputs


class KdLogits(AnchorTerm):
    """``(z_s - z_t)^2``, the mean over the selected places and the old columns.

    Centred, the mean over the old columns is taken off either side first, so that only the differences between the
    classes are kept (Shmelkov et al., ICCV 2017). A single old class then has nothing to keep.
    """

    name: ClassVar[str] = "kd_logits"
    centred: bool = False
    """Take the mean over the old classes off an anchor's logits before they are compared."""

    def loss(self, student: HeadOutputs, targets: Any, batch: BatchTargets, total: Tensor) -> Tensor:
        """The unweighted scalar."""
        rows: Entries = targets["rows"]
        columns = rows["logits"].shape[1]
        gap = rows.look_up(student.logits)[:, :columns] - rows["logits"]
        if self.centred:
            gap = gap - gap.mean(dim=1, keepdim=True)
        return gap.square().sum() / (total.clamp(min=1) * columns)
