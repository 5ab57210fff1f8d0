"""What a term of a method's loss is: the protocol that methods of this and of other packages build on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor

from incdet.data.records import Record
from incdet.distillation.part import Part
from incdet.distillation.teacher import Teacher, TeacherOutputs
from incdet.distillation.teacher_targets import BatchTargets, TermTargets
from incdet.network.retinanet import HeadOutputs
from incdet.ops.losses import ClassTargets

Answers = Mapping[str, TeacherOutputs]
"""What each teacher says about a batch, by the teacher's name: ``old``, ``interim``."""


class StepData(NamedTuple):
    """What a term may look at before a step is trained.

    Attributes:
        teachers: By name.
        records: The step's images.
        exemplars: Those of the memory.
        batch_size: Images of a forward.
        say: Told what the user should know.
        names: The step's new classes.
    """

    teachers: Mapping[str, Teacher]
    records: Sequence[Record]
    exemplars: Sequence[Record]
    batch_size: int
    say: Callable[[str], None]
    names: Sequence[str] = ()


@runtime_checkable
class Term(Protocol):
    """One named, weighted part of a method's loss that teachers speak in.

    Attributes:
        name: What tables, settings and ``without`` call it.
        needs: What it reads of the student and of its teachers, of ``logits``, ``deltas`` and ``features``. A term that
            needs ``features`` is never cached, and the network's features then keep their gradient.
        teachers: Names of the teachers it listens to: ``old`` is the network before the step, ``interim`` one that was
            trained on the step's images alone.
        weight: Factor of the term.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]

    @property
    def teachers(self) -> tuple[str, ...]: ...  # noqa: D102

    def fit(self, step: StepData) -> Term:
        """The term as this step needs it, with what it measured on the step's data, or itself."""
        ...

    def targets(self, answers: Answers, batch: BatchTargets) -> TermTargets:
        """What it keeps of the teachers' answers; no gradient flows through it."""
        ...

    def count(self, targets: TermTargets, batch: BatchTargets) -> Tensor:
        """A scalar that the term's loss is divided by, once it is summed over the whole batch of an optimiser step.

        So the loss does not depend on how a batch is cut into pieces or spread over processes.
        """
        ...

    def class_targets(self, targets: TermTargets, batch: BatchTargets, total: Tensor) -> ClassTargets | None:
        """What the focal loss is to compute for the term, in the one pass over the logits; None for nothing."""
        ...

    def losses(
        self, student: HeadOutputs, targets: TermTargets, batch: BatchTargets, total: Tensor, focal: Tensor | None
    ) -> dict[str, Tensor]:
        """Named, weighted float32 scalars, zero where the student agrees with its teachers.

        Args:
            student: Its outputs.
            targets: As ``targets`` made them.
            batch: The annotations.
            total: The sum of ``count`` over the whole batch of the optimiser step.
            focal: The focal loss of ``class_targets``, if there were any.
        """
        ...


class PlainTerm(Part):
    """A term that needs no fitting, is no focal loss, and has one loss of its own name."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    weight: float = Field(1.0, ge=0)
    """Factor of the term."""

    @property
    def teachers(self) -> tuple[str, ...]:
        """The network before the step."""
        return ("old",)

    def fit(self, step: StepData) -> Term:
        """Nothing to fit."""
        del step
        return self

    def targets(self, answers: Answers, batch: BatchTargets) -> TermTargets:
        """See ``Term``."""
        raise TypeError(f"{type(self).__name__} has to define targets()")

    def count(self, targets: TermTargets, batch: BatchTargets) -> Tensor:
        """See ``Term``; by default the number of images."""
        del targets
        return batch.coverage.new_full((), len(batch.targets), dtype=batch.anchors.dtype)

    def class_targets(self, targets: TermTargets, batch: BatchTargets, total: Tensor) -> ClassTargets | None:
        """No focal loss."""
        del targets, batch, total
        return None

    def loss(self, student: HeadOutputs, targets: Any, batch: BatchTargets, total: Tensor) -> Tensor:
        """The unweighted scalar."""
        raise TypeError(f"{type(self).__name__} has to define loss()")

    def losses(
        self, student: HeadOutputs, targets: TermTargets, batch: BatchTargets, total: Tensor, focal: Tensor | None
    ) -> dict[str, Tensor]:
        """The weighted scalar under the term's name."""
        del focal
        return {self.name: self.weight * self.loss(student, targets, batch, total)}


Images = Literal["new", "exemplars", "both"]
"""On which images a term listens to its teachers."""
