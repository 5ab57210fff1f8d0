"""Bodies with a feature pyramid: torchvision's ResNets and MobileNets, and a tiny net that learns on a CPU in minutes.

The pyramid starts at stride 8. With L levels: L <= 3 are pyramid levels P3, P4, P5; four add a pooled P6; five add
RetinaNet's convolutional P6 and P7 (Lin et al., ICCV 2017).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.misc import Conv2dNormActivation, FrozenBatchNorm2d

from incdet.config.architecture import EXTERNAL, Architecture
from incdet.network.bn_folding import FoldedLayerGetter, is_frozen, run_chain

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


def tiny_body() -> nn.Sequential:
    """A net of five stages with strides 2 to 32 for images of about 100 pixels, 0.2 M parameters.

    Half of the arithmetic lies at stride 8, where small shapes are told apart.
    """
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stem=Conv2dNormActivation(3, 16, stride=2),
        stage2=Conv2dNormActivation(16, 24, stride=2),
        stage3=nn.Sequential(Conv2dNormActivation(24, 48, stride=2), BasicBlock(48, 48)),
        stage4=nn.Sequential(Conv2dNormActivation(48, 64, stride=2), BasicBlock(64, 64)),
        stage5=Conv2dNormActivation(64, 96, stride=2),
    )
    body = nn.Sequential(stages)
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return body


def build_backbone(architecture: Architecture) -> nn.Module:
    """The architecture's body and pyramid with random weights, all of it trainable.

    Returns:
        torchvision's ``BackboneWithFPN``: (B, 3, H, W) -> OrderedDict of L maps (B, channels, H / stride, W / stride);
        without a pyramid the body alone, a ``Sequential`` whose result is its last map.

    Raises:
        ValueError: The backbone is external and has to be handed in instead.
    """
    if architecture.backbone == EXTERNAL:
        raise ValueError("an external backbone cannot be built from its architecture")
    body, layers, widths = _body(architecture.backbone)
    if not architecture.pyramid:
        headless: Any = _headless(body)
        headless.out_channels = architecture.channels  # torchvision's RetinaNet asks for it
        return _with_norms(headless, architecture)
    taken = min(architecture.levels, 3)
    backbone = BackboneWithFPN(
        body,
        {layer: str(level) for level, layer in enumerate(layers[:taken])},
        list(widths[:taken]),
        architecture.channels,
        extra_blocks=_extra_levels(architecture, widths[-1]),
    )
    if architecture.levels <= 3:
        # BackboneWithFPN puts a pooling level where None was given.
        backbone.fpn.extra_blocks = None
    return _with_norms(backbone, architecture)


def _headless(body: nn.Module) -> nn.Module:
    """The body as it is usually cut for a detector: ``features``, or ResNet's children before pooling."""
    return body if isinstance(body, nn.Sequential) else nn.Sequential(*list(body.children())[:-2])


def _with_norms(backbone: nn.Module, architecture: Architecture) -> nn.Module:
    if architecture.norm_module == "frozen":
        freeze_modules(backbone)
    if architecture.norm_eps is not None:
        for module in backbone.modules():
            if isinstance(module, BATCH_NORMS):
                module.eps = architecture.norm_eps
    return backbone


