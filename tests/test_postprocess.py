from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead

from incdet.postprocess import select_detections

LEVELS = [8 * 8 * 2, 4 * 4 * 2]
SIZES = [(60, 64), (64, 50), (64, 64)]


def outputs(classes: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits, deltas and the anchors of a 64 px image."""
    torch.manual_seed(classes)
    generator = AnchorGenerator(((12, 20), (28, 40)), ((1.0,),) * 2)
    strides = [[torch.tensor(stride)] * 2 for stride in (8, 16)]
    anchors = torch.cat(generator.grid_anchors([[8, 8], [4, 4]], strides))
    logits = torch.randn(3, sum(LEVELS), classes) * spread - 2
    logits[1] = -20  # an image without a detection
    return logits, torch.randn(3, sum(LEVELS), 4) * 0.5, anchors


def theirs(logits: Tensor, deltas: Tensor, anchors: Tensor, **settings: float) -> list[dict[str, Tensor]]:
    backbone = torch.nn.Identity()
    backbone.out_channels = 4  # type: ignore[assignment]
    model = RetinaNet(
        backbone, logits.shape[-1], anchor_generator=AnchorGenerator(), head=RetinaNetHead(4, 1, 1), **settings
    )
    split = {
        "cls_logits": list(torch.split(logits, LEVELS, 1)),
        "bbox_regression": list(torch.split(deltas, LEVELS, 1)),
    }
    found: list[dict[str, Tensor]] = model.postprocess_detections(
        split, [list(torch.split(anchors, LEVELS))] * 3, SIZES
    )
    return found


@pytest.mark.parametrize("classes", [1, 20, 80])
@pytest.mark.parametrize(
    ("score_thresh", "topk", "limit", "spread"),
    [(0.05, 1000, 300, 2.0), (0.3, 10, 300, 3.0), (0.0, 1000, 5, 2.0), (0.999, 1000, 300, 1.0), (0.05, 300, 40, 4.0)],
)
def test_detections_equal_torchvisions(classes: int, score_thresh: float, topk: int, limit: int, spread: float) -> None:
    logits, deltas, anchors = outputs(classes, spread)
    ours = select_detections(
        logits, deltas, anchors, LEVELS, SIZES, score_thresh=score_thresh, nms_thresh=0.5, topk=topk, limit=limit
    )
    expected = theirs(
        logits, deltas, anchors, score_thresh=score_thresh, topk_candidates=topk, detections_per_img=limit
    )
    for mine, other in zip(ours, expected, strict=True):
        assert torch.equal(mine["labels"], other["labels"])
        assert torch.equal(mine["boxes"], other["boxes"])
        torch.testing.assert_close(mine["scores"], other["scores"], rtol=3e-7, atol=0)
    if score_thresh == 0.05:
        assert len(ours[0]["boxes"]) > 0 and len(ours[1]["boxes"]) == 0


def test_no_candidate_in_the_batch_gives_empty_float_boxes() -> None:
    logits, deltas, anchors = outputs(3, 1.0)
    found = select_detections(
        logits - 50, deltas, anchors, LEVELS, SIZES, score_thresh=0.05, nms_thresh=0.5, topk=9, limit=9
    )
    for image in found:
        assert image["boxes"].shape == (0, 4) and image["boxes"].dtype == torch.float32
        assert image["scores"].shape == (0,)
        assert image["labels"].shape == (0,) and image["labels"].dtype == torch.int64


def test_half_precision_outputs_decode_in_float32() -> None:
    logits, deltas, anchors = outputs(3, 2.0)
    settings: Any = {"score_thresh": 0.05, "nms_thresh": 0.5, "topk": 1000, "limit": 300}
    low = logits.bfloat16(), deltas.bfloat16()
    found = select_detections(*low, anchors, LEVELS, SIZES, **settings)
    same = select_detections(low[0].float(), low[1].float(), anchors, LEVELS, SIZES, **settings)
    for mine, other in zip(found, same, strict=True):
        assert torch.equal(mine["boxes"], other["boxes"]) and mine["boxes"].dtype == torch.float32
