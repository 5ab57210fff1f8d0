from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.backbone_utils import _mobilenet_extractor, _resnet_fpn_extractor
from torchvision.ops.misc import FrozenBatchNorm2d

from incdet.config.architecture import BACKBONES, Architecture
from incdet.network.backbones import (
    body_stages,
    build_backbone,
    freeze_first_stages,
    freeze_modules,
    tiny_body,
    trainable_stages,
)


def sizes(levels: int) -> tuple[tuple[int, ...], ...]:
    return tuple((16 * 2**level,) for level in range(levels))


def shapes(backbone: nn.Module, side: int, device: str = "cpu") -> list[tuple[int, ...]]:
    maps: dict[str, torch.Tensor] = backbone.eval()(torch.zeros(1, 3, side, side, device=device))
    return [tuple(value.shape) for value in maps.values()]


@pytest.mark.parametrize("name", BACKBONES)
def test_five_levels_have_strides_8_to_128(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(Architecture(backbone=name, channels=24, anchor_sizes=sizes(5)))
        found = shapes(backbone, 256, "meta")
    assert found == [(1, 24, side, side) for side in (32, 16, 8, 4, 2)]


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
def test_a_pyramid_has_one_level_for_each_group_of_anchor_sizes(levels: int) -> None:
    backbone = build_backbone(Architecture(backbone="tiny", channels=8, anchor_sizes=sizes(levels)))
    assert shapes(backbone, 64) == [(1, 8, side, side) for side in (8, 4, 2, 1, 1)[:levels]]


@pytest.mark.parametrize("name", ["tiny", "resnet18", "mobilenet_v2"])
def test_a_level_sees_its_part_of_the_image(name: str) -> None:
    """The tap of a level really has its stride: a change in the last pixels reaches the last cell of every level."""
    backbone: Any = build_backbone(Architecture(backbone=name, channels=8, anchor_sizes=sizes(3))).eval()
    image = torch.rand(1, 3, 64, 64)
    changed = image.clone()
    changed[..., -8:, -8:] += 1.0
    with torch.no_grad():
        for before, after in zip(backbone(image).values(), backbone(changed).values(), strict=True):
            assert not torch.equal(before[..., -1, -1], after[..., -1, -1])


def test_p6_comes_from_the_pyramid_or_from_the_body() -> None:
    for source, width in (("p5", 8), ("c5", 96)):
        backbone: Any = build_backbone(Architecture(backbone="tiny", channels=8, p6_from=source, anchor_sizes=sizes(5)))
        assert backbone.fpn.extra_blocks.p6.in_channels == width
        assert backbone.fpn.extra_blocks.use_P5 is (source == "p5")


def test_p6_source_is_kept_where_the_widths_are_equal() -> None:
    backbone: Any = build_backbone(Architecture(backbone="tiny", channels=96, p6_from="c5", anchor_sizes=sizes(5)))
    assert backbone.fpn.extra_blocks.use_P5 is False


def test_the_tiny_body_is_small() -> None:
    parameters = sum(parameter.numel() for parameter in tiny_body().parameters())
    assert 100_000 < parameters < 250_000


@pytest.mark.parametrize("number", range(6))
def test_resnet_stages_freeze_as_torchvision_does(number: int) -> None:
    theirs = _resnet_fpn_extractor(torchvision.models.resnet18(), 5 - number, returned_layers=[2, 3, 4])
    ours: Any = build_backbone(Architecture(backbone="resnet18"))
    freeze_first_stages(ours, number)
    assert frozen(ours.body) == frozen(theirs.body)
    assert trainable_stages(ours) == 5 - number


@pytest.mark.parametrize("number", range(7))
def test_mobilenet_stages_freeze_as_torchvision_does(number: int) -> None:
    theirs = _mobilenet_extractor(torchvision.models.mobilenet_v2(), False, 6 - number)
    ours: Any = build_backbone(Architecture(backbone="mobilenet_v2", channels=8))
    freeze_first_stages(ours, number)
    assert frozen(ours.body) == frozen(theirs[0])
    assert len(body_stages(ours)) == 6


def frozen(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if not parameter.requires_grad]


def test_an_external_module_has_stages_too() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    freeze_first_stages(module, 1)
    assert frozen(module) == ["0.weight", "0.bias"]
    assert trainable_stages(module) == 1


def test_frozen_modules_compute_the_same_and_do_not_learn() -> None:
    torch.manual_seed(0)
    backbone: Any = build_backbone(Architecture(backbone="tiny", channels=8, anchor_sizes=sizes(2)))
    image = torch.rand(4, 3, 32, 32)
    backbone(image)
    copied = copy.deepcopy(backbone)
    freeze_modules(copied)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copied.modules())
    for expected, found in zip(backbone.eval()(image).values(), copied.train()(image).values(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_without_a_pyramid_the_body_gives_its_last_map_alone(name: str) -> None:
    architecture = Architecture(backbone=name, pyramid=False, anchor_sizes=((32, 64),))
    found = build_backbone(architecture)(torch.rand(1, 3, 64, 96))
    assert found.shape == (1, architecture.channels, 2, 3)


def test_epsilon_and_kind_of_norm_follow_the_recipe() -> None:
    for kind, module_type in (("batch", nn.BatchNorm2d), ("frozen", FrozenBatchNorm2d)):
        backbone = build_backbone(
            Architecture(backbone="tiny", channels=8, norm_module=kind, norm_eps=0.25, anchor_sizes=sizes(3))
        )
        norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)]
        assert norms and all(isinstance(module, module_type) and module.eps == 0.25 for module in norms)


def test_an_external_backbone_is_not_built() -> None:
    with pytest.raises(ValueError, match="external"):
        build_backbone(Architecture(backbone="external"))
