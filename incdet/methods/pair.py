"""``pair``: old and new detector side by side, the strict way: what the old one finds stays bit for bit what it was.

The new classes get a network of their own (``method.pair.branch.trunk``). ``taught``: a whole second network that
learns the step as ``incdet`` does without memory, old classes included, at a weight that does not grow with them and
without mixup unless ``mixup.share`` says so. At every anchor its new scores are multiplied by one minus its highest old
score, for it knows both; its old classes are then left to the old network, which has forgotten nothing. ``own``: a
whole second network, trained on the new labels alone from the weights of step 1, in half the optimiser steps.
``shared``: a class and a box head on the frozen features of step 1, which costs a fraction of a forward pass. These two
know no old class: where an old detection overlaps a new one (IoU > 0.5), the new score is multiplied by one minus the
old one (``incdet.network.paired``). The box head is its own in each: that of old classes was never shown the new ones.
No memory: there is nothing that could forget.
"""

from __future__ import annotations

from incdet.distillation.terms import KdBox, KdQuality
from incdet.methods.method import Averaging, Branch, Interim, Method, Mixup

METHOD = Method(
    "pair",
    "ours: the old detector untouched, the new classes beside it, detections merged",
    terms=(KdQuality(weight=10.0), KdBox(weight=0.5)),
    interim=Interim(),
    mixup=Mixup(share=0.0),
    averaging=Averaging(),
    branch=Branch(trunk="taught"),
)
