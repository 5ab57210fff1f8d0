"""``erd``: Elastic Response Distillation (Feng et al., CVPR 2022).

Squared distance of the old logits at the anchors whose highest logit exceeds the image's mean by two standard
deviations, and of the boxes that survive a strict suppression, each of weight 1. Without memory. Where we depart: the
paper's GFL predicts a distribution for every side of a box, selects by its peaks and compares distributions;
RetinaNet predicts four numbers, so that boxes are selected by their score and compared by the detector's own box
loss. New labels train the annotated channels only.
"""

from __future__ import annotations

from incdet.distillation.part import Selection
from incdet.distillation.terms import KdBox, KdLogits
from incdet.methods.method import Method

METHOD = Method(
    "erd",
    "Feng et al., CVPR 2022",
    terms=(KdLogits(selection=Selection(kind="statistical", value=2.0)), KdBox(nms=0.005)),
)
