"""Suite ``postprocess``: dense outputs to detections, against torchvision's ``postprocess_detections``."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models import resnet18
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.retinanet import RetinaNet

from benchmarks.harness import Equality, Options, Row, measure
from benchmarks.scene import LossInputs, make_scene
from incdet.ops.postprocess import select_detections

# Mean logits: of a trained detector few scores pass the threshold of 0.05 (logit -2.94), of a young one very many.
SPARSE, DENSE = -8.0, -4.5


def rows(options: Options) -> Iterator[Row]:
    """Few candidates with 20 and 80 classes, and many with 80."""
    pixels = 128 if options.quick else 512
    for case, classes, mean in (("K=20 sparse", 20, SPARSE), ("K=80 sparse", 80, SPARSE), ("K=80 dense", 80, DENSE)):
        scene = make_scene(classes, device=options.device, pixels=pixels)
        yield _row(case, scene._replace(logits=(scene.logits + 4) * 1.3 + mean), pixels, options)


@torch.no_grad()
def _row(case: str, scene: LossInputs, pixels: int, options: Options) -> Row:
    reference = RetinaNet(_resnet_fpn_extractor(resnet18(weights=None), 0), scene.logits.shape[-1])
    sizes = [(pixels, pixels)] * len(scene.targets)
    outputs = {
        "cls_logits": list(torch.split(scene.logits, scene.level_sizes, dim=1)),
        "bbox_regression": list(torch.split(scene.deltas, scene.level_sizes, dim=1)),
    }
    anchors = [list(torch.split(scene.anchors, scene.level_sizes))] * len(sizes)

    def ours() -> list[dict[str, Tensor]]:
        return select_detections(
            scene.logits,
            scene.deltas,
            scene.anchors,
            scene.level_sizes,
            sizes,
            score_thresh=0.05,
            nms_thresh=0.5,
            topk=1000,
            limit=300,
        )

    def theirs() -> list[dict[str, Tensor]]:
        found: list[dict[str, Tensor]] = reference.postprocess_detections(outputs, anchors, sizes)
        return found

    return measure("postprocess", case, ours, theirs, _equality(ours(), theirs()), options, options.rounds // 2 + 1)


def _equality(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> Equality:
    """Labels and boxes to the last bit, scores within 1e-6."""
    pairs = list(zip(ours, theirs, strict=True))
    if any(len(mine["scores"]) != len(other["scores"]) for mine, other in pairs):
        return Equality(False, "numbers of detections differ")
    exact = all(torch.equal(mine[key], other[key]) for mine, other in pairs for key in ("labels", "boxes"))
    gap = max(
        (float((mine["scores"] - other["scores"]).abs().max()) for mine, other in pairs if len(mine["scores"])),
        default=0.0,
    )
    count = sum(len(mine["scores"]) for mine in ours)
    words = f"{count} detections, labels and boxes {'bit-equal' if exact else 'DIFFER'}, scores within {gap:.1e}"
    return Equality(exact and gap <= 1e-6, words)
