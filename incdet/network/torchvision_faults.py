"""What of a torchvision RetinaNet a detector of incdet cannot carry: named and refused rather than dropped silently."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import (
    RetinaNet,
    RetinaNetClassificationHead,
    RetinaNetHead,
    RetinaNetRegressionHead,
)
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from incdet.errors import Finding

_PART = "use torchvision's own, or fold the change into weights and arguments"


def faults_of(model: Any) -> list[Finding]:
    """Everything of ``model``, a ``RetinaNet`` with torchvision's heads, that would be lost."""
    found = [*_foreign_parts(model), *_numbers(model), *_towers(model.head)]
    dtypes = {str(t.dtype).removeprefix("torch.") for t in model.state_dict().values() if t.is_floating_point()}
    if dtypes != {"float32"}:
        found.append(_fault("tensors", f"are {' and '.join(sorted(dtypes))}", "call model.float() first"))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        found.append(
            _fault(
                "parameters",
                "are all frozen: after an increment the new predictor alone would learn",
                "call model.requires_grad_(True) first, or on the parts that shall go on learning",
            )
        )
    return found


def _foreign_parts(model: Any) -> Iterator[Finding]:
    """The parts that do something else than torchvision's own."""
    classes, boxes = model.head.classification_head, model.head.regression_head
    parts: tuple[tuple[str, Any, type[Any]], ...] = (
        ("model", model, RetinaNet),
        ("transform", model.transform, GeneralizedRCNNTransform),
        ("anchor_generator", model.anchor_generator, AnchorGenerator),
        ("head", model.head, RetinaNetHead),
        ("classification_head", classes, RetinaNetClassificationHead),
        ("cls_logits", classes.cls_logits, nn.Conv2d),
        ("regression_head", boxes, RetinaNetRegressionHead),
        ("proposal_matcher", model.proposal_matcher, Matcher),
        ("box_coder", model.box_coder, BoxCoder),
        ("box_coder of the regression head", boxes.box_coder, BoxCoder),
    )
    for name, part, kind in parts:
        own = type(part).__name__
        if not isinstance(part, kind):
            yield _fault(name, f"is a {own}, not a {kind.__name__}", _PART)
        elif changed := _overridden(part, kind):
            yield _fault(name, f"{own} has its own {', '.join(changed)}", _PART)
        elif getattr(part, "_forward_hooks", None) or getattr(part, "_forward_pre_hooks", None):
            yield _fault(name, "has forward hooks, which would not run", "remove them first")


def _overridden(part: object, kind: type[Any]) -> list[str]:
    """The methods that ``part`` has in place of those of ``kind``; a constructor of its own changes nothing."""
    special = ("__call__", "__getattr__", "__setattr__", "__getattribute__")
    derived = type(part).__mro__[: type(part).__mro__.index(kind)]
    homes = [vars(home) for home in derived] + [{k: v for k, v in vars(part).items() if callable(v)}]
    names = {name for home in homes for name in home if not name.startswith("__") or name in special}
    return sorted(name for name in names if callable(getattr(kind, name, None)))


def _numbers(model: Any) -> Iterator[Finding]:
    for coder in (model.box_coder, model.head.regression_head.box_coder):
        weights, clip = getattr(coder, "weights", None), getattr(coder, "bbox_xform_clip", None)
        if weights is not None and (tuple(weights) != (1.0,) * 4 or clip != math.log(1000.0 / 16)):
            fix = "scale bbox_reg's channels by 1 / weight and use weights of 1"
            yield _fault("box_coder", f"has weights {tuple(weights)} and clips at {clip:.4g}", fix)
            break
    generator = model.anchor_generator
    wanted = AnchorGenerator(generator.sizes, generator.aspect_ratios).cell_anchors
    given = generator.cell_anchors
    same = len(given) == len(wanted) and all(
        torch.equal(mine.cpu(), other.to(mine.dtype)) for mine, other in zip(given, wanted, strict=True)
    )
    if not same:
        problem = "has cell anchors that do not follow from its sizes and aspect ratios"
        yield _fault("anchor_generator", problem, "give sizes and aspect_ratios that make these anchors")
    if not model.proposal_matcher.allow_low_quality_matches:
        yield _fault("proposal_matcher", "lets boxes go without an anchor", "use allow_low_quality_matches=True")


def _towers(head: Any) -> Iterator[Finding]:
    """Both towers have to be of one kind, and each predictor a 3x3 convolution."""
    classes, boxes = head.classification_head, head.regression_head
    if repr(classes.conv) != repr(boxes.conv):
        yield _fault("towers", "of classes and of boxes differ", "build both alike")
    width = boxes.bbox_reg.in_channels
    for name, layer in (("cls_logits", classes.cls_logits), ("bbox_reg", boxes.bbox_reg)):
        if repr(layer) != repr(nn.Conv2d(width, layer.out_channels, 3, padding=1)):
            yield _fault(name, f"is {layer!r}", "use a 3x3 convolution with padding 1 and a bias")


def _fault(item: str, problem: str, fix: str) -> Finding:
    return Finding("torchvision model", item, problem, fix)
