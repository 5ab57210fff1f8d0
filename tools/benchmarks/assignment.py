"""Suite ``assignment``: anchors to boxes, against torchvision's ``box_iou`` and ``Matcher`` image by image."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from benchmarks.harness import Equality, Options, Row, measure
from benchmarks.scene import LossInputs, make_scene
from incdet.ops.assign import assign

BATCH = 8


def rows(options: Options) -> Iterator[Row]:
    """A usual batch of 8 images, and a crowded one of 100 boxes an image."""
    pixels = 128 if options.quick else 512
    usual = make_scene(20, device=options.device, images=BATCH, pixels=pixels)
    yield _row("B=8", usual, options)
    boxes = torch.cat([target["boxes"] for target in usual.targets])
    labels = torch.cat([target["labels"] for target in usual.targets])
    shifts = [torch.arange(100, device=boxes.device).add(37 * image) % len(boxes) for image in range(BATCH)]
    crowd = usual._replace(targets=[{"boxes": boxes[index], "labels": labels[index]} for index in shifts])
    yield _row("B=8 crowded", crowd, options)


def _row(case: str, scene: LossInputs, options: Options) -> Row:
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)

    def ours() -> Tensor:
        return assign(scene.targets, scene.anchors).matched

    def theirs() -> list[Tensor]:
        return [matcher(box_iou(target["boxes"], scene.anchors)) for target in scene.targets]

    same = torch.equal(ours(), torch.stack(theirs()))
    equality = Equality(same, "integer-identical" if same else "some anchors are matched otherwise")
    return measure("assignment", case, ours, theirs, equality, options)
