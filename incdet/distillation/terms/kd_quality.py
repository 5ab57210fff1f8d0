"""Quality-focal distillation of one student by two teachers: the old network and one of the new classes alone.

Shape letters: B images, A anchors, K student columns, N places where some target is not nought.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from incdet.distillation.teacher_targets import BatchTargets, Entries, TermTargets
from incdet.distillation.term import Answers, PlainTerm, StepData
from incdet.distillation.terms.old_claims import objects_inside
from incdet.network.retinanet import HeadOutputs
from incdet.ops.assign import IGNORED
from incdet.ops.losses import ClassTargets


class KdQuality(PlainTerm):
    """``|sigmoid(z) - t|^2 BCE(z, t)`` (Li et al., Generalized Focal Loss, 2020, eq. 2) on the unannotated channels.

    The target t of an old channel is the old network's score. That of a new channel, which the exemplars lack, is the
    interim network's score times one minus the highest old score at the anchor: the interim network has never been told
    that a cow is no sheep, the old one knows the cow. At anchors that an annotated object has taken every unannotated
    channel is nought (but see ``objects``); anchors between object and background are left out. All other anchors
    count: the loss is zero at agreement and has to select nothing. Divided by the sum of the anchors' highest targets
    above 0.05 and of the annotated positives.

    The more old classes a new one finds, the more there is to be kept by the same few pictures: with ``growth`` the
    weight grows with their ratio, as that of LUCIR does (Hou et al., CVPR 2019, sec. 3.3).

    With ``exponent`` 0 it is ``KL(t || sigmoid(z))``, of old channels what ``kd_response`` distils. Targets below
    ``floor`` are nought, so that only the places of the others have to be kept.
    """

    name: ClassVar[str] = "kd_quality"
    floor: float = Field(0.01, ge=0, lt=1)
    """Targets below it are nought."""
    exponent: float = Field(2.0, ge=0)
    """Of the distance to the target; 0 leaves the cross-entropy alone, less its smallest value, so that the gradient is
    the distance itself and small scores on background count."""
    discount: float = Field(1.0, ge=0, le=1)
    """How much of an old score is taken off the interim network's targets; 0 leaves them as they are."""

    prior: float = 0.0
    """Added to the interim network's logits: in its own images every one shows a new object, in the exemplars few do. A
    negative number is the logarithm of how much rarer they are."""
    exemplars: bool = True
    """Whether new classes have a target on images that annotate none of them, which are exemplars and what mixup adds:
    the interim network's word. Otherwise, and of what mixup adds without an interim network, nothing is said of them;
    exemplars are taken for background without one."""
    inside: float = Field(1.0, ge=0, le=1)
    """Where a larger share of an exemplar's anchor lies inside an annotated object, new classes are nought; 1 leaves
    them as they are."""
    objects: float = Field(0.0, ge=0, le=1)
    """How much of an old score remains the target where an object of another class is annotated; 0 makes it nought."""
    growth: float = Field(0.0, ge=0, le=1)
    """The weight is multiplied by (old classes for each new one, 1 to 9) to this power: 0 leaves it as it is, 0.5 is
    LUCIR's."""
    known: int | None = Field(None, exclude=True)
    """Columns that the old network has; measured by ``fit``."""
    factor: float = Field(1.0, exclude=True)
    """What ``growth`` multiplies the weight by; measured by ``fit``."""
    alone: bool = Field(False, exclude=True)
    """Whether there is no interim network; measured by ``fit``."""

    @field_validator("exponent")
    @classmethod
    def _has_a_slope_at_agreement(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("give 0, or 1 and more: between them the slope has no bound at agreement")
        return value

    @property
    def teachers(self) -> tuple[str, ...]:
        """The network before the step and, where there is one, that of the new classes."""
        return ("old", "interim")

    def fit(self, step: StepData) -> KdQuality:
        """Notes which classes are new to the old network, none where a step refreshes known ones, and who knows."""
        known, alone = len(step.teachers["old"].columns), "interim" not in step.teachers
        ratio = min(max(1.0, known / len(step.names)), LARGEST_RATIO) if step.names else 1.0
        return self.model_copy(update={"known": known, "alone": alone, "factor": ratio**self.growth})

    def targets(self, answers: Answers, batch: BatchTargets) -> TermTargets:
        """The targets (N, K) at the places that have some."""
        old = answers["old"]
        scores = old.logits.sigmoid()
        target = scores.new_zeros(*scores.shape[:2], batch.trained.shape[1])
        target[..., : scores.shape[-1]] = scores
        if "interim" in answers:
            new = answers["interim"]
            rest = 1 - self.discount * scores.amax(dim=-1, keepdim=True)
            # After a step the old network's columns may be all of them; the interim one then has nothing to add.
            columns = slice(max(new.first, scores.shape[-1]), None)
            scored = (new.logits + self.prior).sigmoid()[..., columns.start - new.first :] * rest
            if self.inside < 1:
                scored = scored * (objects_inside(batch) <= self.inside)[..., None]
            target[..., columns] = scored
        matched = batch.assignment.matched
        taken = (matched >= 0)[..., None]
        target[..., : scores.shape[-1]] *= torch.where(taken, self.objects, 1.0)
        target[..., scores.shape[-1] :] *= ~taken
        target = target * self._spoken_of(batch)[:, None] * (matched != IGNORED)[..., None]
        target[target < self.floor] = 0
        return {"rows": Entries.of(target.amax(dim=-1) > 0, target=target)}

    def count(self, targets: Any, batch: BatchTargets) -> Tensor:
        """The sum of the highest targets above 0.05 and of the annotated positives."""
        best: Tensor = targets["rows"]["target"].amax(dim=1)
        return (best * (best > 0.05)).sum() + batch.assignment.positives.sum()

    def class_targets(self, targets: TermTargets, batch: BatchTargets, total: Tensor) -> ClassTargets | None:
        """Every entry of an unannotated channel as background, which is what a target of nought makes of it."""
        if self.exponent != SQUARED:
            return None
        matched = batch.assignment.matched
        nothing = matched.new_zeros(0)
        background = batch.assignment._replace(
            matched=torch.where(matched == IGNORED, matched, -1),
            image=nothing,
            anchor=nothing,
            column=nothing,
            boxes=batch.anchors[:0],
            positives=torch.zeros_like(batch.assignment.positives),
            mask=None,
        )
        return ClassTargets(background, self._spoken_of(batch), None, total.clamp(min=1.0).expand(len(matched)))

    def losses(
        self, student: HeadOutputs, targets: Any, batch: BatchTargets, total: Tensor, focal: Tensor | None
    ) -> dict[str, Tensor]:
        """The weighted scalar; ``focal`` charges all entries as background, 0.75 of what is wanted of them."""
        rows: Entries = targets["rows"]
        own, wanted = rows.look_up(student.logits), rows["target"]
        # What is nought has been charged already.
        more = self._distance(own, wanted) - self._distance(own, torch.zeros_like(wanted))
        loss = (more * (wanted > 0)).sum() / total.clamp(min=1.0)
        if focal is not None:
            loss = loss + focal / (1 - ALPHA)
        elif self.exponent != SQUARED:
            loss = loss + self._background(student.logits, batch) / total.clamp(min=1.0)
        return {self.name: self.weight * self.factor * loss}

    def _spoken_of(self, batch: BatchTargets) -> Tensor:
        """The channels (B, K) bool that a teacher speaks for: unannotated ones."""
        free = ~batch.trained
        if self.exemplars and not self.alone:
            return free
        shown = batch.selected_images("new") if not self.exemplars else batch.given_images
        if shown is not None:
            free[:, sum(batch.heads[:-1]) if self.known is None else self.known :] &= shown[:, None]
        return free

    def _distance(self, logits: Tensor, target: Tensor) -> Tensor:
        distance = quality_focal(logits, target, self.exponent)
        return distance if self.exponent else distance - torch.special.entr(target) - torch.special.entr(1 - target)

    def _background(self, logits: Tensor, batch: BatchTargets) -> Tensor:
        """The sum over every entry of an unannotated channel, as if its target were nought."""
        free = self._spoken_of(batch)[:, None] & (batch.assignment.matched != IGNORED)[..., None]
        return (quality_focal(logits, torch.zeros_like(logits), self.exponent) * free).sum()


LARGEST_RATIO = 9.0
"""Old classes for a new one up to which ``growth`` goes: beyond it, new classes are hardly learned any more."""
ALPHA = 0.25
"""The focal loss weighs background by 1 - alpha; the quality focal loss does not."""
SQUARED = 2.0
"""The exponent of the focal loss, which then computes the background in its own pass."""


def quality_focal(logits: Tensor, target: Tensor, exponent: float = SQUARED) -> Tensor:
    """``|sigmoid(z) - t|^exponent BCE(z, t)`` entry by entry; zero where ``sigmoid(z) = t``, but for exponent 0.

    Args:
        logits: Any shape, float32.
        target: In [0, 1], of the same shape.
        exponent: Not negative.
    """
    gap = (logits.sigmoid() - target).abs()
    return gap.pow(exponent) * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
