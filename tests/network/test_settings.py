from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import network
from torchvision.models.detection.anchor_utils import AnchorGenerator

from incdet.errors import InputError
from incdet.network import checkpoint
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision import from_torchvision, to_torchvision


@pytest.fixture
def model() -> IncrementalRetinaNet:
    return network(score_thresh=0.0102, box_loss="giou").eval()


@torch.no_grad()
def detect(model: Any) -> list[dict[str, torch.Tensor]]:
    found: list[dict[str, torch.Tensor]] = model([torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1))])
    return found


def place(model: Any, name: str) -> tuple[Any, str]:
    """The object and the attribute that a dotted name means."""
    *owners, last = name.split(".")
    for owner in owners:
        model = getattr(model, owner)
    return model, last


CHANGES = {
    "score_thresh": 0,
    "nms_thresh": 0.05,
    "detections_per_img": 3,
    "topk_candidates": 2,
    "transform.min_size": (32,),
    "transform.max_size": 50,
    "transform.image_mean": (0.1, 0.2, 0.9),
    "transform.image_std": (0.1, 0.2, 0.3),
    "transform.size_divisible": 96,
    "transform.fixed_size": (64, 48),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_attribute_acts_at_once_and_as_torchvisions_does(name: str, model: IncrementalRetinaNet) -> None:
    before, plain = detect(model)[0], to_torchvision(model)
    for detector in (model, plain):
        owner, attribute = place(detector, name)
        setattr(owner, attribute, CHANGES[name])
        assert getattr(owner, attribute) == CHANGES[name]
    found, wanted = detect(model)[0], detect(plain)[0]
    assert found["boxes"].shape != before["boxes"].shape or not torch.equal(found["boxes"], before["boxes"])
    assert len(found["boxes"])
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4)


def test_what_is_set_survives_saving_copying_growing_and_conversion(
    model: IncrementalRetinaNet, tmp_path: Path
) -> None:
    for name, value in CHANGES.items():
        owner, attribute = place(model, name)
        setattr(owner, attribute, value)
    checkpoint.save(tmp_path, model)
    plain: Any = to_torchvision(model)
    for other in (
        checkpoint.load(tmp_path).model,
        copy.deepcopy(model),
        plain,
        from_torchvision(plain, model.vocab.names),
    ):
        for name, value in CHANGES.items():
            found = getattr(*place(other, name))
            assert (tuple(found) if isinstance(found, list) else found) == value
    model.grow(["new"])
    assert model.score_thresh == 0


def test_a_setting_out_of_range_is_refused_and_nothing_changes(model: IncrementalRetinaNet) -> None:
    with pytest.raises(InputError, match=r"score_thresh: is 1.5.*\[0, 1\]"):
        model.score_thresh = 1.5
    with pytest.raises(InputError, match="min_size"):
        model.transform.min_size = 0
    assert model.score_thresh == 0.0102 and model.transform.min_size == (48,)
    with pytest.raises(AttributeError):
        model.transform.min_sizes = (64,)  # type: ignore[attr-defined]


def test_parts_of_torchvisions_detector_cannot_be_replaced_without_effect(model: IncrementalRetinaNet) -> None:
    for name in ("transform", "proposal_matcher", "box_coder", "head"):
        with pytest.raises(InputError, match=f"{name}: cannot be replaced"):
            setattr(model, name, to_torchvision(model))
    with pytest.raises(InputError, match="architecture.changed"):
        model.anchor_generator = AnchorGenerator(((8,), (16,)), ((1.0,),) * 2)


def test_other_anchors_act_at_once(model: IncrementalRetinaNet) -> None:
    batch = model.prepare([torch.rand(3, 48, 64)])
    before = model.batch_anchors(batch)
    sizes = tuple(tuple(2 * size for size in level) for level in model.architecture.anchor_sizes)
    model.architecture = model.architecture.changed(anchor_sizes=sizes)
    after = model.batch_anchors(batch)
    torch.testing.assert_close(after[:, 2:] - after[:, :2], 2 * (before[:, 2:] - before[:, :2]), rtol=0, atol=2)
