"""RetinaNet's two losses with label coverage: float32 whatever comes in, and a gradient path even with no positive.

With everything covered they equal torchvision's ``compute_loss``. Letters: B images, A anchors, K seen classes,
P positive anchors, V void entries.

The focal loss is computed without a one-hot target. Every entry is first charged as background,
``(1 - alpha) p^gamma softplus(x)``; the few entries that are positive or void are then corrected. The gradient is
written down in the same pass over cache-sized blocks, so that one tensor of the logits' size is all it costs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from incdet.assign import BETWEEN, Assignment
from incdet.boxes import decode_boxes, encode_boxes, giou_terms

Entries = tuple[Tensor, Tensor, Tensor]

# Elements of one block: on a CPU its handful of temporaries fit the cache, on a GPU few large kernels win.
CPU_BLOCK = 1 << 17
GPU_BLOCK = 1 << 25


def focal_loss(
    logits: Tensor,
    assignment: Assignment,
    *,
    coverage: Tensor | None = None,
    void: Entries | None = None,
    normaliser: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Focal loss of the entries that somebody annotated, as a float32 scalar (Lin et al., 2017, arXiv 1708.02002).

    For each image, the sum over its anchors that are not `BETWEEN` and its covered channels, without the void
    entries, divided by the image's normaliser; then the sum over images. The target of an entry is 1 where the
    anchor is positive for that column, else 0. A positive entry whose column is not covered contributes nothing.

    Args:
        logits: (B, A, K), any floating type; the gradient has the same type.
        assignment: What each anchor answers for; columns in 0..K-1.
        coverage: (B, K) bool, the channels annotated in each image; None covers everything.
        void: ``(image, anchor, column)``, three (V,) int64 tensors: entries that contribute nothing. Repeated
            entries, and entries that contribute nothing anyway, are harmless.
        normaliser: (B,) positive floats; by default ``max(1, positives) * B``, torchvision's choice.
        alpha: Weight of positive entries in [0, 1]; the others weigh ``1 - alpha``.
        gamma: Focusing exponent, at least 0.
    """
    images, anchors, columns = logits.shape
    if void is not None:
        # A void entry is looked up among the positive ones, which have to be few and in order for it.
        assignment = assignment.compact()
    scale = _scale(assignment, normaliser)
    rows = scale[:, None] * (assignment.matched != BETWEEN)
    flat = (assignment.image * anchors + assignment.anchor) * columns + assignment.column
    weight = scale[assignment.image]
    if assignment.mask is not None:
        weight = weight * assignment.mask
    if coverage is not None:
        weight = weight * coverage[assignment.image, assignment.column]
        coverage = None if _all_on_host(coverage) else coverage
    gone = None if void is None else (void[0] * anchors + void[1]) * columns + void[2]
    loss: Tensor = _Focal.apply(logits, rows, coverage, flat, weight, assignment.mask, gone, alpha, gamma)
    return loss


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


