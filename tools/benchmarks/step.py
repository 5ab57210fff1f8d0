"""Suite ``step``: a whole training step, against the iteration of torchvision's reference script.

The last case is no comparison with torchvision: its ``theirs`` is the time that the step's convolutions and matrix
products would take at the speed of one large matrix product measured in the same run, so that its ratio is the share
of that peak which the step reaches.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Equality, Options, Row, measure
from benchmarks.training import OurStep, Size, TheirStep, compare_steps, make_batch, make_detector, make_ours


def rows(options: Options) -> Iterator[Row]:
    """ResNet-50 FPN-256, K=20; on a GPU at 512 px and also against autocast, on a CPU a batch that takes seconds."""
    size = Size("resnet18", 2, 64, 3) if options.quick else Size("resnet50", 2, 320, 20)
    if options.device == "cuda" and not options.quick:
        size = Size("resnet50", 8, 512, 20)
    detector, batch = make_detector(size), make_batch(size)
    equality = compare_steps(detector, batch, options.device)
    ours = OurStep(make_ours(detector), batch, options.device)
    rounds = options.rounds if options.device == "cuda" or options.quick else 5
    theirs = TheirStep(copy.deepcopy(detector), batch, options.device)
    yield measure("step", str(size), ours, theirs, equality, options, rounds)
    if options.device == "cuda":
        autocast = TheirStep(copy.deepcopy(detector), batch, options.device, torch.bfloat16)
        yield measure("step", f"{size} autocast", ours, autocast, equality, options, rounds)
        static = OurStep(make_ours(detector), batch, options.device, static=True)
        yield measure("step", f"{size} static shapes", static, autocast, equality, options, rounds)
    yield _share_of_peak(ours, options, rounds)


def _share_of_peak(ours: OurStep, options: Options, rounds: int) -> Row:
    with FlopCounterMode(display=False) as counter:
        ours()
    work = counter.get_total_flops()
    side = 256 if options.quick else 8192 if options.device == "cuda" else 2048
    dtype = ours.precision.dtype or torch.float32
    left, right = (torch.randn(side, side, device=options.device, dtype=dtype) for _ in range(2))
    repeats = work / (2 * side**3)

    def product() -> Tensor:
        return left @ right

    row = measure("step", "share of peak", ours, product, Equality(True, ""), options, rounds)
    speed = 2 * side**3 / row.theirs
    found = f"{work / 1e9:.0f} GFLOP a step, matrix product of {side} squared at {speed / 1e12:.3g} TFLOP/s"
    floor = row.theirs * repeats
    return replace(row, theirs=floor, ratio=floor / row.ours, peak_ratio=None, found=found)
