"""Suite ``inference``: a list of images in host memory to detections, against torchvision's RetinaNet.

Theirs is ``to_torchvision(ours)``: the same weights in torchvision's modules, called as its reference scripts do, with
float images that are moved one by one. Ours takes the uint8 images that its loader gives. On a GPU ours computes as
``detect`` has it there (bfloat16, channels last), theirs in float32 and, in rows of their own, under autocast; the
equality is that of float32 on both sides.

On a CPU nearly all of the time is convolutions, which both sides hand to the same library: ours can only save the
arithmetic of frozen BatchNorm, the copies between levels and the post-processing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from benchmarks.harness import Equality, Options, Row, measure
from incdet.config.architecture import Architecture
from incdet.evaluation.detections import autocast_dtype
from incdet.network.bn_folding import folded_once
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision import to_torchvision
from incdet.vocab import Vocabulary

CLASSES = 20
CANDIDATES = 200
"""Logits above the threshold in the first image; a trained detector has as many."""
SCORES, OVERLAP, PARTNERS = 1e-3, 0.99, 0.99
"""Two detections are partners with one label, scores that are this near, and this IoU; so many must have a partner.

Not all of them: a score beside the threshold and an IoU beside that of the suppression fall on either side of it.
"""

Detections = list[dict[str, Tensor]]


class _Pair(NamedTuple):
    """One network twice, in evaluation mode, and a batch of uint8 images."""

    ours: IncrementalRetinaNet
    theirs: nn.Module
    images: list[Tensor]


def rows(options: Options) -> Iterator[Row]:
    """ResNet-50 with FPN-256 at 512 px and K=20; a tiny network at 96 px with ``--quick``."""
    for batch in (1, 8):
        pair = _make_pair(batch, options)
        yield _row(f"B={batch}", pair, options)
        if options.device == "cuda":
            yield _row(f"B={batch} autocast", pair, options, torch.bfloat16)


@torch.inference_mode()
def _row(case: str, pair: _Pair, options: Options, their_dtype: torch.dtype | None = None) -> Row:
    device = torch.device(options.device)
    own_dtype = autocast_dtype(pair.ours, device, "auto")
    floats = [image.float().div(255) for image in pair.images]

    def ours(dtype: torch.dtype | None = own_dtype) -> Detections:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            found = pair.ours(pair.images)
        assert isinstance(found, list)
        return found

    def theirs(dtype: torch.dtype | None = their_dtype) -> Detections:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            found: Detections = pair.theirs([image.to(device) for image in floats])
        return found

    expected = theirs(None)
    shared = _partners(ours(None), expected)
    number = sum(len(image["scores"]) for image in expected)
    words = f"{100 * shared:.1f} % of {number} detections in float32"
    if own_dtype is not None:
        words += f", {100 * _partners(ours(), expected):.1f} % as measured"
    rounds = None if options.quick or device.type == "cuda" else max(2, 6 // len(pair.images))
    # As ``incdet.evaluation.detections.detect`` runs it.
    with folded_once(pair.ours):
        row = measure("inference", case, ours, theirs, Equality(shared >= PARTNERS, words), options, rounds)
    mine, other = (len(pair.images) / seconds for seconds in (row.ours, row.theirs))
    return replace(row, found=f"{mine:.1f} against {other:.1f} images/s; {words}")


def _partners(ours: Sequence[dict[str, Tensor]], theirs: Sequence[dict[str, Tensor]]) -> float:
    """The share of detections, of both sides, that have a partner on the other side."""
    met = total = 0
    for mine, other in zip(ours, theirs, strict=True):
        pairs = (mine["labels"][:, None] == other["labels"]) & (box_iou(mine["boxes"], other["boxes"]) >= OVERLAP)
        pairs &= (mine["scores"][:, None] - other["scores"]).abs() <= SCORES
        met += int(pairs.any(0).sum()) + int(pairs.any(1).sum())
        total += pairs.shape[0] + pairs.shape[1]
    return met / total if total else 0.0


@torch.no_grad()
def _make_pair(batch: int, options: Options) -> _Pair:
    pixels = 96 if options.quick else 512
    torch.manual_seed(0)
    architecture = Architecture(backbone="resnet50", frozen_norm=True, min_size=(pixels,), max_size=pixels)
    if options.quick:
        architecture = Architecture(
            backbone="tiny",
            channels=16,
            tower_depth=1,
            anchor_sizes=((12, 16), (24, 32)),
            min_size=(pixels,),
            max_size=pixels,
        )
    names = tuple(f"class {number}" for number in range(CLASSES))
    model = IncrementalRetinaNet(architecture, Vocabulary((names,))).eval()
    shape = (3, pixels, pixels)
    images = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(batch)]
    for parameter in model.class_head.predictors.parameters():
        if parameter.dim() == 4:
            nn.init.normal_(parameter, std=0.05)
    # A fresh detector finds nothing. This one finds as much as a trained one.
    logits = model.dense(model.prepare(images[:1])).logits.flatten()
    wanted = torch.logit(torch.tensor(architecture.score_thresh)) - logits.topk(CANDIDATES).values[-1]
    for parameter in model.class_head.predictors.parameters():
        if parameter.dim() == 1:
            parameter.add_(wanted)
    model.to(options.device)
    if options.device == "cuda":
        model.to(memory_format=torch.channels_last)
    theirs = to_torchvision(model).to(memory_format=torch.contiguous_format)
    return _Pair(model, theirs.to(options.device), images)
