"""What terms share that compare a student with the old network at selected anchors.

Shape letters: N selected places.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from incdet.distillation.part import Selection
from incdet.distillation.selection import selected
from incdet.distillation.teacher_targets import BatchTargets, Entries, TermTargets
from incdet.distillation.term import Answers, Images, PlainTerm


class AnchorTerm(PlainTerm):
    """A term that keeps the old network's logits or deltas at selected anchors, and is divided by their number."""

    kept: ClassVar[str] = "logits"
    """``logits`` or ``deltas``."""
    selection: Selection = Selection()
    """Which anchors it takes."""
    images: Images = "both"
    """Images it listens on: new, exemplars or both."""

    def taken(self, answers: Answers, batch: BatchTargets) -> Tensor:
        """The anchors (B, A) bool."""
        return selected(answers["old"], self.selection, batch, self.images)

    def targets(self, answers: Answers, batch: BatchTargets) -> TermTargets:
        """The old network's values (N, X) at the selected places."""
        values = {self.kept: getattr(answers["old"], self.kept)}
        return {"rows": Entries.of(self.taken(answers, batch), **values)}

    def count(self, targets: Any, batch: BatchTargets) -> Tensor:
        """The number of selected places."""
        return batch.anchors.new_full((), len(targets["rows"].image))
