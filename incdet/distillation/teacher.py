"""The teacher: the network as it stood before the step, frozen, run once on the batch the student sees."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from incdet.distillation.teacher_targets import BatchTargets, TeacherTargets
from incdet.distillation.terms import Responses, Selection, respond
from incdet.network.bn_folding import folded_once
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet


class Request(NamedTuple):
    """All that a method can ask of a teacher.

    Attributes:
        selections: The anchors it listens to.
        lowest: Lowest score of a detection that can become a pseudo-label, in [0, 1]; None asks for no detections.
    """

    selections: tuple[Selection, ...] = ()
    lowest: float | None = None


class TeacherOutputs(NamedTuple):
    """A teacher's answer to a question about a batch, without a graph.

    Attributes:
        responses: On the anchors that the selections take.
        detections: Per image, in prepared pixels; None if none were asked for.
    """

    responses: Responses
    detections: list[dict[str, Tensor]] | None


class Provider(Protocol):
    """Whoever answers for the teacher: the network itself, or what is remembered of it."""

    def __call__(self, prepared: ImageBatch, dense: HeadOutputs, truth: BatchTargets) -> TeacherTargets:
        """What the teacher says about a batch; ``dense`` is the student's forward on it."""
        ...


Decide = Callable[[TeacherOutputs, BatchTargets], TeacherTargets]
"""What a method makes of an answer."""


class Teacher:
    """A frozen copy of a detector that answers for its own classes and never trains.

    It is not an ``nn.Module`` on purpose: assigned to a student it cannot enter the student's state dict.

    Args:
        model: The detector whose classes it answers for; it is copied.
        snapshot: A later detector with more classes. Its logits are used for the columns that ``model`` does not
            have: the temporary distillation of the new head in balanced fine-tuning (Castro et al. 2018, sec. 3.2).
    """

    def __init__(self, model: IncrementalRetinaNet, snapshot: IncrementalRetinaNet | None = None) -> None:
        self.model = _frozen(model)
        self.snapshot = _frozen(snapshot) if snapshot is not None else None
        # Nobody else has these copies: their folded filters hold for good.
        self._kept = ExitStack()
        for frozen in (self.model, self.snapshot):
            if frozen is not None:
                self._kept.enter_context(folded_once(frozen))

    @property
    def columns(self) -> int:
        """How many leading logit columns it answers for."""
        return len((self.snapshot or self.model).vocab)

    def to(self, device: torch.device | str) -> Teacher:
        """The same teacher on ``device``; on a GPU in the order of memory that convolutions are fastest in."""
        for model in (self.model, self.snapshot):
            if model is not None:
                model.to(device)
                if torch.device(device).type == "cuda":
                    model.to(memory_format=torch.channels_last)
        return self

    def shares_stem(self, student: IncrementalRetinaNet) -> bool:
        """Whether the student's stem is, bit for bit, the one this teacher would run."""
        return all(model.shares_stem(student) for model in (self.model, self.snapshot) if model is not None)

    @torch.no_grad()
    def __call__(self, prepared: ImageBatch, stem: Tensor | None = None) -> HeadOutputs:
        """Dense responses to a prepared batch: logits (B, A, ``columns``), float32, without a graph.

        Args:
            prepared: The tensors that the student sees.
            stem: ``HeadOutputs.stem`` of a student that shares the stem; without it the teacher runs its own.
        """
        shadow = self.model.dense(prepared, stem)
        logits = shadow.logits.float()
        if self.snapshot is not None:
            later = self.snapshot.dense(prepared, stem).logits.float()
            logits = torch.cat([logits, later[..., logits.shape[-1] :]], dim=-1)
        return shadow._replace(logits=logits, deltas=shadow.deltas.float())

    @torch.no_grad()
    def excerpt(self, dense: HeadOutputs, prepared: ImageBatch, question: Request) -> TeacherOutputs:
        """What ``question`` asks for of this teacher's forward on ``prepared``."""
        responses = respond(dense, question.selections)
        if question.lowest is None:
            return TeacherOutputs(responses, None)
        return TeacherOutputs(
            responses, self.model.postprocess(dense, prepared.image_sizes, score_thresh=question.lowest)
        )


class OnlineProvider:
    """Runs the teacher on every batch, from the student's stem where the two share it.

    Args:
        teacher: Answers.
        question: What it is asked.
        decide: What the method makes of the answer.
        student: The network whose forward comes with every batch; None if the teacher is to run its own stem.
    """

    def __init__(
        self, teacher: Teacher, question: Request, decide: Decide, student: IncrementalRetinaNet | None = None
    ) -> None:
        self._teacher, self._question, self._decide = teacher, question, decide
        self._shared = student is not None and teacher.shares_stem(student)

    def __call__(self, prepared: ImageBatch, dense: HeadOutputs, truth: BatchTargets) -> TeacherTargets:
        """What the teacher says about a batch."""
        shadow = self._teacher(prepared, dense.stem if self._shared else None)
        return self._decide(self._teacher.excerpt(shadow, prepared, self._question), truth)


def _frozen(model: IncrementalRetinaNet) -> IncrementalRetinaNet:
    """A copy that nothing moves any more; with its norms fixed for good they fold into the convolutions."""
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    frozen.freeze_norm()
    return frozen
