"""Which anchors a term takes of a teacher.

Shape letters: B images, A anchors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from incdet.distillation.part import Selection
from incdet.distillation.teacher import TeacherOutputs
from incdet.distillation.teacher_targets import BatchTargets


def select(strongest: Tensor, selection: Selection) -> Tensor:
    """Selected anchors, (B, A) bool, from each anchor's highest teacher logit (B, A) float32."""
    value = selection.value
    if selection.kind == "all":
        return torch.ones_like(strongest, dtype=torch.bool)
    if selection.kind == "topk":
        chosen = strongest.topk(min(int(value), strongest.shape[1]), dim=1).indices
        return torch.zeros_like(strongest, dtype=torch.bool).scatter_(1, chosen, True)
    if selection.kind == "score":
        return strongest.sigmoid() > value
    return strongest > strongest.mean(1, keepdim=True) + value * strongest.std(1, keepdim=True)


def selected(teacher: TeacherOutputs, selection: Selection, batch: BatchTargets, images: str = "both") -> Tensor:
    """The anchors (B, A) bool that a selection takes on the images that a term listens on."""
    taken = select(teacher.strongest, selection)
    shown = batch.selected_images(images)
    return taken if shown is None else taken & shown[:, None]
