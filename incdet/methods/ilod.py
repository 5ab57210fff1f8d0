"""``ilod``: Incremental learning of object detectors (Shmelkov et al., ICCV 2017) on a dense head.

Squared distance of the centred old logits and of the boxes, at the anchors which the old network takes least for
background. Without memory. Where we depart: the paper draws 64 of its 128 least-background proposals anew for every
image; the mean over all 128 is what such draws tend to, and depends on no draw. RetinaNet has no background logit: the
least background are the highest old scores. Its box branch is shared by all classes, so that boxes are compared once
an anchor, and not where an annotated object has taken it. New labels train the annotated channels only.
"""

from __future__ import annotations

from incdet.distillation.part import Selection
from incdet.distillation.terms import KdDeltas, KdLogits
from incdet.methods.method import Method

LEAST_BACKGROUND = Selection(kind="topk", value=128)

METHOD = Method(
    "ilod",
    "Shmelkov et al., ICCV 2017, on a dense head",
    terms=(KdLogits(centred=True, selection=LEAST_BACKGROUND), KdDeltas(selection=LEAST_BACKGROUND)),
)
