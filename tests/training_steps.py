"""A stream of batches and a loss that can be spoilt, shared by the tests of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from helpers import network, target
from torch import Tensor

from incdet.config import Schedule
from incdet.distillation.teacher_targets import Targets
from incdet.distillation.terms import PseudoLabels
from incdet.distillation.thresholds import Thresholds
from incdet.methods.method import Method
from incdet.methods.registry import get_method
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet
from incdet.seal import unsealed_lines
from incdet.training.batches import Batch
from incdet.training.criterion import MethodCriterion

BOX = [6.0, 6.0, 28.0, 30.0]


def schedule(**values: Any) -> Schedule:
    return Schedule(**{"iterations": 6, "batch_size": 2, "lr": 0.01, "warmup": 0, "schedule": "constant", **values})


def stream(size: int = 2) -> Callable[[int], Iterator[Batch]]:
    """Batch s of ``size`` images is a function of s alone; with ``size`` 1 the same images come one by one."""

    def batches(drawn: int) -> Iterator[Batch]:
        for number in count(drawn):
            images, targets = [], []
            for place in range(number * size, (number + 1) * size):
                generator = torch.Generator().manual_seed(place)
                images.append(torch.rand(3, 48, 48, generator=generator))
                targets.append(target([BOX], [place % 2]) if place % 3 else target())
            yield images, targets

    return batches


class Plain:
    """The loss of the annotations; ``before`` is told how often it was called, and may change its terms."""

    needs_features = False

    def __init__(
        self, model: IncrementalRetinaNet, before: Callable[[int, dict[str, Tensor]], object] | None = None
    ) -> None:
        self.inner, self.before, self.calls = MethodCriterion(get_method("finetune"), model), before, 0

    def targets(self, batch: ImageBatch) -> Targets:
        return self.inner.targets(batch)

    def __call__(self, outputs: HeadOutputs, targets: Targets, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.calls += 1
        losses = self.inner(outputs, targets, totals)
        if self.before is not None:
            self.before(self.calls, losses)
        return losses


def sure_network(*steps: tuple[str, ...]) -> IncrementalRetinaNet:
    """A detector with fixed norms that is sure of something in every image."""
    model = network(*steps)
    model.freeze_norm()
    with torch.no_grad():
        for parameter in model.class_head.predictors.parameters():
            if parameter.dim() == 4:
                parameter.mul_(15)
            else:
                parameter.fill_(-3)
    return model


def with_thresholds(method: Method) -> Method:
    """The method as a step of two old classes fits it, without looking at data."""
    thresholds = Thresholds((0.3, 0.3), (0.15, 0.15))
    terms = [
        term.model_copy(update={"fitted": thresholds}) if isinstance(term, PseudoLabels) else term
        for term in method.terms
    ]
    return replace(method, terms=tuple(terms))


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log of the engines that ``make_engine`` made in ``folder``."""
    return [line for line in unsealed_lines(folder / "run" / "log.jsonl") if line is not None]
