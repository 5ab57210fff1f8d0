"""One optimiser step: targets, forward, losses, backward, clip, step. The engine repeats it; nothing in it waits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from incdet.config import Schedule
from incdet.distillation.teacher_targets import Targets
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet
from incdet.training.criterion import Criterion
from incdet.training.processes import Processes


class Precision(NamedTuple):
    """What the network computes in.

    Attributes:
        device: Kind of device.
        dtype: Of autocast; None is float32 throughout.
    """

    device: str
    dtype: torch.dtype | None = None

    def autocast(self) -> AbstractContextManager[Any]:
        """The network inside computes in ``dtype``; losses and boxes stay float32."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)


class Losses(NamedTuple):
    """The losses of one optimiser step, where they were computed, summed over pieces and processes.

    Attributes:
        names: ``loss``, the terms, and ``gradient``, the norm of the gradient before it was clipped.
        values: (names,) float32.
    """

    names: tuple[str, ...]
    values: Tensor


class TrainStep:
    """Teaches ``model`` one optimiser step a call.

    The batch is cut into pieces only to fit the memory: what the losses are divided by is counted over the whole batch
    of all processes first, so that neither cut nor processes change loss or gradient. A loss or gradient that is not
    finite changes no weight, nor does a step after it, so that a host which looks late still finds the weights that
    failed: the fused optimiser itself skips the steps, told by a flag on its own device. Only a loss scaler goes on,
    since it expects some.

    Args:
        processes: Those that train together.
        precision: What the network computes in.
        model: On its device, in training mode.
        criterion: The loss.
        schedule: Optimiser and clipping.
        accumulation: Pieces of a batch.
        network: Runs in place of ``model`` and learns with its parameters; None is the model itself.
    """

    def __init__(
        self,
        processes: Processes,
        precision: Precision,
        model: IncrementalRetinaNet,
        criterion: Criterion,
        schedule: Schedule,
        accumulation: int = 1,
        network: Callable[[ImageBatch], HeadOutputs] | None = None,
    ) -> None:
        self.optimizer = make_optimizer(model, schedule)
        self.scaler = torch.amp.GradScaler(precision.device) if precision.dtype == torch.float16 else None
        self._processes, self._precision = processes, precision
        self._model, self._criterion = model, criterion
        self._clip, self._accumulation = schedule.clip, accumulation
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._wrapped = processes.wrapped(model, fixed_buffers=bool(model.architecture.frozen_norm))
        self._network: Callable[[ImageBatch], HeadOutputs] = network or self._wrapped
        self._failed: Tensor | None = None

    def __call__(self, batch: ImageBatch, rate: float) -> tuple[Losses, Sequence[Targets]]:
        """One step at learning rate ``rate``; what the batch was compared with is given back beside the losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._precision.autocast():
            pieces = [self._model.with_stem(piece) for piece in batch.pieces(self._accumulation)]
            targets = [self._criterion.targets(piece) for piece in pieces]
        totals = self._processes.totals([one.counts for one in targets])
        rows = []
        for number, (piece, own) in enumerate(zip(pieces, targets, strict=True), start=1):
            last = number == len(pieces)
            with nullcontext() if last else self._processes.unsynchronised(self._wrapped):
                losses = self._piece(piece, own, totals)
            rows.append(torch.stack([loss.detach() for loss in losses.values()]))
        values = self._processes.summed(torch.stack(rows).sum(dim=0))
        gradient = self._finish(values)
        return Losses(("loss", *losses, "gradient"), torch.cat([values.sum()[None], values, gradient[None]])), targets

    def _piece(self, piece: ImageBatch, targets: Targets, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Forward and backward of a piece of the batch."""
        with self._precision.autocast():
            losses = self._criterion(self._network(piece), targets, totals)
        # The processes' gradients are averaged, but each holds a share of the sum.
        total = torch.stack(list(losses.values())).sum() * self._processes.world
        (total if self.scaler is None else self.scaler.scale(total)).backward()  # type: ignore[no-untyped-call]
        return losses

    def _finish(self, values: Tensor) -> Tensor:
        """Clips and steps; returns the norm of the gradient."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [one.grad for one in self._parameters if one.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=False if values.device.type == "cpu" else None)
        if self._clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)
        if self.scaler is None:
            finite = values.isfinite().all() & norm.isfinite()
            self._failed = ~finite if self._failed is None else self._failed | ~finite
            # The place where torch's loss scaler, which does the same with gradients, leaves its verdict.
            self.optimizer.found_inf = self._failed.float()  # type: ignore[attr-defined]
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()
        return norm


def make_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """A fused optimiser over the parameters that train: the fused form is the fastest on CPU and GPU alike."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=schedule.lr, weight_decay=schedule.weight_decay, fused=True)
    optimizer = torch.optim.SGD(
        parameters, lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay, fused=True
    )
    if schedule.momentum:
        # torch would make them in the first step, and leave them unwritten where a loss scaler skips that step.
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
