"""New classes are told that what the old network knows is not theirs.

Shape letters: B images, A anchors, K student columns, O teacher columns, N kept places.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from incdet.distillation.teacher_targets import BatchTargets, Entries, TermTargets
from incdet.distillation.term import Answers, PlainTerm
from incdet.network.retinanet import HeadOutputs
from incdet.ops.boxes import covered_shares


class OldClaims(PlainTerm):
    """``p^2 softplus(z)``, the focal loss of background, of the newest columns where an old class is seen.

    Where the old network scores an anchor above ``score``, the newest classes are charged as background, as much as
    that score says, divided by the sum of the scores (at least 1). In the step's own images anchors that lie on an
    annotated object are left out, for the old network takes new objects for old ones. The annotations charge these
    entries too, but few of a new image's anchors lie on old objects, and those are divided by the new objects.
    """

    name: ClassVar[str] = "old_claims"
    score: float = Field(0.3, ge=0, lt=1)
    """Anchors where the old network's highest score is above it."""
    clear: float = Field(0.2, ge=0, le=1)
    """In the step's images, anchors with a larger share of their area inside one annotated object are left out."""

    def targets(self, answers: Answers, batch: BatchTargets) -> TermTargets:
        """The old network's highest score (N,) at the kept places."""
        claimed = answers["old"].strongest.sigmoid()
        new = batch.selected_images("new")
        assert new is not None
        clear = (objects_inside(batch) <= self.clear) & (batch.assignment.matched == -1)
        return {"rows": Entries.of((claimed > self.score) & (clear | ~new[:, None]), claimed=claimed)}

    def count(self, targets: Any, batch: BatchTargets) -> Tensor:
        """The sum of the kept scores."""
        total: Tensor = targets["rows"]["claimed"].sum()
        return total

    def loss(self, student: HeadOutputs, targets: Any, batch: BatchTargets, total: Tensor) -> Tensor:
        """The unweighted scalar."""
        rows: Entries = targets["rows"]
        own = rows.look_up(student.logits)[:, -batch.heads[-1] :]
        charged = own.sigmoid().square() * F.softplus(own)
        return (charged.sum(dim=1) * rows["claimed"]).sum() / total.clamp(min=1.0)


def objects_inside(batch: BatchTargets) -> Tensor:
    """The largest share of each anchor's area that lies inside one annotated object of its image, (B, A)."""
    shares = [covered_shares(batch.anchors, one["boxes"]) for one in batch.targets]
    return torch.stack(shares) if shares else batch.anchors.new_zeros(0, len(batch.anchors))
