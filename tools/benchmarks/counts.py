"""Suite ``counts``: operations and host waits of a training step, and whether they grow with the batch.

A dispatch mode sees every operation that reaches a backend, those of backward and optimiser included; nothing is
timed, and ``ours`` and ``theirs`` hold counts in place of seconds. A wait is where the host needs a value from the
device: a scalar, or the length of a result. The counts are those of the order of work that a GPU gets, on whatever
device they are taken: on a CPU assignment and losses go block by block through the cache instead, where an operation
costs nothing to launch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.harness import Options, Row, commit, device_name
from benchmarks.training import OurStep, Size, TheirStep, make_batch, make_detector, make_ours
from incdet.ops import assign, losses

WAITING = {"_local_scalar_dense", "nonzero", "bincount", "masked_select", "_unique2", "repeat_interleave", "nms"}
INDEXING = {"index", "index_put", "index_put_"}
FEW, MANY = 2, 8


class Count(NamedTuple):
    """Operations and host waits of one call."""

    operations: int
    waits: int


def rows(options: Options) -> Iterator[Row]:
    """Batches of 2 and 8; what a further image adds; then the same for ours with static shapes."""
    counts = {}
    for images in (FEW, MANY):
        size = Size("resnet18" if options.quick else "resnet50", images, 64 if options.quick else 128, 20)
        detector, batch = make_detector(size), make_batch(size)
        counts[images] = {
            "theirs": count(TheirStep(copy.deepcopy(detector), batch, options.device)),
            "ours": _count_ours(OurStep(make_ours(detector), batch, options.device)),
            "static": _count_ours(OurStep(make_ours(detector), batch, options.device, static=True)),
        }
    for label, name in (("", "ours"), ("static ", "static")):
        for kind in Count._fields:
            many, few = (
                [float(getattr(counts[images][side], kind)) for side in (name, "theirs")] for images in (MANY, FEW)
            )
            yield _row(f"{label}{kind} B={MANY}", many[0], many[1], options)
            growth = [(most - least) / (MANY - FEW) for most, least in zip(many, few, strict=True)]
            yield _row(f"{label}{kind} an image", growth[0], growth[1], options)


def count(call: Callable[[], object]) -> Count:
    """What ``call`` does, in the order of work of a GPU, after one call that fills every cache."""
    with _order_of_a_gpu():
        call()
        with _Counter() as counter, counter.reading():
            call()
    return Count(counter.operations, counter.waits)


def _count_ours(step: OurStep) -> Count:
    found = count(step)
    if step.device == "cpu":
        # What prepare asks, it asks of host tensors before they move; here a mode cannot tell them from the others.
        prepared = step.prepare()
        return found._replace(waits=count(lambda: step.learn(prepared)).waits)
    return found


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        # A view is made on the host alone.
        self.operations += not func.is_view
        self.waits += name in WAITING or (name in INDEXING and any(_is_mask(index) for index in args[1]))
        result = func(*args, **(kwargs or {}))
        to_host = isinstance(result, Tensor) and args and isinstance(args[0], Tensor) and args[0].is_cuda
        self.waits += bool(to_host and name in ("_to_copy", "copy_") and not result.is_cuda)
        return result

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Counts ``tolist`` too, which asks no operation where the tensor is on the host."""
        plain = Tensor.tolist

        def tolist(tensor: Tensor) -> Any:
            self.waits += not tensor.is_cuda
            return plain(tensor)

        with mock.patch.object(Tensor, "tolist", tolist):
            yield


def _is_mask(index: object) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


@contextmanager
def _order_of_a_gpu() -> Iterator[None]:
    with (
        mock.patch.object(losses, "CPU_BLOCK", losses.GPU_BLOCK),
        mock.patch.object(losses, "_all_on_host", lambda mask: False),
        mock.patch.object(assign, "_match_one_by_one", assign._match_padded),
    ):
        yield


def _row(case: str, ours: float, theirs: float, options: Options) -> Row:
    return Row(
        suite="counts",
        case=case,
        ours=ours,
        theirs=theirs,
        ratio=theirs / max(ours, 1.0),
        aa=1.0,
        equal=True,
        peak_ratio=None,
        device=device_name(options.device),
        torch=torch.__version__,
        commit=commit(),
        found="the same losses (see step)",
        unit="",
    )
