"""``lwf``: Learning without Forgetting (Li and Hoiem, ECCV 2016) in sigmoid form, at every anchor.

The paper distils one softmax of the old classes; RetinaNet's classes are independent sigmoids, so each is distilled
alone. New labels train the annotated channels only.
"""

from __future__ import annotations

from incdet.distillation.part import Selection
from incdet.distillation.terms import KdResponse
from incdet.methods.method import Method

METHOD = Method(
    "lwf",
    "Li & Hoiem, ECCV 2016, sigmoid form",
    terms=(KdResponse(selection=Selection(kind="all")),),
)
