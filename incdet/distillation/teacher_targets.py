"""What a student is compared with: the annotations of a batch, and what the teachers' answers mean beside them.

Nothing here depends on the student, so that it can be known before its forward, and be kept for a picture.
Shape letters: B images, A anchors, K student columns, N places (pairs of an image and an anchor).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from incdet.network.retinanet import ImageBatch, IncrementalRetinaNet
from incdet.ops.assign import Assignment


class BatchTargets(NamedTuple):
    """The annotations of a batch.

    Attributes:
        targets: One an image.
        anchors: (A, 4) xyxy pixels of the batch.
        assignment: Of the anchors to the annotated boxes.
        coverage: Annotated channels, (B, K) bool; a target without ``coverage`` covers everything.
        trained: (B, K) bool, channels that the method trains as annotated: the covered ones, or all.
        heads: Number of classes of each of the student's heads; they sum to K. The last one is learned in this step,
            and an image that covers none of its columns is an exemplar.
        box_kind: ``l1`` or ``giou``, the detector's own box loss.
    """

    targets: Sequence[Mapping[str, Any]]
    anchors: Tensor
    assignment: Assignment
    coverage: Tensor
    trained: Tensor
    heads: tuple[int, ...]
    box_kind: str = "l1"

    @classmethod
    def read(cls, model: IncrementalRetinaNet, batch: ImageBatch, *, masked: bool = True) -> BatchTargets:
        """The annotations of ``batch`` as ``model`` takes them, by its own matching thresholds.

        Args:
            model: The student.
            batch: Prepared by it.
            masked: Only annotated channels are trained as annotated; False declares every channel covered.
        """
        targets, anchors = batch.targets or [], model.batch_anchors(batch)
        everything = torch.ones(len(model.vocab), dtype=torch.bool, device=anchors.device)
        masks = [target.get("coverage", everything) for target in targets]
        coverage = torch.stack(masks) if masks else everything[None][:0]
        return cls(
            targets,
            anchors,
            model.match(anchors, targets, static=batch.static),
            coverage,
            coverage if masked else torch.ones_like(coverage),
            tuple(len(step) for step in model.vocab.steps),
            model.architecture.box_loss,
        )

    def selected_images(self, images: str) -> Tensor | None:
        """Which images (B,) bool are ``new`` or ``exemplars``; None for ``both``."""
        if images == "both":
            return None
        new = self.coverage[:, self.coverage.shape[1] - self.heads[-1] :].any(dim=1)
        return {"new": new, "exemplars": ~new}[images]

    @property
    def given_images(self) -> Tensor:
        """Which images (B,) bool come from the training set, and were not made for the batch."""
        given = ["made" not in target for target in self.targets]
        return torch.tensor(given, dtype=torch.bool, device=self.coverage.device)

    def untaken(self, image: Tensor, anchor: Tensor) -> Tensor:
        """Which places (N,) no annotated object has taken, (N,) bool."""
        return self.assignment.matched.flatten().index_select(0, image * len(self.anchors) + anchor) < 0


@dataclass(frozen=True)
class Entries:
    """Values at some places of a batch.

    Attributes:
        image: (N,) int64, ascending.
        anchor: (N,) int64 index into the batch's anchors.
        values: (N, ...) each.
    """

    image: Tensor
    anchor: Tensor
    values: Mapping[str, Tensor]

    @classmethod
    def of(cls, wanted: Tensor, **maps: Tensor) -> Entries:
        """The places where ``wanted`` (B, A) is true, with the values of ``maps`` (B, A, ...) there."""
        anchors = wanted.shape[1]
        flat = wanted.flatten().nonzero().squeeze(1)
        values = {name: one.flatten(0, 1).index_select(0, flat) for name, one in maps.items()}
        return cls(flat // anchors, flat % anchors, values)

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def only(self, rows: Tensor) -> Entries:
        """The places that ``rows`` (N,) bool takes."""
        return Entries(self.image[rows], self.anchor[rows], {name: value[rows] for name, value in self.values.items()})

    def holding(self, **values: Tensor) -> Entries:
        """The same places with these values instead."""
        return Entries(self.image, self.anchor, values)

    def flat(self, anchors: int) -> Tensor:
        """(N,) positions in a flattened (B, A) map."""
        return self.image * anchors + self.anchor

    def look_up(self, student: Tensor) -> Tensor:
        """The student's values (B, A, X) at the places, (N, X) float32; no place still is a path for the gradient."""
        return student.flatten(0, 1).index_select(0, self.flat(student.shape[1])).float()


TermTargets = Mapping[str, Entries | Sequence[Tensor]]
"""What one term keeps of the teachers' answers: lists of entries, or whole feature maps, which are never cached.

The entries of a list called ``left_out``, with ``column``, are left out of the annotations' own focal loss.
"""


class Targets(NamedTuple):
    """All that the student's outputs on a batch are compared with.

    Attributes:
        batch: The annotations.
        terms: What the method's terms made of the teachers' answers, by the name of the term.
        counts: What each loss is divided by once it is summed over the whole batch of an optimiser step, scalars by
            name; ``images`` is the number of images.
    """

    batch: BatchTargets
    terms: Mapping[str, TermTargets]
    counts: Mapping[str, Tensor]
