"""Cross-head distillation: the student's features have to mean to the old head what the old features mean to it.

Shape letters: B images, A anchors, O teacher columns.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ConfigDict, Field
from torch import Tensor

from incdet.distillation.teacher_targets import BatchTargets, TermTargets
from incdet.distillation.term import Answers, StepData
from incdet.distillation.terms.kd_response import binary_divergence
from incdet.distillation.terms.on_anchors import AnchorTerm
from incdet.network.heads import ClassHead
from incdet.network.retinanet import HeadOutputs


class KdCrosshead(AnchorTerm):
    """``KL(sigmoid(z_t) || sigmoid(z_c))``; z_c is what the old, frozen class head makes of the student's pyramid.

    The student's own head is left to the annotations and to other terms (after Wang et al., CrossKD, CVPR 2024, who
    cross over between the layers of the head).
    Summed over the old columns of the selected anchors, divided by the sum of their highest old scores (at least 1).
    The student's pyramid runs through two heads, and no teacher is cached.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: ClassVar[str] = "kd_crosshead"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features"})
    head: ClassHead | None = Field(None, exclude=True, repr=False)

    def fit(self, step: StepData) -> KdCrosshead:
        """With the old network's class head, which stays where that network is."""
        return self.model_copy(update={"head": step.teachers["old"].model.class_head})

    def targets(self, answers: Answers, batch: BatchTargets) -> TermTargets:
        """The old logits [(B, A, O)], and the anchors that are taken of them [(B, A) bool]."""
        return {"logits": [answers["old"].logits], "taken": [self.taken(answers, batch)]}

    def count(self, targets: Any, batch: BatchTargets) -> Tensor:
        """The sum of the taken anchors' highest old scores."""
        (logits,), (taken,) = targets["logits"], targets["taken"]
        total: Tensor = (logits.amax(dim=-1).sigmoid() * taken).sum()
        return total

    def loss(self, student: HeadOutputs, targets: Any, batch: BatchTargets, total: Tensor) -> Tensor:
        """The unweighted scalar."""
        if self.head is None:
            raise ValueError("cross-head distillation is fitted to the old network first")
        (logits,), (taken,) = targets["logits"], targets["taken"]
        crossed = self.head(student.features).float()
        # In balanced fine-tuning the teacher answers for new columns too, which its own head does not have.
        theirs = logits[..., : crossed.shape[-1]]
        loss: Tensor = (binary_divergence(crossed, theirs) * taken[..., None]).sum()
        return loss / total.clamp(min=1.0)
