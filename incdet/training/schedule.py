"""How long a phase of training is, and how fast it learns at each of its optimiser steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from incdet.config import Schedule, Train
from incdet.data.protocols import Protocol, step_view
from incdet.data.records import Record

NOISE_DECAY = 0.55


class Phase(NamedTuple):
    """A piece of training.

    Attributes:
        step: 1-based; None for joint training.
        kind: ``train``, ``interim`` or ``finetune``, the name of its files too.
    """

    step: int | None
    kind: str

    def __str__(self) -> str:
        return f"joint {self.kind}" if self.step is None else f"step {self.step} {self.kind}"


def learning_rate(schedule: Schedule, done: int, total: int) -> float:
    """The rate of the optimiser step after ``done`` of ``total``: linear warm-up, then the schedule's course.

    It is our own function of the global step because accelerate advances a prepared scheduler once a process.
    """
    warmup = min(schedule.warmup, max(1, total // 2))
    if done < warmup:
        return schedule.lr * (done + 1) / warmup
    if schedule.schedule == "cosine":
        return schedule.lr * 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1, total - warmup)))
    if schedule.schedule == "step":
        return float(schedule.lr * 0.1 ** sum(done >= share * total for share in schedule.milestones))
    return schedule.lr


def noise_deviation(schedule: Schedule, done: int, images: int) -> float:
    """Standard deviation of the gradient's noise at the optimiser step after ``done``.

    The variance is eta / (1 + t) ** 0.55 with t the passes over the ``images`` images of a phase that are finished
    (Neelakantan et al., 2015, eq. 1, whose t counts optimiser steps; Castro et al., ECCV 2018, take eta 0.3).
    """
    passes = done * schedule.batch_size // images
    return math.sqrt(schedule.gradient_noise / (1 + passes) ** NOISE_DECAY)


class Lengths:
    """Optimiser steps of every phase of a run: as the configuration says, or derived where it says nothing.

    A later step gets as many passes over its images as step 1; balanced fine-tuning a tenth of its step; joint training
    as many passes over its images as all steps together got over theirs.

    Args:
        train: The schedules.
        images: Training images of each step; 0 where nobody knows them (a step that is not trained here).
    """

    def __init__(self, train: Train, images: Sequence[int]) -> None:
        self._train, self._images = train, list(images)

    @classmethod
    def of(cls, train: Train, records: Sequence[Record], protocol: Protocol) -> Lengths:
        """Those of a run on ``records`` under ``protocol``."""
        steps = range(1, len(protocol.steps) + 1)
        return cls(train, [step_view(records, protocol, step).images for step in steps])

    def base(self) -> int:
        """Step 1."""
        return iterations(self._train.base, self._images[0])

    def increment(self, step: int) -> int:
        """A later step."""
        schedule, images = self._train.increment, self._images[step - 1]
        if schedule.iterations is not None or schedule.epochs is not None:
            return iterations(schedule, images)
        if not self._images[0]:  # passes of a step that nobody saw cannot be counted
            return self._train.base.iterations or iterations(self._train.base, images)
        passes = self.base() * self._train.base.batch_size / self._images[0]
        return max(1, round(passes * images / schedule.batch_size))

    def finetune(self, step: int, images: int) -> int:
        """The balanced fine-tuning of a step on ``images`` images."""
        schedule = self._train.finetune
        if schedule.iterations is not None or schedule.epochs is not None:
            return iterations(schedule, images)
        return max(1, round(self.increment(step) / 10))

    def joint(self, images: int) -> int:
        """Joint training on ``images`` images."""
        schedule = self._train.joint
        if schedule.iterations is not None or schedule.epochs is not None:
            return iterations(schedule, images)
        return max(1, round(self.passes() * images / schedule.batch_size))

    def passes(self) -> float:
        """How often the steps together see an image of theirs: images drawn over images there are."""
        drawn = self.base() * self._train.base.batch_size
        drawn += sum(self.increment(step) for step in self._later) * self._train.increment.batch_size
        return drawn / max(1, sum(self._images))

    @property
    def _later(self) -> range:
        return range(2, len(self._images) + 1)

    def describe(self, joint_images: int | None = None) -> str:
        """The optimiser steps of every phase in a line."""
        parts = [f"step 1 {self.base():,}"] if self._images[0] else []
        parts += [f"step {step} {self.increment(step):,}" for step in self._later if self._images[step - 1]]
        if joint_images is not None:
            steps = self.joint(joint_images)
            passes = steps * self._train.joint.batch_size / max(1, joint_images)
            parts.append(f"joint {steps:,} ({passes:.1f} passes; the steps together {self.passes():.1f})")
        return f"optimiser steps: {', '.join(parts)}"


def iterations(schedule: Schedule, images: int) -> int:
    """Optimiser steps of a schedule of its own length on ``images`` training images."""
    if schedule.iterations is not None:
        return schedule.iterations
    return max(1, round((schedule.epochs or 0) * images / schedule.batch_size))
