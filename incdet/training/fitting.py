"""A schedule that fits the data: how many images at once, how many steps, how fast.

The rules are ours: what is usual for many images, and for few what 36 photographs and one small detector said
(docs/extend.md has the figures). They are starting points that a setting overrules, not a law.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from incdet.config import Schedule

PASSES = 12.0
"""How often many images are seen: the 1x schedule of detectron on COCO."""
MANY = 1000
"""Images from which on that is enough; fewer are seen more often, by the cube root of what is missing."""
SHOWN = 300
"""How often objects of the rarest class ought to be seen in all."""
LEAST_STEPS = 300
"""A new predictor starts at a probability of 0.01 everywhere and has not left it after fewer steps."""
MOST_STEPS = 90_000
"""The 1x schedule of detectron on COCO."""
GENTLE = 0.1
"""Of the rate, where known classes are refreshed: nothing has to grow from a predictor that knows nothing."""
BATCHES = (16, 8, 4, 2, 1)
"""Images in a step; the first for whose eightfold there are images, if they fit in memory."""


class Fit(NamedTuple):
    """What was chosen.

    Attributes:
        batch_size: Images in a step.
        iterations: Optimiser steps.
        lr: Highest learning rate, lowered for a smaller batch than the schedule's.
        warmup: Steps of warm-up: the schedule's, but at most a tenth of all.
    """

    batch_size: int
    iterations: int
    lr: float
    warmup: int


def refresh(schedule: Schedule, images: int, most: int) -> Fit:
    """The schedule for ``images`` images of known classes alone: ``PASSES`` over them at ``GENTLE`` of the rate.

    Arguments as of ``fit``.
    """
    found = fit(schedule, images, 1, most)
    steps = min(MOST_STEPS, max(1, round(PASSES * images / found.batch_size)))
    return Fit(found.batch_size, steps, float(f"{GENTLE * found.lr:.3g}"), min(schedule.warmup, steps // 10))


def fit(schedule: Schedule, images: int, rarest: int, most: int) -> Fit:
    """The schedule for ``images`` images that show new classes.

    Args:
        schedule: Optimiser, and the rate for its own batch size.
        images: Training images of the step, at least 1.
        rarest: Objects of the class that has fewest.
        most: Images that memory holds at once; less than 1 counts as 1.
    """
    batch = fitted_batch(images, most)
    ratio = batch / schedule.batch_size
    # Goyal et al., 2017, for SGD; the root for Adam's kind: Malladi et al., NeurIPS 2022.
    lr = schedule.lr * (ratio if schedule.optimizer == "sgd" else math.sqrt(ratio))
    steps = fitted_steps(images, rarest, batch)
    return Fit(batch, steps, float(f"{lr:.3g}"), min(schedule.warmup, steps // 10))


def fitted_batch(images: int, most: int) -> int:
    """Images in a step: at most what memory holds, and not so many that a pass over few images is one step."""
    wanted = next((size for size in BATCHES if 8 * size <= images), 4)
    return next((size for size in BATCHES if size <= min(max(wanted, 4), max(1, most))), 1)


def fitted_steps(images: int, rarest: int, batch: int) -> int:
    """Optimiser steps over ``images`` images in batches of ``batch``; see ``PASSES`` and what follows it."""
    passes = PASSES * max(1.0, math.pow(MANY / images, 1 / 3))
    passes = min(2 * passes, max(passes, SHOWN / max(1, rarest)))
    return min(MOST_STEPS, max(LEAST_STEPS, round(passes * images / batch)))
