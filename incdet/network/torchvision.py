"""To and from a plain torchvision RetinaNet, with equal detections in both directions.

Shape letters: N anchors per cell, K classes, C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetClassificationHead, RetinaNetHead
from torchvision.ops.misc import FrozenBatchNorm2d

from incdet.config.architecture import BACKBONES, DETECTORS, EXTERNAL, Architecture
from incdet.errors import Finding, InputError
from incdet.network.backbones import BATCH_NORMS, build_backbone, freeze_modules
from incdet.network.bn_folding import unfold_norms
from incdet.network.heads import TowerGroupNorm, norm_layer
from incdet.network.paired import PairedRetinaNet
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision_faults import faults_of
from incdet.ops.precedence import with_precedence
from incdet.vocab import Vocabulary


class BelievedHead(RetinaNetClassificationHead):  # type: ignore[misc]
    """torchvision's class head for classes of several steps: its logits are those that detections are made of.

    Attributes:
        sizes: Classes of each step.
        power: See ``with_precedence``.
    """

    def forward(self, x: list[Tensor]) -> Tensor:
        """Features (B, C, H, W) of all levels -> logits (B, A, K); while training as they are."""
        rows: list[Tensor] = []
        for features in x:
            own = self.cls_logits(self.conv(features))
            rows.append(own.flatten(2).permute(0, 2, 1).reshape(own.shape[0], -1, self.num_classes))
        logits = torch.cat(rows, dim=1)
        return logits if self.training else with_precedence(logits, self.sizes, self.power)


def from_torchvision(model: nn.Module, classes: Sequence[str | None]) -> IncrementalRetinaNet:
    """A detector of one step with the weights, mode, trainable set and settings of ``model``, which stays untouched.

    The backbone is recognised where ``incdet`` can build it; any other is kept as a module and has to be handed to
    ``checkpoint.load`` again.

    Args:
        model: A torchvision ``RetinaNet`` with torchvision's heads.
        classes: The name of each of its columns; None drops the column. COCO weights have 91, of which 80 are classes.

    Raises:
        InputError: The model is not of that kind or has a part that cannot be carried (a method, hook, anchor or
            weight of its own), or the names do not fit its columns; all that is in the way is named.
    """
    if not isinstance(model, RetinaNet) or not isinstance(model.head, RetinaNetHead):
        raise _error(
            type(model).__name__,
            "is not a torchvision RetinaNet with torchvision's heads",
            "pass torchvision.models.detection.RetinaNet",
        )
    if isinstance(classes, str):
        raise _error("classes", f"is the string {classes!r}", f"give a list: [{classes!r}]")
    if faults := faults_of(model):
        raise InputError(faults)
    head = model.head.classification_head
    kept = [column for column, name in enumerate(classes) if name is not None]
    if len(classes) != head.num_classes or not kept:
        raise _error(
            "classes",
            f"names {len(kept)} of {len(classes)} columns, the model has {head.num_classes}",
            "give one name, or None, for each column",
        )
    vocab = Vocabulary((tuple(name for name in classes if name is not None),))
    result = IncrementalRetinaNet(_architecture(model), vocab, backbone=copy.deepcopy(model.backbone))
    if repr(_with_group_norms(result.class_head.tower, nn.GroupNorm)) != repr(head.conv):
        raise _error("tower", f"is {head.conv!r}", "build it of 3x3 convolutions, as torchvision's heads do")
    result.class_head.tower = _with_group_norms(head.conv, TowerGroupNorm)
    result.box_head = copy.deepcopy(model.head.regression_head)
    result.box_head.conv = _with_group_norms(result.box_head.conv, TowerGroupNorm)
    predictor = result.class_head.predictors[0]
    assert isinstance(predictor, nn.Conv2d) and predictor.bias is not None
    anchors = result.architecture.anchors_per_cell
    predictor.to(device=head.cls_logits.weight.device, dtype=head.cls_logits.weight.dtype)
    with torch.no_grad():
        predictor.weight.copy_(select_columns(head.cls_logits.weight, anchors, kept))
        predictor.bias.copy_(select_columns(head.cls_logits.bias, anchors, kept))
    predictor.weight.requires_grad_(head.cls_logits.weight.requires_grad)
    predictor.bias.requires_grad_(head.cls_logits.bias.requires_grad)
    return result.train(model.training)


def to_torchvision(model: IncrementalRetinaNet) -> nn.Module:
    """A plain torchvision ``RetinaNet`` with equal detections that needs nothing of incdet; ``model`` stays untouched.

    Where earlier classes go first (``Architecture.precedence``) its class head is a ``BelievedHead``, of incdet.

    The predictors are fused into one convolution; labels are the columns 0..K-1 of ``model.vocab``. Frozen BatchNorm
    becomes torchvision's ``FrozenBatchNorm2d``, which a plain model cannot thaw by ``train()``.

    Raises:
        InputError: The detector consists of several networks, which no plain model is.
    """
    if isinstance(model, PairedRetinaNet):
        fix = "use it with incdet, or learn the step with a method of one network, such as incdet"
        raise _error("detector", "consists of several networks side by side, which torchvision has no model for", fix)
    architecture = model.architecture
    norm = norm_layer(architecture.norm, architecture.channels, architecture.norm_groups)
    head = RetinaNetHead(architecture.channels, architecture.anchors_per_cell, len(model.vocab), norm_layer=norm)
    classifier = head.classification_head
    if architecture.precedence and len(model.vocab.steps) > 1:
        classifier.__class__ = BelievedHead
        classifier.sizes, classifier.power = [len(names) for names in model.vocab.steps], architecture.precedence
    classifier.conv = _with_group_norms(model.class_head.tower, nn.GroupNorm)
    head.regression_head.conv = _with_group_norms(model.box_head.conv, nn.GroupNorm)
    head.regression_head.bbox_reg = copy.deepcopy(model.box_head.bbox_reg)
    head.regression_head._loss_type = architecture.box_loss
    weight, bias = model.class_head.joined()
    classifier.cls_logits.to(device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        classifier.cls_logits.weight.copy_(weight)
        classifier.cls_logits.bias.copy_(bias)
    classifier.cls_logits.requires_grad_(any(p.requires_grad for p in model.class_head.predictors.parameters()))
    plain = RetinaNet(
        copy.deepcopy(model.backbone),
        len(model.vocab),
        head=head,
        anchor_generator=AnchorGenerator(architecture.anchor_sizes, architecture.ratios),
        min_size=architecture.min_size,
        max_size=architecture.max_size,
        image_mean=list(architecture.image_mean),
        image_std=list(architecture.image_std),
        size_divisible=architecture.size_divisible,
        fixed_size=architecture.fixed_size,
        _skip_resize=architecture.skip_resize,
        score_thresh=architecture.score_thresh,
        nms_thresh=architecture.nms_thresh,
        detections_per_img=architecture.detections_per_img,
        topk_candidates=architecture.topk_candidates,
        fg_iou_thresh=architecture.fg_iou,
        bg_iou_thresh=architecture.bg_iou,
    )
    unfold_norms(plain)
    if architecture.frozen_norm:
        freeze_modules(plain)
    result: nn.Module = plain.train(model.training)
    return result


def select_columns(values: Tensor, anchors: int, kept: Sequence[int]) -> Tensor:
    """Class columns of an anchor-major tensor (N * K, ...) -> (N * len(kept), ...)."""
    return values.reshape(anchors, -1, *values.shape[1:])[:, list(kept)].flatten(0, 1)


def _architecture(model: Any) -> Architecture:
    """What builds ``model`` again."""
    tower = model.head.classification_head.conv
    norm, groups = _tower_norm(tower)
    matcher, transform, anchors = model.proposal_matcher, model.transform, model.anchor_generator
    kind = model.head.regression_head._loss_type
    if kind not in ("l1", "giou"):
        raise _error("box loss", f"is {kind!r}", "use 'l1' or 'giou'")
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    epsilons = {module.eps for module in model.backbone.modules() if isinstance(module, BATCH_NORMS)}
    frozen = bool(norms) and all(isinstance(module, FrozenBatchNorm2d) for module in norms)
    external = Architecture(
        backbone=EXTERNAL,
        channels=model.backbone.out_channels,
        tower_depth=len(tower),
        norm=norm,
        norm_groups=groups,
        box_loss=kind,
        frozen_norm=frozen,
        norm_module="frozen" if frozen else "batch",
        norm_eps=epsilons.pop() if len(epsilons) == 1 else None,
        anchor_sizes=tuple(tuple(level) for level in anchors.sizes),
        aspect_ratios=tuple(anchors.aspect_ratios),
        min_size=tuple(transform.min_size),
        max_size=transform.max_size,
        image_mean=tuple(transform.image_mean),
        image_std=tuple(transform.image_std),
        size_divisible=transform.size_divisible,
        fixed_size=transform.fixed_size,
        skip_resize=transform._skip_resize,
        score_thresh=model.score_thresh,
        nms_thresh=model.nms_thresh,
        detections_per_img=model.detections_per_img,
        topk_candidates=model.topk_candidates,
        fg_iou=matcher.high_threshold,
        bg_iou=matcher.low_threshold,
    )
    return _recognised(model.backbone, external)


def _tower_norm(tower: nn.Module) -> tuple[str | None, int]:
    """The architecture's ``norm`` and ``norm_groups`` of a tower."""
    kinds = {type(module) for module in tower.modules() if not list(module.children())} - {nn.Conv2d, nn.ReLU}
    if not kinds:
        return None, 32
    if kinds == {nn.GroupNorm}:
        return "group", next(module.num_groups for module in tower.modules() if isinstance(module, nn.GroupNorm))
    if kinds == {nn.BatchNorm2d}:
        return "batch", 32
    raise _error(
        "tower",
        f"holds {', '.join(sorted(kind.__name__ for kind in kinds))}",
        "use convolutions with ReLU and GroupNorm, BatchNorm2d or no norm",
    )


