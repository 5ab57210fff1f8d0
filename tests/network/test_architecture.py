from __future__ import annotations

import json
from typing import Any

import pytest

from incdet.errors import InputError
from incdet.network.architecture import Recipe


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(backbone="tiny", anchor_sizes=((16, 20), (32, 40)), min_size=(96, 128), fixed_size=(64, 96)),
        Recipe(detector="retinanet_resnet50_fpn_v2", frozen_norm=False, norm_eps=1e-3),
    ],
)
def test_json_round_trip_is_the_identity(recipe: Recipe) -> None:
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_a_builder_fills_in_its_architecture() -> None:
    recipe = Recipe(detector="retinanet_resnet50_fpn_v2")
    assert (recipe.backbone, recipe.norm, recipe.box_loss, recipe.p6_from) == ("resnet50", "group", "giou", "c5")


def test_a_builder_refuses_what_it_fixes_otherwise() -> None:
    with pytest.raises(InputError, match="channels.*fixes 256"):
        Recipe(detector="retinanet_resnet50_fpn", channels=64)


def test_one_side_and_lists_become_tuples() -> None:
    values: dict[str, Any] = {"min_size": 96, "anchor_sizes": [[16], [32]], "aspect_ratios": [1.0, 2.0]}
    recipe = Recipe(**values)
    assert recipe.min_size == (96,)
    assert recipe.anchor_sizes == ((16,), (32,))
    assert recipe.ratios == ((1.0, 2.0), (1.0, 2.0))
    assert recipe.anchors_per_cell == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "resnet51"}, "did you mean .*resnet50"),
        ({"detector": "retinanet_resnet50"}, "did you mean"),
        ({"norm": "layer"}, "norm"),
        ({"channels": 0}, "at least 1"),
        ({"channels": 64.0}, "at least 1"),
        ({"tower_depth": -1}, "tower_depth"),
        ({"anchor_sizes": ()}, "1 to 5 levels"),
        ({"anchor_sizes": ((16,),) * 6}, "1 to 5 levels"),
        ({"anchor_sizes": ((16, 20), (32,))}, "equally many"),
        ({"aspect_ratios": (-1.0,)}, "aspect_ratios"),
        ({"aspect_ratios": ((1.0,), (1.0,))}, "one per level"),
        ({"score_thresh": 1.5}, r"\[0, 1\]"),
        ({"bg_iou": 0.6}, "bg_iou <= fg_iou"),
        ({"image_std": (1.0, 0.0, 1.0)}, "three positive"),
        ({"detector": "retinanet_resnet50_fpn", "anchor_sizes": ((16,), (32,))}, "five levels"),
    ],
)
def test_a_value_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe(**values)


def test_every_fault_is_reported_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Recipe(backbone="vgg", channels=0, norm="x")
    assert [finding.item for finding in caught.value.findings] == ["backbone", "norm", "channels"]


def test_an_unknown_key_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InputError, match="did you mean 'channels'"):
        Recipe.from_json({"chanels": 64})


def test_the_same_ratios_written_twice_are_the_same_architecture() -> None:
    assert Recipe(aspect_ratios=((1.0, 2.0),) * 5).architecture() == Recipe(aspect_ratios=(1.0, 2.0)).architecture()
