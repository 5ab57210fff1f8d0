"""``incdet``: ours. One student taught by the old network and by one of the new classes.

The interim teacher is fine-tuned from the network before the step, without distillation: on the step's images, which
tell what a new class is, and on the exemplars, which tell what it is not, where the step has a single class and its
images all show it. It knows the new classes as well as anything does, and has forgotten the old ones, which the old
network still knows. The student starts between the two and learns from the annotations where there are some, from the
two teachers where there are none: also on enlarged and blended parts of the batch's pictures, which show what the
step's pictures as a whole do not. When it detects, a new class is believed less where an old one is seen: its own
pictures told it little of what it is not.

Parts of weight or strength 0 are there to be tried: ``old_claims`` and ``kd_crosshead`` are terms, ``calibration``
shifts the new logits when the step is learned, so that new classes cry wolf less at an unchanged AP.
"""

from __future__ import annotations

from incdet.distillation.terms import KdBox, KdCrosshead, KdQuality, OldClaims
from incdet.methods.method import Averaging, Calibration, Interim, Method, Mixup, Precedence, Replay

METHOD = Method(
    "incdet",
    "ours: two teachers, quality-focal distillation of both, replay, start from their average",
    terms=(KdQuality(weight=10.0, growth=0.5), KdBox(weight=0.5), OldClaims(weight=0.0), KdCrosshead(weight=0.0)),
    interim=Interim(exemplars=0.3),
    averaging=Averaging(),
    replay=Replay(share=0.3),
    mixup=Mixup(),
    precedence=Precedence(),
    calibration=Calibration(strength=0.0),
)