def level_sizes(padded: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """(H_l, W_l) of the pyramid levels of a built backbone for images of (H, W): every stride of two rounds up."""
    sizes, (height, width) = [], padded
    for halving in range(levels + 2):
        height, width = -(-height // 2), -(-width // 2)
        sizes += [(height, width)] if halving >= 2 else []
    return sizes


def _body(name: str) -> tuple[nn.Module, tuple[str, ...], tuple[int, ...]]:
    """The body, the names of its children that end strides 8, 16 and 32, and their channels."""
    if name == "tiny":
        return tiny_body(), ("stage3", "stage4", "stage5"), (48, 64, 96)
    if name.startswith("resnet"):
        resnet = torchvision.models.get_model(name, weights=None)
        last = resnet.inplanes
        return resnet, ("layer2", "layer3", "layer4"), (last // 4, last // 2, last)
    features = torchvision.models.get_model(name, weights=None).features
    strided = [index for index, block in enumerate(features) if getattr(block, "_is_cn", False)]
    ends = (strided[-2] - 1, strided[-1] - 1, len(features) - 1)
    return features, tuple(str(end) for end in ends), tuple(features[end].out_channels for end in ends)


def _extra_levels(architecture: Architecture, body_width: int) -> nn.Module:
    if architecture.levels < 5:
        pooled: nn.Module = LastLevelMaxPool()
        return pooled
    source = architecture.channels if architecture.p6_from == "p5" else body_width
    levels = LastLevelP6P7(source, architecture.channels)
    # torchvision decides by comparing widths, which says nothing where both are equal.
    levels.use_P5 = architecture.p6_from == "p5"
    result: nn.Module = levels
    return result


def body_stages(backbone: nn.Module) -> list[list[nn.Module]]:
    """The modules of each stage of the body, the stem first; torchvision's ``trainable_layers`` counts from the end."""
    body = getattr(backbone, "body", backbone)
    children = dict(body.named_children())
    if "layer1" in children:
        stem = [module for name, module in children.items() if not name.startswith("layer")]
        return [stem, *([module] for name, module in children.items() if name.startswith("layer"))]
    if any(getattr(module, "_is_cn", False) for module in children.values()):
        blocks = list(children.values())
        starts = [0, *(index for index, block in enumerate(blocks) if getattr(block, "_is_cn", False)), len(blocks) - 1]
        return [blocks[start:end] for start, end in zip(starts, [*starts[1:], len(blocks)], strict=True)]
    return [[module] for module in children.values() if next(module.parameters(), None) is not None]


def trainable_stages(backbone: nn.Module) -> int:
    """Stages that learn, counted from the last up to the first that is frozen as a whole."""
    number = 0
    for stage in reversed(body_stages(backbone)):
        if not any(parameter.requires_grad for module in stage for parameter in module.parameters()):
            break
        number += 1
    return number


def freeze_first_stages(backbone: nn.Module, number: int) -> None:
    """The first ``number`` stages of the body stop learning; the others are left as they are."""
    for stage in body_stages(backbone)[: max(number, 0)]:
        for module in stage:
            module.requires_grad_(False)


def stem_names(backbone: nn.Module, trainable: int) -> list[str]:
    """The children of the body that come before any that learns, and before any whose output is returned.

    Args:
        backbone: Torchvision's ``BackboneWithFPN`` on a body that runs its children in order; any other has no stem.
        trainable: How many of the last stages of the body do not belong to it, even where nothing in them learns: in
            the frozen copy of a network the stem ends where it does in the network.
    """
    body: Any = getattr(backbone, "body", None)
    if type(backbone) is not BackboneWithFPN or type(body) not in (IntermediateLayerGetter, FoldedLayerGetter):
        return []
    stages = body_stages(backbone)
    first = {id(module) for stage in stages[: max(len(stages) - trainable, 0)] for module in stage}
    names: list[str] = []
    for name, child in body.items():
        if id(child) not in first or name in body.return_layers or not _fixed(child):
            break
        names.append(name)
    return names


def _fixed(root: nn.Module) -> bool:
    """Whether no parameter at or below ``root`` learns, and no statistics move."""
    # In one walk, because this is asked at each forward.
    for module in root.modules():
        if isinstance(module, BATCH_NORMS) and not is_frozen(module):
            return False
        if any(parameter is not None and parameter.requires_grad for parameter in module._parameters.values()):
            return False
    return True


def run_stem(backbone: Any, names: Sequence[str], images: Tensor) -> Tensor:
    """(B, 3, H, W) -> the output (B, C', H', W') of the children ``names`` of the body, without a graph."""
    with torch.no_grad():
        return run_chain(backbone.body, names, images)[0]


def run_after_stem(backbone: Any, names: Sequence[str], stem: Tensor) -> OrderedDict[str, Tensor]:
    """What ``backbone`` returns, from the output of its stem, the children ``names`` of the body."""
    rest = list(backbone.body._modules)[len(names) :]
    maps: OrderedDict[str, Tensor] = backbone.fpn(run_chain(backbone.body, rest, stem)[1])
    return maps


def same_modules(first: nn.Module, second: nn.Module) -> bool:
    """Whether both compute the same: same kinds and settings, and the same tensors bit for bit."""
    if repr(first) != repr(second) or list(map(type, first.modules())) != list(map(type, second.modules())):
        return False
    return same_tensors(first, second)


def same_tensors(first: nn.Module, second: nn.Module) -> bool:
    """Whether modules of one kind hold the same tensors bit for bit, whether or not their norms are folded."""
    mine, other = first.state_dict(), second.state_dict()
    return all(
        value.dtype == other[name].dtype and torch.equal(value, other[name].to(value.device))
        for name, value in mine.items()
        if not name.endswith("num_batches_tracked")
    )


def freeze_modules(root: nn.Module) -> None:
    """Every ``BatchNorm2d`` below ``root`` becomes a ``FrozenBatchNorm2d`` of the same values."""
    for name, module in list(root.named_children()):
        if isinstance(module, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
            state = {key: value for key, value in module.state_dict().items() if key != "num_batches_tracked"}
            device = module.weight.device
            if device.type != "meta":
                frozen.load_state_dict(state)
            setattr(root, name, frozen.to(device).train(module.training))
        else:
            freeze_modules(module)
