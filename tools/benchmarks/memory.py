"""Suite ``memory``: the peak of a whole training step, against the iteration of torchvision's reference script.

The peak is what torch's allocator holds beyond weights and optimiser state that were there before the step: prepared
images, activations, losses and gradients. The times of one call each are printed beside it, not measured with care.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from benchmarks.harness import Options, Row, measure
from benchmarks.training import OurStep, Size, TheirStep, compare_steps, make_batch, make_detector, make_ours


def rows(options: Options) -> Iterator[Row]:
    """ResNet-50 FPN-256, B=8 at 512 px, with 20 and 80 classes."""
    for classes in (20, 80):
        size = Size("resnet18", 2, 64, classes) if options.quick else Size("resnet50", 8, 512, classes)
        detector, batch = make_detector(size), make_batch(size)
        equality = compare_steps(detector, batch, options.device)
        ours = OurStep(make_ours(detector), batch, options.device)
        theirs = TheirStep(copy.deepcopy(detector), batch, options.device)
        yield measure("memory", str(size), ours, theirs, equality, options, rounds=1)
