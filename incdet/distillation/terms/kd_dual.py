"""Sigmoid distillation of one student by two teachers, on every channel that one of them knows.

Shape letters: B images, A anchors, N selected places.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from incdet.distillation.teacher_targets import BatchTargets, TermTargets
from incdet.distillation.term import Answers
from incdet.distillation.terms.kd_response import KdResponse


class KdDual(KdResponse):
    """``kd_response`` with the interim network's scores beside the old ones (after Mo et al., ECCV 2024).

    What the old network leaves to the background is shared out as the interim one says: the target of a new channel
    is the interim score times one minus the anchor's highest old score. Annotated channels are distilled too.
    """

    name: ClassVar[str] = "kd_dual"

    @property
    def teachers(self) -> tuple[str, ...]:
        """The network before the step and, where there is one, that of the new classes."""
        return ("old", "interim")

    def targets(self, answers: Answers, batch: BatchTargets) -> TermTargets:
        """The logits of both (N, K) at the selected places."""
        return super().targets({"old": replace(answers["old"], logits=joined_logits(answers))}, batch)


def joined_logits(answers: Answers) -> Tensor:
    """Logits (B, A, O) of the old classes and, where it lacks some, of the interim network's share of the rest."""
    old = answers["old"].logits
    if "interim" not in answers:
        return old
    new = answers["interim"]
    # After a step the old network's columns may be all of them; the interim one then has nothing to add.
    own = new.logits[..., max(0, old.shape[-1] - new.first) :].sigmoid()
    rest = 1 - old.sigmoid().amax(dim=-1, keepdim=True)
    return torch.cat([old, (own * rest).clamp(min=torch.finfo(own.dtype).tiny).logit()], dim=-1)
