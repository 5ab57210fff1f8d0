"""Attentive RoI distillation: what the old network looks at in the objects that it sees has to stay the same.

Shape letters: R regions, C channels, L levels, S cells of a side of a pooled region.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torchvision.ops import roi_align

from incdet.distillation.teacher_targets import BatchTargets, TermTargets
from incdet.distillation.term import Answers, PlainTerm
from incdet.network.retinanet import HeadOutputs


class KdRoi(PlainTerm):
    """``mean A_t (F_s - F_t)^2 + gamma mean |A_s - A_t|`` over the regions (ABR, Liu et al., ICCV 2023).

    F are the pyramid's features pooled on the old network's detections, A the attention of a region: the softmax over
    its cells of the mean squared channel, times the number of cells. Where we depart: the paper pools on the proposals
    of a two-stage detector, a dense head has its detections.
    """

    name: ClassVar[str] = "kd_roi"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "deltas", "features"})
    score: float = Field(0.1, gt=0, lt=1)
    """The old network's detections above it are the regions."""
    gamma: float = Field(1.0, ge=0)
    """Weight of the attention beside the features."""
    cells: int = Field(7, ge=1)
    """Cells of a side of a pooled region."""

    def targets(self, answers: Answers, batch: BatchTargets) -> TermTargets:
        """The regions (R_l, 5) of every level as ``roi_align`` takes them, and their old features (R, C, S, S)."""
        old = answers["old"]
        found = old.detections(self.score)
        boxes = torch.cat([batch.anchors.new_zeros(0, 4), *(one["boxes"] for one in found)])
        image = torch.cat([boxes.new_full((len(one["boxes"]), 1), number) for number, one in enumerate(found)])
        regions = torch.cat([image, boxes], dim=1)
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=1).sqrt()
        sizes = old.teacher.model.architecture.anchor_sizes
        usual = boxes.new_tensor([sum(level) / len(level) for level in sizes])
        level = (side[:, None].log() - usual.log()).abs().argmin(dim=1)
        rows = [regions[level == number] for number in range(len(old.features))]
        scale = boxes.new_tensor([one.shape[-1] / old.batch.padded[1] for one in old.features])
        return {"regions": rows, "scale": [scale], "pooled": [pool(old.features, rows, scale, self.cells)]}

    def count(self, targets: Any, batch: BatchTargets) -> Tensor:
        """The number of regions."""
        return batch.anchors.new_full((), sum(len(rows) for rows in targets["regions"]))

    def loss(self, student: HeadOutputs, targets: Any, batch: BatchTargets, total: Tensor) -> Tensor:
        """The unweighted scalar."""
        (scale,), (theirs,) = targets["scale"], targets["pooled"]
        own = pool(student.features, targets["regions"], scale, self.cells)
        own_sight, sight = attention(own), attention(theirs)
        features = ((own - theirs).square().mean(dim=1) * sight).mean(dim=(1, 2))
        looks = (own_sight - sight).abs().mean(dim=(1, 2))
        summed: Tensor = (features + self.gamma * looks).sum()
        return summed / total.clamp(min=1.0)


def pool(features: Sequence[Tensor], regions: Sequence[Tensor], scale: Tensor, cells: int) -> Tensor:
    """The features (R, C, S, S) float32 of the ``regions`` of every level, level after level.

    Args:
        features: L x (B, C, H_l, W_l).
        regions: L x (R_l, 5), image and xyxy box in pixels.
        scale: (L,) cells a pixel.
        cells: S.
    """
    parts = [
        roi_align(one.float(), rows, cells, float(factor), aligned=True)
        for one, rows, factor in zip(features, regions, scale.tolist(), strict=True)
    ]
    return torch.cat(parts)


def attention(pooled: Tensor) -> Tensor:
    """Where a region's features are strong: (R, C, S, S) -> (R, S, S), whose mean over a region is 1."""
    strength = pooled.square().mean(dim=1)
    sight = strength.flatten(1).softmax(dim=1) * strength[0].numel() if len(strength) else strength.flatten(1)
    result: Tensor = sight.view_as(strength)
    return result
