"""The teacher: the network as it stood before the step, frozen, run once on the batch the student sees."""

from __future__ import annotations

import copy

import torch

from incdet.model import Dense, IncrementalRetinaNet, Prepared


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

    @property
    def columns(self) -> int:
        """How many leading logit columns it answers for."""
        return len((self.snapshot or self.model).vocab)

    def to(self, device: torch.device | str) -> Teacher:
        """The same teacher on ``device``."""
        self.model.to(device)
        if self.snapshot is not None:
            self.snapshot.to(device)
        return self

    @torch.no_grad()
    def __call__(self, prepared: Prepared) -> Dense:
        """Dense responses to a prepared batch: logits (B, A, ``columns``), float32, without a graph."""
        shadow = self.model.dense(prepared)
        logits = shadow.logits.float()
        if self.snapshot is not None:
            later = self.snapshot.dense(prepared).logits.float()
            logits = torch.cat([logits, later[..., logits.shape[-1] :]], dim=-1)
        return shadow._replace(logits=logits, deltas=shadow.deltas.float())


def _frozen(model: IncrementalRetinaNet) -> IncrementalRetinaNet:
    return copy.deepcopy(model).eval().requires_grad_(False)
