"""Distillation of the boxes, off the anchors that an annotated object has taken.

Shape letters: B images, A anchors, O teacher columns, N kept places.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torchvision.ops import nms as suppress

from incdet.distillation.teacher_targets import BatchTargets, Entries, TermTargets
from incdet.distillation.term import Answers, Images, PlainTerm
from incdet.network.retinanet import HeadOutputs
from incdet.ops.boxes import decode_boxes, giou_terms

STRONGEST = 300
"""Candidates of an image that enter the suppression."""


class KdBox(PlainTerm):
    """Mean distance of the student's boxes to a teacher's, where the teacher sees an object nobody annotated.

    The box branch is class-agnostic: distilled on an anchor that is matched to an annotated object, it would fight the
    annotation. Of a teacher's boxes of one class that overlap, the strongest alone counts. With an interim teacher,
    an anchor's box is that of the network whose class speaks louder there.
    """

    name: ClassVar[str] = "kd_box"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "deltas"})
    score: float = Field(0.05, ge=0, le=1)
    """A teacher's boxes of a higher score count."""
    nms: float = Field(0.7, ge=0, le=1)
    """IoU above which the weaker of two boxes of one class is dropped."""
    images: Images = "both"
    """Images it listens on: new, exemplars or both."""

    @property
    def teachers(self) -> tuple[str, ...]:
        """The network before the step and, where there is one, that of the new classes."""
        return ("old", "interim")

    def targets(self, answers: Answers, batch: BatchTargets) -> TermTargets:
        """The louder teacher's deltas (N, 4) at the kept places."""
        scores, deltas = louder(answers, batch)
        wanted = (scores.amax(dim=-1) > self.score) & (batch.assignment.matched < 0)
        shown = batch.selected_images(self.images)
        rows = Entries.of(wanted if shown is None else wanted & shown[:, None], scores=scores, deltas=deltas)
        survivors = rows.only(surviving(rows, batch.anchors, self.nms))
        return {"rows": survivors.holding(deltas=survivors["deltas"])}

    def count(self, targets: Any, batch: BatchTargets) -> Tensor:
        """The number of kept places."""
        return batch.anchors.new_full((), len(targets["rows"].image))

    def loss(self, student: HeadOutputs, targets: Any, batch: BatchTargets, total: Tensor) -> Tensor:
        """The unweighted scalar, in the form of the detector's own box loss."""
        rows: Entries = targets["rows"]
        own, theirs = rows.look_up(student.deltas), rows["deltas"]
        return box_distances(own, theirs, batch.anchors[rows.anchor], batch.box_kind).sum() / total.clamp(min=1)


def box_distances(own: Tensor, theirs: Tensor, anchors: Tensor, kind: str) -> Tensor:
    """(N,) distances of boxes given as deltas (N, 4): ``l1`` of the deltas, summed, or ``1 - GIoU`` of the boxes."""
    if kind == "giou":
        return giou_terms(decode_boxes(own, anchors), decode_boxes(theirs, anchors))
    return (own - theirs).abs().sum(-1)


def louder(answers: Answers, batch: BatchTargets) -> tuple[Tensor, Tensor]:
    """Scores (B, A, O) of all teachers' classes, and deltas (B, A, 4) of the teacher whose class scores highest.

    The interim teacher speaks of unannotated channels alone, and no louder than the old one leaves room for.
    """
    old = answers["old"]
    scores = old.logits.sigmoid()
    if "interim" not in answers:
        return scores, old.deltas
    new, best = answers["interim"], scores.amax(dim=-1, keepdim=True)
    own = new.logits.sigmoid() * (1 - best) * ~batch.trained[:, None, new.first :]
    deltas = torch.where(own.amax(dim=-1, keepdim=True) > best, new.deltas, old.deltas)
    return torch.cat([scores, own], dim=-1), deltas


@torch.no_grad()
def surviving(rows: Entries, anchors: Tensor, nms: float, most: int = STRONGEST) -> Tensor:
    """The rows (N,) bool whose box survives suppression among those of its image and class.

    One suppression serves the whole batch: boxes of different images and classes are moved apart in float64, which
    keeps their overlaps as they are.

    Args:
        rows: With ``scores`` (N, O) and ``deltas`` (N, 4).
        anchors: (A, 4) xyxy pixels.
        nms: IoU above which the weaker of two boxes of one class is dropped.
        most: Strongest candidates of an image that enter.
    """
    chosen = torch.zeros_like(rows.image, dtype=torch.bool)
    if not len(rows.image):
        return chosen
    scores, columns = rows["scores"].max(dim=1)
    order = scores.argsort(descending=True, stable=True)
    order = order[rows.image[order].argsort(stable=True)]
    image = rows.image[order]
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(image, image)
    order = order[rank < most]
    boxes = decode_boxes(rows["deltas"][order], anchors[rows.anchor[order]]).double()
    group = rows.image[order] * rows["scores"].shape[1] + columns[order]
    apart = boxes + (group * (boxes.amax() - boxes.amin() + 1))[:, None]
    return chosen.index_fill_(0, order[suppress(apart, scores[order].double(), nms)], True)
