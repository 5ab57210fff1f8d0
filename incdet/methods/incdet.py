"""``incdet``: ours. One student taught by the old network and by one that has seen the new classes alone.

The interim teacher is fine-tuned on the step's images from the network before the step: it knows the new classes as
well as anything does, and has forgotten the old ones, which the old network still knows. The student starts between
the two and learns from the annotations where there are some, from the two teachers where there are none.
"""

from __future__ import annotations

from incdet.distillation.terms import KdBox, KdQuality
from incdet.methods.method import Averaging, Interim, Method, Replay

METHOD = Method(
    "incdet",
    "ours: two teachers, quality-focal distillation of both, replay, start from their average",
    terms=(KdQuality(), KdBox(weight=0.5)),
    interim=Interim(),
    averaging=Averaging(),
    replay=Replay(share=0.3),
)
