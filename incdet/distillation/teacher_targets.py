"""What is known of a batch before the student speaks: its annotations, and what the teacher's answer means beside them.

Nothing here depends on the student, so that all of it can be decided once for a picture and be kept.
Shape letters: B images, A anchors, K student columns, N rows of the teacher's responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from incdet.distillation.pseudo_labels import PseudoLabels
from incdet.distillation.terms import Responses
from incdet.ops.assign import Assignment, assign


class BatchTargets(NamedTuple):
    """The annotations of a batch.

    Attributes:
        targets: One an image.
        anchors: (A, 4) xyxy pixels of the batch.
        assignment: Of the anchors to the annotated boxes.
        coverage: Annotated channels, (B, K) bool; a target without ``coverage`` covers everything.
    """

    targets: Sequence[Mapping[str, Any]]
    anchors: Tensor
    assignment: Assignment
    coverage: Tensor

    @classmethod
    def read(
        cls, targets: Sequence[Mapping[str, Any]], anchors: Tensor, columns: int, *, static: bool = False
    ) -> BatchTargets:
        """The annotations as a student of K = ``columns`` classes takes them; ``static`` as for ``assign``."""
        everything = torch.ones(columns, dtype=torch.bool, device=anchors.device)
        coverage = torch.stack([target.get("coverage", everything) for target in targets])
        return cls(targets, anchors, assign(targets, anchors, static=static), coverage)

    def shown(self, images: str, newest: int) -> Tensor | None:
        """Which images (B,) bool are ``new`` or ``exemplars``; None for ``both``.

        An exemplar covers none of the ``newest`` last columns.
        """
        if images == "both":
            return None
        new = self.coverage[:, self.coverage.shape[1] - newest :].any(dim=1)
        return {"new": new, "exemplars": ~new}[images]


class TeacherTargets(NamedTuple):
    """A teacher's answer, decided upon.

    Attributes:
        responses: On all anchors that some term listens to.
        rows: The rows of each term by its name, (N,) bool.
        labels: Of the channels that nobody annotated; None for a method without pseudo-labels.
    """

    responses: Responses
    rows: Mapping[str, Tensor]
    labels: PseudoLabels | None
