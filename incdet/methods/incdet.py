"""``incdet``: ours. Coverage, pseudo-labels in three zones, selected distillation, replay, balanced fine-tuning."""

from __future__ import annotations

from incdet.distillation.terms import KdBox, KdResponse, PseudoLabels
from incdet.methods.method import Finetune, Method, Replay

METHOD = Method(
    "incdet",
    "ours: coverage, pseudo-labels in three zones, selected distillation, replay, balanced fine-tuning",
    terms=(PseudoLabels(), KdResponse(weight=0.5), KdBox(weight=0.5)),
    replay=Replay(share=0.1),
    balanced_finetune=Finetune(),
)
