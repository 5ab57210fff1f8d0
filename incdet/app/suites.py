"""The benchmarks of `tools/reproduce.py`: which configurations, with which settings, make a suite."""

from __future__ import annotations

from typing import NamedTuple

from incdet.errors import Finding, InputError, suggest


class Entry(NamedTuple):
    """One protocol of a suite.

    Attributes:
        name: In tables and folders.
        config: File below ``configs/``.
        settings: ``key=value`` words that make this protocol of the file.
    """

    name: str
    config: str
    settings: tuple[str, ...] = ()


_VOC20 = "voc20/15+5.yaml"

SUITES: dict[str, tuple[Entry, ...]] = {
    "shapes": (Entry("2x3", "shapes/demo.yaml"),),
    "voc20-small": (Entry("5+5", "voc20/small.yaml"),),
    "voc20": (
        Entry("15+5", _VOC20),
        Entry("10+10", _VOC20, ("protocol.steps=10+10",)),
        Entry("19+1", _VOC20, ("protocol.steps=19+1",)),
        Entry("10+2x5", _VOC20, ("protocol.steps=10+2x5",)),
    ),
    "coco80": (Entry("40+40", "coco80/40+40.yaml"),),
}

REHEARSAL = (
    "data.limit.train=60",
    "data.limit.test=20",
    "model.min_size=64",
    "model.max_size=64",
    "model.channels=16",
    "model.tower_depth=1",
    "train.base.iterations=2",
    "train.base.batch_size=4",
    "train.increment.iterations=2",
    "train.increment.batch_size=4",
    "train.finetune.iterations=1",
    "train.finetune.batch_size=4",
    "train.joint.iterations=2",
    "train.joint.batch_size=4",
    "memory.per_class=1",
    "engine.workers=0",
    "engine.precision=auto",
)
"""Settings with which every run of a suite goes from end to end in seconds, and finds nothing."""


def suite_named(name: str) -> tuple[Entry, ...]:
    """The protocols of a suite.

    Raises:
        InputError: There is no such suite.
    """
    if name not in SUITES:
        raise InputError(Finding("command line", "--suite", f"{name!r} is no suite", suggest(name, SUITES)))
    return SUITES[name]
