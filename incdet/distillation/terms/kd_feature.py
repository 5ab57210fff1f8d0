"""Distillation of the pyramid's maps, whole or where the old network sees something.

Shape letters: B images, A anchors, C channels, L levels, H_l x W_l cells of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from incdet.distillation.teacher_targets import BatchTargets, TermTargets
from incdet.distillation.term import Answers, PlainTerm
from incdet.network.retinanet import HeadOutputs

DISTANCES = {"l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}
"""By the value of ``KdFeature.distance``."""


class KdFeature(PlainTerm):
    """The mean distance of two pyramids over the channels of all cells that count, on all levels together.

    A cell counts where one of the old network's classes scores above ``score`` at one of its anchors. Whole maps are
    compared, so that the old network runs at every draw and nothing of it is cached.
    """

    name: ClassVar[str] = "kd_feature"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "features"})
    distance: Literal["l2", "smooth_l1"] = "l2"
    """Squared distance (`l2`), or `smooth_l1`, which grows linearly beyond 1."""
    score: float = Field(0.0, ge=0, lt=1)
    """Cells where no old class scores above this are left out; 0 takes all."""

    def targets(self, answers: Answers, batch: BatchTargets) -> TermTargets:
        """The old network's maps, L x (B, C, H_l, W_l), and the cells that count, L x (B, 1, H_l, W_l) bool."""
        del batch
        old = answers["old"]
        return {"maps": old.features, "cells": cells_of(old.strongest.sigmoid() > self.score, old.features)}

    def count(self, targets: Any, batch: BatchTargets) -> Tensor:
        """The number of values of the cells that count."""
        cells = torch.stack([level.sum() for level in targets["cells"]]).sum()
        channels: int = targets["maps"][0].shape[1]
        return cells.to(batch.anchors.dtype) * channels

    def loss(self, student: HeadOutputs, targets: Any, batch: BatchTargets, total: Tensor) -> Tensor:
        """The unweighted scalar."""
        distance = DISTANCES[self.distance]
        sums = [
            (distance(own.float(), theirs.float(), reduction="none") * counts).sum()
            for own, theirs, counts in zip(student.features, targets["maps"], targets["cells"], strict=True)
        ]
        return torch.stack(sums).sum() / total.clamp(min=1)


def cells_of(anchors: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
    """The cells L x (B, 1, H_l, W_l) bool one of whose anchors is among ``anchors`` (B, A) bool."""
    sizes = [feature.shape[-2] * feature.shape[-1] for feature in features]
    levels = torch.split(anchors.view(len(anchors), sum(sizes), -1).any(dim=2), sizes, dim=1)
    return [level.view(-1, 1, *one.shape[-2:]) for level, one in zip(levels, features, strict=True)]