class _Focal(torch.autograd.Function):
    """The focal sum and its gradient in one pass.

    The gradient waits in a buffer that the first backward hands out, scaled in place. A second backward through a
    retained graph computes it again from the logits, so that it is right at no cost to the usual case.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        rows: Tensor,
        coverage: Tensor | None,
        flat: Tensor,
        weight: Tensor,
        mask: Tensor | None,
        void: Tensor | None,
        alpha: float,
        gamma: float,
    ) -> Tensor:
        loss, gradient = _focal(
            logits, rows, coverage, flat, weight, mask, void, alpha, gamma, wants_gradient=ctx.needs_input_grad[0]
        )
        ctx.save_for_backward(logits, rows, coverage, flat, weight, mask, void)
        ctx.powers = (alpha, gamma)
        ctx.gradient = gradient
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.gradient = ctx.gradient, None
        logits = ctx.saved_tensors[0]
        if gradient is None:
            gradient = _focal(*ctx.saved_tensors, *ctx.powers, wants_gradient=True)[1]
        return (gradient.mul_(upstream).to(logits.dtype), *[None] * 8)


def _focal(
    logits: Tensor,
    rows: Tensor,
    coverage: Tensor | None,
    flat: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    void: Tensor | None,
    alpha: float,
    gamma: float,
    *,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """The weighted focal sum (float32 scalar) and, if wanted, its gradient (B, A, K).

    ``rows`` (B, A) weighs an anchor's background entries, ``flat`` (P,) and ``weight`` (P,) are the ascending flat
    positions and the weights of the positive entries, ``mask`` (P,) which of them are positive after all (None: all),
    ``void`` (V,) flat positions in any order.
    """
    logits = logits.detach()
    work = torch.float64 if logits.dtype == torch.float64 else torch.float32
    # float16 cannot hold gradients that the loss scaler has not multiplied yet; bfloat16 has float32's range.
    held = torch.float32 if logits.dtype == torch.float16 else logits.dtype
    gradient = torch.empty(logits.shape, dtype=held, device=logits.device) if wants_gradient else None
    total = _background(logits, rows.to(work), coverage, gradient, alpha, gamma, work)
    values = logits.reshape(-1)
    weight = weight.to(work)
    entries = values.index_select(0, flat).to(work)
    wanted, slope = _positive_entry(entries, alpha, gamma)
    total = total + ((wanted - _background_entry(entries, alpha, gamma)) * weight).sum(dtype=torch.float64)
    if gradient is not None:
        share = (slope * weight).to(held)
        if mask is not None:
            share = torch.where(mask, share, gradient.view(-1).index_select(0, flat))
        gradient.view(-1).index_copy_(0, flat, share)
    if void is not None and len(void):
        void = void.sort().values
        total = total - _void_share(logits, rows.to(work), coverage, flat, void, alpha, gamma)
        if gradient is not None:
            gradient.view(-1).index_fill_(0, void, 0)
    return total.to(work), gradient


def _background(
    logits: Tensor,
    rows: Tensor,
    coverage: Tensor | None,
    gradient: Tensor | None,
    alpha: float,
    gamma: float,
    work: torch.dtype,
) -> Tensor:
    """Sum (float64) of all entries as background, weighted by row and coverage; writes ``gradient`` beside it."""
    images, anchors, columns = logits.shape
    block = GPU_BLOCK if logits.is_cuda else CPU_BLOCK
    image_step = max(1, block // max(1, anchors * columns))
    anchor_step = max(1, block // max(1, columns)) if image_step == 1 else max(1, anchors)
    rows = rows * (1 - alpha)
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    for first in range(0, images, image_step):
        for start in range(0, anchors, anchor_step):
            part = (slice(first, first + image_step), slice(start, start + anchor_step))
            x = logits[part].to(work)
            p, cost = torch.sigmoid(x), F.softplus(x)
            focus = p * p if gamma == 2 else p.pow(gamma)
            focus.mul_(rows[part][..., None])
            if coverage is not None:
                focus.mul_(coverage[part[0], None, :])
            if gradient is not None:
                # d/dx [p^gamma softplus] = p^gamma [gamma (1 - p) softplus + p]
                gradient[part] = torch.addcmul(p, 1 - p, cost, value=gamma).mul_(focus)
            total += focus.mul_(cost).sum()
    return total


def _background_entry(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of entries whose target is 0."""
    return (1 - alpha) * torch.sigmoid(x).pow(gamma) * F.softplus(x)


def _positive_entry(x: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Focal loss and its derivative, for entries whose target is 1."""
    miss, cost = torch.sigmoid(-x), F.softplus(-x)
    focus = alpha * miss.pow(gamma)
    return focus * cost, -focus * (gamma * (1 - miss) * cost + miss)


def _void_share(
    logits: Tensor, rows: Tensor, coverage: Tensor | None, flat: Tensor, void: Tensor, alpha: float, gamma: float
) -> Tensor:
    """What the entries at the ascending flat positions ``void`` (V,) have been charged, each counted once."""
    anchors, columns = logits.shape[1:]
    weight = rows.reshape(-1)[void // columns]
    weight[1:] *= void[1:] != void[:-1]
    if coverage is not None:
        weight = weight * coverage[void // (anchors * columns), void % columns]
    x = logits.reshape(-1).index_select(0, void).to(rows.dtype)
    charged = _background_entry(x, alpha, gamma)
    if len(flat):
        place = torch.searchsorted(flat, void).clamp(max=len(flat) - 1)
        charged = torch.where(flat[place] == void, _positive_entry(x, alpha, gamma)[0], charged)
    return (charged * weight).sum(dtype=torch.float64)
