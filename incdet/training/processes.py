"""The processes of a run: which of how many this one is, and what they say to each other.

One process needs no group. Several are started by ``torchrun`` or ``accelerate launch``; accelerate then opens the
group: gloo for what lies on the host, and NCCL for what lies on GPUs. Rank 0 alone decides by what lies in the run
folder and writes there; what it finds, or fails at, it shares (``once``): others might look before or after it wrote.
"""

from __future__ import annotations

import inspect
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from incdet.errors import Finding, InputError, Terminated, TrainingError, relayed
from incdet.network.device import device_named

T = TypeVar("T")

PATIENCE = timedelta(hours=24)
"""How long a process waits for another: rank 0 may score, or fill a cache, for hours. A dead one is noticed at once."""
BUCKET = 1 << 24
"""Numbers of gradients that are exchanged in one piece."""
_LOST = re.compile(r"gloo|nccl|connection|broken pipe|socket|timed out", re.IGNORECASE)


class Processes:
    """The processes that train together.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; with several processes each takes the GPU of its local rank.

    Attributes:
        rank: Number of this process.
        world: Number of processes.
        local: Number of processes on this machine.
        device: Where this one computes.

    Raises:
        InputError: There is no such device, or not for several processes.
    """

    def __init__(self, device: str = "auto") -> None:
        self.rank, self.world, self.local = 0, 1, 1
        self.device = device_named(device, "key engine.device")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            if self.device.type not in ("cpu", "cuda"):
                fix = "use cpu, or start one process"
                raise InputError(Finding("key engine.device", device, "cannot be shared by several processes", fix))
            state = _group()
            self.rank, self.world = state.process_index, state.num_processes
            self.local = int(os.environ.get("LOCAL_WORLD_SIZE", self.world))
            if self.device.type == "cuda":
                self.device = torch.device(state.device)
        elif self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    @property
    def main(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    # --- gradients and losses

    def wrapped(self, model: nn.Module, *, fixed_buffers: bool = False) -> nn.Module:
        """``model`` such that a backward pass averages its gradients over the processes, while it still goes on.

        Args:
            model: On this process's device, with the same weights on each.
            fixed_buffers: No buffer changes in training; otherwise all take those of rank 0 before each forward.
        """
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        known = inspect.signature(DistributedDataParallel).parameters
        word = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # renamed by torch
        more: dict[str, Any] = {word: not fixed_buffers}
        return DistributedDataParallel(model, device_ids=devices, **more)

    def unsynchronised(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """A backward pass inside keeps its gradients to itself; the next one outside adds and averages them."""
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Averages gradients that a backward pass kept to itself, in place; a missing one counts as zero."""
        if self.world == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket]).div_(self.world)
            torch.distributed.all_reduce(flat)
            for gradient, mean in zip(bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True):
                gradient.copy_(mean.view(gradient.shape))

    def align(self, model: nn.Module) -> None:
        """Gives ``model`` the weights that it has on rank 0, in place."""
        if self.world > 1:
            for value in model.state_dict().values():
                torch.distributed.broadcast(value, src=0)

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

    # --- decisions

    def highest(self, values: Sequence[int]) -> list[int]:
        """The highest of each number over all processes; hosts alone talk, so that no GPU is waited for."""
        if self.world == 1:
            return list(values)
        found = torch.tensor([int(value) for value in values])
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return [int(value) for value in found]

    def gathered(self, value: T) -> list[T]:
        """The value of every process, by rank, on each of them; anything that can be pickled."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def shared(self, value: T) -> T:
        """The value of rank 0, on each process."""
        if self.world == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def once(self, job: Callable[[], T]) -> T:
        """What ``job`` returns on rank 0, which alone does it; on each process. What it raises is raised on each."""
        if self.world == 1:
            return job()
        if not self.main:
            value, fault = self.shared((None, None))
            if fault is not None:
                raise fault
            return value  # type: ignore[return-value]
        try:
            value = job()
        except BaseException as error:
            self.shared((None, _for_others(error)))
            raise
        self.shared((value, None))
        return value

    def together(self, job: Callable[[], T]) -> T:
        """What ``job`` returns here, when every process has done its own; what one raises is raised on each."""
        if self.world == 1:
            return job()
        value, fault = None, None
        try:
            value = job()
        except Exception as error:
            fault = error
        if (stop := self.stop_of(fault, self.highest([fault is not None])[0])) is not None:
            raise stop
        return value  # type: ignore[return-value]

    def first(self, job: Callable[[], T]) -> T:
        """What ``job`` returns; rank 0 is through with it before the others begin, and find what it has made."""
        if self.world == 1:
            return job()
        made: list[T] = []
        self.once(lambda: made.append(job()))
        return self.together(lambda: made[0] if self.main else job())

    def stop_of(self, own: BaseException | None, any_stops: int) -> BaseException | None:
        """What this process has to raise, once ``highest`` has told whether one of them stops: its own, or another's.

        A fault goes before an interruption, and SIGTERM before Ctrl-C, so that all end for the same reason.
        """
        if self.world == 1 or not any_stops:
            return own
        reasons = [one for one in self.gathered(None if own is None else _for_others(own)) if one is not None]
        if own is not None and not isinstance(own, KeyboardInterrupt):
            return own
        return min(reasons, key=lambda one: (isinstance(one, KeyboardInterrupt), not isinstance(one, Terminated)))

    def share(self, items: Sequence[T], size: int) -> list[int]:
        """Places in ``items`` that are this process's, of which each has every ``world``-th run of ``size``.

        In batches of ``size`` they are the same batches that one process alone would make, a ragged last one included.
        """
        return [place for place in range(len(items)) if place // size % self.world == self.rank]

    def wait(self) -> None:
        """Returns when every process has come here."""
        self.highest([0])

    @contextmanager
    def talking(self) -> Iterator[None]:
        """A process that ends while the others are in the block is named as what it is to them.

        Raises:
            TrainingError: Another process has ended.
        """
        try:
            yield
        except RuntimeError as error:
            told = isinstance(error, torch.OutOfMemoryError) or not _LOST.search(f"{type(error).__name__} {error}")
            if self.world == 1 or told:
                raise
            line = (str(error).splitlines() or [repr(error)])[0]
            raise TrainingError(
                f"another process of the run has ended ({line}); its own message says why; "
                "the last checkpoint stands: run the same command again, train with --resume"
            ) from error


def leave() -> None:
    """Closes the group of a run that is through; without one nothing happens."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _group() -> Any:
    """The state that accelerate keeps of the group, which the first call opens."""
    from accelerate import PartialState

    on_gpus = torch.cuda.is_available()
    state = PartialState(cpu=not on_gpus, backend="cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=PATIENCE)
    return state


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one type, in order, as many as fill a bucket."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(one.numel() for one in bucket) + gradient.numel() > BUCKET
        if bucket and (full or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def _for_others(error: BaseException) -> BaseException:
    """The exception as other processes raise it, who do not tell it again."""
    try:
        copied: BaseException = pickle.loads(pickle.dumps(error))
    except Exception:  # an exception of a library need not be such that it can be sent
        copied = RuntimeError(repr(error))
    return relayed(copied)
