from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

from incdet.network.heads import ClassHead, build_box_head, build_tower, flatten_levels, norm_layer

CHANNELS, ANCHORS = 8, 3


def head(*sizes: int, depth: int = 2) -> ClassHead:
    torch.manual_seed(0)
    made = ClassHead(build_tower(CHANNELS, depth, None), CHANNELS, ANCHORS, sizes)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


def features() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, CHANNELS, 4, 6), torch.randn(2, CHANNELS, 2, 3)]


def fused(ours: ClassHead) -> Any:
    """One torchvision head with all predictors of ``ours`` in one convolution."""
    theirs = RetinaNetClassificationHead(CHANNELS, ANCHORS, sum(ours.sizes))
    theirs.conv = ours.tower
    theirs.cls_logits.weight.data = torch.cat(ours.class_weights(), dim=1).flatten(0, 1)
    theirs.cls_logits.bias.data = torch.cat(ours.class_biases(), dim=1).flatten()
    return theirs


@pytest.mark.parametrize("sizes", [(5,), (2, 3), (1, 1, 4)])
def test_split_predictors_equal_one_fused_convolution(sizes: tuple[int, ...]) -> None:
    ours = head(*sizes)
    logits = ours(features())
    assert logits.shape == (2, (4 * 6 + 2 * 3) * ANCHORS, sum(sizes))
    torch.testing.assert_close(logits, fused(ours)(features()), rtol=1e-5, atol=1e-6)


def test_every_predictor_alone_gives_its_columns_and_gets_its_gradient() -> None:
    ours = head(2, 3, 1)
    maps = [ours.tower(feature).detach() for feature in features()]
    alone = []
    for predictor in ours.predictors:
        rows = [predictor(level).view(2, ANCHORS, -1, *level.shape[2:]).permute(0, 3, 4, 1, 2) for level in maps]
        alone.append(torch.cat([row.reshape(2, -1, row.shape[-1]) for row in rows], dim=1))
    expected, found = torch.cat(alone, dim=-1), ours(features())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weight = torch.linspace(-1, 1, found.numel()).view_as(found)
    wanted = torch.autograd.grad((expected * weight).sum(), list(ours.predictors.parameters()))
    for mine, other in zip(
        torch.autograd.grad((found * weight).sum(), list(ours.predictors.parameters())), wanted, strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_the_levels_lie_in_one_block_without_a_second_copy() -> None:
    maps = [torch.arange(2 * 6 * h * w, dtype=torch.float32).view(2, 6, h, w) for h, w in ((3, 2), (1, 2))]
    found = flatten_levels(maps, 2)
    assert found.shape == (2, 8 * 3, 2) and found.is_contiguous()
    rows = [level.view(2, 3, 2, *level.shape[2:]).permute(0, 3, 4, 1, 2).reshape(2, -1, 2) for level in maps]
    assert torch.equal(found, torch.cat(rows, dim=1))


def test_joining_predictors_on_the_channel_axis_would_mix_the_classes() -> None:
    ours = head(2, 3)
    theirs = fused(ours)
    theirs.cls_logits.weight.data = torch.cat([weight.flatten(0, 1) for weight in ours.class_weights()])
    assert not torch.allclose(ours(features()), theirs(features()), atol=1e-2)


@pytest.mark.parametrize("classes", [1, 2, 5, 20, 65])
def test_a_wide_head_keeps_old_logits_bit_equal_however_much_it_grows(classes: int) -> None:
    torch.manual_seed(0)
    wide = ClassHead(build_tower(128, 1, None), 128, 9, [15])
    maps = [torch.randn(2, 128, 13, 10), torch.randn(2, 128, 3, 3)]
    before = wide(maps)
    wide.grow(classes)
    assert torch.equal(wide(maps)[..., :15], before)


@pytest.mark.parametrize("init", ["prior", "mean"])
def test_growth_keeps_old_logits_and_parameters_bit_equal(init: str) -> None:
    grown = head(3)
    before = grown(features())
    old = {name: value.clone() for name, value in grown.state_dict().items()}
    grown.grow(2, init)
    after = grown(features())
    assert after.shape[-1] == 5
    assert torch.equal(after[..., :3], before)
    assert all(torch.equal(grown.state_dict()[name], value) for name, value in old.items())
    assert grown.sizes == [3, 2]


def test_growth_by_the_mean_starts_from_the_old_filters() -> None:
    grown = head(2, 2)
    grown.grow(3, "mean")
    weights = grown.class_weights()
    mean = torch.cat(weights[:2], dim=1).mean(dim=1)
    for column in range(3):
        torch.testing.assert_close(weights[2][:, column], mean)


def test_new_predictors_start_at_the_prior_probability() -> None:
    torch.manual_seed(0)
    made = ClassHead(build_tower(CHANNELS, 1, None), CHANNELS, ANCHORS, [2])
    made.grow(3)
    probability = made(features()).sigmoid()
    torch.testing.assert_close(probability, torch.full_like(probability, 0.01), rtol=0.05, atol=0)


def test_growth_follows_the_dtype_of_the_head() -> None:
    grown = head(1).double()
    grown.grow(1)
    assert grown.predictors[1].weight.dtype == torch.float64


@pytest.mark.parametrize(("classes", "init", "message"), [(0, "prior", "at least one"), (2, "zero", "'mean'")])
def test_growth_refuses_nonsense(classes: int, init: str, message: str) -> None:
    grown = head(1)
    with pytest.raises(ValueError, match=message):
        grown.grow(classes, init)
    assert grown.sizes == [1]


@pytest.mark.parametrize("norm", [None, "group"])
def test_the_box_head_is_torchvisions(norm: str | None) -> None:
    layer = norm_layer(norm, CHANNELS)
    theirs = RetinaNetRegressionHead(CHANNELS, ANCHORS, norm_layer=layer)
    ours = build_box_head(CHANNELS, ANCHORS, build_tower(CHANNELS, 4, layer), "giou")
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(features()), theirs(features()))
    assert isinstance(ours, RetinaNetRegressionHead) and ours._loss_type == "giou"


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 32), (48, 16), (20, 4)])
def test_group_norm_takes_groups_that_divide_the_channels(channels: int, groups: int) -> None:
    layer = norm_layer("group", channels)
    assert layer is not None
    made: Any = layer(channels)
    assert made.num_groups == groups


def test_a_tower_without_layers_passes_its_input_on() -> None:
    value = torch.randn(1, CHANNELS, 2, 2)
    assert torch.equal(build_tower(CHANNELS, 0, None)(value), value)


def test_groups_of_one_channel_look_at_one_cell_of_one_image_as_in_a_batch() -> None:
    make = norm_layer("group", 16, 16)
    assert make is not None
    norm, images = make(16), torch.randn(2, 16, 1, 1)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    assert torch.equal(norm(images[:1]), norm(images)[:1])
