"""Distillation: what the teacher's responses ask of the student. Pure functions of dense tensors.

Shape letters: B images, A anchors over all levels, K student columns, O <= K teacher columns (the leading ones).
All arithmetic is float32; every loss keeps a gradient path to its input when nothing is selected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, generalized_box_iou_loss

_CODER = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))


class Selection(NamedTuple):
    """Which anchors a distillation term listens to.

    ``all``: every anchor. ``topk``: the ``value`` anchors of highest teacher score in each image. ``score``: anchors
    whose highest teacher score exceeds ``value``. ``statistical``: anchors whose highest teacher logit exceeds the
    image's mean by ``value`` standard deviations (ERD, Feng et al., CVPR 2022, eq. 4).
    """

    kind: str = "score"
    value: float = 0.05


def select(teacher_logits: Tensor, selection: Selection) -> Tensor:
    """Selected anchors, (B, A) bool, from teacher logits (B, A, O)."""
    strongest = teacher_logits.float().amax(dim=-1)
    if selection.kind == "all":
        return torch.ones_like(strongest, dtype=torch.bool)
    if selection.kind == "topk":
        chosen = strongest.topk(min(int(selection.value), strongest.shape[1]), dim=1).indices
        return torch.zeros_like(strongest, dtype=torch.bool).scatter_(1, chosen, True)
    if selection.kind == "score":
        return strongest.sigmoid() > selection.value
    if selection.kind == "statistical":
        bound = strongest.mean(1, keepdim=True) + selection.value * strongest.std(1, keepdim=True)
        return strongest > bound
    raise ValueError(f"unknown selection {selection.kind!r}; known: all, topk, score, statistical")


def response_loss(
    student: Tensor,
    teacher: Tensor,
    selected: Tensor,
    channels: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Sigmoid response distillation: ``T^2 BCE(z_s / T, sigmoid(z_t / T))`` over the selected anchors.

    Divided by the sum of the selected anchors' highest teacher scores (at least 1), so that a batch with many
    objects weighs no more than one with few and easy background cannot drown them.

    Args:
        student: Logits (B, A, K).
        teacher: Logits (B, A, O), O <= K.
        selected: (B, A) bool.
        channels: (B, O) bool, the columns the teacher speaks for in each image; None means all.
        temperature: T > 0.

    Returns:
        A scalar >= 0.
    """
    image, anchor = selected.nonzero(as_tuple=True)
    own = student[image, anchor, : teacher.shape[-1]].float()
    target = teacher[image, anchor].float()
    loss = F.binary_cross_entropy_with_logits(own / temperature, (target / temperature).sigmoid(), reduction="none")
    scores = target.sigmoid()
    if channels is not None:
        allowed = channels[image].to(loss.dtype)
        loss, scores = loss * allowed, scores * allowed
    weight = scores.amax(dim=-1).sum() if scores.numel() else scores.sum()
    return temperature**2 * loss.sum() / weight.clamp(min=1.0) + student.float().sum() * 0.0


def softmax_loss(
    student: Tensor, teacher: Tensor, selected: Tensor, heads: Sequence[int], temperature: float = 2.0
) -> Tensor:
    """The seed's cross-distilled form: per old head, ``CE(softmax(z_t / T), softmax(z_s / T))``, summed over heads.

    Castro et al., ECCV 2018, eq. 3; no factor T^2. Each head's term is the mean over the selected anchors. A head of
    one class has a constant softmax and therefore no gradient: that is a property of the form, not of this code.

    Args:
        student: Logits (B, A, K).
        teacher: Logits (B, A, O).
        selected: (B, A) bool.
        heads: Number of classes of each old head; they sum to O.
        temperature: T > 0.
    """
    image, anchor = selected.nonzero(as_tuple=True)
    own = student[image, anchor].float() / temperature
    target = teacher[image, anchor].float() / temperature
    total = student.float().sum() * 0.0
    start = 0
    for size in heads:
        columns = slice(start, start + size)
        cross = -(target[:, columns].softmax(-1) * own[:, columns].log_softmax(-1)).sum(-1)
        total = total + cross.sum() / max(1, cross.shape[0])
        start += size
    return total


@torch.no_grad()
def select_boxes(
    teacher_logits: Tensor,
    teacher_deltas: Tensor,
    anchors: Tensor,
    taken: Tensor,
    *,
    score: float = 0.05,
    nms: float = 0.7,
    most: int = 300,
) -> tuple[Tensor, Tensor]:
    """Anchors whose teacher box survives per-class NMS and that no annotated object has taken.

    Args:
        teacher_logits: (B, A, O).
        teacher_deltas: (B, A, 4).
        anchors: (A, 4) xyxy pixels.
        taken: (B, A) bool, anchors matched to an annotated object: the box branch is class-agnostic, so distilling
            there would fight the annotation.
        score: Lowest teacher score, in [0, 1].
        nms: IoU above which the weaker of two boxes of one class is dropped.
        most: Strongest anchors of an image that enter NMS.

    Returns:
        Image and anchor indices, both (P,) int64.
    """
    scores, columns = teacher_logits.float().sigmoid().max(dim=-1)
    images, kept = [], []
    for number in range(scores.shape[0]):
        candidates = ((scores[number] > score) & ~taken[number]).nonzero().squeeze(1)
        if candidates.numel() > most:
            candidates = candidates[scores[number, candidates].topk(most).indices]
        boxes = _CODER.decode_single(teacher_deltas[number, candidates].float(), anchors[candidates])
        keep = batched_nms(boxes, scores[number, candidates], columns[number, candidates], nms)
        kept.append(candidates[keep])
        images.append(torch.full_like(kept[-1], number))
    return torch.cat(images), torch.cat(kept)


def box_distillation_loss(
    student: Tensor, teacher: Tensor, anchors: Tensor, image: Tensor, anchor: Tensor, kind: str = "l1"
) -> Tensor:
    """Mean distance between the student's and the teacher's boxes on the selected anchors.

    Args:
        student: Box deltas (B, A, 4).
        teacher: Box deltas (B, A, 4).
        anchors: (A, 4) xyxy pixels.
        image: (P,) image index of each selected anchor.
        anchor: (P,) anchor index.
        kind: ``l1`` on the four deltas (summed), or ``giou`` on the decoded boxes.
    """
    own, target = student[image, anchor].float(), teacher[image, anchor].float()
    if kind == "giou":
        places = anchors[anchor]
        loss = generalized_box_iou_loss(_CODER.decode_single(own, places), _CODER.decode_single(target, places))
    else:
        loss = (own - target).abs().sum(-1)
    mean: Tensor = loss.sum() / max(1, loss.shape[0])
    return mean + student.float().sum() * 0.0
