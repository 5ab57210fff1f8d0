"""The processes of a run: which of how many this one is, and what they say to each other.

One process needs no group. Several are started by ``torchrun`` or ``accelerate launch``; accelerate then opens the
group on the devices that are there (NCCL on GPUs, gloo elsewhere).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from incdet.network.device import device_named

T = TypeVar("T")


class Processes:
    """The processes that train together.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; with several processes each takes the GPU of its local rank.
    """

    def __init__(self, device: str = "auto") -> None:
        self.rank, self.world = 0, 1
        self.device = device_named(device, "key engine.device")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            state = PartialState(cpu=self.device.type == "cpu")
            self.rank, self.world, self.device = state.process_index, state.num_processes, torch.device(state.device)
        elif self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    @property
    def main(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def wrapped(self, model: nn.Module, *, fixed_buffers: bool = False) -> nn.Module:
        """``model`` such that a backward pass averages its gradients over the processes.

        Args:
            model: On this process's device, with the same weights on each.
            fixed_buffers: No buffer changes in training; otherwise all take those of rank 0 before each forward.
        """
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=not fixed_buffers)

    def unsynchronised(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """A backward pass inside keeps its gradients to itself; the next one outside adds and averages them."""
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all processes, on each of them."""
        if self.world > 1:
            values = values.clone()
            torch.distributed.all_reduce(values)
        return values

    def totals(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The sums of scalars by name, over all ``parts`` and all processes, in one exchange."""
        names = list(parts[0])
        rows = torch.stack([torch.stack([part[name].float() for name in names]) for part in parts])
        return dict(zip(names, self.summed(rows.sum(dim=0)).unbind(), strict=True))

    def gathered(self, value: T) -> list[T]:
        """The value of every process, by rank, on each of them; anything that can be pickled."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def shared(self, value: T) -> T:
        """The value of rank 0, on each process."""
        return self.gathered(value)[0]

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.world > 1:
            torch.distributed.barrier()
