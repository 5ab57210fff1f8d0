"""Objects that no class has yet are not to be learned as background.

Shape letters: N places.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from incdet.distillation.teacher_targets import BatchTargets, Entries, TermTargets
from incdet.distillation.term import Answers, PlainTerm
from incdet.distillation.terms.kd_dual import joined_logits
from incdet.network.retinanet import HeadOutputs


class FutureObjects(PlainTerm):
    """Leaves anchors out of the annotations' focal loss that look like an object of no known class.

    Such an anchor's highest score over both teachers' classes is doubtful: above ``low``, so that it is no plain
    background, and not above ``high``, so that it is no known object either, whose new channels have to be pushed
    down. Anchors that an annotated object has taken stay. It has no loss of its own. After the bridge to the future
    of Mo et al., ECCV 2024, who find such objects in the attention of the feature maps.
    """

    name: ClassVar[str] = "future_objects"
    low: float = Field(0.1, ge=0, le=1)
    """An anchor with a lower highest score is background."""
    high: float = Field(0.3, ge=0, le=1)
    """An anchor with a higher one shows an object of a known class."""

    @property
    def teachers(self) -> tuple[str, ...]:
        """The network before the step and, where there is one, that of the new classes."""
        return ("old", "interim")

    def targets(self, answers: Answers, batch: BatchTargets) -> TermTargets:
        """``left_out``: the entries (N,), with ``column``, that the annotations' focal loss leaves out."""
        best = joined_logits(answers).amax(dim=-1).sigmoid()
        doubtful = (best > self.low) & (best <= self.high) & (batch.assignment.matched < 0)
        image, anchor, column = (doubtful[..., None] & batch.trained[:, None]).nonzero(as_tuple=True)
        return {"left_out": Entries(image, anchor, {"column": column})}

    def losses(
        self, student: HeadOutputs, targets: TermTargets, batch: BatchTargets, total: Tensor, focal: Tensor | None
    ) -> dict[str, Tensor]:
        """None."""
        return {}
