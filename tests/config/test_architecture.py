from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import incdet
from incdet.config.architecture import Architecture
from incdet.errors import InputError

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.mark.parametrize(
    "recipe",
    [
        Architecture(),
        Architecture(backbone="tiny", anchor_sizes=((16, 20), (32, 40)), min_size=(96, 128), fixed_size=(64, 96)),
        Architecture(detector="retinanet_resnet50_fpn_v2", frozen_norm=False, norm_eps=1e-3),
    ],
)
def test_json_round_trip_is_the_identity(recipe: Architecture) -> None:
    assert Architecture.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_files_of_the_first_version_are_read_for_ever() -> None:
    """``goldens`` holds what it wrote; never write it anew."""
    for stored in json.loads((GOLDENS / "recipes.json").read_text()):
        assert Architecture.from_json(stored).to_json() == {**stored, "pyramid": True, "precedence": 0.0}


def test_a_changed_copy_is_checked_like_a_new_one() -> None:
    architecture = Architecture(backbone="tiny")
    assert architecture.changed(min_size=96) == Architecture(backbone="tiny", min_size=(96,)) != architecture
    with pytest.raises(InputError, match="channels"):
        architecture.changed(channels=0)
    with pytest.raises(ValueError, match="frozen"):
        architecture.channels = 8  # type: ignore[misc]


def test_its_earlier_name_is_still_known() -> None:
    assert incdet.Recipe is incdet.Architecture is Architecture


def test_a_builder_fills_in_its_architecture() -> None:
    recipe = Architecture(detector="retinanet_resnet50_fpn_v2")
    assert (recipe.backbone, recipe.norm, recipe.box_loss, recipe.p6_from) == ("resnet50", "group", "giou", "c5")


def test_a_builder_refuses_what_it_fixes_otherwise() -> None:
    with pytest.raises(InputError, match="channels.*fixes 256"):
        Architecture(detector="retinanet_resnet50_fpn", channels=64)


def test_one_side_and_lists_become_tuples() -> None:
    values: dict[str, Any] = {"min_size": 96, "anchor_sizes": [[16], [32]], "aspect_ratios": [1.0, 2.0]}
    recipe = Architecture(**values)
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
        ({"backbone": "tiny", "pyramid": False}, "anchor_sizes.*use one level"),
        ({"backbone": "tiny", "pyramid": False, "anchor_sizes": ((16,),), "channels": 8}, "fixes 96.*take the pyramid"),
        ({"detector": "retinanet_resnet50_fpn", "pyramid": False}, "pyramid.*fixes True"),
        ({"bg_iou": 0.0}, "0 < bg_iou"),
        ({"fg_iou": 0.3}, "bg_iou.*is more than fg_iou, 0.3"),
        ({"image_std": (1.0, 0.0, 1.0)}, "three positive"),
        ({"image_mean": (0.5, 0.5)}, "three numbers"),
        ({"image_mean": (0.5, 0.5, math.nan)}, "finite"),
        ({"nms_thresh": math.inf}, r"\[0, 1\]"),
        ({"norm_eps": -1e-3}, r"\[0, 1\]"),
        ({"min_size": ()}, "min_size"),
        ({"min_size": True}, "min_size"),
        ({"min_size": "96"}, "min_size"),
        ({"detections_per_img": 0}, "at least 1"),
        ({"detector": ["retinanet_resnet50_fpn"]}, "detector"),
        # Each of these would build for minutes, or fill the memory, before anybody learned of it.
        ({"tower_depth": 2**63}, "0 to 64"),
        ({"channels": 10**6}, "at most 8192"),
        ({"channels": 10**400}, "at most 8192"),
        ({"anchor_sizes": (tuple(range(1, 1001)),) * 5}, "anchor_sizes"),
        ({"anchor_sizes": ((1e9,),) * 5}, "65536"),
        ({"backbone": "external", "anchor_sizes": ((16,),) * 1000}, "1 to 64 levels"),
        ({"aspect_ratios": tuple(float(ratio) for ratio in range(1, 101))}, "300 anchors a cell"),
        ({"aspect_ratios": ()}, "aspect_ratios"),
        ({"min_size": 10**9}, "65536"),
        ({"size_divisible": 10**6}, "1 to 4096"),
        ({"detector": "retinanet_resnet50_fpn", "anchor_sizes": ((16,), (32,))}, "five levels"),
    ],
)
def test_a_value_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Architecture(**values)


def test_every_fault_is_reported_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Architecture(backbone="vgg", channels=0, norm="x")
    assert [finding.item for finding in caught.value.findings] == ["backbone", "channels", "norm"]


def test_an_unknown_key_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InputError, match="did you mean 'channels'"):
        Architecture.from_json({"chanels": 64})


def test_the_same_ratios_written_twice_are_the_same_architecture() -> None:
    assert Architecture(aspect_ratios=((1.0, 2.0),) * 5).decisive() == Architecture(aspect_ratios=(1.0, 2.0)).decisive()
