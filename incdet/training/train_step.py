"""One optimiser step: forward, losses, backward, clip, step. The engine repeats it; nothing in it waits for a GPU."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from incdet.config import Schedule
from incdet.errors import TrainingError
from incdet.files import replacing
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet


class Criterion(Protocol):
    """What a phase of training minimises: named scalars whose sum is the loss of the batch."""

    def __call__(self, dense: HeadOutputs, prepared: ImageBatch) -> dict[str, Tensor]:
        """Scalars of one batch."""
        ...


class Losses(NamedTuple):
    """The losses of the micro-batches of one optimiser step, where they were computed.

    Attributes:
        names: ``loss``, the sum, and then the terms.
        values: (micro-batches, names) float32.
    """

    names: tuple[str, ...]
    values: Tensor


class TrainStep:
    """Teaches ``model`` one optimiser step a call.

    A loss that is not finite changes no weight: the fused optimiser itself skips the step, told by a flag on its own
    device, so that the host need not look first.

    Args:
        accelerator: Precision, gradient accumulation and processes.
        model: On its device, in training mode.
        criterion: The loss.
        schedule: Optimiser and clipping.
        network: Runs in place of ``model`` and learns with its parameters; None is the model itself.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: IncrementalRetinaNet,
        criterion: Criterion,
        schedule: Schedule,
        network: Callable[[ImageBatch], HeadOutputs] | None = None,
    ) -> None:
        self.optimizer = make_optimizer(model, schedule)
        self._accelerator = accelerator
        self._criterion = criterion
        self._clip = schedule.clip
        self._parameters = list(model.parameters())
        self._wrapped: nn.Module = accelerator.prepare_model(model) if accelerator.num_processes > 1 else model
        self._network: Callable[[ImageBatch], HeadOutputs] = network or self._wrapped
        self._stepper = accelerator.prepare_optimizer(self.optimizer)

    def __call__(self, batches: Sequence[ImageBatch], rate: float) -> Losses:
        """One step at learning rate ``rate`` on the mean gradient of the micro-batches."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        names: tuple[str, ...] = ()
        values = []
        for number, prepared in enumerate(batches, start=1):
            with nullcontext() if number == len(batches) else self._accelerator.no_sync(self._wrapped):
                with self._accelerator.autocast():
                    losses = self._criterion(self._network(prepared), prepared)
                total = torch.stack(list(losses.values())).sum()
                values.append(torch.stack([total.detach(), *(loss.detach() for loss in losses.values())]))
                names = ("loss", *losses)
                self._accelerator.backward(total / len(batches))
        found = Losses(names, torch.stack(values))
        if self._clip is not None:
            self._accelerator.clip_grad_norm_(self._parameters, self._clip)
        if self._accelerator.scaler is None:
            # The place where torch's loss scaler, which does the same with gradients, leaves its verdict.
            self.optimizer.found_inf = (~found.values.isfinite()).any().float()  # type: ignore[attr-defined]
        self._stepper.step()
        self._stepper.zero_grad()
        return found


class NonFiniteCheck:
    """Reads losses back and stops at one that is not finite, with its batch saved.

    On a GPU the reading of a step is awaited when the next one has been launched, so that the GPU never idles for it.

    Args:
        state: File that the phase resumes from; ``nonfinite.pt`` lies beside it. None saves nothing.
        lag: Optimiser steps that may be launched before an earlier one is read.
    """

    def __init__(self, state: Path | None, lag: int) -> None:
        self._state = state
        self._lag = lag
        self._waiting: deque[_Reading] = deque()

    def watch(self, losses: Losses, batches: Sequence[ImageBatch], random: Tensor, done: int) -> None:
        """Starts the copy of the losses of optimiser step ``done`` to the host, and keeps what they came from."""
        values, copied = losses.values, None
        if values.is_cuda:
            values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values.copy_(losses.values, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._waiting.append(_Reading(losses.names, values, copied, batches, random, done))

    def read(self, *, everything: bool = False) -> Iterator[dict[str, float]]:
        """The mean losses of the steps that are due, oldest first; with ``everything`` of all that were watched.

        Raises:
            TrainingError: A loss was not finite.
        """
        while len(self._waiting) > (0 if everything else self._lag):
            reading = self._waiting.popleft()
            if reading.copied is not None:
                reading.copied.synchronize()
            rows = reading.values.tolist()
            for prepared, row in zip(reading.batches, rows, strict=True):
                if not all(math.isfinite(value) for value in row):
                    self._refuse(dict(zip(reading.names[1:], row[1:], strict=True)), prepared, reading)
            columns = zip(*rows, strict=True)
            yield {name: sum(column) / len(rows) for name, column in zip(reading.names, columns, strict=True)}

    def _refuse(self, losses: Mapping[str, float], prepared: ImageBatch, reading: _Reading) -> None:
        """Saves the batch as the network saw it, and the random state it was prepared from."""
        saved = "nothing was saved"
        if self._state is not None:
            path = self._state.with_name("nonfinite.pt")
            with replacing(path) as draft, draft.open("wb") as handle:
                torch.save({**prepared._asdict(), "rng": reading.random, "iteration": reading.done}, handle)
            saved = f"batch and random state are in {path}"
        raise TrainingError(
            f"loss is not finite at iteration {reading.done + 1}: {losses}; {saved}; lower the learning rate, lengthen "
            "the warm-up, set a clip, or use engine.precision=off"
        )


class _Reading(NamedTuple):
    names: tuple[str, ...]
    values: Tensor
    copied: torch.cuda.Event | None
    batches: Sequence[ImageBatch]
    random: Tensor
    done: int


def make_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """A fused optimiser over the parameters that train: the fused form is the fastest on CPU and GPU alike."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=schedule.lr, weight_decay=schedule.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay, fused=True
    )
