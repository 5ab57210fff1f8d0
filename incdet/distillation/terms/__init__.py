"""The terms of a loss that teachers speak in, one a file.

A term is built in two halves: ``targets`` keeps what it needs of the teachers' answers to a batch, which never depends
on the student and so can be cached; ``losses`` compares the student's outputs with it.
"""

from __future__ import annotations

from incdet.distillation.terms.future_objects import FutureObjects
from incdet.distillation.terms.kd_box import KdBox
from incdet.distillation.terms.kd_crosshead import KdCrosshead
from incdet.distillation.terms.kd_deltas import KdDeltas
from incdet.distillation.terms.kd_dual import KdDual
from incdet.distillation.terms.kd_feature import KdFeature
from incdet.distillation.terms.kd_logits import KdLogits
from incdet.distillation.terms.kd_quality import KdQuality
from incdet.distillation.terms.kd_response import KdResponse
from incdet.distillation.terms.kd_roi import KdRoi
from incdet.distillation.terms.kd_softmax import KdSoftmax
from incdet.distillation.terms.old_claims import OldClaims
from incdet.distillation.terms.pseudo_labels import PseudoLabels

__all__ = [
    "FutureObjects",
    "KdBox",
    "KdCrosshead",
    "KdDeltas",
    "KdDual",
    "KdFeature",
    "KdLogits",
    "KdQuality",
    "KdResponse",
    "KdRoi",
    "KdSoftmax",
    "OldClaims",
    "PseudoLabels",
]
