"""``pseudo``: the old network's detections stand in for the labels that new images lack; the strong simple baseline."""

from __future__ import annotations

from incdet.distillation.terms import PseudoLabels
from incdet.methods.method import Method

METHOD = Method(
    "pseudo",
    "the strong simple baseline: the teacher's detections as labels",
    terms=(PseudoLabels(),),
)
