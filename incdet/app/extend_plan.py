"""What an extension is going to do, before it does it: for people as lines, for programs as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FEW = 12
"""So many names are written out."""
_UNMEASURED = (
    "nothing, as no image is held out (too few of a class, or --validation 0): give --test-data to see gains and losses"
)


@dataclass(frozen=True)
class Plan:
    """An extension as it is going to be; everything in it is known before training.

    Attributes:
        detector: Where it comes from.
        known: The classes it knows.
        new: The classes it is going to learn.
        refreshed: The known ones whose labels in the new images are used too.
        ignored: Classes that the annotations list and that play no part, as no image shows one or nobody asked.
        data: What the annotations are, in words.
        images: Images to learn from.
        objects: Objects of each class in them.
        measured: What old and new classes are measured on, in words; empty if on nothing.
        measured_images: How many images those are.
        exemplars: What is kept of old images, in words.
        keep: ``balanced``, ``fast`` or ``strict``; None where a method was named.
        method: The method, and what it is.
        source: Where the method comes from.
        steps: Optimiser steps of each phase.
        batch_size: Images in a step.
        passes: How often the new images are seen in the main phase.
        output: The run folder.
        checkpoint: The folder of the new detector.
        resumes: Whether an earlier part of the run lies there.
    """

    detector: str
    known: tuple[str, ...]
    new: tuple[str, ...]
    refreshed: tuple[str, ...]
    ignored: tuple[str, ...]
    data: str
    images: int
    objects: Mapping[str, int]
    measured: str
    measured_images: int
    exemplars: str
    keep: str | None
    method: str
    source: str
    steps: Mapping[str, int]
    batch_size: int
    passes: float
    output: str
    checkpoint: str
    resumes: bool

    def lines(self) -> list[str]:
        """The plan for people."""
        counts = ", ".join(f"{name} {self.objects.get(name, 0)}" for name in (*self.new, *self.refreshed)[:FEW])
        more = len(self.new) + len(self.refreshed) - FEW
        rest = f", and {more} classes more" if more > 0 else ""
        steps = ", ".join(f"{kind} {count:,}" for kind, count in self.steps.items())
        keep = f"{self.keep}: " if self.keep else ""
        rows = {
            "detector": self.detector,
            "known": f"{len(self.known)} classes: {_listed(self.known)}",
            "new": f"{len(self.new)} classes: {_listed(self.new)}" if self.new else "none: known ones are refreshed",
            "refreshed": _listed(self.refreshed),
            "left out": f"{_listed(self.ignored)} (listed in the annotations, but not shown or not asked for)",
            "data": self.data,
            "learns from": f"{self.images} images; objects: {counts}{rest}",
            "measured on": self.measured or _UNMEASURED,
            "kept": self.exemplars,
            "method": f"{keep}{self.method} ({self.source})",
            "length": f"{steps} steps of {self.batch_size} images; each image {self.passes:.0f} times",
            "writes": f"{self.checkpoint}" + (" (goes on with an earlier part)" if self.resumes else ""),
        }
        empty = {"refreshed": not self.refreshed, "left out": not self.ignored}
        return [f"{name + ':':<13}{text}" for name, text in rows.items() if not empty.get(name)]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def _listed(names: tuple[str, ...]) -> str:
    rest = f", ... and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + rest