def _with_group_norms(tower: nn.Sequential, kind: type[nn.GroupNorm]) -> nn.Sequential:
    """A copy of ``tower`` whose GroupNorms are of this class: torch's own, or that of incdet."""
    own = copy.deepcopy(tower)
    for module in own.modules():
        if isinstance(module, nn.GroupNorm):
            module.__class__ = kind
    return own


def _recognised(backbone: Any, architecture: Architecture) -> Architecture:
    """``architecture`` with the name of a backbone that is built exactly like ``backbone``, or as it is."""
    pyramid = isinstance(backbone, BackboneWithFPN)
    from_pyramid = getattr(backbone.fpn.extra_blocks, "use_P5", True) if pyramid else True
    for name in BACKBONES:
        try:
            candidate = architecture.changed(backbone=name, pyramid=pyramid, p6_from="p5" if from_pyramid else "c5")
        except InputError:
            continue
        with torch.device("meta"):
            built = build_backbone(candidate)
        if _is_like(built, backbone):
            return _as_builder(candidate)
    return architecture


def _is_like(built: nn.Module, backbone: nn.Module) -> bool:
    # The text of a module names every layer with its type and numbers; the taps are all that it leaves out.
    mine, theirs = (list(getattr(getattr(m, "body", None), "return_layers", ())) for m in (built, backbone))
    same_names = built.state_dict().keys() == backbone.state_dict().keys()
    return mine == theirs and same_names and repr(built) == repr(backbone)


def _as_builder(architecture: Architecture) -> Architecture:
    """The architecture under the name of torchvision's builder where it describes the same network."""
    for detector in DETECTORS:
        try:
            named = architecture.changed(detector=detector)
        except InputError:
            continue
        if named.changed(detector=None) == architecture:
            return named
    return architecture


def _error(item: str, problem: str, fix: str) -> InputError:
    return InputError(Finding("torchvision model", item, problem, fix))
