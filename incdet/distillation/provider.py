"""Whoever answers for the teachers of a phase: the networks themselves here, or what is remembered of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch

from incdet.distillation.teacher import Teacher
from incdet.distillation.teacher_targets import BatchTargets, Entries, TermTargets
from incdet.distillation.term import Term
from incdet.network.retinanet import ImageBatch, IncrementalRetinaNet


class Provider(Protocol):
    """Gives the terms of a method what they keep of the teachers' answers."""

    def __call__(self, batch: ImageBatch, targets: BatchTargets) -> Mapping[str, TermTargets]:
        """By the name of the term."""
        ...


class Teaching(NamedTuple):
    """The teachers of a phase and the terms that listen to them.

    Attributes:
        teachers: By name.
        terms: Fitted to the step.
    """

    teachers: Mapping[str, Teacher]
    terms: Sequence[Term]

    @property
    def models(self) -> list[IncrementalRetinaNet]:
        """Every network that answers."""
        return [model for teacher in self.teachers.values() for model in teacher.models]

    @property
    def cachable(self) -> bool:
        """Whether every term keeps entries alone, and not whole maps."""
        return not any("features" in term.needs for term in self.terms)

    def to(self, device: torch.device | str) -> Teaching:
        """The same with the teachers on ``device``."""
        for teacher in self.teachers.values():
            teacher.to(device)
        return self

    @torch.no_grad()
    def targets(self, batch: ImageBatch, targets: BatchTargets) -> dict[str, TermTargets]:
        """What the terms keep of the teachers' answers to a batch whose ``stem`` the teachers share, if it has one."""
        answers = {name: teacher(batch) for name, teacher in self.teachers.items()}
        return {term.name: term.targets(answers, targets) for term in self.terms}


class OnlineProvider:
    """Runs the teachers on every batch, from the student's stem where all of them share it.

    Args:
        teaching: Teachers and terms.
        student: Whose batches come; None if the teachers are to run their own stems.
    """

    def __init__(self, teaching: Teaching, student: IncrementalRetinaNet | None = None) -> None:
        self._teaching = teaching
        self._shared = student is not None and all(t.shares_stem(student) for t in teaching.teachers.values())

    def __call__(self, batch: ImageBatch, targets: BatchTargets) -> Mapping[str, TermTargets]:
        """What the terms keep of the teachers' answers."""
        return self._teaching.targets(batch if self._shared else batch._replace(stem=None), targets)


class PartlyCached:
    """Answers from a cache for the pictures of the training set, from the teachers for those made for one batch.

    The latter come last in a batch, and their targets say ``made``.

    Args:
        cached: Answers for what was foreseen.
        online: Answers for the rest.
        student: Whose batches come.
        masked: See ``BatchTargets.read``.
    """

    def __init__(self, cached: Provider, online: Provider, student: IncrementalRetinaNet, *, masked: bool) -> None:
        self._cached, self._online, self._student, self._masked = cached, online, student, masked

    def __call__(self, batch: ImageBatch, targets: BatchTargets) -> Mapping[str, TermTargets]:
        """What the terms keep of both."""
        foreseen = sum("made" not in target for target in targets.targets)
        parts = []
        if foreseen:
            known = batch.part(0, foreseen)
            parts.append((0, self._cached(known, targets._replace(targets=targets.targets[:foreseen]))))
        if foreseen < len(targets.targets):
            rest = batch.part(foreseen)
            own = BatchTargets.read(self._student, rest, masked=self._masked)
            parts.append((foreseen, self._online(rest, own)))
        return _joined(parts)


def _joined(parts: Sequence[tuple[int, Mapping[str, TermTargets]]]) -> Mapping[str, TermTargets]:
    """The lists of pieces of a batch as lists of the whole, given the number of each piece's first image."""
    (_, first), *more = parts
    if not more:
        return first
    found: dict[str, dict[str, Entries]] = {}
    for term, lists in first.items():
        for name in lists:
            own = [(start, entries) for start, given in parts if isinstance(entries := given[term][name], Entries)]
            values = {key: torch.cat([one[key] for _, one in own]) for key in own[0][1].values}
            image = torch.cat([one.image + start for start, one in own])
            found.setdefault(term, {})[name] = Entries(image, torch.cat([one.anchor for _, one in own]), values)
    return {**found}
