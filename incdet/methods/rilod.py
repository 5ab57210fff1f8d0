"""``rilod``: RILOD (Li et al., SEC 2019), made for RetinaNet: outputs, boxes and features are distilled.

The smooth L1 distance of the whole pyramids stands beside the distillation of the old classes and of the boxes, each
of weight 1. Without memory. Where we depart: the classes are compared by the divergence of their scores and not by
their squared distance, boxes where the old network sees something after suppression and not at every anchor. New
labels train the annotated channels only. The features have to be compared at every draw, so that no teacher is cached.
"""

from __future__ import annotations

from incdet.distillation.part import Selection
from incdet.distillation.terms import KdBox, KdFeature, KdResponse
from incdet.methods.method import Method

METHOD = Method(
    "rilod",
    "Li et al., SEC 2019",
    terms=(KdResponse(selection=Selection(kind="all")), KdBox(), KdFeature(distance="smooth_l1")),
)
