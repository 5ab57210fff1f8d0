"""RetinaNet's two losses with label coverage: float32 whatever comes in, and a gradient path even with no positive.

With everything covered they equal torchvision's ``compute_loss``. Letters: B images, A anchors, K seen classes,
P positive anchors, V ignored entries.

The focal loss is computed without a one-hot target. Every entry is first charged as background,
``(1 - alpha) p^gamma softplus(x)``; the few entries that are positive or ignored are then corrected. The gradient is
written down in the same pass over cache-sized blocks, so that one tensor of the logits' size is all it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from incdet.ops.assign import IGNORED, Assignment
from incdet.ops.boxes import decode_boxes, encode_boxes, giou_terms

Entries = tuple[Tensor, Tensor, Tensor]

# Elements of one block: on a CPU its handful of temporaries fit the cache, on a GPU few large kernels win.
CPU_BLOCK = 1 << 17
GPU_BLOCK = 1 << 25

WITHOUT_FLOAT64 = ("mps",)
"""Apple's GPUs."""


class ClassTargets(NamedTuple):
    """What one focal loss is computed from; see ``focal_loss``."""

    assignment: Assignment
    coverage: Tensor | None
    ignored: Entries | None = None
    normaliser: Tensor | None = None


def focal_loss(
    logits: Tensor,
    assignment: Assignment,
    *,
    coverage: Tensor | None = None,
    ignored: Entries | None = None,
    normaliser: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Focal loss of the entries that somebody annotated, as a float32 scalar (Lin et al., 2017, arXiv 1708.02002).

    For each image, the sum over its anchors that are not `IGNORED` and its covered channels, without the ignored
    entries, divided by the image's normaliser; then the sum over images. The target of an entry is 1 where the
    anchor is positive for that column, else 0. A positive entry whose column is not covered contributes nothing.

    Args:
        logits: (B, A, K), any floating type; the gradient has the same type.
        assignment: What each anchor answers for; columns in 0..K-1.
        coverage: (B, K) bool, the channels annotated in each image; None covers everything.
        ignored: ``(image, anchor, column)``, three (V,) int64 tensors: entries that contribute nothing. Repeated
            entries, and entries that contribute nothing anyway, are harmless.
        normaliser: (B,) positive floats; by default ``max(1, positives) * B``, torchvision's choice.
        alpha: Weight of positive entries in [0, 1]; the others weigh ``1 - alpha``.
        gamma: Focusing exponent, at least 0.
    """
    charge = ClassTargets(assignment, coverage, ignored, normaliser)
    if coverage is not None and _all_on_host(coverage):
        charge = charge._replace(coverage=None)
    loss: Tensor = _Focal.apply(logits, [_part(logits, charge)], alpha, gamma)[0]
    return loss


def focal_losses(
    logits: Tensor, charges: Sequence[ClassTargets], *, alpha: float = 0.25, gamma: float = 2.0
) -> tuple[Tensor, ...]:
    """The ``focal_loss`` of each of several charges, in one pass over the logits and with one gradient.

    Args:
        logits: (B, A, K), any floating type.
        charges: With coverages that share no channel of any image.
        alpha: As for ``focal_loss``.
        gamma: As for ``focal_loss``.
    """
    losses: tuple[Tensor, ...] = _Focal.apply(logits, [_part(logits, charge) for charge in charges], alpha, gamma)
    return losses


def box_loss(
    deltas: Tensor,
    anchors: Tensor,
    assignment: Assignment,
    *,
    kind: str = "l1",
    normaliser: Tensor | None = None,
) -> Tensor:
    """Regression loss of the positive anchors as a float32 scalar; equals torchvision's regression head.

    ``"l1"`` sums the absolute differences of the four deltas (``retinanet_resnet50_fpn``), ``"giou"`` sums
    ``1 - GIoU`` of the decoded boxes (``retinanet_resnet50_fpn_v2``). Each image's sum is divided by its normaliser.

    Args:
        deltas: (B, A, 4), any floating type.
        anchors: (A, 4) float32 xyxy.
        assignment: Positive anchors and their boxes.
        kind: ``"l1"`` or ``"giou"``.
        normaliser: (B,) positive floats; by default ``max(1, positives) * B``.
    """
    predicted = deltas.reshape(-1, 4).index_select(0, assignment.image * deltas.shape[1] + assignment.anchor).float()
    chosen = anchors[assignment.anchor]
    if kind == "l1":
        terms = (predicted - encode_boxes(assignment.boxes, chosen)).abs().sum(dim=1)
    elif kind == "giou":
        terms = giou_terms(decode_boxes(predicted, chosen), assignment.boxes)
    else:
        raise ValueError(f"kind must be 'l1' or 'giou', not {kind!r}")
    weight = _scale(assignment, normaliser)[assignment.image]
    return (terms * (weight if assignment.mask is None else weight * assignment.mask)).sum()


def _scale(assignment: Assignment, normaliser: Tensor | None) -> Tensor:
    """(B,) float32 factor of each image's sum."""
    if normaliser is None:
        normaliser = assignment.positives.clamp(min=1) * len(assignment.positives)
    return normaliser.detach().float().reciprocal()


def _all_on_host(mask: Tensor) -> bool:
    """Whether ``mask`` is true throughout, where asking does not make the host wait for a device."""
    return mask.device.type == "cpu" and bool(mask.all())


class _Part(NamedTuple):
    """A charge in the form that the pass over the logits takes.

    Attributes:
        rows: (B, A) weight of an anchor's background entries.
        coverage: (B, K) bool, or None for everything.
        flat: (P,) flat positions of the positive entries, ascending.
        weight: (P,) their weights.
        mask: (P,) which of them are positive after all, or None for all.
        ignored: (V,) flat positions in any order, or None.
    """

    rows: Tensor
    coverage: Tensor | None
    flat: Tensor
    weight: Tensor
    mask: Tensor | None
    ignored: Tensor | None


def _part(logits: Tensor, charge: ClassTargets) -> _Part:
    _, anchors, columns = logits.shape
    assignment, coverage, ignored, normaliser = charge
    if ignored is not None:
        # An ignored entry is looked up among the positive ones, which have to be few and in order for it.
        assignment = assignment.compact()
    scale = _scale(assignment, normaliser)
    rows = scale[:, None] * (assignment.matched != IGNORED)
    flat = (assignment.image * anchors + assignment.anchor) * columns + assignment.column
    weight = scale[assignment.image]
    if assignment.mask is not None:
        weight = weight * assignment.mask
    if coverage is not None:
        weight = weight * coverage[assignment.image, assignment.column]
    gone = None if ignored is None else (ignored[0] * anchors + ignored[1]) * columns + ignored[2]
    return _Part(rows, coverage, flat, weight, assignment.mask, gone)


class _Focal(torch.autograd.Function):
    """The focal sums and their gradient in one pass.

    The gradient waits in a buffer that the first backward hands out, scaled in place. A second backward through a
    retained graph computes it again from the logits, so that it is right at no cost to the usual case.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, parts: list[_Part], alpha: float, gamma: float) -> tuple[Tensor, ...]:
        losses, gradient = _focal(logits, parts, alpha, gamma, wants_gradient=ctx.needs_input_grad[0])
        ctx.save_for_backward(logits)
        ctx.parts, ctx.powers = parts, (alpha, gamma)
        ctx.gradient = gradient
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None
        (logits,) = ctx.saved_tensors
        if gradient is None:
            gradient = _focal(logits, ctx.parts, *ctx.powers, wants_gradient=True)[1]
        factor = upstream[0]
        if len(upstream) > 1:
            # Every channel of an image belongs to one charge at most.
            factor = torch.stack([part.coverage for part in ctx.parts], dim=-1).to(factor.dtype) @ torch.stack(upstream)
            factor = factor[:, None]
        return (gradient.mul_(factor).to(logits.dtype), None, None, None)


def _focal(
    logits: Tensor, parts: Sequence[_Part], alpha: float, gamma: float, *, wants_gradient: bool
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The weighted focal sums (float32 scalars) and, if wanted, the gradient of all together (B, A, K)."""
    logits = logits.detach()
    work = torch.float64 if logits.dtype == torch.float64 else torch.float32
    # float16 cannot hold gradients that the loss scaler has not multiplied yet; bfloat16 has float32's range.
    held = torch.float32 if logits.dtype == torch.float16 else logits.dtype
    gradient = torch.empty(logits.shape, dtype=held, device=logits.device) if wants_gradient else None
    parts = [part._replace(rows=part.rows.to(work), weight=part.weight.to(work)) for part in parts]
    totals = _background(logits, parts, gradient, alpha, gamma, work)
    alone = len(parts) == 1
    found = [
        _corrected(total, logits, part, gradient, alpha, gamma, alone)
        for total, part in zip(totals, parts, strict=True)
    ]
    return tuple(total.to(work) for total in found), gradient


def _corrected(
    total: Tensor, logits: Tensor, part: _Part, gradient: Tensor | None, alpha: float, gamma: float, alone: bool
) -> Tensor:
    """The sum of a part whose positive and ignored entries have been charged as background; corrects ``gradient`` too.

    Unless the part is ``alone``, the gradient of entries whose channel it does not cover is another's.
    """
    values, flat = logits.reshape(-1), part.flat
    entries = values.index_select(0, flat).to(part.weight.dtype)
    wanted, slope = _positive_entry(entries, alpha, gamma)
    total = total + ((wanted - _background_entry(entries, alpha, gamma)) * part.weight).sum(dtype=total.dtype)
    if gradient is not None:
        share, mask = (slope * part.weight).to(gradient.dtype), part.mask
        if not alone:
            covered = _covered(part, flat, logits)
            mask = covered if mask is None else mask & covered
        if mask is not None:
            share = torch.where(mask, share, gradient.view(-1).index_select(0, flat))
        gradient.view(-1).index_copy_(0, flat, share)
    if part.ignored is not None and len(part.ignored):
        ignored = part.ignored.sort().values
        total = total - _ignored_share(logits, part.rows, part.coverage, flat, ignored, alpha, gamma)
        if gradient is not None and alone:
            gradient.view(-1).index_fill_(0, ignored, 0)
        elif gradient is not None:
            kept = gradient.view(-1).index_select(0, ignored).masked_fill_(_covered(part, ignored, logits), 0)
            gradient.view(-1).index_copy_(0, ignored, kept)
    return total


def _covered(part: _Part, flat: Tensor, logits: Tensor) -> Tensor:
    """Which of the flat positions (P,) lie in a channel that the part covers."""
    _, anchors, columns = logits.shape
    if part.coverage is None:
        return torch.ones_like(flat, dtype=torch.bool)
    return part.coverage[flat // (anchors * columns), flat % columns]


def _wide(device: torch.device) -> torch.dtype:
    """What sums are kept in."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def _background(
    logits: Tensor,
    parts: Sequence[_Part],
    gradient: Tensor | None,
    alpha: float,
    gamma: float,
    work: torch.dtype,
) -> list[Tensor]:
    """Sums (``_wide``) of all entries as background, weighted by row and coverage; writes ``gradient`` beside them."""
    images, anchors, columns = logits.shape
    block = GPU_BLOCK if logits.is_cuda else CPU_BLOCK
    image_step = max(1, block // max(1, anchors * columns))
    anchor_step = max(1, block // max(1, columns)) if image_step == 1 else max(1, anchors)
    weights = [(part.rows * (1 - alpha), part.coverage) for part in parts]
    shape = () if len(parts) == 1 else (images, columns)
    total = torch.zeros(shape, dtype=_wide(logits.device), device=logits.device)
    for first in range(0, images, image_step):
        for start in range(0, anchors, anchor_step):
            place = (slice(first, first + image_step), slice(start, start + anchor_step))
            x = logits[place].to(work)
            p, cost = torch.sigmoid(x), F.softplus(x)
            focus = p * p if gamma == 2 else p.pow(gamma)
            _weigh(focus, weights, place)
            if gradient is not None:
                # d/dx [p^gamma softplus] = p^gamma [gamma (1 - p) softplus + p]
                gradient[place] = torch.addcmul(p, 1 - p, cost, value=gamma).mul_(focus)
            focus.mul_(cost)
            if len(parts) == 1:
                total += focus.sum()
            else:
                total[place[0]] += focus.sum(dim=1)
    return [total] if len(parts) == 1 else [(total * coverage).sum() for _, coverage in weights if coverage is not None]


def _weigh(focus: Tensor, weights: Sequence[tuple[Tensor, Tensor | None]], place: tuple[slice, slice]) -> None:
    """Multiplies a block (b, a, K) in place by the weight of each entry's own part."""
    rows, coverage = weights[0]
    if len(weights) == 1:
        focus.mul_(rows[place][..., None])
        if coverage is not None:
            focus.mul_(coverage[place[0], None, :])
        return
    whole = torch.zeros_like(focus)
    for rows, coverage in weights:
        if coverage is None:
            raise ValueError("several charges need a coverage each, or their channels would be shared")
        whole.addcmul_(rows[place][..., None], coverage[place[0], None, :].to(focus.dtype))
    focus.mul_(whole)


def _background_entry(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of entries whose target is 0."""
    return (1 - alpha) * torch.sigmoid(x).pow(gamma) * F.softplus(x)


def _positive_entry(x: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Focal loss and its derivative, for entries whose target is 1."""
    miss, cost = torch.sigmoid(-x), F.softplus(-x)
    focus = alpha * miss.pow(gamma)
    return focus * cost, -focus * (gamma * (1 - miss) * cost + miss)


def _ignored_share(
    logits: Tensor, rows: Tensor, coverage: Tensor | None, flat: Tensor, ignored: Tensor, alpha: float, gamma: float
) -> Tensor:
    """What the entries at the ascending flat positions ``ignored`` (V,) have been charged, each counted once."""
    anchors, columns = logits.shape[1:]
    weight = rows.reshape(-1)[ignored // columns]
    weight[1:] *= ignored[1:] != ignored[:-1]
    if coverage is not None:
        weight = weight * coverage[ignored // (anchors * columns), ignored % columns]
    x = logits.reshape(-1).index_select(0, ignored).to(rows.dtype)
    charged = _background_entry(x, alpha, gamma)
    if len(flat):
        place = torch.searchsorted(flat, ignored).clamp(max=len(flat) - 1)
        charged = torch.where(flat[place] == ignored, _positive_entry(x, alpha, gamma)[0], charged)
    return (charged * weight).sum(dtype=_wide(logits.device))
