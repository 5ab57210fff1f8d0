"""The training step of both sides, from the same weights and on the same batch.

Theirs is the iteration of torchvision's reference script (``references/detection/engine.py``): images and targets
moved one by one, ``RetinaNet(images, targets)``, the loss read by ``item()``, ``zero_grad``, backward, plain SGD.
Ours is ``incdet.training.train_step.TrainStep`` with ``model.prepare`` before it, as the engine runs it.

Letters: B images, K classes, M boxes.
"""

from __future__ import annotations

import copy
import math
from contextlib import ExitStack, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks.harness import Equality
from benchmarks.scene import make_scene
from incdet.app.train import PLAIN
from incdet.config import Engine as EngineConfig
from incdet.config import Schedule
from incdet.network.bn_folding import folded_once
from incdet.network.cuda_graph import graph_of
from incdet.network.retinanet import ImageBatch, IncrementalRetinaNet
from incdet.network.torchvision import from_torchvision
from incdet.training.criterion import Criterion, MethodCriterion
from incdet.training.engine import chosen_precision
from incdet.training.processes import Processes
from incdet.training.train_step import Precision, TrainStep

RATE = 1e-4


class Size(NamedTuple):
    """What is trained: ``backbone`` with FPN-256, B = ``images`` of ``pixels`` squared, K = ``classes``."""

    backbone: str
    images: int
    pixels: int
    classes: int

    def __str__(self) -> str:
        return f"{self.backbone} {self.pixels} px B={self.images} K={self.classes}"


class HostBatch(NamedTuple):
    """A batch as a loader gives it: B uint8 images (3, H, W) and their targets, on the host."""

    images: list[Tensor]
    targets: list[dict[str, Tensor]]


def make_detector(size: Size, seed: int = 0) -> nn.Module:
    """A torchvision RetinaNet as its builder makes it with ImageNet weights (frozen BatchNorm, three stages learn).

    The weights are random: a file of ImageNet weights would change no time and no equality.
    """
    torch.manual_seed(seed)
    body = get_model(size.backbone, weights=None, norm_layer=FrozenBatchNorm2d)
    extra = LastLevelP6P7(body.inplanes, 256)
    backbone = _resnet_fpn_extractor(body, 3, returned_layers=[2, 3, 4], extra_blocks=extra)
    detector: nn.Module = RetinaNet(backbone, size.classes, min_size=size.pixels, max_size=size.pixels)
    return detector


def make_batch(size: Size, seed: int = 0) -> HostBatch:
    """Random pictures with the boxes of ``make_scene``."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, size.pixels, size.pixels)
    images = [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for _ in range(size.images)]
    scene = make_scene(size.classes, device="cpu", images=size.images, pixels=size.pixels, seed=seed)
    return HostBatch(images, scene.targets)


class TheirStep:
    """A call is one iteration of torchvision's reference script; returns the loss."""

    def __init__(self, detector: nn.Module, batch: HostBatch, device: str, autocast: torch.dtype | None = None) -> None:
        self.detector = detector.to(device).train()
        parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=0.9, weight_decay=1e-4)
        self.images = [image.float().div(255) for image in batch.images]
        self.targets = batch.targets
        self.device, self.autocast = device, autocast

    def __call__(self) -> float:
        """Both directions, the update, and the loss on the host."""
        images = [image.to(self.device) for image in self.images]
        targets = [{key: value.to(self.device) for key, value in target.items()} for target in self.targets]
        with nullcontext() if self.autocast is None else torch.autocast(self.device, self.autocast):
            losses = self.detector(images, targets)
            total = sum(losses.values())
        value = float(total.item())
        if not math.isfinite(value):
            raise ArithmeticError(f"loss is {losses}")
        total.backward()
        self.optimizer.step()
        # The script does this before backward; here, so that no gradient lies in memory when a peak is measured.
        self.optimizer.zero_grad()
        return value


class OurStep:
    """A call is one optimiser step of ours, prepared from the host batch; the losses stay on the device."""

    def __init__(
        self,
        model: IncrementalRetinaNet,
        batch: HostBatch,
        device: str,
        criterion: Criterion | None = None,
        *,
        static: bool = False,
    ) -> None:
        precision = chosen_precision(EngineConfig(device=device))
        self.precision = Precision(device, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision))
        self.model = model.to(device).train()
        if device == "cuda":
            self.model.to(memory_format=torch.channels_last)
        self._kept = ExitStack()
        self._kept.enter_context(folded_once(self.model))  # as the engine does for a phase
        self.batch = batch
        self.device = device
        height, width = batch.images[0].shape[-2:]
        self.canvas = (int(height), int(width)) if static else None
        schedule = Schedule(optimizer="sgd", lr=RATE, momentum=0.9, weight_decay=1e-4, clip=None)
        criterion = criterion or MethodCriterion(PLAIN, self.model)
        graph = graph_of(self.model, precision, print, features=criterion.needs_features) if static else None
        processes = Processes(device)
        self.iteration = TrainStep(processes, self.precision, self.model, criterion, schedule, network=graph)

    def __call__(self) -> Tensor:
        """The loss before the update, a scalar on the device."""
        return self.learn(self.prepare())

    def prepare(self) -> ImageBatch:
        """The batch as the network takes it."""
        return self.model.prepare(*self.batch, canvas=self.canvas)

    def learn(self, prepared: ImageBatch) -> Tensor:
        """The optimiser step alone; returns the loss before it."""
        losses, _ = self.iteration(prepared, RATE)
        return losses.values[0]


def make_ours(detector: nn.Module) -> IncrementalRetinaNet:
    """Our detector with the weights of theirs."""
    classes = detector.head.classification_head.num_classes  # type: ignore[union-attr]
    return from_torchvision(copy.deepcopy(detector), [f"class {number}" for number in range(classes)])  # type: ignore[arg-type]


def compare_steps(detector: nn.Module, batch: HostBatch, device: str) -> Equality:
    """One step of both from the same weights: losses, and how far the gradient of any parameter differs.

    In float32 on a CPU they have to agree within 1e-5 and, by Euclidean norm, 1e-3 of the parameter's gradient: where
    the input of a ReLU is within rounding of zero, one side may open it and the other not (one in 400,000 was seen to
    move single entries by 1e-3). The precision that a GPU chooses (bfloat16) allows 2e-2 of the loss.
    """
    first, second = TheirStep(copy.deepcopy(detector), batch, device), OurStep(make_ours(detector), batch, device)
    loss, own = first(), float(second())
    gap = 0.0
    for mine, other in zip(_momenta(second.iteration.optimizer), _momenta(first.optimizer), strict=True):
        gap = max(gap, float((mine - other).norm() / other.norm().clamp(min=1e-12)))
    apart = abs(own - loss) / max(1.0, abs(loss))
    holds = apart <= 1e-5 and gap <= 1e-3 if device == "cpu" else apart <= 2e-2
    return Equality(holds, f"losses within {apart:.1e}, gradients within {gap:.1e} of their norm")


def _momenta(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """After its first step, the gradient of every parameter with the decay of its weight; both sides list alike."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [optimizer.state[parameter]["momentum_buffer"] for parameter in parameters]
