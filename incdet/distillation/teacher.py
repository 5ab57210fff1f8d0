"""A teacher: a network as it stood at some time, frozen, that answers for some columns of the student."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from incdet.network.bn_folding import folded_once
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet


@dataclass(frozen=True)
class TeacherOutputs:
    """A teacher's forward on a batch, float32 and without a graph.

    Attributes:
        logits: (B, A, O), of the student's columns ``first`` to ``first + O``.
        deltas: (B, A, 4).
        features: L x (B, C, H_l, W_l).
        anchors: (A, 4).
        first: The student's column of its first.
        heads: Number of classes of each head it answers for; they sum to O.
        batch: What it has seen.
        teacher: Whose it is.
    """

    logits: Tensor
    deltas: Tensor
    features: list[Tensor]
    anchors: Tensor
    first: int
    heads: tuple[int, ...]
    batch: ImageBatch
    teacher: Teacher

    @property
    def strongest(self) -> Tensor:
        """Each anchor's highest logit, (B, A)."""
        return self.logits.amax(dim=-1)

    def detections(self, lowest: float) -> list[dict[str, Tensor]]:
        """Per image ``boxes`` in prepared pixels, ``scores`` above ``lowest``, ``labels`` in the student's columns."""
        outputs = HeadOutputs(self.logits, self.deltas, self.features, self.anchors)
        found = self.teacher.model.postprocess(outputs, self.batch.image_sizes, score_thresh=lowest)
        return [{**one, "labels": one["labels"] + self.first} for one in found]


class Teacher:
    """A frozen copy of a detector that never trains.

    It is not an ``nn.Module`` on purpose: assigned to a student it cannot enter the student's state dict.

    Args:
        model: Answers; it is copied.
        first: The first column that it is asked about; those before are another's.
        later: A detector with more classes that answers for the columns which ``model`` does not have: the temporary
            distillation of the new head in balanced fine-tuning (Castro et al. 2018, sec. 3.2). At an anchor, the
            box is that of the network whose class speaks louder.
    """

    def __init__(self, model: IncrementalRetinaNet, first: int = 0, later: IncrementalRetinaNet | None = None) -> None:
        self.model = _frozen(model)
        self.later = _frozen(later) if later is not None else None
        self.first = first
        # Nobody else has these copies: their folded filters hold for good.
        self._kept = ExitStack()
        for frozen in self.models:
            self._kept.enter_context(folded_once(frozen))

    @property
    def models(self) -> list[IncrementalRetinaNet]:
        """The networks that answer."""
        return [self.model] if self.later is None else [self.model, self.later]

    @property
    def columns(self) -> range:
        """The student's columns that it answers for."""
        return range(self.first, len(self.models[-1].vocab))

    @property
    def heads(self) -> tuple[int, ...]:
        """Number of classes of each head it answers for."""
        sizes, passed = [], 0
        for step in self.models[-1].vocab.steps:
            sizes += [len(step)] if passed >= self.first else []
            passed += len(step)
        return tuple(sizes)

    def to(self, device: torch.device | str) -> Teacher:
        """The same teacher on ``device``; on a GPU in the order of memory that convolutions are fastest in."""
        for model in self.models:
            model.to(device)
            if torch.device(device).type == "cuda":
                model.to(memory_format=torch.channels_last)
        return self

    def shares_stem(self, student: IncrementalRetinaNet) -> bool:
        """Whether the student's stem is, bit for bit, the one this teacher would run."""
        return all(model.shares_stem(student) for model in self.models)

    @torch.no_grad()
    def __call__(self, batch: ImageBatch) -> TeacherOutputs:
        """The answer to a batch; its ``stem``, where it has one, has to be one that the teacher shares."""
        found = self.model.dense(batch)
        logits, deltas = found.logits.float(), found.deltas.float()
        if self.later is not None:
            more = self.later.dense(batch)
            new = more.logits[..., logits.shape[-1] :].float()
            louder = new.amax(dim=-1, keepdim=True) > logits.amax(dim=-1, keepdim=True)
            logits, deltas = torch.cat([logits, new], dim=-1), torch.where(louder, more.deltas.float(), deltas)
        return TeacherOutputs(
            logits[..., self.first :], deltas, found.features, found.anchors, self.first, self.heads, batch, self
        )


def _frozen(model: IncrementalRetinaNet) -> IncrementalRetinaNet:
    """A copy that nothing moves any more; with its norms fixed for good they fold into the convolutions."""
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    frozen.freeze_norm()
    return frozen
