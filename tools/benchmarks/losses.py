"""Suite ``losses``: assignment and both losses, forward and backward, against ``RetinaNet.compute_loss``."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from benchmarks.harness import Equality, Options, Row, measure
from benchmarks.scene import LossInputs, make_scene
from incdet.ops.assign import assign
from incdet.ops.losses import box_loss, focal_loss

TOLERANCE = 1e-6


def rows(options: Options) -> Iterator[Row]:
    """B=8 at 512 px with 20 and 80 classes."""
    for classes in (20, 80):
        scene = make_scene(classes, device=options.device, pixels=128 if options.quick else 512)
        yield _row(f"K={classes}", scene, options)


def _row(case: str, scene: LossInputs, options: Options) -> Row:
    logits, deltas = scene.logits.requires_grad_(), scene.deltas.requires_grad_()
    head = RetinaNetHead(8, 9, logits.shape[-1])
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    outputs = {"cls_logits": logits, "bbox_regression": deltas}
    anchors = [scene.anchors] * len(scene.targets)

    def finish(classification: Tensor, regression: Tensor) -> tuple[Tensor, ...]:
        gradients = torch.autograd.grad(classification + regression, (logits, deltas))
        return classification.detach(), regression.detach(), *gradients

    def ours() -> tuple[Tensor, ...]:
        found = assign(scene.targets, scene.anchors)
        return finish(focal_loss(logits, found), box_loss(deltas, scene.anchors, found))

    def theirs() -> tuple[Tensor, ...]:
        # RetinaNet.compute_loss without the network around it.
        matches = [matcher(box_iou(target["boxes"], scene.anchors)) for target in scene.targets]
        losses = head.compute_loss(scene.targets, outputs, anchors, matches)
        return finish(losses["classification"], losses["bbox_regression"])

    return measure("losses", case, ours, theirs, _equality(ours(), theirs()), options, None if options.quick else 9)


def _equality(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> Equality:
    """Losses within 1e-6 of their size or of 1, gradients within 1e-6."""
    gaps = [float((mine - other).abs().max()) for mine, other in zip(ours, theirs, strict=True)]
    sizes = [max(1.0, float(other)) for other in theirs[:2]] + [1.0, 1.0]
    holds = all(gap <= TOLERANCE * size for gap, size in zip(gaps, sizes, strict=True))
    names = ("class loss", "box loss", "class gradient", "box gradient")
    words = [f"{name} {f'{gap:.1e}' if gap else 'identical'}" for name, gap in zip(names, gaps, strict=True)]
    return Equality(holds, ", ".join(words))
