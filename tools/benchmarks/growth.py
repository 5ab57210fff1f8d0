"""Suite ``growth``: what a step (forward, losses, backward) costs with more classes, and with more increments.

``K=...`` compares with torchvision's RetinaNet of the same weights and classes. ``increments=...`` compares a head that
was grown increment by increment with one fused head of the same filters: theirs is our own network of one increment.

Letters: B images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.harness import Equality, Options, Row, measure
from benchmarks.scene import make_scene
from incdet.config.architecture import Architecture
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision import from_torchvision, to_torchvision
from incdet.vocab import Vocabulary

CLASSES = (20, 80, 365, 1203)
INCREMENTS = (1, 4, 10, 40)
TOTAL = 80
"""Classes of all increments together."""

Step = Callable[[], tuple[Tensor, ...]]


class Size(NamedTuple):
    """What is trained: B = ``images`` of ``pixels`` squared, ``channels`` in the pyramid and the towers."""

    backbone: str
    channels: int
    tower_depth: int
    images: int
    pixels: int


def rows(options: Options) -> Iterator[Row]:
    """20 to 1203 classes in one increment, then 80 classes in 1 to 40 increments."""
    for classes in CLASSES:
        ours = _network(options, [classes])
        # A step with a thousand classes takes seconds on a CPU.
        rounds = None if options.quick else 9 if classes < 200 else 5
        yield _row(f"K={classes}", ours, to_torchvision(ours), options, rounds)
    for increments in INCREMENTS:
        ours = _network(options, [TOTAL // increments] * increments)
        yield _row(f"increments={increments}", ours, from_torchvision(to_torchvision(ours), ours.vocab.names), options)


def _size(options: Options) -> Size:
    if options.quick:
        return Size("tiny", 16, 1, 1, 64)
    return Size("resnet50", 256, 4, 8, 512) if options.device == "cuda" else Size("tiny", 64, 4, 2, 256)


def _network(options: Options, increments: list[int]) -> IncrementalRetinaNet:
    """Random weights, BatchNorm frozen as after step 1; ``increments`` are the numbers of classes."""
    size = _size(options)
    torch.manual_seed(0)
    names = iter(range(sum(increments)))
    vocab = Vocabulary(tuple(tuple(f"class {next(names)}" for _ in range(count)) for count in increments))
    architecture = Architecture(
        backbone=size.backbone,
        channels=size.channels,
        tower_depth=size.tower_depth,
        frozen_norm=True,
        norm_module="frozen",
        min_size=(size.pixels,),
        max_size=size.pixels,
    )
    return IncrementalRetinaNet(architecture, vocab).to(options.device)


def _row(case: str, ours: IncrementalRetinaNet, theirs: nn.Module, options: Options, rounds: int | None = None) -> Row:
    size = _size(options)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(size.images, 3, size.pixels, size.pixels, generator=generator).to(options.device)
    scene = make_scene(1, device=options.device, images=size.images, pixels=size.pixels)
    targets = []
    for target in scene.targets:
        labels = torch.randint(0, len(ours.vocab), target["labels"].shape, generator=generator)
        targets.append({"boxes": target["boxes"], "labels": labels.to(options.device)})
    mine, other = (_step(model, list(pictures), targets, options.device) for model in (ours, theirs))
    return measure("growth", case, mine, other, _equality(mine(), other(), options.device), options, rounds)


def _step(model: Any, images: list[Tensor], targets: list[dict[str, Tensor]], device: str) -> Step:
    """A call gives both losses and the gradients of the backbone, which have passed through everything else."""
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    backbone = {id(parameter) for parameter in model.backbone.parameters()}
    shared = [index for index, parameter in enumerate(parameters) if id(parameter) in backbone]

    def step() -> tuple[Tensor, ...]:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            losses = list(model(images, targets).values())
        gradients = torch.autograd.grad(torch.stack(losses).sum(), parameters)
        return *(loss.detach() for loss in losses), *(gradients[index] for index in shared)

    return step


def _equality(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], device: str) -> Equality:
    """Losses within 1e-5 and each gradient within 1e-3 of its largest entry; in bfloat16 losses alone, within 2e-2."""
    gaps = [_gap(mine, other) for mine, other in zip(ours, theirs, strict=True)]
    loss, gradient = max(gaps[:2]), max(gaps[2:])
    holds = loss <= 1e-5 and gradient <= 1e-3 if device == "cpu" else loss <= 2e-2
    return Equality(holds, f"losses within {loss:.1e}, gradients of the backbone within {gradient:.1e}")


def _gap(mine: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest entry."""
    return float((mine - other).abs().max() / other.abs().max().clamp(min=1e-12))
