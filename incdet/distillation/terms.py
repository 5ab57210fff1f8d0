"""Distillation: what the teacher's responses ask of the student. Pure functions of the rows somebody listens to.

Shape letters: B images, A anchors over all levels, K student columns, O <= K teacher columns (the leading ones),
N rows: pairs of an image and an anchor. All arithmetic is float32. Every loss looks its rows up in the student's
output, and a look-up of no row still is a path for the gradient. Which rows count is a mask rather than a shorter list,
because a GPU has to stop for the length of a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms as suppress

from incdet.network.retinanet import HeadOutputs
from incdet.ops.boxes import decode_boxes, giou_terms


class Selection(NamedTuple):
    """Which anchors a distillation term listens to.

    ``all``: every anchor. ``topk``: the ``value`` anchors of highest teacher score in each image. ``score``: anchors
    whose highest teacher score exceeds ``value``. ``statistical``: anchors whose highest teacher logit exceeds the
    image's mean by ``value`` standard deviations (ERD, Feng et al., CVPR 2022, eq. 4).
    """

    kind: str = "score"
    value: float = 0.05


class Responses(NamedTuple):
    """What a teacher says about a batch: a row for every anchor that some term listens to.

    Attributes:
        image: (N,) int64, ascending.
        anchor: (N,) int64 index into the batch's anchors.
        logits: (N, O) float32.
        deltas: (N, 4) float32.
        heard: Of every selection that was asked for, the rows it takes, (N,) bool.
    """

    image: Tensor
    anchor: Tensor
    logits: Tensor
    deltas: Tensor
    heard: Mapping[Selection, Tensor]


@torch.no_grad()
def respond(teacher: HeadOutputs, selections: Sequence[Selection]) -> Responses:
    """The rows of a teacher's forward that ``selections`` take, in the order of images and anchors."""
    anchors = teacher.logits.shape[1]
    strongest = teacher.logits.amax(dim=-1).float()
    heard = {selection: select(strongest, selection).flatten() for selection in selections}
    wanted = reduce(torch.logical_or, heard.values()) if heard else strongest.new_zeros(0, dtype=torch.bool)
    flat = wanted.nonzero().squeeze(1)
    return Responses(
        flat // anchors,
        flat % anchors,
        teacher.logits.flatten(0, 1).index_select(0, flat).float(),
        teacher.deltas.flatten(0, 1).index_select(0, flat).float(),
        {selection: taken.index_select(0, flat) for selection, taken in heard.items()},
    )


def select(strongest: Tensor, selection: Selection) -> Tensor:
    """Selected anchors, (B, A) bool, from each anchor's highest teacher logit (B, A) float32."""
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
    teacher: Responses,
    selected: Tensor,
    channels: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Sigmoid response distillation: ``T^2 BCE(z_s / T, sigmoid(z_t / T))`` over the selected rows.

    Divided by the sum of the selected rows' highest teacher scores (at least 1), so that a batch with many
    objects weighs no more than one with few and easy background cannot drown them.

    Args:
        student: Logits (B, A, K).
        teacher: Its responses, O <= K.
        selected: (N,) bool.
        channels: (B, O) bool, the columns the teacher speaks for in each image; None means all.
        temperature: T > 0.

    Returns:
        A scalar >= 0.
    """
    own = _rows(student, teacher)[:, : teacher.logits.shape[1]]
    target = (teacher.logits / temperature).sigmoid()
    loss = F.binary_cross_entropy_with_logits(own / temperature, target, reduction="none")
    allowed = selected[:, None] if channels is None else selected[:, None] & channels[teacher.image]
    scores = teacher.logits.sigmoid() * allowed
    return temperature**2 * (loss * allowed).sum() / scores.amax(dim=1).sum().clamp(min=1.0)


def softmax_loss(
    student: Tensor, teacher: Responses, selected: Tensor, heads: Sequence[int], temperature: float = 2.0
) -> Tensor:
    """The seed's cross-distilled form: per old head, ``CE(softmax(z_t / T), softmax(z_s / T))``, summed over heads.

    Castro et al., ECCV 2018, eq. 3; no factor T^2. Each head's term is the mean over the selected rows. A head of
    one class has a constant softmax and therefore no gradient: that is a property of the form, not of this code.

    Args:
        student: Logits (B, A, K).
        teacher: Its responses.
        selected: (N,) bool.
        heads: Number of classes of each old head; they sum to O.
        temperature: T > 0.
    """
    own = _rows(student, teacher)[:, : teacher.logits.shape[1]] / temperature
    target = teacher.logits / temperature
    crosses = [
        -(theirs.softmax(-1) * mine.log_softmax(-1)).sum(-1)
        for mine, theirs in zip(torch.split(own, [*heads], 1), torch.split(target, [*heads], 1), strict=True)
    ]
    return (torch.stack(crosses).sum(0) * selected).sum() / selected.sum().clamp(min=1)


@torch.no_grad()
def select_boxes(
    teacher: Responses, candidates: Tensor, anchors: Tensor, *, nms: float = 0.7, most: int = 300
) -> Tensor:
    """The candidate rows whose box survives suppression among those of its image and class, (N,) bool.

    One suppression serves the whole batch: boxes of different images and classes are moved apart in float64, which
    keeps their overlaps as they are.

    Args:
        teacher: Its responses.
        candidates: (N,) bool. The caller leaves out anchors that are matched to an annotated object: the box branch is
            class-agnostic, so distilling there would fight the annotation.
        anchors: (A, 4) xyxy pixels.
        nms: IoU above which the weaker of two boxes of one class is dropped.
        most: Strongest candidates of an image that enter.
    """
    scores, columns = teacher.logits.sigmoid().max(dim=1)
    order = scores.masked_fill(~candidates, -1.0).argsort(descending=True, stable=True)
    order = order[teacher.image[order].argsort(stable=True)]
    image = teacher.image[order]
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(image, image)
    rows = order[candidates[order] & (rank < most)]
    chosen = torch.zeros_like(candidates)
    if not len(rows):
        return chosen
    boxes = decode_boxes(teacher.deltas[rows], anchors[teacher.anchor[rows]]).double()
    group = teacher.image[rows] * teacher.logits.shape[1] + columns[rows]
    apart = boxes + (group * (boxes.amax() - boxes.amin() + 1))[:, None]
    return chosen.index_fill_(0, rows[suppress(apart, scores[rows].double(), nms)], True)


def box_distillation_loss(
    student: Tensor, teacher: Responses, selected: Tensor, anchors: Tensor, kind: str = "l1"
) -> Tensor:
    """Mean distance between the student's and the teacher's boxes on the selected rows.

    Args:
        student: Box deltas (B, A, 4).
        teacher: Its responses.
        selected: (N,) bool.
        anchors: (A, 4) xyxy pixels.
        kind: ``l1`` on the four deltas (summed), or ``giou`` on the decoded boxes.
    """
    own, target = _rows(student, teacher), teacher.deltas
    if kind == "giou":
        places = anchors[teacher.anchor]
        loss = giou_terms(decode_boxes(own, places), decode_boxes(target, places))
    else:
        loss = (own - target).abs().sum(-1)
    return (loss * selected).sum() / selected.sum().clamp(min=1)


def _rows(student: Tensor, teacher: Responses) -> Tensor:
    """The student's values (B, A, X) at the teacher's rows, (N, X) float32."""
    return student.flatten(0, 1).index_select(0, teacher.image * student.shape[1] + teacher.anchor).float()
