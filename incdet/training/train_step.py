"""One optimiser step: targets, forward, losses, backward, clip, step. The engine repeats it; nothing in it waits.

Where the GPU's memory does not suffice, the step begins again with smaller pieces, on all processes alike. That works
where no process waits for another in the middle of a backward pass: a step that may need more memory than any before is
done carefully, its gradients exchanged when every process has its own; the others exchange them while they compute.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from incdet.config import Schedule
from incdet.distillation.teacher_targets import Targets
from incdet.errors import TrainingError
from incdet.network.backbones import BATCH_NORMS
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet
from incdet.training.criterion import Criterion
from incdet.training.processes import Processes

T = TypeVar("T")

WARM = 2
"""Optimiser steps after which the optimiser holds all the memory it will ever hold."""


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
        say: Told when pieces become smaller.

    Attributes:
        accumulation: Pieces of a batch by now.
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
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.optimizer = make_optimizer(model, schedule)
        self.scaler = torch.amp.GradScaler(precision.device) if precision.dtype == torch.float16 else None
        self.accumulation = accumulation
        self._processes, self._precision = processes, precision
        self._model, self._criterion = model, criterion
        self._clip, self._say = schedule.clip, say
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._wrapped = processes.wrapped(model, fixed_buffers=bool(model.architecture.frozen_norm))
        self._network: Callable[[ImageBatch], HeadOutputs] = network or self._wrapped
        self._failed: Tensor | None = None
        self._live = [module for module in model.modules() if isinstance(module, BATCH_NORMS) and module.training]
        self._steps, self._largest = 0, 0

    def may_overflow(self, batch: ImageBatch) -> bool:
        """Whether ``batch`` may need more memory than any before it."""
        return self._steps < WARM or batch.images.numel() > self._largest

    def __call__(
        self, batch: ImageBatch, rate: float, *, noise: float = 0.0, careful: bool = True
    ) -> tuple[Losses, Sequence[Targets]]:
        """One step at learning rate ``rate``; what the batch was compared with is given back beside the losses.

        Args:
            batch: The images of this process.
            rate: Learning rate.
            noise: Standard deviation of what is added to every element of the gradient.
            careful: Whether to survive that memory does not suffice; the same on every process.

        Raises:
            TrainingError: Not even pieces of one image fit.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        kept = self._statistics() if careful and self.may_overflow(batch) else []
        while (found := self._losses(batch, careful)) is None:
            self._halve(batch, kept)
        names, rows, targets = found
        values = self._processes.summed(rows)
        gradient = self._finish(values, noise)
        self._steps, self._largest = self._steps + 1, max(self._largest, batch.images.numel())
        return Losses(("loss", *names, "gradient"), torch.cat([values.sum()[None], values, gradient[None]])), targets

    def _losses(self, batch: ImageBatch, careful: bool) -> tuple[list[str], Tensor, list[Targets]] | None:
        """Names and sums of this process's losses, with the gradients of all in place; None if memory is short."""
        prepared = self._fitting(lambda: self._targets(batch), careful)
        if prepared is None:
            return None
        pieces, targets = prepared
        totals = self._processes.totals([one.counts for one in targets])
        found = self._fitting(lambda: self._backward(pieces, targets, totals, apart=careful), careful)
        if found is None:
            return None
        if careful:
            self._processes.average(self._parameters)
        names, rows = found
        return names, rows, targets

    def _fitting(self, work: Callable[[], T], careful: bool) -> T | None:
        """What ``work`` returns; None if one of the processes lacked the memory for it."""
        if not careful:
            return work()
        found = None
        try:
            found = work()
        except torch.OutOfMemoryError:
            found = None  # what the exception holds alive is let go before anything is tried again
        return None if self._processes.highest([found is None])[0] else found

    def _targets(self, batch: ImageBatch) -> tuple[list[ImageBatch], list[Targets]]:
        with self._precision.autocast():
            pieces = [self._model.with_stem(piece) for piece in batch.pieces(self.accumulation)]
            return pieces, [self._criterion.targets(piece) for piece in pieces]

    def _backward(
        self, pieces: Sequence[ImageBatch], targets: Sequence[Targets], totals: dict[str, Tensor], *, apart: bool
    ) -> tuple[list[str], Tensor]:
        """Forward and backward of all pieces; with ``apart`` no gradient leaves the process."""
        rows, losses = [], dict[str, Tensor]()
        for number, (piece, own) in enumerate(zip(pieces, targets, strict=True), start=1):
            exchanged = number == len(pieces) and not apart
            with nullcontext() if exchanged else self._processes.unsynchronised(self._wrapped):
                losses = self._piece(piece, own, totals)
            rows.append(torch.stack([loss.detach() for loss in losses.values()]))
        return list(losses), torch.stack(rows).sum(dim=0)

    def _statistics(self) -> list[Tensor]:
        """A copy of what a forward pass changes: the statistics of live norms."""
        return [buffer.clone() for norm in self._live for buffer in norm.buffers()]

    def _halve(self, batch: ImageBatch, kept: Sequence[Tensor]) -> None:
        """Makes the pieces half as large, with everything as it was before the step."""
        images = len(batch.images)
        if self.accumulation >= images:
            raise TrainingError(
                f"the memory of {self._model.device} does not suffice for one image of "
                f"{batch.padded[1]} x {batch.padded[0]} pixels; use a smaller model.min_size, engine.precision=bf16, "
                "fewer trainable layers, or another GPU, and resume"
            )
        self.accumulation = min(2 * self.accumulation, images)
        self._network = self._wrapped  # a CUDA graph is of one shape, and knows no second piece
        self.optimizer.zero_grad()
        for buffer, value in zip([one for norm in self._live for one in norm.buffers()], kept, strict=False):
            buffer.copy_(value)
        gc.collect()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._say is not None:
            size = -(-images // self.accumulation)
            note = "" if not self._live else ", but live BatchNorm sees the statistics of smaller pieces"
            self._say(
                f"out of memory: from here on a batch is computed in {self.accumulation} pieces of at most {size} "
                f"images on each process; batch, loss and gradient stay the same{note}"
            )

    def _piece(self, piece: ImageBatch, targets: Targets, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Forward and backward of a piece of the batch."""
        with self._precision.autocast():
            losses = self._criterion(self._network(piece), targets, totals)
        # The processes' gradients are averaged, but each holds a share of the sum.
        total = torch.stack(list(losses.values())).sum() * self._processes.world
        (total if self.scaler is None else self.scaler.scale(total)).backward()  # type: ignore[no-untyped-call]
        return losses

    def _finish(self, values: Tensor, noise: float) -> Tensor:
        """Clips, adds noise and steps; returns the norm of the gradient as the data gave it."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [one.grad for one in self._parameters if one.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=False if values.device.type == "cpu" else None)
        if self._clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)
        if noise:
            add_noise(gradients, noise)
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


@torch.no_grad()
def add_noise(gradients: Sequence[Tensor], deviation: float) -> None:
    """Gaussian noise on every element, in place; the same on all processes, and after a resumption.

    The host's random state is theirs in common and is stored with a phase; it seeds a generator on the device.
    """
    if not gradients:
        return
    generator = torch.Generator(gradients[0].device).manual_seed(int(torch.randint(2**62, ())))
    for one in gradients:
        noise = torch.randn(one.shape, generator=generator, dtype=one.dtype, device=one.device)
        one.add_(noise, alpha=deviation)


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
